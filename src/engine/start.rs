//! The start of a run: lock, target, checkpoint, recovery, journals.

use super::enricher::Enricher;
use super::error::EngineError;
use super::prepare::Prepared;
use super::reading::Reading;
use crate::checkpoint::{Checkpoint, CheckpointFile, Lock, PlannedBatch, Position, Recovery, recover};
use crate::config::Job;
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage, RunId};
use crate::journal::{JournalFolder, StrayAnswers};
use crate::ledger::{Ledger, Window};
use crate::plan::Planner;
use crate::sink::{Progress, Sink};
use crate::source::{RowReader, Source};

/// Everything that a run goes on with.
pub(super) struct Started {
    pub(super) enricher: Enricher,
    pub(super) reading: Reading,
    pub(super) sink: Sink,
    pub(super) lineage: Lineage,
    pub(super) lock: Lock,
}

pub(super) async fn start(
    job: &Job,
    prepared: Prepared,
    source: Source,
    run: RunId,
    max_rows: Option<u64>,
    voice: &Voice,
) -> Result<Started, EngineError> {
    let folder = job.target.location.join("_checkpoints").join(&job.app_id);
    let lock = Lock::take(folder.path(), run)?;
    let sink = Sink::open(job, &prepared.columns, source.id(), run).await?;
    let file = CheckpointFile::in_folder(job.checkpoint.path());
    let (checkpoint, outstanding) =
        Recoverer { job, source: &source, sink: &sink, file: &file, voice }.run().await?;

    let window = Window {
        max_rows: job.window.max_rows,
        max_bytes: job.window.max_bytes,
        batch_rows: u64::from(job.batch.max_rows),
        batch_bytes: job.batch.max_bytes,
    };
    let planned = outstanding.iter().map(|batch| (batch.id, batch.rows(), batch.bytes));
    let ledger = Ledger::new(window, job.steps.len(), checkpoint.next_batch, planned);
    let (journal, strays) = sort_journals(job, &checkpoint, &outstanding)?;

    let resumed: u64 = outstanding.iter().map(PlannedBatch::rows).sum();
    if let Some(unread) = source.rows_after(&checkpoint.position) {
        voice.say(&Event::Outstanding { rows: resumed + unread, most_asked: max_rows });
    }
    let lineage = checkpoint.lineage;
    let reader = RowReader::new(source.root().to_owned(), source.schema().clone());
    let rows_left = max_rows.map(|most| most.saturating_sub(resumed));
    let planner = Planner::new(source, job.batch, checkpoint.position.clone(), rows_left);
    let enricher = Enricher::start(prepared, ledger, lineage, journal, strays, max_rows, voice.clone());
    let reading = Reading { planner, reader, file, checkpoint };
    Ok(Started { enricher, reading, sink, lineage, lock })
}

struct Recoverer<'a> {
    job: &'a Job,
    source: &'a Source,
    sink: &'a Sink,
    file: &'a CheckpointFile,
    voice: &'a Voice,
}

impl Recoverer<'_> {
    /// The checkpoint, made, read or rebuilt, and those of its batches that the target lacks.
    async fn run(&self) -> Result<(Checkpoint, Vec<PlannedBatch>), EngineError> {
        let mut checkpoint = match self.file.load()? {
            Some(checkpoint) => {
                self.belongs(&checkpoint)?;
                checkpoint
            }
            None => self.rebuild().await?,
        };
        let mut rebuilt = false;
        loop {
            let mut committed = self.sink.committed(checkpoint.lineage).await?;
            committed.lineage = committed.lineage.max(checkpoint.adopted);
            match recover(&checkpoint, committed) {
                Ok(Recovery::Continue(outstanding)) => {
                    checkpoint.planned.clone_from(&outstanding);
                    return Ok((checkpoint, outstanding));
                }
                Ok(Recovery::Behind { committed }) if !rebuilt => {
                    let text = format!(
                        "the checkpoint is older than the target (batch {committed} is committed); its position is taken from the target"
                    );
                    self.voice.say(&Event::Notice(&text));
                    checkpoint = self.rebuild().await?;
                    rebuilt = true;
                }
                Ok(Recovery::Behind { committed }) => {
                    return Err(EngineError::Task(format!("a rebuilt checkpoint lacks batch {committed}")));
                }
                Err(refusal) => {
                    return Err(EngineError::Refused { refusal, checkpoint: self.file.path().to_owned() });
                }
            }
        }
    }

    fn belongs(&self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        let path = self.file.path().display();
        if checkpoint.app_id != self.job.app_id {
            return Err(EngineError::Mismatch {
                what: format!(
                    "the checkpoint {path} belongs to the app_id {:?}, not {:?}",
                    checkpoint.app_id, self.job.app_id
                ),
                hint: "give each job a checkpoint folder of its own",
            });
        }
        if !checkpoint.source.is_same(self.source.id()) {
            return Err(EngineError::Mismatch {
                what: format!(
                    "the checkpoint {path} was made for another source than {} (a table that was replaced under the same path is another one)",
                    self.job.source.location
                ),
                hint: "give the job for the new source an app_id of its own",
            });
        }
        if checkpoint.target_id != self.sink.table_id()? {
            return Err(EngineError::Mismatch {
                what: format!(
                    "the target {} is not the table that the checkpoint {path} was made for: it was removed or replaced",
                    self.job.target.location
                ),
                hint: "bring the table back, or remove the checkpoint's folder to start over",
            });
        }
        Ok(())
    }

    /// Makes a checkpoint from what the target tells, which is nothing for a new job, and saves it. It has a
    /// lineage of its own, so that the old one, should it turn up again, is found to be another.
    async fn rebuild(&self) -> Result<Checkpoint, EngineError> {
        let fresh = |next_batch, position, adopted| -> Result<Checkpoint, EngineError> {
            Ok(Checkpoint {
                app_id: self.job.app_id.clone(),
                lineage: Lineage::random(),
                source: self.source.id().clone(),
                target_id: self.sink.table_id()?,
                next_batch,
                position,
                planned: Vec::new(),
                adopted,
            })
        };
        let checkpoint = match self.sink.progress().await? {
            Progress::None => fresh(BatchId::FIRST, Position::Start, None)?,
            Progress::Commit { batch, source, position } => {
                if !source.is_same(self.source.id()) {
                    return Err(EngineError::Mismatch {
                        what: format!(
                            "the target {} holds batches of the app_id {:?} from another source than {}",
                            self.job.target.location, self.job.app_id, self.job.source.location
                        ),
                        hint: "give the job for the new source an app_id of its own",
                    });
                }
                let position = match position {
                    Some(position) => position,
                    None => self.source.position_after(&self.sink.held_files().await?)?,
                };
                self.tell_rebuilt(batch);
                fresh(batch.next(), position, Some(batch))?
            }
            Progress::Txn { batch } => {
                let position = self.source.position_after(&self.sink.held_files().await?)?;
                self.tell_rebuilt(batch);
                fresh(batch.next(), position, Some(batch))?
            }
        };
        self.file.save(&checkpoint)?;
        Ok(checkpoint)
    }

    fn tell_rebuilt(&self, batch: BatchId) {
        let text = format!("the checkpoint was rebuilt from the target, which holds batches up to {batch}");
        self.voice.say(&Event::Notice(&text));
    }
}

/// Removes journals of committed batches and puts aside those that belong to no planned batch.
fn sort_journals(
    job: &Job,
    checkpoint: &Checkpoint,
    outstanding: &[PlannedBatch],
) -> Result<(JournalFolder, StrayAnswers), EngineError> {
    let folder = JournalFolder::open(&job.journal)?;
    let mut strays = StrayAnswers::default();
    let first = outstanding.first().map_or(checkpoint.next_batch, |batch| batch.id);
    for found in folder.list()? {
        let own = found.header.filter(|header| header.lineage == checkpoint.lineage);
        match own {
            Some(header) if header.batch < first && !found.is_aside() => folder.forget(header.batch)?,
            Some(header)
                if !found.is_aside()
                    && outstanding
                        .iter()
                        .any(|plan| plan.id == header.batch && plan.digest() == header.digest) => {}
            _ => strays.absorb(folder.put_aside(&found)?)?,
        }
    }
    Ok((folder, strays))
}
