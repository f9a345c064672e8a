//! A folder, on a local disk or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Objects, StoreError, local};

/// A folder, wherever it is.
#[derive(Clone, Debug)]
pub enum Folder {
    /// On a local disk.
    Local(PathBuf),
    /// In an object store.
    Remote(Objects),
}

impl Folder {
    /// A folder in this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Folder {
        match self {
            Folder::Local(path) => Folder::Local(path.join(name)),
            Folder::Remote(objects) => Folder::Remote(objects.join(name)),
        }
    }

    /// The folder in a store; none on a local disk.
    #[must_use]
    pub fn objects(&self) -> Option<&Objects> {
        match self {
            Folder::Local(_) => None,
            Folder::Remote(objects) => Some(objects),
        }
    }

    /// The path on a local disk; none in a store.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Folder::Local(path) => Some(path),
            Folder::Remote(_) => None,
        }
    }

    /// The bytes of a file; none if it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        match self {
            Folder::Local(path) => Ok(local::read(&path.join(name))?.map(Bytes::from)),
            Folder::Remote(objects) => Ok(objects.get(name).await?.map(|object| object.bytes)),
        }
    }

    /// Replaces a file that may be lost when the power fails, but not by a kill; a local folder is created if it is
    /// missing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put_unflushed(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        match self {
            Folder::Local(path) => {
                local::create_folder(path)?;
                local::replace_unflushed(&path.join(name), &bytes)
            }
            Folder::Remote(objects) => objects.put(name, bytes).await,
        }
    }

    /// Finds out whether files can be made here; a local folder is created if it is missing.
    ///
    /// # Errors
    /// When they cannot.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self {
            Folder::Local(path) => local::probe(path),
            Folder::Remote(objects) => objects.probe().await,
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Folder::Local(path) => path.display().fmt(f),
            Folder::Remote(objects) => objects.fmt(f),
        }
    }
}
