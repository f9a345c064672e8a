//! Which rows go into one request: rows of one step and one batch, so that one journal write keeps their answers.

use std::collections::VecDeque;

use super::retry::PendingRequest;
use crate::config::Provider;

/// Bytes per token, where an estimate is enough.
const BYTES_PER_TOKEN: usize = 4;

/// The most that a request may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestBatcher {
    inputs: usize,
    bytes: usize,
}

impl RequestBatcher {
    pub(super) fn of(provider: &Provider) -> Self {
        let tokens = usize::try_from(provider.input_tokens_per_request).unwrap_or(usize::MAX);
        RequestBatcher {
            inputs: provider.inputs_per_request as usize,
            bytes: tokens.saturating_mul(BYTES_PER_TOKEN),
        }
    }

    /// Number of rows at the front that go together; 1 if nothing is ready, for a harmless question.
    pub(super) fn group(&self, ready: &VecDeque<PendingRequest>) -> usize {
        let Some(first) = ready.front() else { return 1 };
        if first.request.params.vectors.is_none() {
            return 1;
        }
        let (batch, step) = (first.request.cell.batch, first.request.cell.step);
        let mut bytes = 0;
        let mut most = self.inputs;
        let mut count = 0;
        for pending in ready {
            let cell = pending.request.cell;
            bytes += pending.request.question.bytes();
            most = most.min(pending.together);
            let fits = count < most && (bytes <= self.bytes || count == 0);
            if !fits || cell.batch != batch || cell.step != step {
                break;
            }
            count += 1;
        }
        count.max(1)
    }

    pub(super) fn is_full(&self, group: usize) -> bool {
        group >= self.inputs
    }
}
