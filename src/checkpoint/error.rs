//! Why a checkpoint cannot be used.

use crate::store::{Location, StoreError};

/// Why a checkpoint, or another file of its kind, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file or its folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content is not that of such a file, or does not match its checksum.
    #[error("the {file} {at} is damaged: {what}")]
    Damaged {
        /// What the file is.
        file: &'static str,
        /// Location of the file.
        at: Location,
        /// The fault, in words.
        what: String,
    },
    /// The file was written by a later version of this program.
    #[error("the {file} {at} has format {found}, and this version reads {known}")]
    Version {
        /// What the file is.
        file: &'static str,
        /// Location of the file.
        at: Location,
        /// Format number of the file.
        found: u32,
        /// Format number that is read.
        known: u32,
    },
    /// Another run has replaced the file since it was read or written last.
    #[error("another run of this job has changed the {file} {at} meanwhile")]
    Changed {
        /// What the file is.
        file: &'static str,
        /// Location of the file.
        at: Location,
    },
}
