//! Moves bytes out of memory into a temporary file.
//!
//! The file has no name and disappears with the process. Nothing is lost with it: the answers are in the journal, too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A temporary file for spilled bytes. Clones share the file.
#[derive(Clone, Debug)]
pub struct SpillFile(Arc<SpillState>);

#[derive(Debug)]
struct SpillState {
    file: File,
    end: AtomicU64,
}

/// Bytes that were moved to a file.
#[derive(Clone, Debug)]
pub struct Spilled {
    file: SpillFile,
    offset: u64,
    len: usize,
}

impl SpillFile {
    /// Creates an unnamed file on the file system that holds `folder`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(SpillFile(Arc::new(SpillState { file, end: AtomicU64::new(0) })))
    }

    /// Appends bytes to the file.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Spilled> {
        let offset = self.0.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.0.file.write_all_at(bytes, offset)?;
        Ok(Spilled { file: self.clone(), offset, len: bytes.len() })
    }
}

impl Spilled {
    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the bytes back.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len];
        self.file.0.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}

impl PartialEq for Spilled {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file.0, &other.file.0) && self.offset == other.offset && self.len == other.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_is_read_back_and_the_folder_stays_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = SpillFile::create_in(folder.path()).unwrap();
        let (one, two, none) =
            (file.write(b"one").unwrap(), file.write(b"two two").unwrap(), file.write(b"").unwrap());
        assert_eq!(two.read().unwrap(), b"two two");
        assert_eq!(one.read().unwrap(), b"one");
        assert!(none.is_empty() && none.read().unwrap().is_empty() && two.len() == 7);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
