//! The checkpoint's file: one JSON document, replaced as a whole.
//!
//! ```json
//! {"format":1,"checksum":"<32 hex digits>","checkpoint":{…}}
//! ```
//! The checksum is the [`Fingerprint`] of the bytes of the inner document as they stand: a flipped digit
//! in a row range would lose rows without a word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::plan::{PlannedBatch, Position, SourceId};
use crate::faultpoint::{self, Side};
use crate::ident::{BatchId, Fingerprint, Lineage};
use crate::store::{self, StoreError};

const FORMAT: u32 = 1;
const NAME: &str = "checkpoint.json";

/// What is planned and how far the source is read. `P` says how far: a [`Position`] of the source for a run,
/// [`Retrying`](super::Retrying) for a retry of failed rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint<P = Position> {
    /// Name of the job.
    pub app_id: String,
    /// Made with the checkpoint; half of what tells its commits from another's.
    pub lineage: Lineage,
    /// What is read.
    pub source: SourceId,
    /// Id of the target table.
    pub target_id: String,
    /// Number of the next batch to plan.
    pub next_batch: BatchId,
    /// Position of the source after the last planned batch.
    pub position: P,
    /// Batches that are planned and not known to be committed, in order.
    pub planned: Vec<PlannedBatch>,
    /// For a checkpoint that was rebuilt: the newest batch that was committed under the `app_id` then. It
    /// counts as this lineage's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<BatchId>,
    /// What the steps asked when it was saved, by output: to tell when that changes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, String>,
    /// Whether the target is still to be emptied, for a job that starts over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clears_target: bool,
}

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file or its folder is out of reach.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not what was written.
    #[error("the checkpoint {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file was written by a later version of this program.
    #[error("the checkpoint {} has format {found}, and this version reads {FORMAT}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    checksum: String,
    #[serde(borrow)]
    checkpoint: &'a RawValue,
}

/// Where a checkpoint is kept.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    path: PathBuf,
}

impl CheckpointFile {
    /// The checkpoint in this folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        CheckpointFile { path: folder.join(NAME) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the checkpoint; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is of a later format.
    pub fn load<P: DeserializeOwned>(&self) -> Result<Option<Checkpoint<P>>, CheckpointError> {
        store::read(&self.path)?.map(|bytes| self.decode(&bytes)).transpose()
    }

    fn decode<P: DeserializeOwned>(&self, bytes: &[u8]) -> Result<Checkpoint<P>, CheckpointError> {
        let damaged = |what: &dyn ToString| CheckpointError::Damaged {
            path: self.path.clone(),
            what: what.to_string(),
        };
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        if envelope.format != FORMAT {
            return Err(CheckpointError::Version { path: self.path.clone(), found: envelope.format });
        }
        let body = envelope.checkpoint.get();
        if checksum(body) != envelope.checksum {
            return Err(damaged(&"its checksum does not match its content"));
        }
        serde_json::from_str(body).map_err(|error| damaged(&error))
    }

    /// Replaces the checkpoint. When it returns, the new one is on the disk.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn save<P: Serialize>(&self, checkpoint: &Checkpoint<P>) -> Result<(), CheckpointError> {
        let body = serde_json::value::to_raw_value(checkpoint).expect("a checkpoint has only string keys");
        let envelope = Envelope { format: FORMAT, checksum: checksum(body.get()), checkpoint: &body };
        let bytes = serde_json::to_vec(&envelope).expect("writing JSON to memory does not fail");
        faultpoint::pass("checkpoint", Side::Before).map_err(StoreError::of("write", &self.path))?;
        store::replace(&self.path, &bytes)?;
        faultpoint::pass("checkpoint", Side::After).map_err(StoreError::of("write", &self.path))?;
        Ok(())
    }
}

fn checksum(body: &str) -> String {
    Fingerprint::of([body.as_bytes()]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            app_id: "a".into(),
            lineage: Lineage::random(),
            source: SourceId::Delta { table_id: "t".into() },
            target_id: "u".into(),
            next_batch: BatchId::new(7),
            position: Position::DeltaLog { version: 3, files: 1, row: 20 },
            planned: Vec::new(),
            adopted: None,
            steps: BTreeMap::new(),
            clears_target: false,
        }
    }

    #[test]
    fn a_flipped_byte_is_never_read_as_another_plan() {
        let folder = tempfile::tempdir().unwrap();
        let file = CheckpointFile::in_folder(folder.path());
        let checkpoint = sample();
        file.save(&checkpoint).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        for at in 0..bytes.len() {
            for mask in [1, 0x20, 0x80] {
                let mut flipped = bytes.clone();
                flipped[at] ^= mask;
                if let Ok(read) = file.decode(&flipped) {
                    assert_eq!(read, checkpoint, "byte {at}");
                }
            }
            assert!(file.decode::<Position>(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
