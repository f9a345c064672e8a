//! Why documents cannot be read at all.

use std::path::PathBuf;

use crate::store::LocationError;
use crate::table::TableError;

/// Why documents cannot be read at all. What is wrong with one document is an [`super::UnreadDocument`].
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The path of this program is unknown.
    #[error("the path of this program, which reads documents in other processes, is unknown: {0}")]
    UnknownProgram(#[source] std::io::Error),
    /// The program that reads documents does not start.
    #[error("{} cannot be started to read documents: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The program starts and is no reader of documents.
    #[error("{} does not read documents: it has no command read-document, or it ended", program.display())]
    NoReader {
        /// The program.
        program: PathBuf,
    },
    /// The pattern of files cannot be read.
    #[error("files = {glob:?} is no pattern of files: {message}")]
    Glob {
        /// The pattern.
        glob: String,
        /// The fault, in words.
        message: String,
    },
    /// The folder of the pattern is no location.
    #[error("files = {glob:?} {source}")]
    Location {
        /// The pattern.
        glob: String,
        /// The fault.
        source: LocationError,
    },
    /// No file has a matching name.
    #[error("files = {glob:?} matches no file: looked for {looked_for:?} in {folder}")]
    NoFiles {
        /// The pattern.
        glob: String,
        /// The part of the pattern that begins with the first wildcard.
        looked_for: String,
        /// The folder or prefix that was listed.
        folder: String,
    },
    /// A folder cannot be listed.
    #[error("{folder} cannot be listed: {source}")]
    List {
        /// The folder or prefix.
        folder: String,
        /// The error of the system or the store.
        source: std::io::Error,
    },
    /// A document cannot be fetched, and not because of the document.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The document.
        path: String,
        /// The error of the system or the store.
        source: std::io::Error,
    },
    /// The object store cannot be reached.
    #[error(transparent)]
    Store(#[from] TableError),
}
