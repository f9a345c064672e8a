//! One answer for all rows with the same question. Rows that come while the first one is in flight wait for it; later
//! ones find the answer in a window of memory, or in the cache.
//!
//! An answer that a row shares is in the row's journal before it is used, like one that was paid for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::compiled_step::CompiledStep;
use super::step_provider::StepProvider;
use crate::cache::{CacheError, Store};
use crate::executor::Request;
use crate::ident::{Cell, Fingerprint};
use crate::prompt::Question;

/// Most bytes of answers that are kept in memory.
const RECENT_BYTES: usize = 32 << 20;
/// Bytes that an answer takes in memory besides its body.
const ENTRY_BYTES: usize = 200;

/// An answer that rows may share.
#[derive(Clone, Debug)]
pub(super) struct SharedAnswer {
    pub(super) provider: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) body: Bytes,
}

/// What is known of a question.
pub(super) enum SharingState {
    /// Nothing: the row is sent, and others wait for it.
    Nothing,
    /// A row with the same question is in flight.
    InFlight,
    /// Its answer.
    Answer(SharedAnswer),
}

/// Answers that rows share, and rows that wait for one.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    recent: HashMap<Fingerprint, SharedAnswer>,
    order: VecDeque<Fingerprint>,
    bytes: usize,
    /// Questions in flight, and the requests that wait for their answers.
    waiting: HashMap<Fingerprint, (Arc<Question>, Vec<Request>)>,
    /// Rows that were sent, with the keys of their questions.
    leaders: HashMap<Cell, Fingerprint>,
    cache: Option<Store>,
    trouble: Option<CacheError>,
}

impl Sharing {
    pub(super) fn new(cache: Option<Store>) -> Self {
        Sharing { cache, ..Sharing::default() }
    }

    /// Returns what is known of the question of a request.
    pub(super) fn look(
        &mut self,
        key: Fingerprint,
        step: &CompiledStep,
        providers: &[StepProvider],
        request: &Request,
    ) -> SharingState {
        if self.waiting.contains_key(&key) {
            return SharingState::InFlight;
        }
        if let Some(shared) = self.recent.get(&key) {
            return SharingState::Answer(shared.clone());
        }
        for provider in step.providers_of(request.route).iter().map(|provider| &providers[*provider]) {
            let Some(cache) = &self.cache else { break };
            match cache.get(anywhere(provider, request.question.fingerprint())) {
                Ok(Some(body)) => {
                    let (provider, model) = (Arc::clone(&provider.name), Arc::clone(&provider.model));
                    return SharingState::Answer(SharedAnswer { provider, model, body });
                }
                Ok(None) => {}
                Err(error) => self.go_without(error),
            }
        }
        SharingState::Nothing
    }

    /// Drops the cache after an error. It only saves money, so the run goes on without it.
    fn go_without(&mut self, error: CacheError) {
        self.cache = None;
        self.trouble = Some(error);
    }

    /// Returns why the run goes on without the cache, once.
    pub(super) fn trouble(&mut self) -> Option<CacheError> {
        self.trouble.take()
    }

    /// Notes that a row is sent with a question, for which others may wait.
    pub(super) fn lead(&mut self, key: Fingerprint, request: &Request) {
        self.waiting.insert(key, (Arc::clone(&request.question), Vec::new()));
        self.leaders.insert(request.cell, key);
    }

    /// Has a row wait for the answer to a question in flight.
    pub(super) fn wait(&mut self, key: Fingerprint, mut request: Request) {
        if let Some((question, waiting)) = self.waiting.get_mut(&key) {
            // All rows with the question share one copy of it.
            request.question = Arc::clone(question);
            waiting.push(request);
        }
    }

    /// Returns the rows that wait for a row, which has its outcome or is taken back.
    pub(super) fn left(&mut self, cell: Cell) -> Vec<Request> {
        let key = self.leaders.remove(&cell);
        key.and_then(|key| self.waiting.remove(&key)).map(|(_, waiting)| waiting).unwrap_or_default()
    }

    /// Remembers an answer for later rows of the same provider list, which must hold the answer's own provider.
    pub(super) fn remember(
        &mut self,
        step: &CompiledStep,
        route: usize,
        providers: &[StepProvider],
        question: Fingerprint,
        shared: &SharedAnswer,
    ) {
        let provider = providers
            .iter()
            .find(|provider| provider.name == shared.provider && provider.model == shared.model);
        if let (Some(cache), Some(provider)) = (&self.cache, provider) {
            cache.put(anywhere(provider, question), &shared.body);
        }
        let key = in_step(step, route, question);
        if self.recent.contains_key(&key) {
            return;
        }
        // The body is a slice of a larger buffer, which it would keep in memory.
        let shared = SharedAnswer { body: Bytes::copy_from_slice(&shared.body), ..shared.clone() };
        self.bytes += shared.body.len() + ENTRY_BYTES;
        self.recent.insert(key, shared);
        self.order.push_back(key);
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            let freed_bytes = self.recent.remove(&oldest).map_or(0, |shared| shared.body.len() + ENTRY_BYTES);
            self.bytes = self.bytes.saturating_sub(freed_bytes);
        }
    }

    /// Waits until the remembered answers are in the cache.
    pub(super) fn flush(&mut self) {
        if let Some(Err(error)) = self.cache.as_ref().map(Store::flush) {
            self.go_without(error);
        }
    }
}

/// Returns the key of a question within this job, by its step and provider list.
pub(super) fn in_step(step: &CompiledStep, route: usize, question: Fingerprint) -> Fingerprint {
    let route = route.to_le_bytes();
    Fingerprint::of([question.to_bytes().as_slice(), step.output.as_bytes(), route.as_slice()])
}

/// Returns the key of a question in the cache, by the model and its address, whoever sends it.
fn anywhere(provider: &StepProvider, question: Fingerprint) -> Fingerprint {
    Fingerprint::of([question.to_bytes().as_slice(), provider.address.as_bytes(), provider.model.as_bytes()])
}
