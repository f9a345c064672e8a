//! The posted batches: which are known, who waits for them, and what became of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::columns::PostedRows;
use super::error::ServiceError;
use crate::clock::{self, Instant};
use crate::config::WindowLimits;
use crate::ident::{BatchId, Fingerprint};

/// The name of a batch in its epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BatchName {
    pub(super) epoch: u64,
    pub(super) name: String,
}

/// How far a batch has come.
#[derive(Clone, Debug)]
enum BatchProgress {
    /// Its rows have no outcomes yet.
    Pending,
    /// Its outcomes, row by row.
    Filled(RecordBatch),
    /// It is not known any more.
    Gone(ServiceError),
}

/// The posted batches of a service.
#[derive(Debug)]
pub(super) struct Register {
    window: WindowLimits,
    /// Names of the batches that wait to be taken up, as they came.
    inbox: mpsc::Sender<BatchName>,
    withdrawals: mpsc::Sender<BatchId>,
    state: Mutex<RegisterState>,
    /// Changes when there is room for more rows.
    room: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct RegisterState {
    batches: HashMap<BatchName, RegisteredBatch>,
    /// Batches that are taken up, by number.
    names: BTreeMap<BatchId, BatchName>,
    /// Rows and bytes of the batches that wait for their outcomes or to be fetched.
    held: (u64, u64),
    /// Batches that were fetched, oldest first, and the bytes of their outcomes.
    fetched: VecDeque<BatchName>,
    fetched_bytes: u64,
    /// Why no batch is taken in any more.
    closed: Option<ServiceError>,
}

#[derive(Debug)]
struct RegisteredBatch {
    content: Fingerprint,
    /// Its rows, until it is taken up.
    posted: Option<PostedRows>,
    rows: u64,
    bytes: u64,
    id: Option<BatchId>,
    waiting: usize,
    /// When somebody last waited for it.
    last_waited: Instant,
    is_fetched: bool,
    progress: watch::Sender<BatchProgress>,
}

/// Sizes of what a register holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) batches: usize,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Register {
    pub(super) fn new(
        window: WindowLimits,
        inbox: mpsc::Sender<BatchName>,
        withdrawals: mpsc::Sender<BatchId>,
    ) -> Self {
        let (state, room) = (Mutex::default(), watch::Sender::default());
        Register { window, inbox, withdrawals, state, room }
    }

    fn state(&self) -> MutexGuard<'_, RegisterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a batch, unless it is known, and waits for its outcomes on behalf of the caller.
    ///
    /// # Errors
    /// When it is not taken in.
    pub(super) fn post(
        self: &Arc<Self>,
        name: &BatchName,
        posted: PostedRows,
    ) -> Result<Posting, ServiceError> {
        let content = posted.content;
        if let Some(posting) = self.find(name, Some(content))? {
            return Ok(posting);
        }
        let (rows, bytes) = (posted.rows.num_rows() as u64, posted.rows.get_array_memory_size() as u64);
        self.check_size(rows, bytes)?;
        let mut state = self.state();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        let (held_rows, held_bytes) = state.held;
        let is_full = held_rows + rows > self.window.max_rows || held_bytes + bytes > self.window.max_bytes;
        // Another request may have posted the same name in between.
        if is_full && held_rows > 0 && !state.batches.contains_key(name) {
            return Err(ServiceError::Full);
        }
        if !state.batches.contains_key(name) {
            self.inbox.try_send(name.clone()).map_err(|_| ServiceError::Full)?;
            state.held = (held_rows + rows, held_bytes + bytes);
            let entry = RegisteredBatch {
                content,
                posted: Some(posted),
                rows,
                bytes,
                id: None,
                waiting: 0,
                last_waited: clock::now(),
                is_fetched: false,
                progress: watch::Sender::new(BatchProgress::Pending),
            };
            state.batches.insert(name.clone(), entry);
        }
        drop(state);
        self.find(name, Some(content))?.ok_or(ServiceError::Stopping)
    }

    /// Checks that a batch fits into the window.
    pub(super) fn check_size(&self, rows: u64, bytes: u64) -> Result<(), ServiceError> {
        let WindowLimits { max_rows, max_bytes } = self.window;
        match rows > max_rows || bytes > max_bytes {
            true => Err(ServiceError::TooLarge(format!(
                "a batch of {rows} rows and {bytes} bytes is larger than the window (window.max_rows = {max_rows}, window.max_bytes = {max_bytes}); post smaller ones"
            ))),
            false => Ok(()),
        }
    }

    /// Waits for a known batch on behalf of the caller. `content` is what the caller posts, if it posts it.
    ///
    /// # Errors
    /// When the batch has another content, and when the service has ended without its outcomes.
    pub(super) fn find(
        self: &Arc<Self>,
        name: &BatchName,
        content: Option<Fingerprint>,
    ) -> Result<Option<Posting>, ServiceError> {
        let mut state = self.state();
        let closed = state.closed.clone();
        let Some(entry) = state.batches.get_mut(name) else { return closed.map_or(Ok(None), Err) };
        if content.is_some_and(|content| content != entry.content) {
            return Err(ServiceError::OtherRows);
        }
        entry.waiting += 1;
        let progress = entry.progress.subscribe();
        drop(state);
        Ok(Some(Posting { register: Arc::clone(self), name: name.clone(), progress }))
    }

    /// Gives a batch its number, and returns its rows. `None` if nobody waits for it any more, or it has a number.
    pub(super) fn take_up(&self, name: &BatchName, id: BatchId) -> Option<PostedRows> {
        let mut state = self.state();
        let entry = state.batches.get_mut(name)?;
        let posted = entry.posted.take()?;
        entry.id = Some(id);
        state.names.insert(id, name.clone());
        Some(posted)
    }

    /// Hands over the outcomes of a batch.
    pub(super) fn fill(&self, id: BatchId, outcomes: RecordBatch) {
        let mut state = self.state();
        let Some(name) = state.names.remove(&id) else { return };
        let Some(entry) = state.batches.get_mut(&name) else { return };
        let (before, after) = (entry.bytes, outcomes.get_array_memory_size() as u64);
        entry.bytes = after;
        entry.progress.send_replace(BatchProgress::Filled(outcomes));
        state.held.1 = state.held.1 - before + after;
    }

    /// Notes that somebody has the outcomes of a batch: they make room for others, and stay for a while.
    fn fetched(&self, name: &BatchName) {
        let mut state = self.state();
        let Some(entry) = state.batches.get_mut(name).filter(|entry| !entry.is_fetched) else { return };
        entry.is_fetched = true;
        let (rows, bytes) = (entry.rows, entry.bytes);
        state.held = (state.held.0 - rows, state.held.1 - bytes);
        state.fetched.push_back(name.clone());
        state.fetched_bytes += bytes;
        while state.fetched_bytes > self.window.max_bytes / 4
            && let Some(oldest) = state.fetched.pop_front()
        {
            state.forget(&oldest);
        }
        drop(state);
        self.room.send_replace(());
    }

    /// Drops the batches for which nobody has waited for a time, and withdraws those without outcomes.
    pub(super) fn sweep(&self, keep: Duration) {
        let mut state = self.state();
        let now = clock::now();
        let is_left = |entry: &RegisteredBatch| {
            entry.waiting == 0 && now.saturating_duration_since(entry.last_waited) > keep
        };
        let left: Vec<BatchName> =
            state.batches.iter().filter(|(_, entry)| is_left(entry)).map(|(name, _)| name.clone()).collect();
        for name in &left {
            let Some(entry) = state.batches.get(name) else { continue };
            let is_pending = matches!(*entry.progress.borrow(), BatchProgress::Pending);
            if let (true, Some(id)) = (is_pending, entry.id)
                && let Err(TrySendError::Full(_)) = self.withdrawals.try_send(id)
            {
                // Too many at once: the next sweep goes on.
                break;
            }
            state.forget(name);
        }
        drop(state);
        if !left.is_empty() {
            self.room.send_replace(());
        }
    }

    /// Takes in no more batches, and tells those who wait for outcomes why there are none.
    pub(super) fn close(&self, why: &ServiceError) {
        let mut state = self.state();
        state.closed = Some(why.clone());
        for entry in state.batches.values() {
            entry.progress.send_if_modified(|progress| {
                let is_pending = matches!(progress, BatchProgress::Pending);
                if is_pending {
                    *progress = BatchProgress::Gone(why.clone());
                }
                is_pending
            });
        }
        drop(state);
        self.room.send_replace(());
    }

    /// Why no batch is taken in any more; `None` while batches are.
    pub(super) fn closed(&self) -> Option<ServiceError> {
        self.state().closed.clone()
    }

    /// Returns a receiver that changes when there is room for more rows.
    pub(super) fn room(&self) -> watch::Receiver<()> {
        self.room.subscribe()
    }

    pub(super) fn held(&self) -> Held {
        let state = self.state();
        Held { batches: state.batches.len() - state.fetched.len(), rows: state.held.0, bytes: state.held.1 }
    }
}

impl RegisterState {
    fn forget(&mut self, name: &BatchName) {
        let Some(entry) = self.batches.remove(name) else { return };
        if let Some(id) = entry.id {
            self.names.remove(&id);
        }
        if entry.is_fetched {
            self.fetched.retain(|fetched| fetched != name);
            self.fetched_bytes -= entry.bytes;
        } else {
            self.held = (self.held.0 - entry.rows, self.held.1 - entry.bytes);
        }
    }
}

/// A wait for the outcomes of a batch. As long as there is one, the rows of the batch are sent.
#[derive(Debug)]
pub struct Posting {
    register: Arc<Register>,
    name: BatchName,
    progress: watch::Receiver<BatchProgress>,
}

impl Posting {
    /// Waits for the outcomes of the batch, for at most `most`, and returns them: one row for each posted row, in order.
    /// `None` if they are not there yet.
    ///
    /// # Errors
    /// When the service has ended without them.
    pub async fn outcomes(&mut self, most: Duration) -> Result<Option<RecordBatch>, ServiceError> {
        let settled = self.progress.wait_for(|progress| !matches!(progress, BatchProgress::Pending));
        let progress = match timeout(most, settled).await {
            Err(_) => return Ok(None),
            Ok(Err(_)) => return Err(ServiceError::Stopping),
            Ok(Ok(progress)) => progress.clone(),
        };
        match progress {
            BatchProgress::Pending => Ok(None),
            BatchProgress::Gone(why) => Err(why),
            BatchProgress::Filled(outcomes) => {
                self.register.fetched(&self.name);
                Ok(Some(outcomes))
            }
        }
    }
}

impl Drop for Posting {
    fn drop(&mut self) {
        if let Some(entry) = self.register.state().batches.get_mut(&self.name)
            // A batch that was dropped may have been posted again.
            && self.progress.same_channel(&entry.progress.subscribe())
        {
            entry.waiting -= 1;
            entry.last_waited = clock::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn posted(number: i64) -> PostedRows {
        let values = Arc::new(Int64Array::from_value(number, 3));
        let rows = RecordBatch::try_from_iter([("number", values as _)]).unwrap();
        let content = Fingerprint::of([number.to_le_bytes().as_slice()]);
        PostedRows { rows, keys: vec![1, 2, 3], content }
    }

    #[test]
    fn rows_that_nobody_waits_for_leave_memory_and_are_not_taken_for_later_ones_of_their_name() {
        let (inbox, mut names) = mpsc::channel(8);
        let (withdraw, mut withdrawn) = mpsc::channel(8);
        let window = WindowLimits { max_rows: 3, max_bytes: 1_000 };
        let register = Arc::new(Register::new(window, inbox, withdraw));
        let name = || BatchName { epoch: 0, name: "name".to_owned() };
        drop(register.post(&name(), posted(1)).unwrap());
        std::thread::sleep(Duration::from_millis(1));
        register.sweep(Duration::ZERO);
        assert_eq!(register.held().rows, 0);
        let waits = register.post(&name(), posted(2)).unwrap();
        assert!(matches!(register.post(&name(), posted(1)), Err(ServiceError::OtherRows)));
        let taken = register.take_up(&names.try_recv().unwrap(), BatchId::new(7)).unwrap();
        assert_eq!(taken.content, posted(2).content);
        assert!(register.take_up(&names.try_recv().unwrap(), BatchId::new(8)).is_none());
        drop(waits);
        std::thread::sleep(Duration::from_millis(1));
        register.sweep(Duration::ZERO);
        assert_eq!(withdrawn.try_recv(), Ok(BatchId::new(7)));
        assert_eq!((register.held().rows, register.held().bytes, register.held().batches), (0, 0, 0));
    }
}
