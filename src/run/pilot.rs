//! Sends some rows as a run does, and keeps the answers for the run: they stay in the job's journal as those of a
//! dropped batch, and the run finds them by row and fingerprint.

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

/// Rows that are shown.
const SHOWN: usize = 5;
const GRACE: Duration = Duration::from_secs(30);

/// Results of the rows that were sent.
#[derive(Debug, Serialize)]
pub struct Pilot {
    /// Rows that were sent; their answers are kept for the run.
    pub rows: u64,
    /// Answers of steps to them.
    pub answers: u64,
    /// Errors.
    pub errors: u64,
    /// US dollars that their answers cost, now or before; none where nobody says.
    pub cost_usd: Option<f64>,
    /// US dollars that were paid now; none where nobody says, or no request.
    pub paid_usd: Option<f64>,
    /// Some of them.
    pub samples: Vec<PilotSample>,
}

/// A row beside what was answered to it.
#[derive(Debug, Serialize)]
pub struct PilotSample {
    /// The source file.
    pub file: String,
    /// The row in it.
    pub row: u64,
    /// Columns that the steps read, with their texts.
    pub inputs: Vec<(String, String)>,
    /// What each step came to: its output, and that.
    pub outputs: Vec<(String, String)>,
}

/// Rows that were sent, and their outcomes.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Their places among the sampled rows.
    pub(crate) places: Vec<usize>,
    pub(crate) chunks: Vec<Chunk>,
    /// By step, then by row.
    pub(crate) outcomes: Vec<Vec<RowResult>>,
    /// What was paid now: answers that were there already cost nothing.
    paid: Option<Money>,
    /// Requests that were refused by a rate limit.
    pub(crate) throttled: u64,
}

/// Checks what a pilot will send against the target, as a run does before its first call.
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

/// Sends these rows of the chunks, which are in their order, and waits for their outcomes.
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
    };
    let end = running.run(options, stop).await?;
    // Of one that was cut short, too: other machines have to know what is spent.
    if let Some(copy) = &mut copy {
        copy.copy().await?;
    }
    if !matches!(end, End::Complete) {
        return Err(RunError::PilotEnded(Box::new(end)));
    }
    let outcomes = kept.outcomes.lock().unwrap_or_else(PoisonError::into_inner).take();
    let paid = tally.totals();
    let throttled = paid.throttled;
    Ok(Answered { places, chunks, outcomes: outcomes.unwrap_or_default(), paid: paid.cost, throttled })
}

/// Some rows of chunks, by their places over all of them.
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
        Ok(LoadedBatch { plan, chunks: self.chunks.clone(), decoded, deleted: 0, kept: Vec::new() })
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
        // The answers are for the run.
        false
    }
}

/// Takes the outcomes, and keeps the journal from being removed.
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
    /// In words, for people.
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
