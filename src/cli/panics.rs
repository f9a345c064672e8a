//! Panics that are no news.

use std::panic;

use crate::panics::is_caught;

/// Says nothing of panics that become the errors of rows, nor of two others, and of all others what is said of any:
///
/// - deltalake expects and catches one: a file that could not be written to its end, on a full disk say, is given up by
///   `BufWriter::abort` of object_store, which panics for one whose end was begun
///   (`deltalake_core::datafile::writer::upload_parquet_file`). The error itself is told.
/// - A run that is stopped while it opens a table leaves the kernel's executor waiting for a task that will not end.
pub(super) fn pass_over_expected() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let is_expected = panic.location().is_some_and(|place| {
            let is_of =
                |package: &str, file: &str| place.file().contains(package) && place.file().ends_with(file);
            is_of("object_store", "buffered.rs") || is_of("kernel_engine", "executor.rs")
        });
        if !is_expected && !is_caught() {
            told(panic);
        }
    }));
}
