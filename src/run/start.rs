//! The start of a run: lock, target, checkpoint, recovery, journals.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::copier::Copier;
use super::error::RunError;
use super::feed::{Metered, figures_wait};
use super::job_run::{Begin, RunOptions};
use super::pause;
use super::prepared_job::PreparedJob;
use super::reading::Reading;
use super::recover::Recoverer;
use super::retry;
use super::run_budget::RunBudget;
use super::writable::can_write;
use crate::cache::{CacheLimits, Store};
use crate::checkpoint::{Checkpoint, CheckpointFile, MachineId, PlannedBatch, Position};
use crate::config::Job;
use crate::enricher::LearnedFile;
use crate::enricher::Strictness;
use crate::enricher::{Enricher, Journals};
use crate::event::{Event, Voice};
use crate::ident::{Lineage, RunId};
use crate::journal::{Copies, JournalFolder, JournalHeader, Restored, StrayAnswers};
use crate::ledger::{Ledger, Window};
use crate::metrics::{self, AskedKind, Counters, FiguresOwner, Keeper};
use crate::plan::Planner;
use crate::sink::Sink;
use crate::source::{MissingRows, Source};
use crate::store::Folder;
use crate::wording::counted;

/// Folder of a journal's copies, in that of the checkpoint.
pub(crate) const COPIES: &str = "journal";

/// Everything that a run goes on with.
pub(crate) struct Started {
    pub(crate) enricher: Enricher,
    pub(crate) reading: Reading,
    pub(crate) drain: Metered<Sink>,
    pub(crate) lineage: Lineage,
    pub(crate) copier: Option<Copier>,
}

pub(crate) async fn start(
    job: &Job,
    home: &Folder,
    mut prepared: PreparedJob,
    mut source: Source,
    run: RunId,
    options: RunOptions,
    voice: &Voice,
) -> Result<Started, RunError> {
    let budget = RunBudget::open(job, home).await?;
    let mut sink = Sink::open(job, &prepared.columns, source.id(), &source.columns_left_out(), run).await?;
    let file = CheckpointFile::in_folder(home);
    let confirmed = options.confirmed;
    let refills = options.begin == Begin::Refill;
    let mut recoverer =
        Recoverer { job, source: &mut source, sink: &sink, file: &file, voice, confirmed, refills };
    if options.begin == Begin::Restart {
        // A retry would put answers to the old questions into the new table.
        let retry = retry::exclusive(job, home, run).await?;
        // Nothing could be asked for the rows that are taken out.
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
    if let Some(columns) = sink.apply_schema_change().await? {
        let at = &job.target.location;
        voice.say(&Event::Notice(&format!(
            "{at} has new columns: {columns}; they are null in the rows that were there"
        )));
    }
    for step in prepared.enricher.steps.iter_mut().filter(|step| step.gives_vectors()) {
        step.hold_length(sink.vector_length(&step.spec.output).await?)?;
    }
    let owner = owner(job, AskedKind::Run, run, checkpoint.lineage);
    let (mut keeper, voice) = open_metrics(job, home, &job.places.state, owner, voice).await?;
    let voice = &voice;
    if let Some(keeper) = &mut keeper {
        let mut committed = BTreeMap::new();
        for lineage in keeper.left_behind() {
            committed.insert(lineage, sink.committed(lineage).await?.lineage);
        }
        if let Err(error) = keeper.bring_in(&committed).await {
            voice.say(&Event::Notice(&figures_wait(&error)));
        }
    }
    let constraints = sink.constraints()?;
    let max_rows = options.max_rows;

    let planned = outstanding.iter().map(|batch| (batch.id, batch.rows(), batch.bytes));
    let ledger = Ledger::new(Window::of(job), job.steps.len(), checkpoint.next_batch, planned);
    let (mut journals, copier) =
        sort_journals(job, home, &job.places.journal, budget, &checkpoint, &outstanding, voice).await?;

    let resumed: u64 = outstanding.iter().map(PlannedBatch::rows).sum();
    let missing = match refills {
        true => missing(job, &sink, &mut source, &checkpoint.position, &outstanding, voice).await?,
        false => MissingRows::default(),
    };
    if let Some(unread) = source.rows_after(&checkpoint.position).await {
        let rows = resumed + missing.rows + unread;
        voice.say(&Event::Outstanding { rows, most_asked: max_rows });
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
        // Nothing refuses the run any more.
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
    let open = std::mem::take(&mut journals.open);
    let mut enricher =
        Enricher::start(prepared.enricher, ledger, journals, max_rows, Strictness::Probation, voice.clone());
    enricher.seed(&open)?;
    let reading = Reading {
        planner,
        reader,
        file,
        checkpoint,
        passed_before,
        refills,
        constraints,
        cause: pause::Cause::of(job),
        voice: voice.clone(),
    };
    Ok(Started { enricher, reading, drain: Metered::new(sink, keeper, voice.clone()), lineage, copier })
}

/// The rows that were read and that neither the target has nor a batch that is open.
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
                "the rows of the target {} have no keys (target.metadata is off): which are missing cannot be told",
                job.target.location
            ),
            hint: "enrich run --restart asks about every row again",
        });
    };
    outstanding.iter().flat_map(|batch| &batch.parts).for_each(|part| held.insert_part(part));
    let missing = source.missing(position, &held).await?;
    voice.say(&Event::Notice(&match missing.rows {
        0 => format!("no row that was read is missing in {}", job.target.location),
        rows => format!(
            "{} that were read are not in {}: they are asked about first",
            counted(rows, "row"),
            job.target.location
        ),
    }));
    if let Some(example) = missing.gone.first() {
        voice.say(&Event::Notice(&format!(
            "{} that were read are gone from the source, {example} for one: which of their rows are missing cannot be told",
            counted(missing.gone.len() as u64, "file")
        )));
    }
    Ok(missing)
}

/// Whose figures a run's are.
pub(crate) fn owner(job: &Job, kind: AskedKind, run_id: RunId, lineage: Lineage) -> FiguresOwner {
    let first_step = |at: usize| {
        let step = job.steps.iter().find(|step| step.all_providers().any(|own| own == at))?;
        Some(metrics::ProviderOfStep { provider: job.providers[at].name.clone(), step: step.output.clone() })
    };
    FiguresOwner {
        app_id: job.app_id.clone(),
        kind,
        run_id,
        lineage,
        steps: job.steps.iter().map(|step| step.output.as_str().into()).collect(),
        providers: (0..job.providers.len()).filter_map(first_step).collect(),
    }
}

/// What keeps the figures of a job that has a table for them, and a voice that what counts for it hears.
pub(crate) async fn open_metrics(
    job: &Job,
    home: &Folder,
    state: &Path,
    owner: FiguresOwner,
    voice: &Voice,
) -> Result<(Option<Keeper>, Voice), RunError> {
    let Some(at) = &job.metrics else { return Ok((None, voice.clone())) };
    if let Some(Err(error)) = at.path().map(can_write) {
        voice.say(&Event::Notice(&figures_wait(&error.into())));
    }
    let counters = Counters::open(state, job.providers.iter().map(|provider| provider.name.clone()))?;
    let keeper = Keeper::open(at, home.clone(), owner, counters.clone()).await?;
    Ok((Some(keeper), voice.clone().and(Box::new(counters))))
}

/// The time that so many rows take at the job's own limits; none where a step has a provider without one.
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

/// Removes journals of committed batches and puts aside those that belong to no planned batch.
/// With a checkpoint in a store it brings back what this machine lacks.
pub(crate) async fn sort_journals<P>(
    job: &Job,
    home: &Folder,
    folder: &Path,
    mut budget: RunBudget,
    checkpoint: &Checkpoint<P>,
    outstanding: &[PlannedBatch],
    voice: &Voice,
) -> Result<(Journals, Option<Copier>), RunError> {
    let mut folder = JournalFolder::open(folder)?;
    let mut stray_answers = StrayAnswers::default();
    let mut open = Vec::new();
    let first = outstanding.first().map_or(checkpoint.next_batch, |batch| batch.id);
    for found in folder.list()? {
        let own = found.header.filter(|header| header.lineage == checkpoint.lineage);
        match own {
            Some(header) if header.batch < first && !found.is_aside() => folder.forget(header.batch)?,
            Some(header)
                if !found.is_aside()
                    && outstanding
                        .iter()
                        .any(|plan| plan.id == header.batch && plan.digest() == header.digest) =>
            {
                open.push(found.path.clone());
            }
            _ if own.is_none()
                && checkpoint.asks_all_since.is_some_and(|since| found.is_older_than(since.into())) =>
            {
                folder.remove(&found)?;
            }
            _ => stray_answers.absorb(folder.put_aside(&found)?)?,
        }
    }
    let mut copier = None;
    if let Some(objects) = home.objects() {
        let machine = MachineId::of(folder.path())?;
        let copies = Copies::new(objects.join(COPIES), &machine, job.places.copying.bytes);
        let lineage = checkpoint.lineage;
        let header = |plan: &PlannedBatch| JournalHeader { lineage, batch: plan.id, digest: plan.digest() };
        let planned: Vec<JournalHeader> = outstanding.iter().map(header).collect();
        let restored = copies.restore(folder.path(), lineage, first, &planned).await?;
        report_restored(&restored, voice);
        if checkpoint.asks_all_since.is_none() {
            stray_answers.absorb_records(restored.stray_answers);
        }
        folder.copy_to(copies.clone());
        copier = Some(Copier::start(copies, budget.copy.take(), job.places.copying.every, voice.clone()));
    }
    let learned = LearnedFile::load(home.path().unwrap_or(&job.places.state));
    let limits = |spec| match checkpoint.asks_all_since {
        // Entries know their second only.
        Some(since) => CacheLimits { not_before: since.timestamp() + 1, ..CacheLimits::from(spec) },
        None => CacheLimits::from(spec),
    };
    let cache = job.cache.as_ref().map(|spec| Store::open(&spec.path, limits(spec))).transpose()?;
    let (lineage, account) = (checkpoint.lineage, budget.account);
    Ok((Journals { lineage, folder, stray_answers, learned, account, cache, open }, copier))
}

fn report_restored(restored: &Restored, voice: &Voice) {
    let Restored { records, stray_answers, damaged } = restored;
    let found = records + stray_answers.len() as u64;
    if found > 0 {
        let text = format!("{} brought back from the copies of the journal", counted(found, "answer"));
        voice.say(&Event::Notice(&text));
    }
    for place in damaged {
        let text = format!("{place} is damaged: answers in it that cannot be read are asked for again");
        voice.say(&Event::Notice(&text));
    }
}
