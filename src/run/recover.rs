//! The checkpoint of a run: created, read, rebuilt from the target, or refused if it does not fit the target.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::RunError;
use crate::checkpoint::{
    Checkpoint, CheckpointFile, NewestCommitted, Paused, PlannedBatch, Position, Recovery, TargetRestore,
    recover,
};
use crate::clock;
use crate::config::{Job, StepSpec};
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage};
use crate::passed::PassedOver;
use crate::sink::{ForeignRows, Progress, Sink};
use crate::source::Source;
use crate::wording::counted;

/// Hint for a source that is not the one that was read before.
const OTHER_SOURCE: &str = "enrich run --restart empties the target and sends every row of the source; to keep the rows that are there, give the job another target.path and an app_id of its own";

/// Number of the target's commits that runs may search again for a RESTORE before the checkpoint notes them as seen.
const MOST_UNSEEN: u64 = 100;

/// Finds the checkpoint that a run begins with, by comparing the stored one with the target.
pub(crate) struct Recoverer<'a> {
    pub(crate) job: &'a Job,
    pub(crate) source: &'a mut Source,
    pub(crate) sink: &'a Sink,
    pub(crate) file: &'a CheckpointFile,
    pub(crate) voice: &'a Voice,
    /// Whether rows that the target has under another `app_id` may be sent again.
    pub(crate) confirmed: bool,
    /// Whether earlier rows that the target lacks are sent first.
    pub(crate) refills: bool,
}

impl Recoverer<'_> {
    /// Creates, reads or rebuilds the checkpoint. Returns it with its batches that the target lacks.
    pub(crate) async fn run(&mut self) -> Result<(Checkpoint, Vec<PlannedBatch>), RunError> {
        let mut checkpoint: Checkpoint = match self.file.load().await? {
            Some(checkpoint) => {
                self.check_belongs(&checkpoint)?;
                checkpoint
            }
            None => self.rebuild(None).await?,
        };
        if checkpoint.clears_target {
            // A restart was cut short, and it is unknown whether the target was emptied.
            self.clear(&mut checkpoint).await?;
        }
        let begins_anew = checkpoint.position == Position::Start && checkpoint.adopted.is_some();
        if begins_anew
            && self.sink.committed(checkpoint.lineage).await?.lineage.is_none()
            && self.sink.own_rows().await? > 0
        {
            return Err(RunError::Mismatch {
                what: format!(
                    "the job starts over, and the target {} holds rows of it: it was restored to an earlier version",
                    self.job.target.location
                ),
                hint: "enrich run --restart empties it again; to keep its rows, move the checkpoint away: it is rebuilt",
            });
        }
        self.compare_steps(&mut checkpoint).await?;
        self.look_for_restore(&mut checkpoint).await?;
        let mut rebuilt = false;
        loop {
            match recover(&checkpoint, self.committed(&checkpoint).await?) {
                Ok(Recovery::Continue(outstanding)) => {
                    checkpoint.planned.clone_from(&outstanding);
                    return Ok((checkpoint, outstanding));
                }
                Ok(Recovery::Behind { committed }) if !rebuilt => {
                    let text = format!(
                        "the checkpoint is older than the target (batch {committed} is committed); its position is taken from the target"
                    );
                    self.voice.say(&Event::Notice(&text));
                    let Checkpoint { paused, restored, asks_all_since, steps, target_seen, .. } = checkpoint;
                    let of_target = self.rebuild(paused).await?;
                    checkpoint = Checkpoint { restored, asks_all_since, steps, target_seen, ..of_target };
                    self.file.save(&checkpoint).await?;
                    rebuilt = true;
                }
                Ok(Recovery::Behind { committed }) => {
                    return Err(RunError::Task(format!("a rebuilt checkpoint lacks batch {committed}")));
                }
                Err(refusal) => {
                    return Err(RunError::Refused { refusal, checkpoint: self.file.at() });
                }
            }
        }
    }

    /// Notes a RESTORE of the target to an earlier version in the checkpoint. Each run reports it until a refill is
    /// done.
    async fn look_for_restore(&self, checkpoint: &mut Checkpoint) -> Result<(), RunError> {
        let newest = self.sink.version();
        let found = self.sink.restored(checkpoint.target_seen).await?;
        let found = found.filter(|found| checkpoint.restored.is_none_or(|known| known.version < *found));
        if let Some(version) = found {
            checkpoint.restored = Some(TargetRestore { version, is_refilled: false });
        }
        // Other writers may add many commits to the target, which each run would search again.
        if found.is_some() || newest.saturating_sub(checkpoint.target_seen.unwrap_or_default()) > MOST_UNSEEN
        {
            checkpoint.target_seen = Some(newest);
            self.file.save(checkpoint).await?;
        }
        if let Some(restored) = checkpoint.restored.filter(|restored| !restored.is_refilled)
            && !self.refills
        {
            let text = format!(
                "the target {} was restored to an earlier version (its version {}): rows that were written may not be in it any more. enrich run --refill sends those that are missing",
                self.job.target.location, restored.version
            );
            self.voice.say(&Event::Notice(&text));
        }
        Ok(())
    }

    /// Starts the job over: begins a new lineage and empties the target. The intent is saved before the target is
    /// emptied, so that a later run completes a restart that was cut short. With `keep_paid`, answers paid for earlier
    /// are used.
    pub(crate) async fn restart(&mut self, keep_paid: bool) -> Result<(), RunError> {
        let newest = match self.sink.progress().await? {
            Progress::None => None,
            Progress::Commit { batch, .. } | Progress::Restarted { batch } | Progress::Txn { batch } => {
                Some(batch)
            }
        };
        let mut checkpoint = Checkpoint {
            app_id: self.job.app_id.clone(),
            lineage: Lineage::random(),
            source: self.source.id().clone(),
            target_id: self.sink.table_id()?,
            next_batch: newest.map_or(BatchId::FIRST, BatchId::next),
            position: Position::Start,
            passed: Some(PassedOver::default()),
            planned: Vec::new(),
            adopted: newest,
            steps: self.steps(),
            clears_target: true,
            asks_all_since: (!keep_paid).then(clock::wall),
            // A restart sends every row, so a RESTORE known by now needs no refill.
            target_seen: None,
            restored: self
                .sink
                .restored(None)
                .await?
                .map(|version| TargetRestore { version, is_refilled: true }),
            paused: None,
        };
        self.sink.check_clearable().await?;
        self.file.look().await?;
        self.file.save(&checkpoint).await?;
        self.clear(&mut checkpoint).await
    }

    async fn clear(&self, checkpoint: &mut Checkpoint) -> Result<(), RunError> {
        self.sink.clear().await?;
        checkpoint.clears_target = false;
        Ok(self.file.save(checkpoint).await?)
    }

    /// Reports each step whose prompt or models have changed, with the number of rows in the target that were sent
    /// before the change. The checkpoint is saved with the next plan; until then each run reports the change.
    async fn compare_steps(&self, checkpoint: &mut Checkpoint) -> Result<(), RunError> {
        let steps = self.steps();
        let before = std::mem::take(&mut checkpoint.steps);
        let is_other =
            |output: &str| before.get(output).is_some_and(|before| steps.get(output) != Some(before));
        if steps.keys().any(|output| is_other(output)) {
            let prompt = |recorded: &str| recorded.split(' ').next().map(ToOwned::to_owned);
            let by_model = |output: &str| {
                let (was, is) = (before.get(output), steps.get(output));
                was.zip(is).is_some_and(|(was, is)| was != is && prompt(was) == prompt(is))
            };
            let older = self.sink.older(self.job, by_model).await?;
            for output in steps.keys().filter(|output| is_other(output)) {
                let rows = older.iter().find(|older| older.step == *output).map_or(0, |older| older.rows);
                let how_to_tell = match &self.job.target.metadata_column {
                    Some(metadata) => {
                        format!("{metadata}.{output}_step says of each row what it had (template, model)")
                    }
                    None => "nothing in a row says which it is (target.metadata is off)".to_owned(),
                };
                let rows = match rows {
                    0 => "those in the target".to_owned(),
                    rows => format!("the {} in the target that were sent before", counted(rows, "row")),
                };
                let text = format!(
                    "step {output} has changed: rows from now on differ from {rows}, and {how_to_tell}; stored answers \
                     that are not in the target yet are requested again. enrich run --restart sends all rows again"
                );
                self.voice.say(&Event::Notice(&text));
            }
        }
        checkpoint.steps = steps;
        Ok(())
    }

    /// Returns the fingerprint of each step's prompt and the models that it uses, by output.
    fn steps(&self) -> BTreeMap<String, String> {
        let step = |step: &Arc<StepSpec>| {
            let models: Vec<&str> =
                step.all_providers().map(|place| self.job.providers[place].model.as_str()).collect();
            (step.output.clone(), format!("{} {}", step.template_fingerprint(), models.join(" ")))
        };
        self.job.steps.iter().map(step).collect()
    }

    /// Describes the checkpoint that a run would begin with, without changing anything.
    pub(crate) async fn look(&mut self) -> Result<String, RunError> {
        let Some(checkpoint) = self.file.load().await? else {
            return Ok(match self.sink.progress().await? {
                Progress::None => match self.rows_under_other_app_id().await? {
                    Some(what) => return Err(RunError::DuplicateRows { what }),
                    None => "none yet; the run makes it".to_owned(),
                },
                Progress::Txn { .. } if !self.sink.has_row_keys() => return Err(self.lost_position_error()),
                _ => "none; the run rebuilds it from the target".to_owned(),
            });
        };
        self.check_belongs(&checkpoint)?;
        if checkpoint.clears_target {
            self.sink.check_clearable().await?;
            return Ok("a restart was cut short; the run empties the target and starts over".to_owned());
        }
        match recover(&checkpoint, self.committed(&checkpoint).await?) {
            Ok(Recovery::Continue(open)) => {
                let rows = counted(open.iter().map(PlannedBatch::rows).sum(), "row");
                Ok(match open.len() as u64 {
                    0 => "fits the target; no batch is open".to_owned(),
                    batches => format!("fits the target; open: {} with {rows}", counted(batches, "batch")),
                })
            }
            Ok(Recovery::Behind { .. }) => match self.sink.progress().await? {
                Progress::Txn { .. } if !self.sink.has_row_keys() => Err(self.lost_position_error()),
                _ => Ok("older than the target; the run takes its position from there".to_owned()),
            },
            Err(refusal) => Err(RunError::Refused { refusal, checkpoint: self.file.at() }),
        }
    }

    async fn committed(&self, checkpoint: &Checkpoint) -> Result<NewestCommitted, RunError> {
        let mut committed = self.sink.committed(checkpoint.lineage).await?;
        committed.lineage = committed.lineage.max(checkpoint.adopted);
        Ok(committed)
    }

    fn check_belongs(&self, checkpoint: &Checkpoint) -> Result<(), RunError> {
        check_belongs(self.job, self.source, self.file, checkpoint)?;
        let path = self.file.at();
        if checkpoint.target_id != self.sink.table_id()? {
            return Err(RunError::Mismatch {
                what: format!(
                    "the target {} is not the table that the checkpoint {path} was made for: it was removed or replaced",
                    self.job.target.location
                ),
                hint: "bring the table back, or remove the checkpoint's folder to start over",
            });
        }
        Ok(())
    }

    /// Builds a checkpoint from the state of the target and saves it; for a new job it is empty. Its lineage is new, so
    /// that the lost checkpoint is recognised as another one if it turns up again.
    async fn rebuild(&mut self, paused: Option<Paused>) -> Result<Checkpoint, RunError> {
        let empty = Checkpoint {
            app_id: self.job.app_id.clone(),
            lineage: Lineage::random(),
            source: self.source.id().clone(),
            target_id: self.sink.table_id()?,
            next_batch: BatchId::FIRST,
            position: Position::Start,
            passed: Some(PassedOver::default()),
            planned: Vec::new(),
            adopted: None,
            steps: BTreeMap::new(),
            clears_target: false,
            asks_all_since: None,
            target_seen: None,
            restored: None,
            paused,
        };
        let (batch, position) = match self.sink.progress().await? {
            Progress::None => {
                if let Some(what) = self.rows_under_other_app_id().await?.filter(|_| !self.confirmed) {
                    return Err(RunError::DuplicateRows { what });
                }
                let rows = self.sink.rows().await?;
                if rows > 0 {
                    let text = format!(
                        "the target {} holds {}, but none of the app_id {:?}: every row of the source is sent",
                        self.job.target.location,
                        counted(rows, "row"),
                        self.job.app_id
                    );
                    self.voice.say(&Event::Notice(&text));
                }
                (None, Position::Start)
            }
            Progress::Commit { batch, source, position } => {
                if !source.is_same(self.source.id()) {
                    return Err(RunError::Mismatch {
                        what: format!(
                            "the target {} holds batches of the app_id {:?} from another source than {}",
                            self.job.target.location, self.job.app_id, self.job.source.location
                        ),
                        hint: OTHER_SOURCE,
                    });
                }
                let position = match position {
                    Some(position) => position,
                    None => self.position_of_rows().await?,
                };
                (Some(batch), position)
            }
            Progress::Restarted { batch } => (Some(batch), Position::Start),
            Progress::Txn { batch } => (Some(batch), self.position_of_rows().await?),
        };
        if let Some(batch) = batch {
            self.report_rebuilt(batch);
        }
        let next_batch = batch.map_or(BatchId::FIRST, BatchId::next);
        // The lost checkpoint held the number of rows passed over so far: it is known only at the start, as 0.
        let passed = empty.passed.filter(|_| position == Position::Start);
        let checkpoint = Checkpoint { next_batch, position, passed, adopted: batch, ..empty };
        self.file.save(&checkpoint).await?;
        Ok(checkpoint)
    }

    /// Describes the rows of this source that the target has under another `app_id`; `None` if there are none. The
    /// source of those rows is read from the other job's newest commit, or else from the file names in their keys.
    async fn rows_under_other_app_id(&self) -> Result<Option<String>, RunError> {
        for others in self.sink.rows_of_others().await? {
            let ForeignRows { app_id, rows, files } = others;
            let is_same = match self.sink.progress_of(&app_id).await? {
                Progress::Commit { source, .. } => source.is_same(self.source.id()),
                Progress::None | Progress::Restarted { .. } | Progress::Txn { .. } => {
                    let mut has_one = false;
                    for file in &files {
                        has_one = has_one || self.source.has_file(file).await?;
                    }
                    has_one
                }
            };
            if is_same {
                return Ok(Some(format!(
                    "the target {} holds {} of this source under the app_id {app_id:?}: under {:?} every row is sent, and added, again",
                    self.job.target.location,
                    counted(rows, "row"),
                    self.job.app_id
                )));
            }
        }
        Ok(None)
    }

    /// Returns the position after the rows that the target holds.
    async fn position_of_rows(&mut self) -> Result<Position, RunError> {
        if let Some(version) = self.sink.restored(None).await? {
            if self.refills {
                // A refill sends every row that is not in the target, whether it is new or was lost.
                return Ok(self.source.end_of_all());
            }
            return Err(RunError::Mismatch {
                what: format!(
                    "the checkpoint is lost, and the target {} was restored to an earlier version (its version {version}): what is missing there cannot be determined from what is new",
                    self.job.target.location
                ),
                hint: "enrich run --refill sends every row of the source that is not in the target",
            });
        }
        let held = self.sink.held_files().await?.ok_or_else(|| self.lost_position_error())?;
        Ok(self.source.position_after(&held).await?)
    }

    /// Returns the error for a target that does not show which rows were read. Reading the source from its start could
    /// write some rows twice.
    fn lost_position_error(&self) -> RunError {
        RunError::Mismatch {
            what: format!(
                "the target {} holds batches of the app_id {:?}, and nothing says any more which rows of the source \
                 are in it: the checkpoint is lost or too old, the newest commit is no longer in the log, and rows \
                 have no keys (target.metadata is off)",
                self.job.target.location, self.job.app_id
            ),
            hint: "bring the newest checkpoint back from a backup, or start over with another target.path",
        }
    }

    fn report_rebuilt(&self, batch: BatchId) {
        let text = format!("the checkpoint was rebuilt from the target, which holds batches up to {batch}");
        self.voice.say(&Event::Notice(&text));
    }
}

/// Checks that a checkpoint belongs to the job and to its source.
pub(crate) fn check_belongs(
    job: &Job,
    source: &Source,
    file: &CheckpointFile,
    checkpoint: &Checkpoint,
) -> Result<(), RunError> {
    let path = file.at();
    if checkpoint.app_id != job.app_id {
        return Err(RunError::Mismatch {
            what: format!(
                "the checkpoint {path} belongs to the app_id {:?}, not {:?}",
                checkpoint.app_id, job.app_id
            ),
            hint: "give each job a checkpoint folder of its own",
        });
    }
    if !checkpoint.source.is_same(source.id()) {
        return Err(RunError::Mismatch {
            what: format!(
                "the checkpoint {path} was made for another source than {} (a table that was dropped and made again under the same path is another one)",
                job.source.location
            ),
            hint: OTHER_SOURCE,
        });
    }
    Ok(())
}
