//! A pilot: sends some rows as a run does, but writes nothing to the target.
//!
//! Its answers are kept for the run: their journal is put aside like that of a dropped batch, and the run finds them by
//! row and fingerprint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use tokio::sync::watch;

use super::end::End;
use super::error::RunError;
use super::feed::{Delivery, Drain, Feed};
use super::job_run::check_creatable;
use super::options::{Begin, RunOptions, StopRequest};
use super::prepared_job::PreparedJob;
use super::recover::Recoverer;
use super::running::Running;
use super::session::{Session, outside_checkpoint};
use super::writable::check_appendable;
use crate::checkpoint::{CheckpointFile, FileRange, PlannedBatch, Position};
use crate::config::Job;
use crate::decode::Content;
use crate::enricher::{LoadedBatch, Prepared, template_inputs};
use crate::event::Voice;
use crate::ident::{BatchId, Lineage, Money, RunId};
use crate::journal::JournalFolder;
use crate::rows::Chunk;
use crate::rows::{FilledBatch, Outcome, RowResult};
use crate::sink::Sink;
use crate::source::Source;
use crate::table::is_delta_table;
use crate::tally::Tally;

/// Maximum number of rows that are shown as samples.
const SHOWN: usize = 5;
const GRACE: Duration = Duration::from_secs(30);

/// Results of a pilot.
#[derive(Debug, Serialize)]
pub struct Pilot {
    /// Number of rows that were sent; their answers are kept for the run.
    pub rows: u64,
    /// Number of answers, of all steps together.
    pub answers: u64,
    /// Number of failed outcomes, of all steps together.
    pub errors: u64,
    /// US dollars that the outcomes cost, whether paid now or by an earlier run; `None` if no cost is known.
    pub cost_usd: Option<f64>,
    /// US dollars that were paid now; `None` if no cost is known or no request was sent.
    pub paid_usd: Option<f64>,
    /// The first rows, with their outcomes.
    pub samples: Vec<PilotSample>,
}

/// A row with its inputs and outcomes.
#[derive(Debug, Serialize)]
pub struct PilotSample {
    /// Path of the source file, relative to the source's root.
    pub file: String,
    /// Physical row in the file.
    pub row: u64,
    /// Names of the source columns that the steps read, each with its value as text; nulls are left out.
    pub inputs: Vec<(String, String)>,
    /// Output column of each step, with the step's outcome in words.
    pub outputs: Vec<(String, String)>,
}

/// Rows that were sent, and their outcomes.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Index of each row among all rows of the chunks that were given to [`send_pilot`].
    pub(crate) places: Vec<usize>,
    pub(crate) chunks: Vec<Chunk>,
    /// Outcomes by step, then by row.
    pub(crate) outcomes: Vec<Vec<RowResult>>,
    /// Amount paid now; answers taken from journals and the cache cost nothing. `None` if no cost is known.
    paid: Option<Money>,
    /// Number of requests that a rate limit refused.
    pub(crate) throttled: u64,
}

/// Makes the checks that a run makes of the target before its first request. Sets the lengths of the target's vectors
/// in `prepared`.
pub(crate) async fn check_target(
    session: &Session<'_>,
    prepared: &mut PreparedJob,
    source: &mut Source,
) -> Result<(), RunError> {
    let job = session.job();
    if !is_delta_table(&job.target.location).await? {
        Sink::can_create(&job.target.location).await?;
        return check_creatable(job, source, Begin::Continue).await;
    }
    check_appendable(&job.target.location)?;
    let mut sink =
        Sink::open(job, &prepared.columns, source.id(), &source.columns_left_out(), RunId::random()).await?;
    sink.constraints()?;
    for step in prepared.enricher.steps.iter_mut().filter(|step| step.gives_vectors()) {
        step.hold_length(sink.vector_length(&step.spec.output).await?)?;
    }
    let (file, voice) = (CheckpointFile::in_folder(session.home()), Voice::default());
    let mut recoverer =
        Recoverer { job, source, sink: &sink, file: &file, voice: &voice, confirmed: false, refills: false };
    recoverer.look().await?;
    Ok(())
}

/// Sends some rows of the chunks and waits for their outcomes. `rows` holds ascending indices over all chunks together.
pub(crate) async fn send_pilot(
    session: &Session<'_>,
    prepared: Prepared,
    chunks: &[Chunk],
    rows: &[u64],
    stop: watch::Receiver<StopRequest>,
    voice: Voice,
) -> Result<Answered, RunError> {
    let places: Vec<usize> = rows.iter().filter_map(|row| usize::try_from(*row).ok()).collect();
    let chunks = picked(chunks, &places)?;
    let mut budget = session.budget().await?;
    let mut copy = budget.copy.take();
    let (_, voice) = session.metrics(session.run(), Lineage::random(), &voice).await?;
    let tally = Tally::default();
    let voice = voice.and(Box::new(tally.clone()));
    let lineage = Lineage::random();
    let plan = plan(outside_checkpoint(), &chunks);
    let (enricher, folder) = session.enricher_without_checkpoint(
        prepared,
        lineage,
        std::slice::from_ref(&plan),
        &budget,
        &voice,
    )?;
    let kept = CollectingDrain { folder, outcomes: Arc::default() };
    let feed = PilotBatch { plan, chunks: chunks.clone() };
    let running = Running::new(enricher, feed, kept.clone(), lineage, session.lease_guard(), None, voice);
    let options = RunOptions {
        grace: GRACE,
        max_rows: None,
        max_duration: None,
        begin: Begin::Continue,
        confirmed: true,
        keep_paid: true,
        waits: false,
        asks_online: true,
    };
    let end = running.run(options, stop).await;
    // This is done for a pilot that was cut short or failed, too: other machines must know what is spent.
    if let Some(copy) = &mut copy {
        copy.copy().await?;
    }
    let end = end?;
    if !matches!(end, End::Complete) {
        return Err(RunError::PilotEnded(Box::new(end)));
    }
    let outcomes = kept.outcomes.lock().unwrap_or_else(PoisonError::into_inner).take();
    let paid = tally.totals();
    let throttled = paid.throttled;
    Ok(Answered { places, chunks, outcomes: outcomes.unwrap_or_default(), paid: paid.cost, throttled })
}

/// Returns the rows of chunks at these places, which are indices over all chunks together.
fn picked(chunks: &[Chunk], places: &[usize]) -> Result<Vec<Chunk>, RunError> {
    let mut found = Vec::new();
    let mut first = 0;
    for chunk in chunks {
        let end = first + chunk.physical.len();
        let own: Vec<usize> =
            places.iter().filter(|at| (first..end).contains(*at)).map(|at| at - first).collect();
        first = end;
        if own.is_empty() {
            continue;
        }
        let indices: UInt64Array = own.iter().map(|at| Some(*at as u64)).collect();
        let rows = take_record_batch(&chunk.rows, &indices);
        let rows = rows.map_err(|error| RunError::Task(error.to_string()))?;
        let physical = own.iter().map(|at| chunk.physical[*at]).collect();
        found.push(Chunk { file: Arc::clone(&chunk.file), physical, rows });
    }
    Ok(found)
}

fn plan(id: BatchId, chunks: &[Chunk]) -> PlannedBatch {
    let part = |chunk: &Chunk, row: u64| FileRange {
        file: chunk.file.to_string(),
        size: 0,
        version: None,
        start: row,
        end: row + 1,
        partition: BTreeMap::new(),
    };
    PlannedBatch {
        id,
        parts: chunks.iter().flat_map(|chunk| chunk.physical.iter().map(|row| part(chunk, *row))).collect(),
        bytes: chunks.iter().map(Chunk::bytes).sum(),
        next: Position::Start,
        condition: None,
        kept: None,
    }
}

/// The one batch of a pilot.
struct PilotBatch {
    plan: PlannedBatch,
    chunks: Vec<Chunk>,
}

impl Feed for PilotBatch {
    async fn plan(&mut self, _: Option<BatchId>) -> Result<Option<LoadedBatch>, RunError> {
        Ok(None)
    }

    async fn load(&mut self, plan: PlannedBatch) -> Result<LoadedBatch, RunError> {
        let decoded = self.plan.rows();
        Ok(LoadedBatch {
            plan,
            epoch: None,
            chunks: self.chunks.clone(),
            decoded,
            deleted: 0,
            kept: Vec::new(),
        })
    }

    fn planned(&self, id: BatchId) -> Option<PlannedBatch> {
        (self.plan.id == id).then(|| self.plan.clone())
    }

    async fn close(&mut self, _: Option<BatchId>, _: bool) -> Result<(), RunError> {
        Ok(())
    }

    fn reaches_end(&self) -> bool {
        true
    }

    fn covers_all(&self) -> bool {
        // Answers are kept for the run, which covers more rows.
        false
    }
}

/// Collects the outcomes of the batch, and puts its journal aside, so that it is not removed.
#[derive(Clone)]
struct CollectingDrain {
    folder: JournalFolder,
    outcomes: Arc<Mutex<Option<Vec<Vec<RowResult>>>>>,
}

impl Drain for CollectingDrain {
    async fn commit(&mut self, batch: &FilledBatch, lineage: Lineage) -> Result<Option<Delivery>, RunError> {
        for found in self.folder.list()? {
            if found.header.is_some_and(|header| header.lineage == lineage) {
                self.folder.put_aside(&found)?;
            }
        }
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch.outcomes.clone());
        Ok(Some(Delivery::HandedOver))
    }
}

impl Answered {
    /// Returns the results for display.
    pub(crate) fn report(&self, job: &Job) -> Pilot {
        let all = || self.outcomes.iter().flatten();
        let costs: Vec<Money> = all().filter_map(|settled| settled.cost).collect();
        let cost = costs.iter().copied().reduce(|sum, cost| sum + cost);
        Pilot {
            rows: self.places.len() as u64,
            answers: all().filter(|settled| matches!(settled.outcome, Outcome::Answer(_))).count() as u64,
            errors: all().filter(|settled| matches!(settled.outcome, Outcome::Failed(_))).count() as u64,
            cost_usd: cost.map(Money::dollars),
            paid_usd: self.paid.map(Money::dollars),
            samples: self.samples(job),
        }
    }

    fn samples(&self, job: &Job) -> Vec<PilotSample> {
        let Some(schema) = self.chunks.first().map(|chunk| chunk.rows.schema()) else { return Vec::new() };
        let names: std::collections::BTreeSet<String> =
            template_inputs(job, &schema).into_iter().flat_map(|(_, columns)| columns).collect();
        let mut samples = Vec::new();
        let mut nth = 0;
        for chunk in &self.chunks {
            for (at, row) in chunk.physical.iter().enumerate().take(SHOWN.saturating_sub(samples.len())) {
                let options = FormatOptions::default();
                let cell = |name: &String| {
                    let column = chunk.rows.column_by_name(name).filter(|column| column.is_valid(at))?;
                    let formatter = ArrayFormatter::try_new(column, &options).ok()?;
                    Some((name.clone(), formatter.value(at).to_string()))
                };
                let outputs = job.steps.iter().zip(&self.outcomes);
                samples.push(PilotSample {
                    file: chunk.file.to_string(),
                    row: *row,
                    inputs: names.iter().filter_map(cell).collect(),
                    outputs: outputs
                        .map(|(step, outcomes)| (step.output.clone(), in_words(&outcomes[nth + at].outcome)))
                        .collect(),
                });
            }
            nth += chunk.physical.len();
        }
        samples
    }
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(Content::Text(text)) => text.clone(),
        Outcome::Answer(Content::Vector(numbers)) => format!("{} numbers", numbers.len()),
        Outcome::Answer(spilled) => format!("{} bytes", spilled.bytes()),
        Outcome::Failed(failure) => failure.to_error_string(),
        Outcome::Skipped | Outcome::Unchanged => "skipped".to_owned(),
    }
}
