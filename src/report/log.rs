//! Events as lines of a log.

use crate::event::{Event, Listener};

/// Writes events to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Listener for Log {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Outstanding { rows } => tracing::debug!(rows, "outstanding"),
            Event::Planned { batch, rows } => tracing::debug!(%batch, rows, "batch planned"),
            Event::Opened { batch, rows, recovered, decoded } => {
                tracing::debug!(%batch, rows, recovered, decoded, "batch opened");
            }
            Event::Retried { provider, failure, after } => {
                tracing::debug!(provider, %failure, after_ms = after.as_millis(), "attempt failed");
            }
            Event::Paused { provider, failure, pause } => {
                tracing::warn!(provider, %failure, pause_ms = pause.as_millis(), "provider paused");
            }
            Event::Settled { ending, origin, tokens } => {
                tracing::trace!(?ending, ?origin, tokens = tokens.total(), "row settled");
            }
            Event::Committed { batch, rows, version } => {
                tracing::debug!(%batch, rows, version, "batch committed");
            }
            Event::AlreadyCommitted { batch } => tracing::info!(%batch, "batch was committed before"),
            Event::Notice(text) => tracing::info!("{text}"),
            // The command tells the reason when it ends; until then what is in flight goes on.
            Event::Stopping(why) => tracing::info!("stopping: {why}"),
        }
    }
}
