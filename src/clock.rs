//! Time and chance, in one place, so that tests can hold both.
//!
//! The monotonic clock is tokio's: under `tokio::time::pause` it stands still until a test moves it.
//! Nothing else in the crate may ask for the time or for random numbers (a lint sees to the first).

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A moment of the monotonic clock.
pub type Instant = tokio::time::Instant;

/// The present moment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock's time, for people and for table columns; never for intervals.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// Holds the wall clock to what can be: rows are stamped with it, and ages are taken by it.
///
/// # Errors
/// When it is not set, with what to do about it.
pub fn is_set(wall: DateTime<Utc>) -> Result<(), String> {
    if wall < DateTime::UNIX_EPOCH {
        return Err(format!(
            "the clock of this machine says {}, before 1970: set it first",
            format_time(wall)
        ));
    }
    Ok(())
}

/// A moment as people are told it, to the second.
#[must_use]
pub fn format_time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Seeded random numbers for delays.
#[derive(Clone, Debug)]
pub struct Jitter(fastrand::Rng);

impl Jitter {
    /// A sequence that differs from run to run.
    #[must_use]
    pub fn from_entropy() -> Self {
        Jitter(fastrand::Rng::new())
    }

    /// The same sequence for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Jitter(fastrand::Rng::with_seed(seed))
    }

    /// Another sequence, that follows from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Jitter(self.0.fork())
    }

    /// Full jitter: a uniform delay between nothing and `most`
    /// (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    #[must_use]
    pub fn full(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.0.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_not_set() {
        assert!(is_set(wall()).is_ok() && is_set(DateTime::UNIX_EPOCH).is_ok());
        let before = DateTime::UNIX_EPOCH - chrono::TimeDelta::seconds(1);
        assert!(is_set(before).unwrap_err().starts_with("the clock of this machine says 1969-12-31"));
    }
}
