//! Jobs whose rows are posted by other programs, and shares of a job for one of several servers.

use std::num::NonZeroU32;

use super::check::Checker;
use super::error::ConfigError;
use super::job::{Job, OnMissingColumns, OnNewColumns, TokenLimits};
use super::raw::{RawCheckpoint, RawTarget, file_size};
use super::raw_source::RawSource;
use crate::ident::Money;

impl Checker<'_> {
    /// Returns what a job reads and writes. In place of what a served job does not have, a place beside its target or
    /// in its checkpoint is named, at which nothing is read or written.
    pub(super) fn ends(
        &self,
        source: Option<RawSource>,
        target: Option<RawTarget>,
        checkpoint: &RawCheckpoint,
    ) -> Result<(RawSource, RawTarget), ConfigError> {
        let missing = |key: &str| {
            let message =
                "is missing; only enrich serve, to which other programs post rows, can do without it";
            self.wrong(key, message)
        };
        match (source, target, &checkpoint.path) {
            (Some(source), Some(target), _) => Ok((source, target)),
            (None, _, _) if !self.is_served => Err(missing("source")),
            (_, None, _) if !self.is_served => Err(missing("target")),
            (None, Some(target), _) => {
                let source = source_at(format!("{}.rows", target.path.trim_end_matches('/')));
                Ok((source, target))
            }
            (source, None, Some(path)) => {
                let path = path.trim_end_matches('/');
                let source = source.unwrap_or_else(|| source_at(format!("{path}/rows")));
                Ok((source, target_at(format!("{path}/outcomes"))))
            }
            (_, None, None) => Err(self.wrong(
                "checkpoint.path",
                "is missing: a job without a target has to say where its state is kept",
            )),
        }
    }
}

/// A source with the defaults of all other keys.
fn source_at(path: String) -> RawSource {
    RawSource { path, ..RawSource::default() }
}

/// A target with the defaults of all other keys.
fn target_at(path: String) -> RawTarget {
    RawTarget {
        path,
        metadata_column: None,
        metadata: None,
        on_new_columns: OnNewColumns::default(),
        on_missing_columns: OnMissingColumns::default(),
        must_exist: false,
        partition_by: None,
        file_size: file_size(),
    }
}

/// One of several servers of a job, which share its limits and its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of them it is, from 0.
    pub number: u32,
    /// How many there are.
    pub of: NonZeroU32,
}

impl Job {
    /// Leaves the job its part of the limits and of the budget, and a place of its own for its state.
    pub fn take_share(&mut self, share: Share) {
        let of = share.of.get();
        let part = |limit: &mut Option<u64>| *limit = limit.map(|limit| limit / u64::from(of));
        for provider in &mut self.providers {
            let own = &mut provider.requests_per_minute;
            *own = own.map(|limit| (limit / of).max(1));
            provider.max_concurrency = (provider.max_concurrency / of).max(1);
            let TokenLimits { total, input, output } = &mut provider.token_limits;
            [total, input, output].into_iter().for_each(part);
        }
        for allowance in [&mut self.budget.job, &mut self.budget.run] {
            allowance.money = allowance.money.map(|money| Money::picodollars(money.get() / u64::from(of)));
            part(&mut allowance.tokens);
            part(&mut allowance.requests);
        }
        let name = format!("serve-{}", share.number);
        let places = &mut self.places;
        places.checkpoint = places.checkpoint.join(&name);
        places.state = places.state.join(&name);
        places.journal = places.journal.join(&name);
    }
}
