//! Locations of the state that a job keeps from run to run.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Checker;
use super::error::ConfigError;
use super::job::{Copying, StatePlaces};
use super::raw::{RawCheckpoint, RawJournal};
use super::units::Span;
use crate::ident::Fingerprint;
use crate::store::{self, Location};

const FOLDER: &str = "_checkpoints";

impl Checker<'_> {
    /// Resolves the locations of a job with this target, or without one.
    pub(super) fn places(
        &self,
        app_id: &str,
        target: Option<&Location>,
        checkpoint: &RawCheckpoint,
        journal: &RawJournal,
    ) -> Result<StatePlaces, ConfigError> {
        let beside = target.map(|target| target.join(FOLDER).join(app_id));
        let at = match (&checkpoint.path, &beside) {
            (Some(path), _) => self.location("checkpoint.path", path)?,
            (None, Some(beside)) => beside.clone(),
            (None, None) => return Err(self.wrong("checkpoint.path", "is missing")),
        };
        // Jobs with the same name are distinguished by their targets.
        let place = Fingerprint::of([target.unwrap_or(&at).to_string().as_bytes()]).to_string();
        let own = format!("{app_id}-{}", place.chars().take(8).collect::<String>());
        let state = beside.as_ref().and_then(Location::path).or(at.path()).map(PathBuf::from);
        let journal_folder = match &journal.path {
            Some(path) => Some(self.local("journal.path", path)?.join(&own)),
            None => None,
        };
        let state = match (state, store::state_folder(), &journal_folder) {
            (Some(state), ..) => state,
            (None, Some(folder), _) => folder.join(&own),
            (None, None, Some(journal)) => journal.clone(),
            (None, None, None) => {
                return Err(self.wrong(
                    "journal.path",
                    "is missing: target and checkpoint lie in object stores, and neither XDG_STATE_HOME nor HOME names a \
                     place for what is kept on this machine",
                ));
            }
        };
        let default_journal = || at.path().unwrap_or(&state).join("journal");
        Ok(StatePlaces {
            lease: self.at_least("checkpoint.lease", checkpoint.lease, 60, Duration::from_secs(1))?,
            copying: Copying {
                every: self.at_least(
                    "journal.copy_every",
                    journal.copy_every,
                    5,
                    Duration::from_millis(100),
                )?,
                bytes: self.positive_bytes("journal.copy_bytes", journal.copy_bytes, 4_000_000)?,
            },
            journal: journal_folder.unwrap_or_else(default_journal),
            state,
            checkpoint: at,
        })
    }

    fn at_least(
        &self,
        key: &str,
        given: Option<Span>,
        default: u64,
        least: Duration,
    ) -> Result<Duration, ConfigError> {
        let span = self.positive_span(key, given, Duration::from_secs(default))?;
        match span < least {
            true => Err(self.wrong(key, format!("is {}; it must be at least {}", Span(span), Span(least)))),
            false => Ok(span),
        }
    }
}
