//! The rate at which rows are completed, smoothed for people.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// Time that the average covers.
const REACH: Duration = Duration::from_secs(60);
/// Minimum number of rows that the average covers: it reaches further back for them, so that a slow run does not
/// flicker either.
const ROWS: u64 = 20;
const LONGEST_REACH: Duration = Duration::from_secs(900);
const STEP: Duration = Duration::from_secs(1);

/// A moving average of the rate of a count that only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct MovingAverage {
    /// Counts at times at least `STEP` apart.
    marks: VecDeque<(Instant, u64)>,
}

impl MovingAverage {
    /// Records a count and returns the rate per second, or `None` during the first second.
    pub(super) fn note(&mut self, now: Instant, count: u64) -> Option<f64> {
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= STEP) {
            self.marks.push_back((now, count));
        }
        while let Some((at, before)) = self.marks.get(1) {
            let reach = now.saturating_duration_since(*at);
            let is_enough = reach >= REACH && count.saturating_sub(*before) >= ROWS;
            if !is_enough && reach < LONGEST_REACH {
                break;
            }
            self.marks.pop_front();
        }
        let (since, before) = self.marks.front()?;
        let time = now.saturating_duration_since(*since);
        #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
        (time >= STEP).then(|| count.saturating_sub(*before) as f64 / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Returns the rate at each tenth of a second while a count grows.
    fn paces(seconds: u64, count: impl Fn(f64) -> f64) -> Vec<f64> {
        let start = clock::now();
        let mut pace = MovingAverage::default();
        let at = |tenth: u64| start + Duration::from_millis(tenth * 100);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
        (0..=seconds * 10)
            .filter_map(|tenth| {
                pace.note(at(tenth), count(Duration::from_millis(tenth * 100).as_secs_f64()) as u64)
            })
            .collect()
    }

    #[test]
    fn bursts_do_not_shake_it_and_a_change_is_seen_within_a_minute() {
        // Ten rows at once, every second.
        let bursts = paces(300, |time| time.floor() * 10.0);
        assert!(bursts.iter().skip(600).all(|pace| (9.0..=11.0).contains(pace)), "{bursts:?}");
        let change = paces(200, |time| if time < 100.0 { time * 50.0 } else { 5_000.0 + (time - 100.0) });
        assert!((49.0..=51.0).contains(&change[900]), "{}", change[900]);
        assert!((0.9..=1.2).contains(&change[1_700]), "{}", change[1_700]);
    }

    #[test]
    fn a_slow_run_has_a_pace_too() {
        // One row in half a minute.
        let slow = paces(3_600, |time| (time / 30.0).floor());
        assert!(slow.iter().skip(6_000).all(|pace| (0.030..=0.037).contains(pace)));
    }

    #[test]
    fn nothing_is_known_in_the_first_second() {
        let mut pace = MovingAverage::default();
        let start = clock::now();
        assert_eq!(pace.note(start, 5), None);
        assert_eq!(pace.note(start + Duration::from_secs(2), 9), Some(2.0));
    }
}
