//! Really asks some rows, and keeps the answers for the run: they stay in the job's journal as those of a batch that is
//! gone, and the run finds them by row and fingerprint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tokio::sync::watch;

use super::{Pilot, PilotSample};
use crate::checkpoint::{Part, PlannedBatch, Position};
use crate::config::{Job, Places};
use crate::decode::Content;
use crate::engine::enricher::Enricher;
use crate::engine::error::EngineError;
use crate::engine::exclusive::{Exclusive, home};
use crate::engine::feed::{Drain, Feed, Loaded};
use crate::engine::funds::Funds;
use crate::engine::learned::LearnedFile;
use crate::engine::prepare::{Prepared, inputs};
use crate::engine::probation::Strictness;
use crate::engine::run::{Begin, End, RunOptions, Running, StopRequest};
use crate::engine::start::Journals;
use crate::event::Voice;
use crate::ident::{BatchId, Lineage, Money, RunId};
use crate::journal::{self, JournalFolder, StrayAnswers};
use crate::ledger::{Ledger, Window};
use crate::sink::{Committed, Constraints, FilledBatch, Outcome, Settled};
use crate::source::Chunk;
use crate::store;

/// Rows that are shown.
const SHOWN: usize = 5;
/// The batch of a pilot has a number that no job comes to.
const FIRST_BATCH: u64 = 1 << 62;
const GRACE: Duration = Duration::from_secs(30);

/// Rows that were asked.
#[derive(Debug)]
pub(super) struct Answered {
    /// Their places among the sampled rows.
    pub(super) places: Vec<usize>,
    pub(super) chunks: Vec<Chunk>,
    /// By step, then by row.
    pub(super) outcomes: Vec<Vec<Settled>>,
}

/// Asks these rows of the chunks, which are in their order, and waits for what comes of them.
pub(super) async fn ask(
    job: &Job,
    prepared: Prepared,
    chunks: &[Chunk],
    rows: &[u64],
    stop: watch::Receiver<StopRequest>,
    voice: Voice,
) -> Result<Answered, EngineError> {
    let places: Vec<usize> = rows.iter().filter_map(|row| usize::try_from(*row).ok()).collect();
    let chunks = picked(chunks, &places)?;
    let home = home(job).await?;
    let run = RunId::random();
    home.probe().await?;
    store::probe(&job.places.journal)?;
    let Places { state, journal, lease, .. } = &job.places;
    let exclusive = Exclusive::take(state, &home, journal, *lease, run).await?;
    let tenure = exclusive.tenure();
    let work = async {
        let funds = Funds::open(job, &home).await?;
        let folder = JournalFolder::open(journal)?;
        let mut strays = StrayAnswers::default();
        for found in folder.list()? {
            // Of batches that are open, too: what is paid for is not paid for again.
            strays.absorb_copies(journal::read_all(&found.path)?);
        }
        let lineage = Lineage::random();
        let id = BatchId::new(FIRST_BATCH + u64::from(fastrand::u32(..)));
        let plan = plan(id, &chunks);
        let ledger =
            Ledger::new(Window::of(job), job.steps.len(), id.next(), [(id, plan.rows(), plan.bytes)]);
        let learned = LearnedFile::load(home.path().unwrap_or(&job.places.state));
        let cache = job.cache.as_ref().map(|spec| crate::cache::Store::open(&spec.path, spec.into()));
        let cache = cache.transpose()?;
        let journals = Journals {
            lineage,
            folder: folder.clone(),
            strays,
            learned,
            funds,
            cache,
            open: Vec::new(),
            copier: None,
        };
        let enricher =
            Enricher::start(prepared, ledger, journals, None, Strictness::Probation, voice.clone());
        let kept = Kept { folder, outcomes: Arc::default() };
        let feed = Sampled { plan, chunks: chunks.clone() };
        let constraints = Arc::new(Constraints::none(&job.target.location, &job.steps));
        let running = Running::new(enricher, feed, kept.clone(), lineage, constraints, tenure, voice);
        let options = RunOptions { grace: GRACE, max_rows: None, max_duration: None, begin: Begin::GoOn };
        match running.run(options, stop).await? {
            End::Complete => {}
            End::Provider { provider, failure } => return Err(EngineError::Provider { provider, failure }),
            End::Budget(words) => return Err(EngineError::Budget(words)),
            end => {
                let why = end.message().unwrap_or_else(|| "it was asked to stop".to_owned());
                return Err(EngineError::Mismatch {
                    what: format!("the pilot did not come to its end: {why}"),
                    hint: "what was answered is kept",
                });
            }
        }
        let outcomes = kept.outcomes.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Answered { places, chunks, outcomes: outcomes.unwrap_or_default() })
    };
    exclusive.during(Box::pin(Funds::during(job, &home, run, work))).await
}

/// Some rows of chunks, by their places over all of them.
fn picked(chunks: &[Chunk], places: &[usize]) -> Result<Vec<Chunk>, EngineError> {
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
        let rows = rows.map_err(|error| EngineError::Task(error.to_string()))?;
        let physical = own.iter().map(|at| chunk.physical[*at]).collect();
        found.push(Chunk { file: Arc::clone(&chunk.file), physical, rows });
    }
    Ok(found)
}

fn plan(id: BatchId, chunks: &[Chunk]) -> PlannedBatch {
    let part = |chunk: &Chunk, row: u64| Part {
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
struct Sampled {
    plan: PlannedBatch,
    chunks: Vec<Chunk>,
}

impl Feed for Sampled {
    async fn plan(&mut self, _: Option<BatchId>) -> Result<Option<Loaded>, EngineError> {
        Ok(None)
    }

    async fn load(&mut self, plan: PlannedBatch) -> Result<Loaded, EngineError> {
        let decoded = self.plan.rows();
        Ok(Loaded { plan, chunks: self.chunks.clone(), decoded, deleted: 0, kept: Vec::new() })
    }

    fn planned(&self, id: BatchId) -> Option<PlannedBatch> {
        (self.plan.id == id).then(|| self.plan.clone())
    }

    async fn close(&mut self, _: Option<BatchId>, _: bool) -> Result<(), EngineError> {
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
struct Kept {
    folder: JournalFolder,
    outcomes: Arc<Mutex<Option<Vec<Vec<Settled>>>>>,
}

impl Drain for Kept {
    async fn commit(&mut self, batch: &FilledBatch, lineage: Lineage) -> Result<Committed, EngineError> {
        for found in self.folder.list()? {
            if found.header.is_some_and(|header| header.lineage == lineage) {
                self.folder.put_aside(&found)?;
            }
        }
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch.outcomes.clone());
        Ok(Committed::Before)
    }
}

impl Answered {
    /// In words, for people.
    pub(super) fn told(&self, job: &Job) -> Pilot {
        let all = || self.outcomes.iter().flatten();
        let costs: Vec<Money> = all().filter_map(|settled| settled.cost).collect();
        let cost = costs.iter().copied().reduce(|sum, cost| sum + cost);
        Pilot {
            rows: self.places.len() as u64,
            answers: all().filter(|settled| matches!(settled.outcome, Outcome::Answer(_))).count() as u64,
            errors: all().filter(|settled| matches!(settled.outcome, Outcome::Failed(_))).count() as u64,
            cost_usd: cost.map(Money::dollars),
            samples: self.samples(job),
        }
    }

    fn samples(&self, job: &Job) -> Vec<PilotSample> {
        let Some(schema) = self.chunks.first().map(|chunk| chunk.rows.schema()) else { return Vec::new() };
        let names: std::collections::BTreeSet<String> =
            inputs(job, &schema).into_iter().flat_map(|(_, columns)| columns).collect();
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
        Outcome::Failed(failure) => failure.to_error_string(),
        Outcome::Skipped | Outcome::Kept => "skipped".to_owned(),
    }
}
