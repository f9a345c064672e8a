//! Time and random delays, in one place, so that tests can control both.
//!
//! The monotonic clock is tokio's: under `tokio::time::pause` it stands still until a test moves it. Nothing else in
//! the crate may read the time or draw random delays (a lint enforces the first).

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A point in time of the monotonic clock.
pub type Instant = tokio::time::Instant;

/// Returns the current time of the monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the time of the wall clock, for people and for table columns; never for intervals.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// Checks that the wall clock is set: rows are stamped with it, and ages are computed from it.
///
/// # Errors
/// When it shows a time before 1970, with a message for the user.
pub fn is_set(wall: DateTime<Utc>) -> Result<(), String> {
    if wall < DateTime::UNIX_EPOCH {
        return Err(format!(
            "the clock of this machine says {}, before 1970: set it first",
            format_time(wall)
        ));
    }
    Ok(())
}

/// Formats a time for people, to the second.
#[must_use]
pub fn format_time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Seeded random numbers for delays.
#[derive(Clone, Debug)]
pub struct Jitter(fastrand::Rng);

impl Jitter {
    /// Creates a sequence that differs from run to run.
    #[must_use]
    pub fn from_entropy() -> Self {
        Jitter(fastrand::Rng::new())
    }

    /// Creates a sequence that is the same for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Jitter(fastrand::Rng::with_seed(seed))
    }

    /// Creates another sequence, determined by the state of this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Jitter(self.0.fork())
    }

    /// Full jitter: returns a uniformly random delay between zero and `most` (M. Brooker, "Exponential Backoff And
    /// Jitter", AWS Architecture Blog, 2015).
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
