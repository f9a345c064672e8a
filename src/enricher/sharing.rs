//! One answer for all rows with the same question. Rows that come while the first one is in flight wait for it; later
//! ones find the answer in a window of memory, or in the cache.
//!
//! An answer that a row shares is in the row's journal before it is used, like one that was paid for.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::compiled_step::CompiledStep;
use super::step_provider::StepProvider;
use crate::cache::{CacheError, Store};
use crate::executor::Request;
use crate::ident::{Cell, Fingerprint, RowKey};
use crate::prompt::Question;

/// Most bytes of answers that are kept in memory.
const RECENT_BYTES: usize = 8 << 20;
/// Bytes that an answer takes in memory besides its body.
const ENTRY_BYTES: usize = 200;

/// Answers in memory. If there is no room for another, the oldest leaves that no row has shared since it came, or since
/// it was last spared for being shared (the CLOCK algorithm; Corbató, "A Paging Experiment with the Multics System",
/// 1968): answers to frequent questions stay.
#[derive(Debug, Default)]
struct RecentAnswers {
    by_question: HashMap<Fingerprint, RecentAnswer>,
    order: VecDeque<Fingerprint>,
    bytes: usize,
}

#[derive(Debug)]
struct RecentAnswer {
    shared: SharedAnswer,
    /// Whether a row has shared it.
    is_used: bool,
}

impl RecentAnswer {
    fn bytes(&self) -> usize {
        self.shared.body.len() + ENTRY_BYTES
    }
}

impl RecentAnswers {
    /// Returns the answer to a question for a row that shares it.
    fn take_up(&mut self, key: Fingerprint) -> Option<SharedAnswer> {
        let recent = self.by_question.get_mut(&key)?;
        recent.is_used = true;
        Some(recent.shared.clone())
    }

    /// Adds an answer, if the question has none.
    fn insert(&mut self, key: Fingerprint, shared: &SharedAnswer) {
        let Entry::Vacant(entry) = self.by_question.entry(key) else { return };
        // The body is a slice of a larger buffer, which it would keep in memory.
        let shared = SharedAnswer { body: Bytes::copy_from_slice(&shared.body), ..shared.clone() };
        let recent = entry.insert(RecentAnswer { shared, is_used: false });
        self.bytes += recent.bytes();
        self.order.push_back(key);
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            match self.by_question.get_mut(&oldest) {
                Some(recent) if recent.is_used => {
                    recent.is_used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    let left = self.by_question.remove(&oldest);
                    self.bytes -= left.map_or(0, |recent| recent.bytes());
                }
            }
        }
    }
}

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
    recent: RecentAnswers,
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
        if let Some(shared) = self.recent.take_up(key) {
            return SharingState::Answer(shared);
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
            // All rows with the question share one copy of it. A row may be further than another: at a repair.
            if question.fingerprint() == request.question.fingerprint() {
                request.question = Arc::clone(question);
            }
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
        self.recent.insert(in_step(step, route, question), shared);
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

/// Returns the key of a question that only one row may ask, by that of the question.
pub(super) fn of_row(question: Fingerprint, row: &RowKey) -> Fingerprint {
    let number = row.row.to_le_bytes();
    Fingerprint::of([question.to_bytes().as_slice(), row.file.as_bytes(), number.as_slice()])
}

/// Returns the key of a question in the cache, by the model and its address, whoever sends it.
fn anywhere(provider: &StepProvider, question: Fingerprint) -> Fingerprint {
    Fingerprint::of([question.to_bytes().as_slice(), provider.address.as_bytes(), provider.model.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_rows_share_outlast_newer_ones() {
        let key = |number: u32| Fingerprint::of([number.to_le_bytes().as_slice()]);
        let shared = SharedAnswer { provider: "p".into(), model: "m".into(), body: vec![b'x'; 1_000].into() };
        let mut recent = RecentAnswers::default();
        let fitting = u32::try_from(RECENT_BYTES / (1_000 + ENTRY_BYTES)).unwrap();
        for number in 0..4 * fitting {
            recent.insert(key(number), &shared);
            recent.insert(key(number), &shared);
            if number % 100 == 0 {
                assert!(recent.take_up(key(0)).is_some(), "shared, and still there after {number} others");
            }
        }
        assert_eq!(recent.by_question.len(), recent.order.len());
        assert_eq!(recent.by_question.len(), fitting as usize);
        assert!(recent.bytes <= RECENT_BYTES && recent.bytes == fitting as usize * (1_000 + ENTRY_BYTES));
        assert!(recent.take_up(key(1)).is_none(), "never shared, and old");
        assert!(recent.take_up(key(4 * fitting - 1)).is_some());
    }
}
