//! The submissions of a job to Batch APIs: listed without changing anything, cancelled, and given up. Those of runs and
//! those of retries are in lists of their own.
//!
//! What is changed is changed in the list of submissions alone, while the job is held; the next run acts on it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use url::Url;

use crate::checkpoint::{RemoteCopy, Submission, SubmissionState, Submissions, SubmissionsFile};
use crate::clock;
use crate::config::Job;
use crate::fault::Failure;
use crate::ident::{AppId, Money, RunId, SubmissionId};
use crate::run::{RETRY_FOLDER, RunError, Scope, Session, home};
use crate::store::Folder;
use crate::transport::BatchApi;

/// What a job has handed to Batch APIs.
#[derive(Debug, Serialize)]
pub struct SubmissionsReport {
    /// Name of the job.
    pub app_id: AppId,
    /// Names of the providers that the job asks through their Batch API.
    pub providers: Vec<String>,
    /// The submissions whose rows are not all in the target, oldest first.
    pub submissions: Vec<SubmissionReport>,
    /// The other submissions, together.
    pub closed: ClosedReport,
}

/// A submission.
#[derive(Clone, Debug, Serialize)]
pub struct SubmissionReport {
    /// Its number in the job, counted from 1.
    pub number: u64,
    /// Its id, which its batch at the provider carries in its metadata.
    pub id: SubmissionId,
    /// Name of the provider.
    pub provider: String,
    /// The model that its requests name.
    pub model: String,
    /// Output columns of the steps that its requests are of.
    pub steps: Vec<String>,
    /// Number of its requests, each for a row of a step.
    pub rows: u64,
    /// How far it has come.
    pub state: SubmissionState,
    /// When it came to this state.
    pub since: DateTime<Utc>,
    /// US dollars that it may cost at most, or `None` if the job states no prices.
    pub max_cost_usd: Option<f64>,
    /// US dollars that it took, or `None` while that is not known.
    pub cost_usd: Option<f64>,
    /// Its batches at the provider: more than one only if the answer to a creation was lost.
    pub remote: Vec<RemoteReport>,
}

/// A batch at the provider, as it was seen last.
#[derive(Clone, Debug, Serialize)]
pub struct RemoteReport {
    /// Its id.
    pub id: String,
    /// Its state.
    pub status: String,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// Number of its requests that were answered.
    pub completed: Option<u64>,
    /// Number of its requests that failed.
    pub failed: Option<u64>,
    /// When the provider was asked to cancel it.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// When it was first seen as ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Since when the provider does not find it.
    pub missing_since: Option<DateTime<Utc>>,
}

/// Submissions whose rows are all in the target.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClosedReport {
    /// Number of submissions.
    pub submissions: u64,
    /// Number of their requests.
    pub rows: u64,
    /// US dollars that they took, or `None` if the job states no prices.
    pub cost_usd: Option<f64>,
}

/// Submissions that are to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmissionChoice {
    /// Every one that has not ended.
    All,
    /// The one with this number.
    Number(u64),
}

/// What became of the cancellation of a submission.
#[derive(Clone, Debug)]
pub enum CancellationResult {
    /// The provider was asked to cancel its batches.
    Requested,
    /// It was not at the provider yet, and is dropped.
    Dropped,
    /// It is not known whether the provider has a batch of it.
    Unclear,
    /// There is nothing to cancel: it has ended, or was given up or dropped.
    Ended,
    /// The provider refuses, or does not answer.
    Failed(Failure),
}

impl SubmissionReport {
    fn of(submission: &Submission) -> Self {
        // Without prices the worst case is no money.
        let dollars =
            |money: Money| (submission.worst.money.max(money) > Money::ZERO).then(|| money.dollars());
        let took = match submission.state {
            SubmissionState::Collected => submission.took,
            _ => None,
        };
        SubmissionReport {
            number: submission.number,
            id: submission.id,
            provider: submission.provider.clone(),
            model: submission.model.clone(),
            steps: submission.steps.clone(),
            rows: submission.lines,
            state: submission.state,
            since: submission.since,
            max_cost_usd: dollars(submission.worst.money),
            cost_usd: took.and_then(|took| dollars(took.money)),
            remote: submission.remote.iter().map(RemoteReport::of).collect(),
        }
    }
}

impl RemoteReport {
    fn of(copy: &RemoteCopy) -> Self {
        RemoteReport {
            id: copy.id.clone(),
            status: copy.status.clone(),
            created_at: copy.created_at,
            expires_at: copy.expires_at,
            completed: copy.counts.map(|counts| counts.completed),
            failed: copy.counts.map(|counts| counts.failed),
            cancelled_at: copy.cancelled_at,
            ended_at: copy.ended_at,
            missing_since: copy.missing_since,
        }
    }
}

/// Returns the submissions of a job's runs, or of its retries.
///
/// # Errors
/// When their list cannot be read.
pub async fn submissions(job: &Job, scope: Scope) -> Result<SubmissionsReport, RunError> {
    submissions_in(job, &folder(job, scope).await?).await
}

/// Returns the folder of a list.
async fn folder(job: &Job, scope: Scope) -> Result<Folder, RunError> {
    let home = home(job).await?;
    Ok(match scope {
        Scope::Run | Scope::Server => home,
        Scope::Retry => home.join(RETRY_FOLDER),
    })
}

/// As [`submissions`], with the folder of the list.
pub(super) async fn submissions_in(job: &Job, home: &Folder) -> Result<SubmissionsReport, RunError> {
    let list = load(job, &SubmissionsFile::in_folder(home)).await?;
    let closed = list.closed;
    // Numbers up to the highest closed one are closed or still in the list.
    let still_there = list.open.iter().filter(|submission| submission.number <= closed.submissions);
    let asked = job.providers.iter().filter(|provider| provider.batch.is_some());
    Ok(SubmissionsReport {
        app_id: job.app_id.clone(),
        providers: asked.map(|provider| provider.name.clone()).collect(),
        closed: ClosedReport {
            submissions: closed.submissions.saturating_sub(still_there.count() as u64),
            rows: closed.lines,
            cost_usd: (closed.took.money > Money::ZERO).then(|| closed.took.money.dollars()),
        },
        submissions: list.open.iter().map(SubmissionReport::of).collect(),
    })
}

async fn load(job: &Job, file: &SubmissionsFile) -> Result<Submissions, RunError> {
    Ok(file.load().await?.unwrap_or_else(|| Submissions::new(job.app_id.clone())))
}

/// Asks providers to cancel the batches of submissions, so that the next run collects what was answered and sends the
/// other rows again. `simulator` is the address of the built-in simulator, if the job uses it. Returns what became of
/// each.
///
/// # Errors
/// When there is no submission with the number, when another run holds the job, and when the list cannot be read or
/// written.
pub async fn cancel_submissions(
    job: &Job,
    scope: Scope,
    choice: SubmissionChoice,
    simulator: Option<&Url>,
) -> Result<Vec<(SubmissionReport, CancellationResult)>, RunError> {
    let file = SubmissionsFile::in_folder(&folder(job, scope).await?);
    // A job without submissions is left as it is, without a lock file.
    if chosen(&load(job, &file).await?, choice)?.is_empty() {
        return Ok(Vec::new());
    }
    let session = Session::lock(job, scope, RunId::random()).await?;
    let cancelled = cancel_held(job, &file, choice, simulator).await;
    session.release().await;
    cancelled
}

async fn cancel_held(
    job: &Job,
    file: &SubmissionsFile,
    choice: SubmissionChoice,
    simulator: Option<&Url>,
) -> Result<Vec<(SubmissionReport, CancellationResult)>, RunError> {
    let mut list = load(job, file).await?;
    let ids = chosen(&list, choice)?;
    let is_meant = |submission: &&Submission| {
        ids.contains(&submission.id) && submission.state == SubmissionState::Created
    };
    let apis = batch_apis(job, list.open.iter().filter(is_meant), simulator)?;
    let mut results = Vec::new();
    for id in ids {
        let Some(submission) = list.get_mut(id) else { continue };
        let result = match submission.state {
            SubmissionState::Sealed | SubmissionState::Uploaded => {
                (submission.state, submission.since) = (SubmissionState::Dropped, clock::wall());
                CancellationResult::Dropped
            }
            SubmissionState::Creating | SubmissionState::Unclear => CancellationResult::Unclear,
            SubmissionState::Created => match apis.get(&submission.provider) {
                Some(api) => cancel_remote(submission, api).await,
                None => CancellationResult::Unclear,
            },
            SubmissionState::Ended
            | SubmissionState::Collected
            | SubmissionState::GivenUp
            | SubmissionState::Dropped => CancellationResult::Ended,
        };
        results.push((SubmissionReport::of(submission), result));
        file.save(&list).await?;
    }
    Ok(results)
}

/// Asks the provider to cancel the batches of a submission that have not ended.
async fn cancel_remote(submission: &mut Submission, api: &BatchApi) -> CancellationResult {
    let mut result = CancellationResult::Ended;
    for copy in submission.remote.iter_mut().filter(|copy| !copy.has_ended) {
        if let Err(failure) = api.cancel(&copy.id).await {
            return CancellationResult::Failed(failure);
        }
        copy.cancelled_at.get_or_insert_with(clock::wall);
        result = CancellationResult::Requested;
    }
    result
}

/// Creates the Batch APIs of the providers that have submissions.
fn batch_apis<'a>(
    job: &Job,
    submissions: impl Iterator<Item = &'a Submission>,
    simulator: Option<&Url>,
) -> Result<BTreeMap<String, BatchApi>, RunError> {
    let mut apis = BTreeMap::new();
    for submission in submissions {
        let name = &submission.provider;
        let own = job.providers.iter().find(|provider| provider.name == *name && provider.batch.is_some());
        let base = own.and_then(|provider| provider.endpoint.as_ref().or(simulator));
        let (Some(provider), Some(base)) = (own, base) else {
            return Err(RunError::Mismatch {
                what: format!(
                    "the job has no provider {name:?} with a section for its Batch API, to which submission {} went",
                    submission.number
                ),
                hint: "put the provider back into the job file",
            });
        };
        if !apis.contains_key(name) {
            apis.insert(name.clone(), BatchApi::new(provider, base)?);
        }
    }
    Ok(apis)
}

/// Returns the ids of the submissions that are meant.
fn chosen(list: &Submissions, choice: SubmissionChoice) -> Result<Vec<SubmissionId>, RunError> {
    let has_not_ended =
        |submission: &&Submission| submission.state.is_open() && submission.state != SubmissionState::Ended;
    match choice {
        SubmissionChoice::All => {
            Ok(list.open.iter().filter(has_not_ended).map(|submission| submission.id).collect())
        }
        SubmissionChoice::Number(number) => Ok(vec![numbered(list, number)?.id]),
    }
}

fn numbered(list: &Submissions, number: u64) -> Result<&Submission, RunError> {
    let found = list.open.iter().find(|submission| submission.number == number);
    found.ok_or_else(|| {
        let numbers: Vec<String> = list.open.iter().map(|submission| submission.number.to_string()).collect();
        let those = match numbers.as_slice() {
            [] => "there is none".to_owned(),
            [only] => format!("there is {only}"),
            [first @ .., last] => format!("there are {} and {last}", first.join(", ")),
        };
        RunError::Mismatch {
            what: format!("there is no submission {number}: {those}"),
            hint: "enrich batches JOB lists those of runs, and with --retry those of retries",
        }
    })
}

/// Returns a submission that can be given up.
///
/// # Errors
/// When there is none with this number, when giving it up would change nothing or is not needed, and when the list
/// cannot be read.
pub async fn submission_to_give_up(
    job: &Job,
    scope: Scope,
    number: u64,
) -> Result<SubmissionReport, RunError> {
    let list = load(job, &SubmissionsFile::in_folder(&folder(job, scope).await?)).await?;
    Ok(SubmissionReport::of(to_give_up(&list, scope, number)?))
}

/// Gives a submission up: what it may cost counts as spent, and the next run sends its rows again.
///
/// # Errors
/// As [`submission_to_give_up`], when another run holds the job, and when the list cannot be written.
pub async fn give_up_submission(job: &Job, scope: Scope, number: u64) -> Result<SubmissionReport, RunError> {
    submission_to_give_up(job, scope, number).await?;
    let session = Session::lock(job, scope, RunId::random()).await?;
    let given_up = give_up_held(job, scope, number).await;
    session.release().await;
    given_up
}

async fn give_up_held(job: &Job, scope: Scope, number: u64) -> Result<SubmissionReport, RunError> {
    let file = SubmissionsFile::in_folder(&folder(job, scope).await?);
    let mut list = load(job, &file).await?;
    let mut given_up = to_give_up(&list, scope, number)?.clone();
    (given_up.state, given_up.since) = (SubmissionState::GivenUp, clock::wall());
    let report = SubmissionReport::of(&given_up);
    if let Some(submission) = list.get_mut(given_up.id) {
        *submission = given_up;
    }
    file.save(&list).await?;
    Ok(report)
}

fn to_give_up(list: &Submissions, scope: Scope, number: u64) -> Result<&Submission, RunError> {
    let submission = numbered(list, number)?;
    let next = match scope {
        Scope::Run | Scope::Server => "enrich run JOB goes on with its rows",
        Scope::Retry => "enrich retry JOB goes on with its rows",
    };
    let (how, hint) = match submission.state {
        SubmissionState::Sealed | SubmissionState::Uploaded => (
            "is not at the provider yet and costs nothing",
            "drop it: --cancel with its number, in place of --give-up",
        ),
        SubmissionState::Collected => ("is collected: its answers are used", next),
        SubmissionState::GivenUp => ("was given up already", next),
        SubmissionState::Dropped => ("was dropped before a provider had it", next),
        SubmissionState::Creating
        | SubmissionState::Unclear
        | SubmissionState::Created
        | SubmissionState::Ended => return Ok(submission),
    };
    Err(RunError::Mismatch { what: format!("submission {number} {how}"), hint })
}
