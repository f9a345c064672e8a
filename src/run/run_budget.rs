//! The budget of a job, opened for a run or a retry, and the copies of its spending in the checkpoint's object store.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::RunError;
use super::exclusive::{Exclusive, RETRY_FOLDER};
use crate::budget::{Account, BudgetRefusal, Spending, worst_case};
use crate::checkpoint::{MachineId, SubmissionsFile};
use crate::config::{Allowance, BudgetLimit, BudgetScope, Job, PriceTable};
use crate::ident::{Money, RunId, Spend, SubmittedSpend};
use crate::store::{Folder, Objects};
use crate::wording::counted;

/// Name of the folder for the spending of all runs. It is in the folder of the journal.
const FOLDER: &str = "budget";
/// Prefix of the names of its copies in the checkpoint's store.
const COPY: &str = "spent-";

/// What a run may spend, and its account.
#[derive(Debug, Default)]
pub(crate) struct RunBudget {
    pub(crate) account: Account,
    pub(crate) copy: Option<SpentCopy>,
}

/// The copy, in the checkpoint's store, of what the runs on this machine spent. Each machine has a copy of its own,
/// which no other machine writes; the sum of the copies is what the job spent.
#[derive(Debug)]
pub(crate) struct SpentCopy {
    account: Account,
    objects: Objects,
    name: String,
    copied: Option<Spend>,
}

#[derive(Serialize, Deserialize)]
struct SpentRecord {
    picodollars: u64,
    tokens: u64,
    requests: u64,
}

impl SpentCopy {
    /// Writes the copy if the spending has changed.
    pub(crate) async fn copy(&mut self) -> Result<(), RunError> {
        let spent = self.account.spent_here();
        if let Some(Spend { money, tokens, requests }) = spent.filter(|_| spent != self.copied) {
            let counted = SpentRecord { picodollars: money.get(), tokens, requests };
            let bytes = serde_json::to_vec(&counted).expect("numbers become JSON");
            self.objects.put(&self.name, Bytes::from(bytes)).await?;
            self.copied = spent;
        }
        Ok(())
    }

    /// Returns what the other machines spent.
    async fn of_others(objects: &Objects, own: &str) -> Result<Spend, RunError> {
        let mut spent = Spend::default();
        for name in objects.list().await? {
            let is_other = name.starts_with(COPY) && name != own;
            let Some(found) = (if is_other { objects.get(&name).await? } else { None }) else { continue };
            let counted: SpentRecord =
                serde_json::from_slice(&found.bytes).map_err(|_| RunError::Mismatch {
                    what: format!("{} is damaged: what the job has spent is unknown", objects.place(&name)),
                    hint: "remove it, and take what that machine spent, as the provider bills it, off the budget",
                })?;
            let SpentRecord { picodollars, tokens, requests } = counted;
            spent = spent + Spend { money: Money::picodollars(picodollars), tokens, requests };
        }
        Ok(spent)
    }
}

fn copy_name(machine: MachineId) -> String {
    format!("{COPY}{machine}.json")
}

impl RunBudget {
    /// Does `work` with exclusive access to the job's account, if the job has a budget for all runs together: a run and
    /// a retry at the same time could not both keep to it.
    pub(crate) async fn during<T>(
        job: &Job,
        home: &Folder,
        run: RunId,
        work: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        if job.budget.job.is_unlimited() {
            return work.await;
        }
        let folder = folder(&job.places.journal);
        let exclusive = Exclusive::take(&folder, &home.join(FOLDER), &folder, job.places.lease, run).await?;
        exclusive.during(work).await
    }

    /// Opens the account of a job, to which the caller has exclusive access. `home` is the folder of the job's
    /// checkpoint.
    pub(crate) async fn open(job: &Job, home: &Folder) -> Result<Self, RunError> {
        let budget = Self::of_requests(job, home).await?;
        budget.account.set_submitted(Box::pin(submitted(home)).await?, SubmittedSpend::default());
        Ok(budget)
    }

    /// Opens the account without what submissions to Batch APIs take.
    async fn of_requests(job: &Job, home: &Folder) -> Result<Self, RunError> {
        if job.budget.job.is_unlimited() {
            return Ok(RunBudget { account: Account::open(job.budget, None), copy: None });
        }
        let folder = folder(&job.places.journal);
        let mut spending = Spending::open(&folder)?;
        let home = home.join(FOLDER);
        let Some(objects) = home.objects() else {
            return Ok(RunBudget { account: Account::open(job.budget, Some(spending)), copy: None });
        };
        let name = copy_name(MachineId::of(&folder)?);
        spending.add_others(SpentCopy::of_others(objects, &name).await?);
        let account = Account::open(job.budget, Some(spending));
        let mut copy = SpentCopy { account: account.clone(), objects: objects.clone(), name, copied: None };
        copy.copy().await?;
        Ok(RunBudget { account, copy: Some(copy) })
    }

    /// Checks that the budget leaves enough for a request.
    pub(crate) fn check(&self, job: &Job) -> Result<(), RunError> {
        match self.account.reserve(smallest_worst_case(job)) {
            Err(BudgetRefusal::Spent(limit)) => Err(RunError::Budget(limit)),
            Ok(_) | Err(BudgetRefusal::Later) => Ok(()),
        }
    }

    /// Returns what was spent of the budget for all runs of a job, or `None` if there is no such budget and nothing was
    /// counted.
    pub(crate) async fn look(job: &Job, home: &Folder) -> Result<Option<Spent>, RunError> {
        let folder = folder(&job.places.journal);
        let mut found = Spending::read(&folder)?;
        if let Some(objects) = home.join(FOLDER).objects() {
            let own = MachineId::found(&folder)?.map(copy_name).unwrap_or_default();
            let others = SpentCopy::of_others(objects, &own).await?;
            found =
                (found.is_some() || others != Spend::default()).then(|| found.unwrap_or_default() + others);
        }
        let allowance = job.budget.job;
        if found.is_none() && allowance.is_unlimited() {
            return Ok(None);
        }
        let SubmittedSpend { settled, open } = Box::pin(submitted(home)).await?;
        let spent = found.unwrap_or_default() + settled + open;
        let limit = BudgetLimit::broken(BudgetScope::Job, &allowance, spent, smallest_worst_case(job));
        Ok(Some(Spent {
            cost_usd: spent.money.dollars(),
            tokens: spent.tokens,
            requests: spent.requests,
            max_cost_usd: allowance.money.map(Money::dollars),
            max_tokens: allowance.tokens,
            max_requests: allowance.requests,
            exhausted: limit.map(|limit| limit.to_string()),
            limit,
            allowance,
        }))
    }
}

/// What was spent of a budget.
#[derive(Clone, Debug, Serialize)]
pub struct Spent {
    /// Cost in US dollars.
    pub cost_usd: f64,
    /// Number of tokens of prompts and answers.
    pub tokens: u64,
    /// Number of requests that no provider refused.
    pub requests: u64,
    /// Maximum cost in US dollars; `None` for no limit.
    pub max_cost_usd: Option<f64>,
    /// Maximum number of tokens; `None` for no limit.
    pub max_tokens: Option<u64>,
    /// Maximum number of requests; `None` for no limit.
    pub max_requests: Option<u64>,
    /// The limit that leaves too little for a request, in words; `None` if enough is left.
    pub exhausted: Option<String>,
    /// The limit that `exhausted` describes.
    #[serde(skip)]
    pub(crate) limit: Option<BudgetLimit>,
    #[serde(skip)]
    allowance: Allowance,
}

impl Spent {
    /// Whether a run that ended at this limit would end there again, since the limit was not raised.
    pub(crate) fn still_ends_at(&self, limit: &BudgetLimit) -> bool {
        limit.scope == BudgetScope::Job && limit.is_in(&self.allowance)
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let money = |dollars| Money::from_dollars(dollars).unwrap_or_default().to_string();
        let of = |most: Option<String>| most.map_or_else(String::new, |most| format!(" of {most}"));
        write!(
            f,
            "spent {}{}, {}{}, {}{}",
            money(self.cost_usd),
            of(self.max_cost_usd.map(money)),
            counted(self.tokens, "token"),
            of(self.max_tokens.map(|most| most.to_string())),
            counted(self.requests, "request"),
            of(self.max_requests.map(|most| most.to_string())),
        )
    }
}

/// Returns the smallest worst case of a job's requests, separately for money, tokens and requests.
fn smallest_worst_case(job: &Job) -> Spend {
    let requests = job.steps.iter().flat_map(|step| {
        let providers = step.all_providers().map(|provider| &job.providers[provider]);
        providers.map(|provider| {
            let prices = provider.prices.as_deref();
            let prices = match provider.batch {
                Some(_) => prices.map(PriceTable::in_batch),
                None => prices.map(PriceTable::highest),
            };
            worst_case(prices, 1, 0, step.params.max_tokens)
        })
    });
    let smaller = |a: Spend, b: Spend| Spend {
        money: a.money.min(b.money),
        tokens: a.tokens.min(b.tokens),
        requests: a.requests.min(b.requests),
    };
    requests.reduce(smaller).unwrap_or_default()
}

/// Returns what the job's submissions to Batch APIs took and may take: those of runs and those of retries. `home` is the
/// folder of the job's checkpoint.
async fn submitted(home: &Folder) -> Result<SubmittedSpend, RunError> {
    Ok(listed_in(home).await? + listed_in(&home.join(RETRY_FOLDER)).await?)
}

/// Returns what the submissions in a folder's list took and may take.
pub(crate) async fn listed_in(folder: &Folder) -> Result<SubmittedSpend, RunError> {
    let list = SubmissionsFile::in_folder(folder).load().await?;
    Ok(list.map(|list| list.spend()).unwrap_or_default())
}

fn folder(journal: &Path) -> PathBuf {
    journal.join(FOLDER)
}
