//! What refusals teach of a limit: the rate and its ceiling, the episode of refusals under way, the load of windows.

use std::time::Duration;

use super::bucket::Bucket;
use crate::clock::Instant;

/// The load of a window at the refusals so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WindowLoad {
    pub(super) times: u32,
    /// Moving means of the amount in the window, and of its relative distance from the mean.
    pub(super) mean: f64,
    pub(super) off: f64,
}

/// What is known after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitKnowledge {
    /// No limit is known.
    Nothing,
    /// The allowed rate is roughly known.
    Ceiling,
}

/// Refusals without an answer between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Episode {
    /// When the first of the refused requests was sent.
    pub(super) began: Instant,
    pub(super) refusals: u32,
    /// How long sending went well before, a minute at most, and the amount sent then: with pauses counted, and without.
    pub(super) before: [(Duration, f64); 2],
    /// The measured ceiling at that time.
    pub(super) ceiling: Option<f64>,
}

/// The rate that refusals taught.
#[derive(Debug)]
pub(super) struct LearnedRate {
    pub(super) bucket: Bucket,
    pub(super) ceiling: f64,
    /// Whether the ceiling was measured rather than guessed.
    pub(super) is_sure: bool,
    pub(super) grew: Instant,
    /// Seconds that the rate was beyond the ceiling while it held requests back.
    pub(super) beyond: f64,
    /// How often in a row refusals showed about the same ceiling again, 2 at most.
    pub(super) met_again: u32,
    /// Growth of the rate per second after the first burst of refusals.
    pub(super) regrows: Option<f64>,
}
