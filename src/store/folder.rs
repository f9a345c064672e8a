//! A folder, on a local disk or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Objects, StoreError, local};

/// A folder on a local disk or in an object store.
#[derive(Clone, Debug)]
pub enum Folder {
    /// On a local disk.
    Local(PathBuf),
    /// In an object store.
    Remote(Objects),
}

impl Folder {
    /// Returns a folder inside this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Folder {
        match self {
            Folder::Local(path) => Folder::Local(path.join(name)),
            Folder::Remote(objects) => Folder::Remote(objects.join(name)),
        }
    }

    /// Returns the folder in an object store; `None` on a local disk.
    #[must_use]
    pub fn objects(&self) -> Option<&Objects> {
        match self {
            Folder::Local(_) => None,
            Folder::Remote(objects) => Some(objects),
        }
    }

    /// Returns the path on a local disk; `None` in an object store.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Folder::Local(path) => Some(path),
            Folder::Remote(_) => None,
        }
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        match self {
            Folder::Local(path) => Ok(local::read(&path.join(name))?.map(Bytes::from)),
            Folder::Remote(objects) => Ok(objects.get(name).await?.map(|object| object.bytes)),
        }
    }

    /// Replaces a file without a flush: the new content survives a kill, but may be lost when the power fails. A
    /// local folder is created if it is missing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn put_unflushed(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        match self {
            Folder::Local(path) => {
                local::create_folder(path)?;
                local::replace_unflushed(&path.join(name), &bytes)
            }
            Folder::Remote(objects) => objects.put(name, bytes).await,
        }
    }

    /// Checks that files can be created here; a local folder is created if it is missing.
    ///
    /// # Errors
    /// When a file cannot be created, or the object store ignores the conditions of a put.
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
