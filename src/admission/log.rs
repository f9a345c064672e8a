//! The amounts that were sent in the last minute, by tenths of a second.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

const SLOT: Duration = Duration::from_millis(100);
const SLOTS: usize = 640;

/// Amounts by when they were sent.
#[derive(Debug)]
pub(super) struct SendLog {
    origin: Instant,
    /// Number of the first slot.
    first: u64,
    slots: VecDeque<f64>,
}

impl SendLog {
    pub(super) fn new(now: Instant) -> Self {
        SendLog { origin: now, first: 0, slots: VecDeque::new() }
    }

    /// Adds an amount that was sent at `sent`; a negative one takes back.
    pub(super) fn add(&mut self, amount: f64, sent: Instant) {
        let slot = self.slot(sent);
        if self.slots.is_empty() {
            self.first = slot;
        }
        if slot >= self.first + SLOTS as u64 * 2 {
            self.slots.clear();
            self.first = slot;
        }
        while slot >= self.first + self.slots.len() as u64 {
            self.slots.push_back(0.0);
        }
        while self.slots.len() > SLOTS {
            self.slots.pop_front();
            self.first += 1;
        }
        if let Some(at) = slot.checked_sub(self.first).and_then(|at| usize::try_from(at).ok())
            && let Some(sum) = self.slots.get_mut(at)
        {
            *sum += amount;
        }
    }

    /// The sum of what was sent in the time `over` that ends at `until`, to the tenth of a second.
    pub(super) fn sum(&self, over: Duration, until: Instant) -> f64 {
        let end = self.slot(until);
        let first =
            end.saturating_sub(u64::try_from(over.as_millis() / SLOT.as_millis()).unwrap_or(u64::MAX));
        let skipped = usize::try_from(first.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let taken = usize::try_from(end.saturating_sub(first.max(self.first))).unwrap_or(usize::MAX);
        self.slots.iter().skip(skipped).take(taken).sum()
    }

    fn slot(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.origin).as_millis() / SLOT.as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn sums_are_of_the_requested_time() {
        let start = clock::now();
        let mut log = SendLog::new(start);
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths + 50);
        for tenth in 0..1_000 {
            log.add(1.0, at(tenth));
        }
        assert_eq!(log.sum(Duration::from_secs(2), at(1_000)), 20.0);
        assert_eq!(log.sum(Duration::from_secs(60), at(1_000)), 600.0);
        assert_eq!(log.sum(Duration::from_secs(90), at(1_000)), 640.0, "it remembers a minute");
        log.add(-1.0, at(999));
        assert_eq!(log.sum(Duration::from_secs(2), at(1_000)), 19.0);
        log.add(1.0, at(9_000));
        assert_eq!(log.sum(Duration::from_secs(2), at(9_001)), 1.0);
    }
}
