//! A bound on the memory that bodies take while they wait to be written.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A fixed number of bytes, shared by the threads that put answers.
#[derive(Debug)]
pub(super) struct ByteBudget {
    bytes: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

/// Bytes taken from a budget. Dropping them gives them back.
#[derive(Debug)]
pub(super) struct ReservedBytes {
    room: Arc<ByteBudget>,
    bytes: usize,
}

impl ByteBudget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(ByteBudget { bytes, free: Mutex::new(bytes), freed: Condvar::new() })
    }

    /// Takes `bytes` bytes once they are free. If `bytes` is more than the whole budget, takes all of it.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> ReservedBytes {
        let bytes = bytes.min(self.bytes);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(free, |free| *free < bytes);
        *waited.unwrap_or_else(PoisonError::into_inner) -= bytes;
        ReservedBytes { room: Arc::clone(self), bytes }
    }
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        *self.room.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.room.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_a_place_to_be_given_back() {
        let room = ByteBudget::new(10);
        let first = room.take(7);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| room.take(99).bytes);
            drop(first);
            assert_eq!(second.join().unwrap(), 10);
        });
        assert_eq!(*room.free.lock().unwrap(), 10);
    }
}
