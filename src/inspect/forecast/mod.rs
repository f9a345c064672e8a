//! A forecast of what a run would take, before anything is spent: outstanding rows and batches, tokens, cost and time,
//! each with an interval. Nothing is written and no request is sent, unless a pilot is requested
//! ([`Pilot`](crate::run::Pilot)).

mod batch;
mod figures;
mod interval;
mod reckon;
mod sample;

use std::time::Duration;

use tokio::sync::watch;
use url::Url;

pub use self::figures::{BatchForecast, Estimate, Forecast, PartForecast, ShownPrompt};
use self::reckon::{Before, Reckoning};
use self::sample::Looked;
use super::status::{Outlook, outlook};
use crate::checkpoint::{Paused, PlannedBatch};
use crate::config::Job;
use crate::enricher::LearnedFile;
use crate::event::Voice;
use crate::ident::RunId;
use crate::metrics;
use crate::plan::Planner;
use crate::query;
use crate::rows::Chunk;
use crate::run::End;
use crate::run::RunBudget;
use crate::run::RunError;
use crate::run::home;
use crate::run::{self, PreparedJob, Scope, Session};
use crate::run::{StopRequest, unless_stopped};
use crate::sink::{self, OlderAnswers};
use crate::source::Source;
use crate::store::Folder;
use crate::table::{Table, is_delta_table};

/// How many rows a forecast counts, sends and shows.
#[derive(Clone, Copy, Debug)]
pub struct ForecastOptions {
    /// Number of rows whose prompts are rendered and counted.
    pub sample: u64,
    /// Number of rows that are really sent, or `None` for no pilot.
    pub pilot: Option<u64>,
    /// Seed of the choice of these rows.
    pub seed: u64,
    /// Number of rows whose prompts are shown.
    pub prompts: usize,
}

/// Forecasts what a run would take. `simulator` is the address of the built-in simulator, if the job uses it.
///
/// # Errors
/// When the job does not fit its source, when the source cannot be read, when it is stopped, and when a pilot ends
/// early.
pub async fn forecast(
    job: &Job,
    options: ForecastOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    voice: Voice,
) -> Result<Forecast, RunError> {
    if options.pilot.is_none() {
        return Box::pin(tell(job, &home(job).await?, options, stop, simulator, None)).await;
    }
    // A run at the same time would send the same rows.
    let session = Session::open(job, Scope::Run, RunId::random()).await?;
    let work = Box::pin(tell(job, session.home(), options, stop, simulator, Some((&session, voice))));
    let forecast = session.during(work).await;
    session.release().await;
    forecast
}

/// Makes a forecast from a sample, and from a pilot if a session for it is given.
async fn tell(
    job: &Job,
    home: &Folder,
    options: ForecastOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    pilot: Option<(&Session<'_>, Voice)>,
) -> Result<Forecast, RunError> {
    let cut = || RunError::PilotEnded(Box::new(End::Stopped));
    let session = pilot.as_ref().map(|(session, _)| *session);
    let looked = unless_stopped(&stop, Box::pin(look(job, options, simulator, session)));
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
    let pilot_result = match pilot {
        Some((session, voice)) if most > 0 => {
            let chosen = sample::choose(looked.len() as u64, most, &mut random);
            Some(Box::pin(run::send_pilot(session, prepared.enricher, &chunks, &chosen, stop, voice)).await?)
        }
        _ => None,
    };
    let spent = RunBudget::look(job, home).await?;
    let before = match (&job.metrics, &pilot_result) {
        (Some(at), None) => metrics::read(at, &job.app_id, std::slice::from_ref(home)).await?,
        _ => Vec::new(),
    };
    let before = Before::of(job, &before);
    let learned = LearnedFile::load(home.path().unwrap_or(&job.places.state)).learned_limits().all();
    let reckoning = Reckoning {
        job,
        rows,
        looked: &looked,
        pilot: pilot_result.as_ref(),
        before: &before,
        spent: spent.as_ref(),
        learned: &learned,
    };
    let parts = reckoning.parts();
    let (seconds, bound_by) = reckoning.time_with_batches().unzip();
    let mut notes = reckoning.notes(seconds, retention);
    notes.extend(paused.map(|paused| {
        format!(
            "a run of the job as it is now sends nothing without --unpause: it is paused, because {}",
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
        batch: reckoning.by_batch(),
        notes,
        older,
        parts,
        seconds,
        bound_by,
        prompts: sample::prompts(job, &looked, options.prompts),
        pilot: pilot_result.map(|pilot_result| pilot_result.report(job)),
    })
}

/// The outstanding rows in figures, and a sample of them.
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

/// Plans the outstanding rows without writing the plan, and reads and renders a sample of them.
async fn look(
    job: &Job,
    options: ForecastOptions,
    simulator: Option<&Url>,
    session: Option<&Session<'_>>,
) -> Result<OutstandingSample, RunError> {
    let preview = query::preview(job, &run::home(job).await?).await?;
    let mut source = Source::open(&preview.source, &job.places.state).await?;
    let mut prepared = PreparedJob::new(job, source.schema(), simulator)?;
    if let Some(session) = session {
        run::check_target(session, &mut prepared, &mut source).await?;
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
    let sample_rows = options.sample.max(options.pilot.unwrap_or_default()).min(rows);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let chosen = sample::choose(rows, sample_rows, &mut random);
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
