//! One answer for all rows with the same question: those that are asked at the same time wait for the first of them,
//! later ones find it in a window of memory, or in the cache.
//!
//! An answer that a row shares is in the row's journal before it is used, like one that was paid for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::compiled_step::CompiledStep;
use super::step_provider::StepProvider;
use crate::cache::{CacheError, Store};
use crate::dispatch::Request;
use crate::ident::{Cell, Fingerprint};
use crate::prompt::Question;

/// Bytes of answers that are kept in memory.
const RECENT_BYTES: usize = 32 << 20;
/// What an answer takes there besides its body, in bytes.
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
    /// Nothing: it is to be asked, and others wait for it.
    Nothing,
    /// It is being asked.
    Asked,
    /// Its answer.
    Answer(SharedAnswer),
}

/// Answers that rows share, and rows that wait for one.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    recent: HashMap<Fingerprint, SharedAnswer>,
    order: VecDeque<Fingerprint>,
    bytes: usize,
    /// Questions that are being asked, and who waits for the answers.
    waiting: HashMap<Fingerprint, (Arc<Question>, Vec<Request>)>,
    /// The rows that ask them.
    leaders: HashMap<Cell, Fingerprint>,
    cache: Option<Store>,
    trouble: Option<CacheError>,
}

impl Sharing {
    pub(super) fn new(cache: Option<Store>) -> Self {
        Sharing { cache, ..Sharing::default() }
    }

    /// What is known of the question of a request.
    pub(super) fn look(
        &mut self,
        key: Fingerprint,
        step: &CompiledStep,
        providers: &[StepProvider],
        request: &Request,
    ) -> SharingState {
        if self.waiting.contains_key(&key) {
            return SharingState::Asked;
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

    /// The cache only saves money: where it does not work, the run goes on without it.
    fn go_without(&mut self, error: CacheError) {
        self.cache = None;
        self.trouble = Some(error);
    }

    /// Why the run goes on without the cache, once.
    pub(super) fn trouble(&mut self) -> Option<CacheError> {
        self.trouble.take()
    }

    /// A row asks a question that nobody asks; others may wait for it.
    pub(super) fn lead(&mut self, key: Fingerprint, request: &Request) {
        self.waiting.insert(key, (Arc::clone(&request.question), Vec::new()));
        self.leaders.insert(request.cell, key);
    }

    /// A row waits for the answer to a question that is being asked.
    pub(super) fn wait(&mut self, key: Fingerprint, mut request: Request) {
        if let Some((question, waiting)) = self.waiting.get_mut(&key) {
            // However many rows have it, the question is in memory once.
            request.question = Arc::clone(question);
            waiting.push(request);
        }
    }

    /// A row is done with its question, or leaves it: those who waited for it.
    pub(super) fn left(&mut self, cell: Cell) -> Vec<Request> {
        let key = self.leaders.remove(&cell);
        key.and_then(|key| self.waiting.remove(&key)).map(|(_, waiting)| waiting).unwrap_or_default()
    }

    /// An answer that later rows of the same list of providers, to which its own belongs, may share.
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
        // The body is a part of a larger buffer, which would stay with it.
        let shared = SharedAnswer { body: Bytes::copy_from_slice(&shared.body), ..shared.clone() };
        self.bytes += shared.body.len() + ENTRY_BYTES;
        self.recent.insert(key, shared);
        self.order.push_back(key);
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            let gone = self.recent.remove(&oldest).map_or(0, |shared| shared.body.len() + ENTRY_BYTES);
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    /// Waits until what was remembered is in the cache.
    pub(super) fn flush(&mut self) {
        if let Some(Err(error)) = self.cache.as_ref().map(Store::flush) {
            self.go_without(error);
        }
    }
}

/// A question of a step of this job, by one of its lists of providers.
pub(super) fn in_step(step: &CompiledStep, route: usize, question: Fingerprint) -> Fingerprint {
    let route = route.to_le_bytes();
    Fingerprint::of([question.to_bytes().as_slice(), step.output.as_bytes(), route.as_slice()])
}

/// A question to a model at an address, whoever asks it.
fn anywhere(provider: &StepProvider, question: Fingerprint) -> Fingerprint {
    Fingerprint::of([question.to_bytes().as_slice(), provider.address.as_bytes(), provider.model.as_bytes()])
}
