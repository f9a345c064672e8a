//! The files and batches that the simulator holds. Contents are in files without a name.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::clock::{self, Instant};
use crate::config::BatchesSpec;

/// All files and batches, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct StoredBatches {
    pub(super) files: Vec<UploadedFile>,
    /// Files whose content is still to come, or to be reported.
    pub(super) announced: Vec<AnnouncedFile>,
    pub(super) batches: Vec<SimulatedBatch>,
}

/// The state of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimulatedBatchState {
    Validating,
    InProgress,
    Finalizing,
    Completed,
    Failed,
    Expired,
    Cancelling,
    Cancelled,
}

impl SimulatedBatchState {
    pub(super) fn name(self) -> &'static str {
        match self {
            SimulatedBatchState::Validating => "validating",
            SimulatedBatchState::InProgress => "in_progress",
            SimulatedBatchState::Finalizing => "finalizing",
            SimulatedBatchState::Completed => "completed",
            SimulatedBatchState::Failed => "failed",
            SimulatedBatchState::Expired => "expired",
            SimulatedBatchState::Cancelling => "cancelling",
            SimulatedBatchState::Cancelled => "cancelled",
        }
    }

    pub(super) fn is_end(self) -> bool {
        matches!(
            self,
            SimulatedBatchState::Completed
                | SimulatedBatchState::Failed
                | SimulatedBatchState::Expired
                | SimulatedBatchState::Cancelled
        )
    }
}

/// A batch.
#[derive(Debug)]
pub(super) struct SimulatedBatch {
    pub(super) id: String,
    /// Its number among all batches, from 0.
    pub(super) number: u32,
    pub(super) endpoint: String,
    /// Model of all lines, where they do not state it.
    pub(super) model: Option<String>,
    pub(super) input: FileContent,
    pub(super) input_id: String,
    pub(super) completion_window: String,
    pub(super) metadata: Value,
    pub(super) key: String,
    pub(super) idempotency_key: Option<String>,
    pub(super) state: SimulatedBatchState,
    pub(super) made: Instant,
    pub(super) created: DateTime<Utc>,
    pub(super) expires: Instant,
    pub(super) expires_at: DateTime<Utc>,
    /// Tokens of its prompts that count against the limit while it has not ended.
    pub(super) enqueued_tokens: u64,
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    /// Errors of its validation.
    pub(super) errors: Option<Value>,
    pub(super) output_file: Option<String>,
    pub(super) error_file: Option<String>,
    pub(super) ended: Option<Instant>,
    /// Whether its end was shown to somebody.
    pub(super) was_seen_ended: bool,
    /// Whether it was shown as running after that.
    pub(super) has_revived: bool,
}

impl StoredBatches {
    /// Returns the file with this id that a key finds.
    pub(super) fn file(&self, id: &str, key: &str, spec: &BatchesSpec) -> Option<&UploadedFile> {
        self.files.iter().find(|file| file.id == id && file.is_seen_with(key, spec))
    }

    /// Returns the batch with this id.
    pub(super) fn batch(&mut self, id: &str) -> Option<&mut SimulatedBatch> {
        self.batches.iter_mut().find(|batch| batch.id == id)
    }

    /// Tokens of the prompts of all batches that have not ended.
    pub(super) fn enqueued_tokens(&self) -> u64 {
        self.batches.iter().filter(|batch| !batch.state.is_end()).map(|batch| batch.enqueued_tokens).sum()
    }
}

impl SimulatedBatch {
    pub(super) fn is_seen_with(&self, key: &str, spec: &BatchesSpec) -> bool {
        !spec.each_key_apart || self.key == key
    }
}

/// The content of a file. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct FileContent {
    file: Arc<File>,
    pub(super) len: u64,
}

impl FileContent {
    /// Reads a range, which must lie within the content.
    pub(super) fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    /// Returns the content compressed with gzip.
    pub(super) fn gzipped(&self) -> io::Result<FileContent> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.read(0, self.len)?)?;
        let mut compressed = ContentWriter::create()?;
        compressed.append(&encoder.finish()?)?;
        compressed.finish()
    }
}

/// A content that is being written.
#[derive(Debug)]
pub(super) struct ContentWriter {
    file: io::BufWriter<File>,
    pub(super) len: u64,
}

impl ContentWriter {
    pub(super) fn create() -> io::Result<Self> {
        Ok(ContentWriter { file: io::BufWriter::new(tempfile::tempfile()?), len: 0 })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    pub(super) fn finish(self) -> io::Result<FileContent> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(FileContent { file: Arc::new(file), len: self.len })
    }
}

/// A stored file.
#[derive(Debug)]
pub(super) struct UploadedFile {
    pub(super) id: String,
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) created: DateTime<Utc>,
    pub(super) made: Instant,
    /// The key that it was uploaded with.
    pub(super) key: String,
    pub(super) content: FileContent,
}

/// A file that is announced, and not uploaded yet.
#[derive(Debug)]
pub(super) struct AnnouncedFile {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) purpose: String,
    /// The key that it was announced with.
    pub(super) key: String,
    pub(super) content: Option<FileContent>,
}

impl UploadedFile {
    /// Creates a file with a new id, which belongs to a key.
    pub(super) fn new(filename: String, purpose: &str, key: &str, content: FileContent) -> Self {
        UploadedFile {
            id: format!("file-{}", uuid::Uuid::new_v4().simple()),
            filename,
            purpose: purpose.to_owned(),
            created: clock::wall(),
            made: clock::now(),
            key: key.to_owned(),
            content,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.content.len,
            "created_at": self.created.timestamp(),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        })
    }

    /// Whether a request with this key finds it.
    pub(super) fn is_seen_with(&self, key: &str, spec: &BatchesSpec) -> bool {
        !spec.each_key_apart || self.key == key
    }
}
