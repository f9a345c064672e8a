//! A provider as the steps see it: the inbox of its executor, its health, and its limit on prompts.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::runtime::{self, Runtime};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::context_window::ContextWindow;
use super::error::EnricherError;
use super::input::Journals;
use crate::admission::QuotaGroups;
use crate::clock::Jitter;
use crate::config::{MOST_PROVIDERS, PriceTable, Provider, Repairs};
use crate::dispatch::Dispatcher;
use crate::event::Voice;
use crate::executor::{ExecutorIo, Mode, ProviderHealth, Reply, Request};
use crate::fault::Failure;
use crate::submitter::{Submitter, SubmitterContext, SubmitterStatus};
use crate::transport::{BatchApi, Endpoint};

/// A provider that steps send rows to.
#[derive(Debug)]
pub(super) struct StepProvider {
    pub(super) name: Arc<str>,
    pub(super) model: Arc<str>,
    /// Address of its endpoint, which distinguishes cached answers.
    pub(super) address: Arc<str>,
    pub(super) window: Option<ContextWindow>,
    /// Whether its executor hands rows back while the provider fails.
    pub(super) has_fallback: bool,
    pub(super) prices: Option<Arc<PriceTable>>,
    pub(super) inbox: mpsc::Sender<Request>,
    /// Whether its submitter has nothing to do; `None` without one.
    pub(super) rest: Option<SubmitterStatus>,
    /// Number of submissions that a row may be in without an answer; 0 if its requests are sent by themselves.
    pub(super) max_submissions: u32,
    /// Whether a row whose answer from a submission is not valid is repaired by a provider that is sent single requests.
    pub(super) repairs_online: bool,
    pub(super) health: ProviderHealth,
    /// The failure that ruled it out for the rest of the run, if one did.
    pub(super) out: Option<Failure>,
}

/// Most rows that an executor keeps ready, where a request takes several.
const MOST_READY: usize = 8_192;
/// Most rows that wait for a submitter, which takes no time for one; while it collects answers, they are in memory.
const MOST_READY_FOR_FILES: usize = 1_024;

/// What a job uses a provider for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProviderRole {
    /// Whether its rows may go to another provider.
    pub(super) has_fallback: bool,
    /// Whether it is sent requests for vectors.
    pub(super) embeds: bool,
    /// Whether it is sent nothing else.
    pub(super) only_embeds: bool,
    /// Whether each of its requests limits the tokens of its answer.
    pub(super) limits_tokens: bool,
}

/// What all executors of a run share.
pub(super) struct ExecutorStarter<'a> {
    /// What submitters share; `None` if every request is sent by itself.
    pub(super) context: Option<SubmitterContext>,
    pub(super) outbox: mpsc::Sender<Vec<Reply>>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) capacity_freed: &'a Arc<Notify>,
    pub(super) journals: &'a Journals,
    pub(super) groups: &'a QuotaGroups,
    /// Whether rows are sent by themselves to providers with a Batch API, too.
    pub(super) asks_online: bool,
    pub(super) voice: &'a Voice,
}

impl ExecutorStarter<'_> {
    /// Starts the executor of a provider. One with a Batch API has a submitter, and a dispatcher beside it if rows are
    /// sent by themselves: then the submitter takes in what it handed out in earlier runs.
    pub(super) fn start(
        &self,
        index: usize,
        provider: &Provider,
        endpoint: Endpoint,
        batch_api: Option<BatchApi>,
        role: ProviderRole,
        executors: &mut JoinSet<()>,
    ) -> Result<StepProvider, EnricherError> {
        let model = Arc::clone(endpoint.model());
        // The built-in simulator has another port each time.
        let address =
            if provider.endpoint.is_none() { "simulator".into() } else { endpoint.address().into() };
        let ProviderRole { has_fallback, only_embeds, embeds, limits_tokens } = role;
        let together = if embeds { provider.inputs_per_request as usize } else { 1 };
        let io = |capacity: usize, inbox: mpsc::Receiver<Request>, health: &ProviderHealth| ExecutorIo {
            provider: index,
            inbox,
            outbox: self.outbox.clone(),
            mode: self.mode.clone(),
            capacity_freed: Arc::clone(self.capacity_freed),
            health: health.clone(),
            capacity,
            only_embeds,
            limits_tokens,
            has_fallback,
            account: self.journals.account.clone(),
            jitter: Jitter::from_entropy(),
            voice: self.voice.clone(),
        };
        let endpoint = Arc::new(endpoint);
        // Here alone it is chosen which executors a provider has.
        let batch_api = provider.batch.as_ref().zip(batch_api).zip(self.context.as_ref());
        let takes_files = batch_api.is_some() && !self.asks_online;
        let usual = provider.max_concurrency as usize * together;
        let capacity = if takes_files { MOST_READY_FOR_FILES } else { usual.min(MOST_READY) };
        let (sender, inbox) = mpsc::channel(capacity);
        let health = ProviderHealth::default();
        let (unused, empty) = mpsc::channel(1);
        let (of_submitter, of_dispatcher) = match takes_files {
            true => ((inbox, health.clone()), None),
            false => ((empty, ProviderHealth::default()), Some(inbox)),
        };
        let rest = match batch_api {
            Some(((settings, api), context)) => {
                let (inbox, health) = of_submitter;
                let (settings, context) = (settings.clone(), context.clone());
                let io = io(capacity, inbox, &health);
                let submitter = Submitter::new(provider, settings, api, Arc::clone(&endpoint), context, io);
                let rest = submitter.rest();
                let runtime = new_runtime()?;
                executors.spawn_blocking(move || {
                    runtime.block_on(submitter.run());
                    // Until here an inbox without rows stays open.
                    drop(unused);
                });
                Some(rest)
            }
            None => None,
        };
        if let Some(inbox) = of_dispatcher {
            let learned = self.journals.learned.learned_limits();
            let io = io(capacity, inbox, &health);
            let dispatcher = Dispatcher::new(provider, endpoint, learned, self.groups, io);
            run_on_thread(new_runtime()?, dispatcher.run(), executors);
        }
        let settings = provider.batch.as_ref().filter(|_| takes_files);
        let window = provider.context_window.map(|tokens| ContextWindow::new(tokens, &model));
        Ok(StepProvider {
            window,
            has_fallback,
            out: None,
            name: provider.name.as_str().into(),
            model,
            address,
            prices: provider.prices.clone(),
            inbox: sender,
            rest,
            max_submissions: settings.map_or(0, |batch| batch.max_submissions),
            repairs_online: settings.is_some_and(|batch| batch.repairs == Repairs::Online),
            health,
        })
    }
}

/// Runs an executor on a thread of its own: a request stays on the thread that sends it, and wakes no other one.
fn run_on_thread(
    runtime: Runtime,
    executor: impl Future<Output = ()> + Send + 'static,
    executors: &mut JoinSet<()>,
) {
    executors.spawn_blocking(move || {
        // A task, since each wake of the future that a runtime blocks on is a system call.
        let mut task = JoinSet::new();
        task.spawn_on(executor, runtime.handle());
        if let Some(Err(error)) = runtime.block_on(task.join_next())
            && let Ok(panic) = error.try_into_panic()
        {
            resume_unwind(panic);
        }
    });
}

fn new_runtime() -> Result<Runtime, EnricherError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| EnricherError::Task(format!("cannot start: {error}")))
}

impl StepProvider {
    /// Whether its rows go through its Batch API.
    pub(super) fn is_submitter(&self) -> bool {
        self.max_submissions > 0
    }

    /// Whether it is a submitter that could do nothing but make batches, which waits until answers are looked at.
    pub(super) fn puts_off(&self) -> bool {
        let is_idle = self.is_full() || self.inbox.capacity() == self.inbox.max_capacity();
        is_idle && self.rest.as_ref().is_some_and(SubmitterStatus::puts_off)
    }

    /// Whether it takes no rows before a submission comes back.
    pub(super) fn is_full(&self) -> bool {
        self.is_submitter() && self.rest.as_ref().is_some_and(SubmitterStatus::is_full)
    }

    /// Free room in the inbox, in thousandths of its capacity.
    pub(super) fn capacity(&self) -> usize {
        self.inbox.capacity() * 1_000 / self.inbox.max_capacity().max(1)
    }
}

/// Whether all submitters have collected what was ready when the run began.
pub(super) fn have_begun(providers: &[StepProvider]) -> bool {
    let mut rest = providers.iter().filter_map(|provider| provider.rest.as_ref());
    rest.all(SubmitterStatus::has_begun)
}

/// Returns the bit of a provider in a set of providers. A job has [`MOST_PROVIDERS`] at most.
pub(super) fn bit(provider: usize) -> u64 {
    debug_assert!(provider < MOST_PROVIDERS);
    1 << provider
}
