//! Catches panics of third-party code on the data of one row.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread would now be caught and become the error of a row.
#[must_use]
pub fn is_caught() -> bool {
    IS_CAUGHT.get()
}

/// Runs code on the data of a row. After an error, the values that it worked on must not be used any more.
///
/// # Errors
/// With the message of a panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_CAUGHT.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(before);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(catch(|| 7), Ok(7));
        assert_eq!(catch(|| -> u8 { panic!("odd {}", "row") }), Err("odd row".to_owned()));
        assert_eq!(catch(|| catch(is_caught)), Ok(Ok(true)));
        assert!(!is_caught());
    }
}
