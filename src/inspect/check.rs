//! Checks everything that a run checks before its first request, without a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanBytes;
use url::Url;

use super::status::restored;
use crate::cache::{CacheError, Stats, Store};
use crate::checkpoint::{
    Checkpoint, CheckpointError, CheckpointFile, MachineId, PlannedBatch, Position, Retrying, SubmissionsFile,
};
use crate::clock;
use crate::config::{CacheSpec, Job, Params, Provider, Shape, StepSpec};
use crate::decode;
use crate::dispatch::harmless_question;
use crate::event::Voice;
use crate::fault::Failure;
use crate::ident::RunId;
use crate::journal::{self, JournalError};
use crate::metrics;
use crate::query;
use crate::run::Recoverer;
use crate::run::pause;
use crate::run::{Begin, check_creatable};
use crate::run::{PreparedJob, RunError, check_appendable, check_writable};
use crate::run::{RETRY_FOLDER, SERVED_FOLDER, Scope, Session, holder, home};
use crate::run::{RunBudget, Spent};
use crate::sink::Sink;
use crate::source::{Lag, Source};
use crate::store::Folder;
use crate::table::is_delta_table;
use crate::transport::{BatchApi, Endpoint};
use crate::wording::counted;

/// Longest time that a provider has for the answer to a live check.
const LIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Result of one check.
#[derive(Debug)]
pub struct Finding {
    /// What was checked.
    pub about: String,
    /// What was found, or what is wrong with it.
    pub result: Result<String, RunError>,
}

/// Checks everything that a run checks before its first request. With `live`, each provider is sent a harmless
/// question, and a second one that demands an object if one of the provider's steps has a schema. Nothing is changed.
pub async fn check(job: &Job, live: bool, simulator: Option<&Url>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |about: &str, result: Result<String, RunError>| {
        findings.push(Finding { about: about.to_owned(), result });
    };
    let home = match home(job).await {
        Ok(home) => home,
        Err(error) => {
            note("checkpoint", Err(error));
            return findings;
        }
    };
    let preview = match query::preview(job, &home).await {
        Ok(preview) => preview,
        Err(error) => {
            note("source", Err(error.into()));
            return findings;
        }
    };
    if let Some(report) = &preview.report {
        note("query", Ok(report.to_string()));
    }
    let open = || Source::open(&preview.source, &job.places.state);
    let source = match open().await {
        Ok(source) => {
            let columns = counted(source.schema().fields().len() as u64, "column");
            note("source", Ok(format!("{}: {}, {columns}", job.source, source.what())));
            for what in source.left_out() {
                note("not read", Ok(what.clone()));
            }
            note("source files", files(job, source).await);
            open().await
        }
        Err(error) => Err(error),
    };
    let mut source = match source {
        Ok(source) => source,
        Err(error) => {
            note("source", Err(error.into()));
            return findings;
        }
    };
    let prepared = match PreparedJob::new(job, source.schema(), simulator) {
        Ok(prepared) => {
            let steps: Vec<&str> = job.steps.iter().map(|step| step.output.as_str()).collect();
            note("templates", Ok(format!("{} fit the source's columns", steps.join(", "))));
            prepared
        }
        Err(error) => {
            note("templates", Err(error));
            return findings;
        }
    };
    let can_keep = match home.path() {
        Some(path) => check_writable(path),
        None => home.probe().await,
    };
    for (about, can) in [("checkpoint", can_keep), ("journal", check_writable(&job.places.journal))] {
        if let Err(error) = can {
            note(about, Err(error.into()));
        }
    }
    let target = &job.target.location;
    match is_delta_table(target).await {
        Ok(true) => {
            match Sink::open(job, &prepared.columns, source.id(), &source.columns_left_out(), RunId::random())
                .await
            {
                Ok(mut sink) => {
                    let added =
                        sink.pending_columns().map(|columns| format!("; the next run adds {columns}"));
                    let added = added.unwrap_or_default();
                    let fit = format!("{} takes the job's columns{added}", job.target.location);
                    note("target", check_appendable(target).map(|()| fit));
                    let demands = sink.constraints().map(|constraints| {
                        let count = constraints.borrow().len() as u64;
                        if count == 0 {
                            "none".to_owned()
                        } else {
                            format!("{} that rows must meet", counted(count, "demand"))
                        }
                    });
                    note("target constraints", demands.map_err(RunError::from));
                    let there = sink.check_data_files().await.map_err(RunError::from);
                    note("target files", there.map(|files| format!("{files} in the log, all there")));
                    let file = CheckpointFile::in_folder(&home);
                    let voice = Voice::default();
                    let mut recoverer = Recoverer {
                        job,
                        source: &mut source,
                        sink: &sink,
                        file: &file,
                        voice: &voice,
                        confirmed: false,
                        refills: false,
                    };
                    note("checkpoint", recoverer.look().await);
                    match sink.older(job, |_| false).await {
                        Ok(all) => all.iter().for_each(|older| {
                            note(
                                "older answers",
                                Ok(format!("{older}; enrich run --restart sends all rows again")),
                            );
                        }),
                        Err(error) => note("older answers", Err(error.into())),
                    }
                    let checkpoint = file.load::<Position>().await.ok().flatten();
                    let seen = checkpoint.as_ref().and_then(|checkpoint| checkpoint.target_seen);
                    match sink.restored(seen).await.map(|newest| restored(newest, checkpoint.as_ref())) {
                        Ok(None) => {}
                        Ok(Some(version)) => note(
                            "target restored",
                            Ok(format!(
                                "to an earlier version, by version {version}: rows may be missing; enrich run --refill sends them"
                            )),
                        ),
                        Err(error) => note("target restored", Err(error.into())),
                    }
                    if let Some(checkpoint) = checkpoint {
                        if let Some(passed) = checkpoint.passed.filter(|passed| !passed.is_nothing()) {
                            note("rows passed over", Ok(passed.to_string()));
                        }
                        if let Some(paused) = pause::holding(job, &checkpoint) {
                            note("pause", Err(RunError::Paused(paused.clone())));
                        }
                    }
                }
                Err(error) => note("target", Err(error.into())),
            }
        }
        Err(error) => note("target", Err(error.into())),
        Ok(false) => {
            let free = Sink::can_create(target).await.map_err(RunError::from);
            let free = match free {
                Ok(()) => check_creatable(job, &source, Begin::Continue).await,
                Err(error) => Err(error),
            };
            let made = free.and_then(|()| target.path().map_or(Ok(()), |path| Ok(check_writable(path)?)));
            note("target", made.map(|()| format!("{} is made by the first run", job.target.location)));
        }
    }
    let retry: Result<Option<Checkpoint<Retrying>>, _> =
        CheckpointFile::in_folder(&home.join(RETRY_FOLDER)).load().await;
    match retry {
        Ok(None) => {}
        Ok(Some(retry)) => {
            let rows: u64 = retry.planned.iter().map(PlannedBatch::rows).sum();
            note("retry", Ok(format!("its checkpoint can be read; rows planned: {rows}")));
        }
        Err(error) => note("retry", Err(error.into())),
    }
    match RunBudget::look(job, &home).await {
        Ok(None) => {}
        Ok(Some(Spent { limit: Some(limit), .. })) => note("budget", Err(RunError::Budget(limit))),
        Ok(Some(spent)) => note("budget", Ok(spent.to_string())),
        Err(error) => note("budget", Err(error)),
    }
    if let Some(at) = &job.metrics {
        let fits = metrics::look(at).await.map_err(RunError::from);
        let can = fits.and_then(|()| at.path().map_or(Ok(()), |path| Ok(check_writable(path)?)));
        note("metrics", can.map(|()| format!("figures of batches go to {at}")));
    }
    if let Some(cache) = &job.cache {
        let found = match cache.path.exists() {
            true => look_into(cache).map_err(RunError::from),
            false => made_at(cache),
        };
        note("cache", found);
    }
    for path in journals(job) {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let name = format!("{folder}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        let records = journal::read_all(&path);
        note(
            "journal",
            records.map(|records| format!("{name}, answers in it: {}", records.len())).map_err(Into::into),
        );
    }
    let folder = &job.places.state;
    if let Some(holder) = holder(folder, &home).await {
        note("lock", Ok(format!("a run goes on: {holder}")));
    }
    for (at, (provider, endpoint)) in prepared.enricher.endpoints.iter().enumerate() {
        let embeds = job.only_embeds(at);
        let about = format!("provider {}", provider.name);
        let answer = if live {
            ask(endpoint, embeds)
                .await
                .map_err(|failure| RunError::Provider { provider: provider.name.clone(), failure })
        } else {
            Ok(format!("{} at {}", provider.model, address(endpoint, embeds)))
        };
        let is_answered = live && answer.is_ok();
        note(&about, answer);
        let of_step = |step: &&Arc<StepSpec>| step.all_providers().any(|used| used == at);
        let shape = job.steps.iter().filter(of_step).find_map(|step| step.params.shape.clone());
        if let Some(shape) = shape.filter(|_| is_answered) {
            let taken = ask_for_object(endpoint, shape).await;
            let failed = |failure| RunError::Provider { provider: provider.name.clone(), failure };
            note(&format!("{about}, schemas"), taken.map_err(failed));
        }
        let base = provider.endpoint.as_ref().or(simulator);
        if let Some(base) = base.filter(|_| live && provider.batch.is_some()) {
            note(&format!("{about}, batches"), ask_for_batches(provider, base).await);
        }
    }
    findings
}

/// Checks that the files to be read exist: those of open batches, and those that are not planned yet.
async fn files(job: &Job, mut source: Source) -> Result<String, RunError> {
    let found: Option<Checkpoint<Position>> =
        CheckpointFile::in_folder(&home(job).await?).load().await.ok().flatten();
    for part in found.iter().flat_map(|checkpoint| &checkpoint.planned).flat_map(|batch| &batch.parts) {
        source.holds(part).await?;
    }
    let position = found.map(|checkpoint| checkpoint.position).unwrap_or_default();
    let Lag { files, rows, .. } = source.lag(&position).await?;
    Ok(match files {
        0 => "nothing new".to_owned(),
        _ => format!("new: {} with {}", counted(files, "file"), counted(rows, "row")),
    })
}

/// Checks that a cache that does not exist yet can be created.
fn made_at(cache: &CacheSpec) -> Result<String, RunError> {
    let folder = cache.path.parent().unwrap_or(Path::new("."));
    let made = check_writable(folder);
    made.map_err(|error| RunError::Mismatch {
        what: format!("cache.path: {} cannot be made: {error}", cache.path.display()),
        hint: "name a place that can be written",
    })?;
    Ok(format!("{} is made by the first run", cache.path.display()))
}

fn look_into(cache: &CacheSpec) -> Result<String, CacheError> {
    let Stats { entries, bytes } = Store::open(&cache.path, cache.into())?.stats()?;
    Ok(format!("{} in {}, {}", counted(entries, "answer"), cache.path.display(), HumanBytes(bytes)))
}

/// Returns the address that requests are sent to.
fn address(endpoint: &Endpoint, embeds: bool) -> String {
    if embeds { endpoint.embeddings_address() } else { endpoint.address() }
}

/// Sends a provider a harmless question.
async fn ask(endpoint: &Endpoint, embeds: bool) -> Result<String, Failure> {
    let (question, params) = harmless_question(embeds);
    let started = clock::now();
    let paid = endpoint.send(&[question], &params, LIVE_TIMEOUT).await.result?;
    let took = clock::now() - started;
    let facts = decode::facts(&paid.response);
    let model = facts.model.unwrap_or_else(|| endpoint.model().to_string());
    let used =
        facts.tokens.map_or_else(String::new, |tokens| format!(", {}", counted(tokens.total(), "token")));
    Ok(format!("{model} at {} answered in {} ms{used}", address(endpoint, embeds), took.as_millis()))
}

/// Requests the list of batches from a provider's Batch API, which costs nothing.
async fn ask_for_batches(provider: &Provider, base: &Url) -> Result<String, RunError> {
    let listed = BatchApi::new(provider, base)?.list(None).await;
    let page = listed.map_err(|failure| RunError::Provider { provider: provider.name.clone(), failure })?;
    Ok(format!("its Batch API answered, with {} in its list", counted(page.items.len() as u64, "batch")))
}

/// Requests an object from a provider, and reports the form in which it takes a schema.
async fn ask_for_object(endpoint: &Endpoint, shape: Shape) -> Result<String, Failure> {
    let (question, params) = harmless_question(false);
    let params = Params { shape: Some(shape), ..params };
    endpoint.send(&[question], &params, LIVE_TIMEOUT).await.result?;
    let form = endpoint.schema_form().map(|form| serde_json::to_value(form).unwrap_or_default());
    Ok(match form.as_ref().and_then(serde_json::Value::as_str) {
        Some(form) => format!("it takes them as {form}"),
        None => "it was answered, and no form of them is known to be heeded yet".to_owned(),
    })
}

/// Returns the paths of the journals of runs, retries and servers.
fn journals(job: &Job) -> Vec<PathBuf> {
    let own = &job.places.journal;
    let folders = [own.clone(), own.join(RETRY_FOLDER), own.join(SERVED_FOLDER)];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let mut journals: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "journal"))
        .collect();
    journals.sort();
    journals
}

/// Sets damaged checkpoints, lists of submissions and journals aside, and keeps what is intact in the journals. Returns what was done, in
/// words. No table is touched.
///
/// # Errors
/// When a run goes on, and when a file cannot be read or moved.
pub async fn salvage(job: &Job) -> Result<Vec<String>, RunError> {
    let folder = &job.places.state;
    let mut done = Vec::new();
    let home = home(job).await?;
    let is_new = |folder: &Path| !folder.exists();
    if is_new(folder) && is_new(&job.places.journal) && home.path().is_some_and(is_new) {
        return Ok(done);
    }
    let run = Session::lock(job, Scope::Run, RunId::random()).await?;
    let retry = Session::lock(job, Scope::Retry, RunId::random()).await?;
    let salvaged = salvage_held(job, &home, &mut done).await;
    retry.release().await;
    run.release().await;
    salvaged.map(|()| done)
}

async fn salvage_held(job: &Job, home: &Folder, done: &mut Vec<String>) -> Result<(), RunError> {
    let run = CheckpointFile::in_folder(home);
    let retry = CheckpointFile::in_folder(&home.join(RETRY_FOLDER));
    let loaded = [run.load::<Position>().await.map(|_| ()), retry.load::<Retrying>().await.map(|_| ())];
    for (file, loaded) in [run, retry].iter().zip(loaded) {
        match loaded {
            Ok(()) => {}
            Err(CheckpointError::Damaged { .. }) => {
                let aside = file.put_aside().await?;
                done.push(format!(
                    "put the damaged checkpoint aside as {aside}; the next run rebuilds it from the target"
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for folder in [home.clone(), home.join(RETRY_FOLDER)] {
        let file = SubmissionsFile::in_folder(&folder);
        match file.load().await {
            Ok(_) => {}
            Err(CheckpointError::Damaged { .. }) => {
                let aside = file.put_aside().await?;
                done.push(format!(
                    "put the damaged list of submissions aside as {aside}; the next run looks for its batches at the providers, and what earlier ones cost no longer counts in the budget"
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for path in journals(job) {
        match journal::read_all(&path) {
            Ok(_) => {}
            Err(JournalError::Damaged { .. }) => {
                let journal::Salvaged { damaged, kept, lost_bytes } = journal::salvage(&path)?;
                if let Some(folder) = path.parent() {
                    MachineId::forget(folder)?;
                }
                done.push(format!(
                    "kept {} of the damaged journal {}; {} could not be read and what was there is sent again (the \
                     damaged file is {})",
                    counted(kept, "answer"),
                    path.display(),
                    counted(lost_bytes, "byte"),
                    damaged.display()
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
