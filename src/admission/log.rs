//! What was let through in the last minute, by tenths of a second.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

const SLOT: Duration = Duration::from_millis(100);
const SLOTS: usize = 640;

/// Amounts by the time at which they were sent.
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

    /// Adds an amount that was sent at a time, or takes one back.
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

    /// What was sent in a time that ends at `until`.
    pub(super) fn sum(&self, over: Duration, until: Instant) -> f64 {
        let last = self.slot(until);
        let first = self.slot(until.checked_sub(over).unwrap_or(self.origin));
        self.slots
            .iter()
            .zip(self.first..)
            .filter(|(_, slot)| (first..=last).contains(slot))
            .map(|(sum, _)| sum)
            .sum()
    }

    fn slot(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.origin).as_millis() / SLOT.as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}
