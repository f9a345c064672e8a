//! Bounds on the reading of documents.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

/// The argument with which a program reads documents; the maximum memory in bytes follows it.
pub const READER_COMMAND: &str = "read-document";
/// Maximum time for a document, after which its process is ended.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Maximum memory of a process that reads documents, its stack included, in bytes.
pub const MEMORY_BYTES: u64 = 512 << 20;
/// Stack of the thread that reads documents, in bytes.
pub const STACK_BYTES: usize = 32 << 20;
/// Maximum size of a document, in bytes.
pub const DOCUMENT_BYTES: usize = 64 << 20;
/// Maximum size of a document's text, or of its chunks, in bytes.
pub const TEXT_BYTES: usize = 64 << 20;

/// What happens when a document cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnread {
    /// The function returns null, and the reason is counted.
    #[default]
    Skip,
    /// The query fails with the reason.
    Stop,
}

/// How documents are read.
#[derive(Clone, Debug)]
pub struct DocumentSettings {
    /// The program that reads documents with [`READER_COMMAND`]; this program itself if `None`. A program that embeds
    /// this library names `enrich` here, or calls [`super::serve_reader`] itself when it is started with that.
    pub program: Option<PathBuf>,
    /// Maximum number of processes that read at the same time.
    pub processes: NonZeroUsize,
    /// Maximum time for a document.
    pub time_limit: Duration,
    /// Maximum memory of a process, in bytes.
    pub memory_bytes: u64,
    /// Maximum size of a document, in bytes.
    pub document_bytes: usize,
    /// What happens when a document cannot be read.
    pub on_unread: OnUnread,
}

impl Default for DocumentSettings {
    fn default() -> Self {
        DocumentSettings {
            program: None,
            processes: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            time_limit: TIME_LIMIT,
            memory_bytes: MEMORY_BYTES,
            document_bytes: DOCUMENT_BYTES,
            on_unread: OnUnread::default(),
        }
    }
}
