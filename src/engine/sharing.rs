//! One answer for all rows with the same question: those that are asked at the same time wait for the first of them,
//! later ones find it in a window of memory, or in the cache.
//!
//! An answer that a row shares is in the row's journal before it is used, like one that was paid for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::lane::{Lane, Step};
use crate::cache::{CacheError, Store};
use crate::dispatch::Request;
use crate::ident::{Cell, Fingerprint};

/// Bytes of answers that are kept in memory.
const RECENT_BYTES: usize = 32 << 20;
/// What an answer takes there besides its body, in bytes.
const ENTRY_BYTES: usize = 200;

/// An answer that rows may share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) provider: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) body: Bytes,
}

/// What is known of a question.
pub(super) enum Known {
    /// Nothing: it is to be asked, and others wait for it.
    Nothing,
    /// It is being asked.
    Asked,
    /// Its answer.
    Answer(Shared),
}

/// Answers that rows share, and rows that wait for one.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    recent: HashMap<Fingerprint, Shared>,
    order: VecDeque<Fingerprint>,
    bytes: usize,
    /// Questions that are being asked, and who waits for the answers.
    waiting: HashMap<Fingerprint, Vec<Request>>,
    /// The rows that ask them.
    leaders: HashMap<Cell, Fingerprint>,
    cache: Option<Store>,
}

impl Sharing {
    pub(super) fn new(cache: Option<Store>) -> Self {
        Sharing { cache, ..Sharing::default() }
    }

    /// What is known of a step's question.
    pub(super) fn look(
        &self,
        step: &Step,
        lanes: &[Lane],
        question: Fingerprint,
    ) -> Result<Known, CacheError> {
        let key = in_step(step, question);
        if self.waiting.contains_key(&key) {
            return Ok(Known::Asked);
        }
        if let Some(shared) =
            self.recent.get(&key).filter(|shared| step.takes(lanes, &shared.provider, &shared.model))
        {
            return Ok(Known::Answer(shared.clone()));
        }
        let Some(cache) = &self.cache else { return Ok(Known::Nothing) };
        for lane in step.all_lanes().map(|lane| &lanes[lane]) {
            if let Some(body) = cache.get(anywhere(lane, question))? {
                let (provider, model) = (Arc::clone(&lane.name), Arc::clone(&lane.model));
                return Ok(Known::Answer(Shared { provider, model, body }));
            }
        }
        Ok(Known::Nothing)
    }

    /// A row asks a question that nobody asks; others may wait for it.
    pub(super) fn lead(&mut self, cell: Cell, step: &Step, question: Fingerprint) {
        let key = in_step(step, question);
        self.waiting.insert(key, Vec::new());
        self.leaders.insert(cell, key);
    }

    /// A row waits for the answer to a question that is being asked.
    pub(super) fn wait(&mut self, step: &Step, request: Request) {
        let key = in_step(step, request.question.fingerprint);
        self.waiting.entry(key).or_default().push(request);
    }

    /// A row is done with its question, or leaves it: those who waited for it.
    pub(super) fn left(&mut self, cell: Cell) -> Vec<Request> {
        let key = self.leaders.remove(&cell);
        key.and_then(|key| self.waiting.remove(&key)).unwrap_or_default()
    }

    /// An answer that later rows may share.
    pub(super) fn remember(&mut self, step: &Step, lanes: &[Lane], question: Fingerprint, shared: Shared) {
        let lane = lanes.iter().find(|lane| lane.name == shared.provider && lane.model == shared.model);
        if let (Some(cache), Some(lane)) = (&self.cache, lane) {
            cache.put(anywhere(lane, question), &shared.body);
        }
        let key = in_step(step, question);
        let bytes = shared.body.len() + ENTRY_BYTES;
        if self.recent.insert(key, shared).is_some() {
            return;
        }
        self.order.push_back(key);
        self.bytes += bytes;
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            let gone = self.recent.remove(&oldest).map_or(0, |shared| shared.body.len() + ENTRY_BYTES);
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    /// Waits until what was remembered is in the cache.
    pub(super) fn flush(&self) -> Result<(), CacheError> {
        self.cache.as_ref().map_or(Ok(()), Store::flush)
    }
}

/// A question of a step of this job.
fn in_step(step: &Step, question: Fingerprint) -> Fingerprint {
    Fingerprint::of([question.to_bytes().as_slice(), step.output.as_bytes()])
}

/// A question to a model at an address, whoever asks it.
fn anywhere(lane: &Lane, question: Fingerprint) -> Fingerprint {
    Fingerprint::of([question.to_bytes().as_slice(), lane.address.as_bytes(), lane.model.as_bytes()])
}
