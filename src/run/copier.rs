//! Copies new journal records and the spending of this machine to the checkpoint's object store, every few seconds.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::error::RunError;
use super::run_budget::SpentCopy;
use crate::event::{Event, Voice};
use crate::journal::Copies;

/// A task that copies until [`Copier::finish`] ends it.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) copies: Copies,
    ending: watch::Sender<bool>,
    task: JoinSet<bool>,
    voice: Voice,
}

struct Rounds {
    copies: Copies,
    spent: Option<SpentCopy>,
    voice: Voice,
    is_failing: bool,
}

impl Copier {
    pub(crate) fn start(copies: Copies, spent: Option<SpentCopy>, every: Duration, voice: Voice) -> Self {
        let (ending, mut ended) = watch::channel(false);
        let mut rounds = Rounds { copies: copies.clone(), spent, voice: voice.clone(), is_failing: false };
        let mut task = JoinSet::new();
        task.spawn(async move {
            while !*ended.borrow() {
                tokio::select! {
                    () = sleep(every) => {}
                    () = rounds.copies.urgent() => {}
                    _ = ended.changed() => break,
                }
                rounds.turn().await;
            }
            // Records may have come in during the last turn.
            rounds.turn().await
        });
        Copier { copies, ending, task, voice }
    }

    /// Copies what is left, for at most the time `most`, and ends the task.
    pub(crate) async fn finish(mut self, most: Duration) {
        let _ = self.ending.send(true);
        if !matches!(timeout(most, self.task.join_next()).await, Ok(Some(Ok(true)))) {
            let text = "the newest answers are not copied to the store: until the next run here they are on this machine \
                        alone";
            self.voice.say(&Event::Notice(text));
        }
    }
}

impl Rounds {
    /// Copies what is new. Returns whether that succeeded; the first of several failures in a row is reported.
    async fn turn(&mut self) -> bool {
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
        !self.is_failing
    }

    async fn copy(&mut self) -> Result<(), RunError> {
        // The spending is copied first, so that no copied answer costs more than the copied spending has booked.
        if let Some(spent) = &mut self.spent {
            spent.copy().await?;
        }
        Ok(self.copies.round().await?)
    }
}
