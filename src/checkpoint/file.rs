//! The checkpoint: the planned batches of a job, and how far its source is read.
//!
//! In an object store a run replaces the file only if it is still the version that this run read or wrote last. So the
//! later one of two concurrent runs of a job fails before it has planned anything, and a batch number always stands
//! for the same batch.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checksummed_file::{ChecksummedFile, ChecksummedFileKind};
use super::error::CheckpointError;
use super::plan::{PlannedBatch, Position, SourceId};
use crate::ident::{AppId, BatchId, Lineage};
use crate::passed::PassedOver;
use crate::store::{Folder, Location};

const KIND: ChecksummedFileKind = ChecksummedFileKind {
    what: "checkpoint",
    name: "checkpoint.json",
    aside: "checkpoint.damaged",
    key: "checkpoint",
    format: 1,
    action: "checkpoint",
};

/// The planned batches of a job, and how far its source is read. `P` is the type of the position: [`Position`] for a
/// run, [`Retrying`](super::Retrying) for a retry of failed rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint<P = Position> {
    /// Name of the job.
    pub app_id: AppId,
    /// Id made with the checkpoint. With `app_id` it distinguishes the commits of this checkpoint from those of
    /// others.
    pub lineage: Lineage,
    /// The source that is read.
    pub source: SourceId,
    /// Id of the target table.
    pub target_id: String,
    /// Number of the next batch to plan.
    pub next_batch: BatchId,
    /// Position of the source after the last planned batch.
    pub position: P,
    /// Number of rows before `position` that no run sends to a model; `None` where they were not counted: in
    /// checkpoints of programs before December 2026, in those rebuilt from the target, and in those of retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<PassedOver>,
    /// Batches that are planned and not known to be committed, in order.
    pub planned: Vec<PlannedBatch>,
    /// The newest batch that was committed under the `app_id` when this checkpoint was rebuilt or the job started
    /// over. It counts as committed by this lineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<BatchId>,
    /// Hash of the prompt and names of the models of each step, by output column, when the checkpoint was saved. A run
    /// reports steps that have changed since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, String>,
    /// Whether the target is still to be emptied, for a job that starts over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clears_target: bool,
    /// When the job started over, if answers that were paid for before are not to be used; otherwise `None`. Cleared
    /// when the job reaches its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks_all_since: Option<DateTime<Utc>>,
    /// The version of the target up to which commits were searched for a RESTORE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_seen: Option<u64>,
    /// The newest known RESTORE of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<TargetRestore>,
    /// Why the job sends no requests until a person has acted; `None` if it is not paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
}

/// A RESTORE: a commit that took a target back to an earlier version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRestore {
    /// The version that the commit made.
    pub version: u64,
    /// Whether a run has since processed all rows that were missing after the commit.
    pub is_refilled: bool,
}

/// Why a job is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When the job was paused.
    pub since: DateTime<Utc>,
    /// What was wrong, in words.
    pub why: String,
    /// Hash of the settings that decided about the answers at that time.
    pub cause: String,
}

/// The file of a checkpoint, on a disk or in an object store.
#[derive(Clone, Debug)]
pub struct CheckpointFile(ChecksummedFile);

impl CheckpointFile {
    /// Returns the checkpoint file of a folder, without reading it.
    #[must_use]
    pub fn in_folder(folder: &Folder) -> Self {
        CheckpointFile(ChecksummedFile::in_folder(folder, KIND))
    }

    /// Returns the location of the file.
    #[must_use]
    pub fn at(&self) -> Location {
        self.0.at()
    }

    /// Reads the checkpoint; `None` if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or has a later format.
    pub async fn load<P: DeserializeOwned>(&self) -> Result<Option<Checkpoint<P>>, CheckpointError> {
        self.0.load().await
    }

    /// Notes which version of the file is in the object store without decoding it, so that [`CheckpointFile::save`]
    /// may replace it. Does nothing on a local disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn look(&self) -> Result<(), CheckpointError> {
        self.0.look().await
    }

    /// Replaces the checkpoint. When this returns, the new one is durable on the disk or in the store.
    ///
    /// # Errors
    /// When the file cannot be written, which leaves the old one in place. [`CheckpointError::Changed`] when the
    /// store holds another version than the one that was read or written last.
    pub async fn save<P: Serialize>(&self, checkpoint: &Checkpoint<P>) -> Result<(), CheckpointError> {
        self.0.save(checkpoint).await
    }

    /// Moves a checkpoint that cannot be read aside, and returns its new location.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub async fn put_aside(&self) -> Result<Location, CheckpointError> {
        self.0.put_aside().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Objects;

    fn sample() -> Checkpoint {
        Checkpoint {
            app_id: "a".into(),
            lineage: Lineage::random(),
            source: SourceId::Delta { table_id: "t".into() },
            target_id: "u".into(),
            next_batch: BatchId::new(7),
            position: Position::DeltaLog { version: 3, files: 1, row: 20 },
            passed: None,
            planned: Vec::new(),
            adopted: None,
            steps: BTreeMap::new(),
            clears_target: false,
            asks_all_since: None,
            target_seen: None,
            restored: None,
            paused: None,
        }
    }

    #[tokio::test]
    async fn a_flipped_byte_is_never_read_as_another_plan() {
        let folder = tempfile::tempdir().unwrap();
        let file = CheckpointFile::in_folder(&Folder::Local(folder.path().to_owned()));
        let checkpoint = sample();
        file.save(&checkpoint).await.unwrap();
        let bytes = std::fs::read(folder.path().join(KIND.name)).unwrap();
        for at in 0..bytes.len() {
            for mask in [1, 0x20, 0x80] {
                let mut flipped = bytes.clone();
                flipped[at] ^= mask;
                if let Ok(read) = file.0.decode::<Checkpoint>(&flipped) {
                    assert_eq!(read, checkpoint, "byte {at}");
                }
            }
            assert!(file.0.decode::<Checkpoint>(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[tokio::test]
    async fn of_two_runs_over_one_checkpoint_in_a_store_one_learns_that_it_came_late() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let at = Location::resolve("s3://bucket/job", std::path::Path::new("/")).unwrap();
        let open = || CheckpointFile::in_folder(&Folder::Remote(Objects::new(at.clone(), store.clone())));
        let (one, other) = (open(), open());
        assert_eq!(one.load::<Position>().await.unwrap(), None);
        assert_eq!(other.load::<Position>().await.unwrap(), None);
        one.save(&sample()).await.unwrap();
        let late = other.save(&sample()).await.unwrap_err();
        assert!(matches!(late, CheckpointError::Changed { .. }), "{late}");
        let found = other.load::<Position>().await.unwrap().unwrap();
        other.save(&Checkpoint { next_batch: BatchId::new(8), ..found }).await.unwrap();
        one.save(&sample()).await.unwrap_err();
        let aside = other.put_aside().await.unwrap();
        assert_eq!(aside.to_string(), "s3://bucket/job/checkpoint.damaged");
        one.save(&sample()).await.unwrap_err();
        other.save(&sample()).await.unwrap();
    }
}
