//! Logs the figures of a run from time to time, for runs without a display.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval_at};

use super::layout::percent;
use super::run_progress::{ProgressGauge, RunProgress};
use crate::clock;
use crate::tally::Tally;
use crate::wording::brief;

/// Logs the figures once per `interval`, for as long as it is polled.
pub async fn log_progress(tally: Tally, interval: Duration) {
    let mut gauge = ProgressGauge::new(tally);
    gauge.read(clock::now());
    let mut ticks = interval_at(clock::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(figures) = gauge.read(clock::now()) {
            log(&figures);
        }
    }
}

fn log(figures: &RunProgress) {
    let rows_per_second = figures.per_second.map(|pace| (pace * 100.0).round() / 100.0);
    let left = figures.left.map(brief);
    let share = figures.of.filter(|of| *of > 0).map(|of| format!("{}%", percent(figures.rows, of)));
    let errors = figures.error_count();
    let by_class = (errors > 0).then(|| figures.errors_by_class().join(", "));
    tracing::info!(
        rows = figures.rows,
        of = figures.of,
        share,
        rows_per_second,
        left,
        in_flight = figures.in_flight,
        errors,
        errors_by_class = by_class,
        retries = figures.retries,
        throttled = figures.throttled,
        submitted = figures.submitted,
        prompt_tokens = figures.tokens.prompt,
        completion_tokens = figures.tokens.completion,
        waiting = figures.waiting,
        "progress"
    );
}
