//! A run of a job: from its source to its target.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use url::Url;

use super::copier::Copier;
use super::end::End;
use super::error::RunError;
use super::exclusive::home;
use super::feed::Metered;
use super::history::History;
use super::options::{Begin, RunOptions, StopRequest, unless_stopped};
use super::pause;
use super::prepared_job::PreparedJob;
use super::reading::SourceFeed;
use super::recover::{Recoverer, check_belongs};
use super::running::Running;
use super::session::{Scope, Session};
use super::writable::check_appendable;
use crate::checkpoint::{Checkpoint, CheckpointFile, LastRun, PlannedBatch, Position};
use crate::clock;
use crate::config::Job;
use crate::enricher::Enricher;
use crate::event::{Event, Voice};
use crate::ident::{Lineage, RunId};
use crate::plan::Planner;
use crate::query::{self, QueryResults};
use crate::sink::Sink;
use crate::source::{MissingRows, Source, SourceError, StagingProgress};
use crate::store::Folder;
use crate::table::is_delta_table;
use crate::tally::Tally;
use crate::wording::counted;

/// Time between two messages about a file that is read before rows of it are planned.
const READING_INTERVAL: Duration = Duration::from_secs(5);

/// The opened parts of a run that is ready to begin.
struct Started {
    enricher: Enricher,
    reading: SourceFeed,
    drain: Metered<Sink>,
    lineage: Lineage,
    copier: Option<Copier>,
}

/// Runs a job. `simulator` is the address of the built-in simulator, if the job uses it.
///
/// # Errors
/// When the run cannot start or is cut short by an error; answers received until then are kept.
pub async fn run(
    job: &Job,
    options: RunOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    voice: Voice,
) -> Result<End, RunError> {
    let started = clock::wall();
    let tally = Tally::default();
    let voice = voice.and(Box::new(tally.clone()));
    let opened = unless_stopped(
        &stop,
        Box::pin(async {
            let session = async || Session::open(job, Scope::Run, RunId::random()).await;
            if job.source.query.is_none() {
                let (source, prepared) = open(job, options.begin, simulator, &voice).await?;
                return Ok((source, prepared, session().await?));
            }
            // What a query has brought lies with the checkpoint, so the job is to be held.
            let session = session().await?;
            let opened = async {
                let progress = StagingProgress::default();
                reporting(&voice, &progress, query::prepare(job, session.home(), &progress)).await?;
                open(job, options.begin, simulator, &voice).await
            };
            match opened.await {
                Ok((source, prepared)) => Ok((source, prepared, session)),
                Err(error) => {
                    session.release().await;
                    Err(error)
                }
            }
        }),
    );
    let Some((source, prepared, session)) = opened.await? else { return Ok(End::Stopped) };
    let work = Box::pin(async {
        let start = Box::pin(start(&session, prepared, source, options, &voice));
        let Some(started_run) = unless_stopped(&stop, start).await? else { return Ok(End::Stopped) };
        let Started { enricher, reading, drain, lineage, copier } = started_run;
        voice.say(&Event::Started { run: session.run() });
        let history = History::begin(session.state(), session.run(), started, tally)?;
        let running =
            Running::new(enricher, reading, drain, lineage, session.lease_guard(), copier, voice.clone());
        let end = running.run(options, stop.clone()).await;
        history.end(&end);
        end
    });
    let end = session.during(work).await;
    session.release().await;
    end
}

/// Opens the source, and checks that the job fits it and that the target can be written.
async fn open(
    job: &Job,
    begin: Begin,
    simulator: Option<&Url>,
    voice: &Voice,
) -> Result<(Source, PreparedJob), RunError> {
    let progress = StagingProgress::default();
    let opening = Source::open_to_run(&job.source, &job.places.state, progress.clone());
    let source = reporting(voice, &progress, opening).await?;
    let prepared = PreparedJob::new(job, source.schema(), simulator)?;
    if is_delta_table(&job.target.location).await? {
        check_appendable(&job.target.location)?;
    } else {
        Sink::can_create(&job.target.location).await?;
        check_creatable(job, &source, begin).await?;
    }
    Ok((source, prepared))
}

/// Computes the query of a job, and opens its results.
async fn compute_query(
    job: &Job,
    home: &Folder,
    checkpoint: &Checkpoint,
    voice: &Voice,
) -> Result<Source, RunError> {
    let progress = StagingProgress::default();
    let staging = query::add_new_rows(job, home, checkpoint, &progress);
    let staged = reporting(voice, &progress, Box::pin(staging)).await?;
    voice.say(&Event::Notice(&staged.to_string()));
    let mut source = Source::open_to_run(&job.source, &job.places.state, progress).await?;
    source.save_state();
    Ok(source)
}

/// Says from time to time how far a file is read, until work is done.
async fn reporting<T>(voice: &Voice, progress: &StagingProgress, work: impl Future<Output = T>) -> T {
    let mut work = Box::pin(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(READING_INTERVAL) => {
                if let Some(text) = progress.text() {
                    voice.say(&Event::Notice(&text));
                }
            }
        }
    }
}

/// Opens what a run needs besides its session: target, checkpoint, metrics, journals and enricher.
async fn start(
    session: &Session<'_>,
    mut prepared: PreparedJob,
    mut source: Source,
    options: RunOptions,
    voice: &Voice,
) -> Result<Started, RunError> {
    let (job, run) = (session.job(), session.run());
    source.save_state();
    prepared.enricher.asks_online = options.asks_online;
    let budget = session.budget().await?;
    let mut sink = Sink::open(job, &prepared.columns, source.id(), &source.columns_left_out(), run).await?;
    let file = CheckpointFile::in_folder(session.home());
    let confirmed = options.confirmed;
    let refills = options.begin == Begin::Refill;
    let mut recoverer =
        Recoverer { job, source: &mut source, sink: &sink, file: &file, voice, confirmed, refills };
    if options.begin == Begin::Restart {
        session.check_nothing_submitted().await?;
        // A retry at the same time would put its answers into the emptied table.
        let retry = Session::lock(job, Scope::Retry, run).await?;
        // If the budget is spent, the target stays as it is: its rows could not be sent again.
        budget.check(job)?;
        let restarted = recoverer.restart(options.keep_paid).await;
        retry.release().await;
        restarted?;
    }
    let (mut checkpoint, outstanding) = recoverer.run().await?;
    if options.begin != Begin::Unpaused
        && let Some(paused) = pause::holding(job, &checkpoint)
    {
        return Err(RunError::Paused(paused.clone()));
    }
    if job.source.query.is_some() {
        let columns = Arc::clone(source.schema());
        source = compute_query(job, session.home(), &checkpoint, voice).await?;
        if *source.schema() != columns {
            let message =
                "gives other columns than when the run began: a table has changed; start again".to_owned();
            return Err(SourceError::Query { message }.into());
        }
    }
    if let Some(columns) = sink.apply_schema_change().await? {
        let at = &job.target.location;
        voice.say(&Event::Notice(&format!(
            "{at} has new columns: {columns}; they are null in the rows that were there"
        )));
    }
    for step in prepared.enricher.steps.iter_mut().filter(|step| step.gives_vectors()) {
        step.hold_length(sink.vector_length(&step.spec.output).await?)?;
    }
    let (writer, voice) = session.metrics_with_left_behind(run, checkpoint.lineage, voice, &sink).await?;
    let voice = &voice;
    let constraints = sink.constraints()?;
    let max_rows = options.max_rows;

    let enricher = session.enricher(prepared.enricher, &checkpoint, &outstanding, budget, max_rows, voice);
    let (enricher, copier) = enricher.await?;

    let resumed: u64 = outstanding.iter().map(PlannedBatch::rows).sum();
    let missing = match refills {
        true => missing(job, &sink, &mut source, &checkpoint.position, &outstanding, voice).await?,
        false => MissingRows::default(),
    };
    if let Some(unread) = source.rows_after(&checkpoint.position).await {
        let rows = resumed + missing.rows + unread;
        voice.say(&Event::Outstanding { rows, row_limit: max_rows });
        if let (Some(kept), Some(least)) =
            (source.retention(), least_time(job, max_rows.unwrap_or(rows).min(rows)))
            && least > kept
        {
            let text = format!(
                "at the job's requests_per_minute this takes {} at least, and the source keeps removed files for {} (delta.deletedFileRetentionDuration): a VACUUM could take files that are not read yet",
                in_days(least),
                in_days(kept)
            );
            voice.say(&Event::Notice(&text));
        }
    }
    if options.begin == Begin::Unpaused && checkpoint.paused.take().is_some() {
        // From here on nothing refuses the run, so the pause can end.
        file.save(&checkpoint).await?;
    }
    for what in source.left_out() {
        voice.say(&Event::Notice(&format!("not read: {what}")));
    }
    let lineage = checkpoint.lineage;
    let passed_before = checkpoint.passed;
    if let Some(passed) = passed_before {
        voice.say(&Event::PassedOver(passed));
    }
    let reader = source.reader();
    let rows_left = max_rows.map(|most| most.saturating_sub(resumed));
    let planner = Planner::new(source, job.batch, checkpoint.position.clone(), rows_left);
    let planner = planner.with_missing(missing);
    let reading = SourceFeed {
        planner,
        reader,
        file,
        checkpoint,
        passed_before,
        refills,
        constraints,
        cause: pause::Cause::of(job),
        results: job.source.query.is_some().then(|| QueryResults::in_folder(session.home())),
        voice: voice.clone(),
    };
    Ok(Started { enricher, reading, drain: Metered::new(sink, writer, voice.clone()), lineage, copier })
}

/// Returns the rows before `position` that are neither in the target nor in an outstanding batch.
async fn missing(
    job: &Job,
    sink: &Sink,
    source: &mut Source,
    position: &Position,
    outstanding: &[PlannedBatch],
    voice: &Voice,
) -> Result<MissingRows, RunError> {
    let Some(mut held) = sink.held_rows().await? else {
        return Err(RunError::Mismatch {
            what: format!(
                "the rows of the target {} have no keys (target.metadata is off): which are missing cannot be determined",
                job.target.location
            ),
            hint: "enrich run --restart sends every row again",
        });
    };
    outstanding.iter().flat_map(|batch| &batch.parts).for_each(|part| held.insert_part(part));
    let missing = source.missing(position, &held).await?;
    voice.say(&Event::Notice(&match missing.rows {
        0 => format!("no row that was read is missing in {}", job.target.location),
        rows => format!(
            "{} that were read are not in {}: they are sent first",
            counted(rows, "row"),
            job.target.location
        ),
    }));
    if let Some(example) = missing.lost_files.first() {
        voice.say(&Event::Notice(&format!(
            "{} that were read are gone from the source, {example} for one: which of their rows are missing cannot be determined",
            counted(missing.lost_files.len() as u64, "file")
        )));
    }
    Ok(missing)
}

/// Checks that a run may create the target, which does not exist: not if `target.must_exist` is set, and, except in a
/// restart, not if a checkpoint or the record of a run shows that the target existed before.
pub(crate) async fn check_creatable(job: &Job, source: &Source, begin: Begin) -> Result<(), RunError> {
    let target = &job.target.location;
    if job.target.must_exist {
        return Err(RunError::Mismatch {
            what: format!("the target {target} is not there, and target.must_exist is set"),
            hint: "mount it or bring it back; for the first run of all, --set target.must_exist=false makes it",
        });
    }
    if begin == Begin::Restart {
        return Ok(());
    }
    let file = CheckpointFile::in_folder(&home(job).await?);
    let evidence = match file.load::<Position>().await? {
        // A checkpoint is saved only once the table exists.
        Some(checkpoint) => {
            check_belongs(job, source, &file, &checkpoint)?;
            // Batches that are planned and not committed are in no table yet.
            let batches = checkpoint.next_batch.get() - checkpoint.planned.len() as u64;
            format!("the checkpoint {} says that it held {}", file.at(), counted(batches, "batch"))
        }
        // The record of a run is written only once the table exists.
        None => match LastRun::load(&job.places.state) {
            None => return Ok(()),
            Some(run) => format!("there was a run of {} that had it", clock::format_time(run.started)),
        },
    };
    // Another run may have created both the table and this evidence since the table was looked for.
    if is_delta_table(target).await? {
        return Ok(());
    }
    Err(RunError::Mismatch {
        what: format!("the target {target} is gone, and {evidence}"),
        hint: "mount it or bring it back; enrich run --restart makes it anew and sends every row again",
    })
}

/// Returns the minimum time that `rows` rows take at the job's `requests_per_minute`, or `None` if a provider of a step
/// has no such limit.
fn least_time(job: &Job, rows: u64) -> Option<Duration> {
    let per_minute = job.steps.iter().map(|step| {
        let limits = step.all_providers().map(|at| job.providers[at].requests_per_minute.map(f64::from));
        limits.sum::<Option<f64>>()
    });
    let slowest = per_minute.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::min)?;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let minutes = rows as f64 / slowest;
    Duration::try_from_secs_f64(minutes * 60.0).ok()
}

fn in_days(time: Duration) -> String {
    let hours = time.as_secs() / 3_600;
    if hours < 48 { counted(hours, "hour") } else { counted(hours / 24, "day") }
}
