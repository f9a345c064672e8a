//! Limits on unusual answers, above which a run stops.

/// Maximum shares of unusual outcomes among the newest outcomes of a step; 1 for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anomalies {
    /// Number of outcomes over which the shares are computed.
    pub rows: u32,
    /// Share of answers without text.
    pub empty: f64,
    /// Share of declined rows.
    pub refused: f64,
    /// Share of invalid answers.
    pub invalid: f64,
    /// Share of answers that were cut off.
    pub cut: f64,
}
