//! Panics are reported by whoever waits for the task that they end.
//!
//! A panic on a thread of the runtime ends one task, and the task's end reaches whoever joins it: as the error of a row,
//! of a write (deltalake joins its own tasks), or of the command. So its message is kept, and printed only if the command
//! ends for that reason. On all other threads a panic is printed where it happens.

use std::cell::Cell;
use std::panic;
use std::sync::{Mutex, PoisonError};

use crate::panics::is_caught;

/// Number of messages that are kept.
const MAX_KEPT: usize = 16;

static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static IS_RUNTIME_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one of the runtime.
pub(super) fn mark_runtime_thread() {
    IS_RUNTIME_THREAD.set(true);
}

/// Keeps the messages of panics on threads of the runtime, from now on. Panics that become errors of rows leave none.
pub(super) fn keep_messages() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_caught() {
            return;
        }
        if !IS_RUNTIME_THREAD.get() {
            return print(panic);
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.push(panic.to_string());
        }
    }));
}

/// Returns the messages that were kept, and forgets them.
pub(super) fn take_messages() -> Vec<String> {
    std::mem::take(&mut KEPT.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_on_a_thread_of_the_runtime_is_kept() {
        keep_messages();
        let thread = std::thread::spawn(|| {
            mark_runtime_thread();
            panic!("an odd task");
        });
        assert!(thread.join().is_err());
        let kept = take_messages();
        assert!(kept.iter().any(|text| text.contains("an odd task")), "{kept:?}");
        assert!(take_messages().is_empty());
    }
}
