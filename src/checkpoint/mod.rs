//! The checkpoint: what is planned and how far the source is read; its lock and its lease; its recovery.
//!
//! It saves work and money and decides nothing: whether a batch is committed is for the Delta log to say.
//! The plan of a batch is durable here before its first call, so that a restart runs the same rows under
//! the same number.

mod file;
mod history;
mod lease;
mod lock;
mod machine;
mod plan;
mod recovery;
mod retrying;

pub use file::{Checkpoint, CheckpointError, CheckpointFile, Paused, TargetRestore};
pub use history::{LastRun, note_without_commit, runs_without_commit};
pub use lease::{Lease, LeaseError};
pub use lock::{Lock, LockError};
pub use machine::MachineId;
pub use plan::{FileRange, PlannedBatch, Position, SourceId};
pub use recovery::{CommittedUpTo, Recovery, RecoveryRefusal, recover};
pub use retrying::{Retrying, Selection};
