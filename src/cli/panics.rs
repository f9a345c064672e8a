//! Expected panics, whose messages are suppressed.

use std::panic;

use crate::panics::is_caught;

/// Suppresses the messages of panics that become errors of rows, and of two other kinds. All other panics are reported
/// as before.
///
/// - deltalake expects and catches one. A file that could not be written completely, for example on a full disk, is
///   abandoned by `BufWriter::abort` of object_store, which panics if the file was already being completed
///   (`deltalake_core::datafile::writer::upload_parquet_file`). The error itself is reported.
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
