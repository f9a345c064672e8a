//! How far the file is read that is being staged, for messages while a source is opened.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Location;

/// How far the file is read that is being staged. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StagingProgress {
    /// The file and its size in bytes; `None` while none is staged.
    file: Arc<Mutex<Option<(Location, u64)>>>,
    /// Bytes of it that were read, from its beginning on.
    read: Arc<AtomicU64>,
}

impl StagingProgress {
    /// Returns a description of what is being staged; `None` if nothing is.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, size) = file.as_ref()?;
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let read = self.read.load(Ordering::Relaxed).min(*size);
        Some(format!("reading {at}: {} of {} MB", megabytes(read), megabytes(*size)))
    }

    /// Begins a file of so many bytes.
    pub(super) fn begin(&self, at: Location, size: u64) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, size));
        self.read.store(0, Ordering::Relaxed);
    }

    /// Ends the file.
    pub(super) fn end(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns a reader of the file from its beginning on, whose bytes are counted.
    pub(super) fn counted<R: Read>(&self, inner: R) -> CountingReader<R> {
        self.read.store(0, Ordering::Relaxed);
        CountingReader { inner, read: Arc::clone(&self.read) }
    }
}

/// A reader whose bytes are counted.
pub(super) struct CountingReader<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_with_what_is_read_of_it() {
        let progress = StagingProgress::default();
        assert_eq!(progress.text(), None);
        progress.begin(Location::local("/a.csv"), 3_000_000);
        let mut reader = progress.clone().counted(io::repeat(0));
        reader.read_exact(&mut vec![0; 1_500_000]).unwrap();
        assert_eq!(progress.text().unwrap(), "reading /a.csv: 2 of 3 MB");
        drop(progress.counted(io::empty()));
        assert_eq!(progress.text().unwrap(), "reading /a.csv: 0 of 3 MB", "a second pass");
        progress.end();
        assert_eq!(progress.text(), None);
    }
}
