//! Copies what only this machine has to the store of the checkpoint, every few seconds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::error::EngineError;
use super::funds::SpentCopy;
use crate::event::{Event, Voice};
use crate::journal::Copies;

/// How long the last round may take.
const LAST_ROUND: Duration = Duration::from_secs(60);

/// A task that copies until it is told to end.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) copies: Copies,
    ending: watch::Sender<bool>,
    task: JoinSet<()>,
}

struct Rounds {
    copies: Copies,
    spent: Option<SpentCopy>,
    voice: Voice,
    is_failing: bool,
}

impl Copier {
    pub(super) fn start(copies: Copies, spent: Option<SpentCopy>, every: Duration, voice: Voice) -> Self {
        let (ending, mut told) = watch::channel(false);
        let mut rounds = Rounds { copies: copies.clone(), spent, voice, is_failing: false };
        let mut task = JoinSet::new();
        task.spawn(async move {
            while !*told.borrow() {
                tokio::select! {
                    () = sleep(every) => {}
                    () = rounds.copies.urgent() => {}
                    _ = told.changed() => {}
                }
                rounds.turn().await;
            }
        });
        Copier { copies, ending, task }
    }

    /// Copies what is left, and ends.
    pub(super) async fn finish(mut self) {
        let _ = self.ending.send(true);
        let _ = timeout(LAST_ROUND, self.task.join_next()).await;
    }
}

impl Rounds {
    async fn turn(&mut self) {
        match self.copy().await {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !self.is_failing {
                    let text = format!(
                        "answers are not copied to the store: {error}; until they are, they are on this machine alone"
                    );
                    self.voice.say(&Event::Notice(&text));
                }
                self.is_failing = true;
            }
        }
    }

    async fn copy(&mut self) -> Result<(), EngineError> {
        // What was spent comes first: answers that are copied are then never more than what was booked for them.
        if let Some(spent) = &mut self.spent {
            spent.copy().await?;
        }
        Ok(self.copies.round().await?)
    }
}
