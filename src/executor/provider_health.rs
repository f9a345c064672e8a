//! Whether a provider takes rows. Its executor reports it, and the enricher sends rows to another provider accordingly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::admission::Health;

const UP: u8 = 0;
const DOWN: u8 = 1;
const WANTS_PROBE: u8 = 2;
const OUT: u8 = 3;

/// Whether a provider takes rows. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct ProviderHealth(Arc<AtomicU8>);

impl ProviderHealth {
    /// Whether the provider takes rows.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == UP
    }

    /// Whether the provider is ruled out for the rest of the run.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.0.load(Ordering::Acquire) == OUT
    }

    /// Reserves the row that a failed provider wants as a test. Returns true to one caller only.
    #[must_use]
    pub fn reserve_probe(&self) -> bool {
        self.0.compare_exchange(WANTS_PROBE, DOWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Gives the reservation back because there was no row: the provider still wants one.
    pub fn release_probe(&self) {
        // A state that was reported in the meantime stays.
        let _ = self.0.compare_exchange(DOWN, WANTS_PROBE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Rules the provider out for the rest of the run.
    pub fn rule_out(&self) {
        self.0.store(OUT, Ordering::Release);
    }

    /// Sets the state and returns what is new. `has_probe` means that the executor already has a row as a test.
    pub fn report(&self, health: Health, has_probe: bool) -> HealthChange {
        let now = match health {
            Health::Up => UP,
            Health::Probing if !has_probe => WANTS_PROBE,
            Health::Down(_) | Health::Probing => DOWN,
        };
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            (before != OUT && before != now).then_some(now)
        });
        match (before, now) {
            (Ok(UP), DOWN) => HealthChange::Fails,
            (Ok(_), UP) => HealthChange::Answers,
            (Ok(_), WANTS_PROBE) => HealthChange::WantsProbe,
            _ => HealthChange::None,
        }
    }
}

/// What is new about a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Nothing.
    None,
    /// It takes no rows for now.
    Fails,
    /// It wants one row as a test.
    WantsProbe,
    /// It takes rows again.
    Answers,
}

impl HealthChange {
    /// Returns a notice for people, or `None` if they need none.
    #[must_use]
    pub fn in_words(self, provider: &str) -> Option<String> {
        match self {
            HealthChange::Fails => {
                Some(format!("{provider} fails: its rows go to the next provider until it answers"))
            }
            HealthChange::Answers => Some(format!("{provider} answers again, and takes its rows back")),
            HealthChange::None | HealthChange::WantsProbe => None,
        }
    }
}
