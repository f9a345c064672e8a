//! What a run would take, told before anything is spent: rows and batches outstanding, tokens, cost and time, each with
//! an interval. Nothing is written, and nobody is asked, unless a pilot is wanted ([`pilot`]).

mod interval;
mod reckon;
mod sample;

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use url::Url;

use self::reckon::{Before, Reckoning};
use self::sample::Looked;
use super::status::{Outlook, outlook};
use crate::checkpoint::{Paused, PlannedBatch};
use crate::config::{Job, StatePlaces};
use crate::enricher::LearnedFile;
use crate::event::Voice;
use crate::ident::RunId;
use crate::metrics;
use crate::plan::Planner;
use crate::rows::Chunk;
use crate::run::RunBudget;
use crate::run::RunError;
use crate::run::{self, HeldJob, PreparedJob};
use crate::run::{End, Pilot};
use crate::run::{Exclusive, home};
use crate::run::{StopRequest, unless_stopped};
use crate::sink::{self, OlderAnswers};
use crate::source::Source;
use crate::store::Folder;
use crate::table::{Table, is_delta_table};

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub struct ForecastOptions {
    /// Rows whose prompts are rendered and counted.
    pub sample: u64,
    /// Rows that are really asked.
    pub pilot: Option<u64>,
    /// Which rows these are.
    pub seed: u64,
    /// Prompts that are shown.
    pub prompts: usize,
}

/// A figure with the bounds that hold it nine times in ten.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Not less than this.
    pub low: f64,
    /// As much as this; none where nothing tells.
    pub expected: Option<f64>,
    /// Not more than this; none where there is no bound.
    pub high: Option<f64>,
}

/// What a run would take.
#[derive(Debug, Serialize)]
pub struct Forecast {
    /// Name of the job.
    pub app_id: String,
    /// Rows that are not in the target.
    pub rows: u64,
    /// Bytes that their columns take.
    pub bytes: u64,
    /// Batches that they make.
    pub batches: u64,
    /// Rows whose prompts were counted.
    pub sampled: u64,
    /// What each step takes of each provider.
    pub parts: Vec<PartForecast>,
    /// US dollars that all of it costs; none where a price is not known.
    pub cost_usd: Option<Estimate>,
    /// Seconds, at the job's limits; none where nothing limits it that is known.
    pub seconds: Option<Estimate>,
    /// What takes that long, in words.
    pub bound_by: Option<String>,
    /// What is to be known about these figures, and what is wrong with the job.
    pub notes: Vec<String>,
    /// Steps that ask otherwise today than rows of the target were asked.
    pub older: Vec<OlderAnswers>,
    /// Some prompts as they are sent.
    pub prompts: Vec<ShownPrompt>,
    /// What came of the rows that were asked.
    pub pilot: Option<Pilot>,
}

/// What a step takes of a provider.
#[derive(Debug, Serialize)]
pub struct PartForecast {
    /// Output of the step.
    pub step: String,
    /// The provider.
    pub provider: String,
    /// Its model.
    pub model: String,
    /// Rows that are asked.
    pub rows: Estimate,
    /// Tokens of prompts.
    pub input_tokens: Estimate,
    /// Tokens of answers.
    pub output_tokens: Estimate,
    /// US dollars; none where the price is not known.
    pub cost_usd: Option<Estimate>,
    /// Seconds that this takes at the provider's limits, were it alone there; none where nothing limits it that is known.
    pub seconds: Option<Estimate>,
}

/// A prompt as it is sent.
#[derive(Debug, Serialize)]
pub struct ShownPrompt {
    /// Output of the step.
    pub step: String,
    /// The source file.
    pub file: String,
    /// The row in it.
    pub row: u64,
    /// The messages.
    pub text: String,
    /// Tokens of them, as counted here.
    pub tokens: u64,
}

/// Finds out what a run would take. `simulator` is where the built-in simulator listens, if the job asks for it.
///
/// # Errors
/// When the job does not fit its source, when the source cannot be read, and what ends a pilot.
pub async fn forecast(
    job: &Job,
    options: ForecastOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    voice: Voice,
) -> Result<Forecast, RunError> {
    let home = home(job).await?;
    if options.pilot.is_none() {
        return tell(job, &home, options, stop, simulator, None).await;
    }
    // A run meanwhile would ask the same rows.
    let run = RunId::random();
    let StatePlaces { state, journal, lease, .. } = &job.places;
    let exclusive = Exclusive::take(state, &home, journal, *lease, run).await?;
    let hold = HeldJob { job, home: &home, run, lease_guard: exclusive.lease_guard() };
    let work = tell(job, &home, options, stop, simulator, Some((hold, voice)));
    exclusive.during(Box::pin(RunBudget::during(job, &home, run, work))).await
}

async fn tell(
    job: &Job,
    home: &Folder,
    options: ForecastOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    pilot: Option<(HeldJob<'_>, Voice)>,
) -> Result<Forecast, RunError> {
    let cut = || RunError::Cut(Box::new(End::Stopped));
    let is_pilot = pilot.is_some();
    let looked = unless_stopped(&stop, Box::pin(look(job, home, options, simulator, is_pilot)));
    let OutstandingSample {
        prepared,
        rows,
        bytes,
        batches,
        retention,
        paused,
        older,
        chunks,
        looked,
        mut random,
    } = looked.await?.ok_or_else(cut)?;
    let most = options.pilot.unwrap_or_default().min(looked.len() as u64);
    let asked = match pilot {
        Some((hold, voice)) if most > 0 => {
            let chosen = sample::choose(looked.len() as u64, most, &mut random);
            Some(run::ask(hold, prepared.enricher, &chunks, &chosen, stop, voice).await?)
        }
        _ => None,
    };
    let spent = RunBudget::look(job, home).await?;
    let before = match (&job.metrics, &asked) {
        (Some(at), None) => metrics::read(at, &job.app_id, std::slice::from_ref(home)).await?,
        _ => Vec::new(),
    };
    let before = Before::of(job, &before);
    let (asked_rows, spent) = (asked.as_ref(), spent.as_ref());
    let learned = LearnedFile::load(home.path().unwrap_or(&job.places.state)).learned_limits().all();
    let reckoning = Reckoning {
        job,
        rows,
        looked: &looked,
        asked: asked_rows,
        before: &before,
        spent,
        learned: &learned,
    };
    let parts = reckoning.parts();
    let (seconds, bound_by) = reckoning.time().unzip();
    let mut notes = reckoning.notes(seconds, retention);
    notes.extend(paused.map(|paused| {
        format!(
            "a run of the job as it is now asks nothing without --unpause: it is paused, because {}",
            paused.why
        )
    }));
    Ok(Forecast {
        app_id: job.app_id.clone(),
        rows,
        bytes,
        batches,
        sampled: looked.len() as u64,
        cost_usd: reckoning.cost(),
        notes,
        older,
        parts,
        seconds,
        bound_by,
        prompts: sample::prompts(job, &looked, options.prompts),
        pilot: asked.map(|asked| asked.told(job)),
    })
}

/// What is outstanding, and some of it.
struct OutstandingSample {
    prepared: PreparedJob,
    rows: u64,
    bytes: u64,
    batches: u64,
    retention: Option<Duration>,
    paused: Option<Paused>,
    older: Vec<OlderAnswers>,
    chunks: Vec<Chunk>,
    looked: Vec<Looked>,
    random: fastrand::Rng,
}

async fn look(
    job: &Job,
    home: &Folder,
    options: ForecastOptions,
    simulator: Option<&Url>,
    is_pilot: bool,
) -> Result<OutstandingSample, RunError> {
    let mut source = Source::open(&job.source).await?;
    let mut prepared = PreparedJob::new(job, source.schema(), simulator)?;
    if is_pilot {
        run::may_ask(job, home, &mut prepared, &mut source).await?;
    }
    let Outlook { position, open: mut batches, paused } = outlook(job).await?;
    let retention = source.retention();
    let mut reader = source.reader();
    let mut next = batches.last().map(|batch| batch.id.next()).unwrap_or_default();
    let mut planner = Planner::new(source, job.batch, position, None);
    while let Some(batch) = planner.next(next).await? {
        next = batch.id.next();
        batches.push(batch);
    }
    let rows: u64 = batches.iter().map(PlannedBatch::rows).sum();
    let wanted = options.sample.max(options.pilot.unwrap_or_default()).min(rows);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let chosen = sample::choose(rows, wanted, &mut random);
    let chunks = sample::read(&mut planner, &mut reader, &batches, &chosen).await?;
    let looked = sample::look(job, &prepared.enricher, &chunks);
    let bytes = batches.iter().map(|batch| batch.bytes).sum();
    let batches = batches.len() as u64;
    let at = &job.target.location;
    let older = match is_delta_table(at).await? {
        true => sink::older(&Table::open(at).await?, job, |_| false).await?,
        false => Vec::new(),
    };
    Ok(OutstandingSample { prepared, rows, bytes, batches, retention, paused, older, chunks, looked, random })
}
