//! A step that is ready to ask, and the way to the provider that it asks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::inputs::When;
use super::window::ContextWindow;
use crate::clock::Jitter;
use crate::config::{Form, MOST_PROVIDERS, OnTooLong, Params, Prices, Provider};
use crate::decode::Content;
use crate::dispatch::{Dispatcher, DispatcherIo, LearnedLimits, Mode, ProviderHealth, Reply, Request};
use crate::event::Voice;
use crate::fault::{Class, Failure};
use crate::meter::Account;
use crate::prompt::Prompt;
use crate::sink::Output;
use crate::transport::Endpoint;

/// The way to a provider.
#[derive(Debug)]
pub(super) struct StepProvider {
    pub(super) name: Arc<str>,
    pub(super) model: Arc<str>,
    /// Where it is asked.
    pub(super) address: Arc<str>,
    pub(super) window: Option<ContextWindow>,
    /// Whether it hands back rows while its provider fails.
    pub(super) has_fallback: bool,
    pub(super) prices: Option<Prices>,
    pub(super) inbox: mpsc::Sender<Request>,
    pub(super) health: ProviderHealth,
    /// Why it is not asked any more in this run.
    pub(super) out: Option<Failure>,
}

/// Rows that a provider keeps ready, at most, where several go into one request.
const MOST_READY: usize = 8_192;

/// What a provider is there for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProviderRole {
    /// Whether its rows can be asked elsewhere.
    pub(super) has_fallback: bool,
    /// Whether it is asked for vectors.
    pub(super) embeds: bool,
    /// Whether it is asked for nothing else.
    pub(super) only_embeds: bool,
}

/// What dispatchers are started with.
pub(super) struct ProviderHandle<'a> {
    pub(super) outbox: mpsc::Sender<Reply>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) capacity_freed: &'a Arc<Notify>,
    pub(super) learned_limits: &'a LearnedLimits,
    pub(super) account: &'a Account,
    pub(super) voice: &'a Voice,
}

impl ProviderHandle<'_> {
    /// Starts the dispatcher of a provider.
    pub(super) fn start(
        &self,
        index: usize,
        provider: &Provider,
        endpoint: Endpoint,
        role: ProviderRole,
        dispatchers: &mut JoinSet<()>,
    ) -> StepProvider {
        let model = Arc::clone(endpoint.model());
        // The built-in one has another port each time.
        let address =
            if provider.endpoint.is_none() { "simulator".into() } else { endpoint.address().into() };
        let ProviderRole { has_fallback, only_embeds, embeds } = role;
        let together = if embeds { provider.inputs_per_request as usize } else { 1 };
        let capacity = (provider.max_concurrency as usize * together).min(MOST_READY);
        let (sender, inbox) = mpsc::channel(capacity);
        let health = ProviderHealth::default();
        let io = DispatcherIo {
            provider: index,
            inbox,
            outbox: self.outbox.clone(),
            mode: self.mode.clone(),
            capacity_freed: Arc::clone(self.capacity_freed),
            health: health.clone(),
            capacity,
            only_embeds,
            has_fallback,
            learned_limits: self.learned_limits.clone(),
            account: self.account.clone(),
            jitter: Jitter::from_entropy(),
            voice: self.voice.clone(),
        };
        dispatchers.spawn(Dispatcher::new(provider, Arc::new(endpoint), io).run());
        let window = provider.context_window.map(|tokens| ContextWindow::new(tokens, &model));
        StepProvider {
            window,
            has_fallback,
            out: None,
            name: provider.name.as_str().into(),
            model,
            address,
            prices: provider.prices,
            inbox: sender,
            health,
        }
    }
}

/// A step, ready to ask.
#[derive(Debug)]
pub(super) struct RunStep {
    pub(super) output: Arc<str>,
    /// Fingerprint of templates and parameters, as text.
    pub(super) template: Arc<str>,
    pub(super) prompt: Prompt,
    /// What rows must meet to be asked about.
    pub(super) when: Option<When>,
    /// The earlier steps whose outputs it needs.
    pub(super) needs: Vec<usize>,
    /// Its columns.
    pub(super) columns: Output,
    pub(super) params: Arc<Params>,
    /// What an answer must be.
    pub(super) form: Form,
    /// Whether rows with the same question share one answer.
    pub(super) shares: bool,
    /// Numbers in each of its vectors, once one is there.
    pub(super) dimensions: OnceLock<usize>,
    /// How often a row is asked again whose answer is not that.
    pub(super) max_repairs: u32,
    /// Most tokens of the one further attempt after an answer that was cut off.
    pub(super) max_tokens_retry: Option<u32>,
    /// Whether what a model thought aloud at the beginning of an answer is left out.
    pub(super) strips_reasoning: bool,
    pub(super) deadline: Duration,
    /// Positions among the run's providers, in the order in which they are tried.
    pub(super) providers: Vec<usize>,
    /// Other such lists, for rows that meet a condition.
    pub(super) routes: Vec<(When, Vec<usize>)>,
    /// Whether one of its providers takes prompts up to a length only.
    pub(super) has_windows: bool,
    /// What becomes of a prompt that none of them can take.
    pub(super) on_too_long: OnTooLong,
    /// Whether all of them are asked at once.
    pub(super) balance: bool,
}

/// What a row is handed to a provider for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its answer.
    Answer,
    /// To find out whether a provider that failed answers again.
    Probe,
}

impl RunStep {
    /// Whether the provider depends on the row.
    pub(super) fn is_routed(&self) -> bool {
        !self.routes.is_empty() || self.has_windows
    }

    /// A list of providers, in the order in which they are tried.
    pub(super) fn providers_of(&self, route: usize) -> &[usize] {
        let routed = route.checked_sub(1).and_then(|route| self.routes.get(route));
        routed.map_or(&self.providers, |(_, providers)| providers)
    }

    /// Whether rows that go to a provider may go to another one.
    pub(super) fn has_fallback(&self, provider: usize) -> bool {
        let mut lists = self.routes.iter().map(|(_, providers)| providers).chain([&self.providers]);
        lists.any(|providers| providers.len() > 1 && providers.contains(&provider))
    }

    /// All providers that it may ask.
    pub(super) fn all_providers(&self) -> impl Iterator<Item = usize> {
        self.routes.iter().flat_map(|(_, providers)| providers).chain(&self.providers).copied()
    }

    /// Where the next row is asked, and whether it is to find out how a provider that failed is now: the first provider that
    /// takes rows, or with balance the one with the most room; one that failed gets a row when it wants to be tried.
    /// None while all of them fail.
    pub(super) fn route(
        &self,
        providers: &[StepProvider],
        route: usize,
        without: u64,
    ) -> Option<(usize, Purpose)> {
        let own = self.providers_of(route);
        if let [only] = own
            && !providers[*only].has_fallback
        {
            return Some((*only, Purpose::Answer));
        }
        let open = || own.iter().copied().filter(|provider| without & bit(*provider) == 0);
        if let Some(probe) = open().find(|provider| providers[*provider].health.reserve_probe()) {
            return Some((probe, Purpose::Probe));
        }
        let mut up = open().filter(|provider| providers[*provider].health.is_up());
        let provider =
            if self.balance { up.max_by_key(|provider| providers[*provider].capacity()) } else { up.next() };
        provider.map(|provider| (provider, Purpose::Answer))
    }

    /// Whether another provider than these could answer.
    pub(super) fn has_other(&self, providers: &[StepProvider], route: usize, without: u64) -> bool {
        self.providers_of(route)
            .iter()
            .any(|provider| without & bit(*provider) == 0 && providers[*provider].health.is_up())
    }

    /// Holds a vector against those before it: all of a column are of one length.
    pub(super) fn fits(&self, content: Content) -> Result<Content, Failure> {
        let Content::Vector(numbers) = &content else { return Ok(content) };
        let expected = *self.dimensions.get_or_init(|| numbers.len());
        if numbers.len() == expected {
            return Ok(content);
        }
        let detail = format!("the vector has {} numbers, and {expected} are expected", numbers.len());
        Err(Failure::new(Class::InvalidOutput, detail))
    }

    /// Whether an answer of this provider and model is one of this step's.
    pub(super) fn takes(&self, providers: &[StepProvider], provider: &str, model: &str) -> bool {
        (0..=self.routes.len()).any(|route| self.takes_by(route, providers, provider, model))
    }

    /// The same of one of its lists of providers.
    pub(super) fn takes_by(
        &self,
        route: usize,
        providers: &[StepProvider],
        provider: &str,
        model: &str,
    ) -> bool {
        let mut own = self.providers_of(route).iter().map(|provider| &providers[*provider]);
        own.any(|own| *own.name == *provider && *own.model == *model)
    }
}

impl StepProvider {
    /// Room for requests, in thousandths of all of it.
    fn capacity(&self) -> usize {
        self.inbox.capacity() * 1_000 / self.inbox.max_capacity().max(1)
    }
}

/// A provider in a set of providers, of which a job has [`MOST_PROVIDERS`] at most.
pub(super) fn bit(provider: usize) -> u64 {
    debug_assert!(provider < MOST_PROVIDERS);
    1 << provider
}
