//! The checkpoint: which batches are planned and how far the source is read; its lock, lease and recovery.
//!
//! It saves work and money and decides nothing: only the Delta log states whether a batch is committed. The plan of
//! a batch is durable here before the batch's first request, so that a restart runs the same rows under the same
//! number.

mod checksummed_file;
mod error;
mod file;
mod history;
mod lease;
mod lock;
mod machine;
mod plan;
mod recovery;
mod retrying;
mod submissions;

pub use error::CheckpointError;
pub use file::{Checkpoint, CheckpointFile, Paused, TargetRestore};
pub use history::{LastRun, note_without_commit, runs_without_commit};
pub use lease::{Lease, LeaseError};
pub use lock::{Lock, LockError};
pub use machine::MachineId;
pub use plan::{FileRange, PlannedBatch, Position, SourceId};
pub use recovery::{NewestCommitted, Recovery, RecoveryRefusal, recover};
pub use retrying::{Retrying, Selection};
pub use submissions::{
    BatchApiLimits, ClosedSubmissions, RemoteCopy, Submission, SubmissionState, Submissions, SubmissionsFile,
    UnloadedBatch,
};
