//! A place named in a job file: resolved against the file's folder.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use url::Url;

/// A place where a table or a file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    path: PathBuf,
}

/// A place that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// An object store.
    #[error("is {written:?}; only local paths can be used, {scheme}:// is not supported yet")]
    Scheme {
        /// As it stands in the job file.
        written: String,
        /// Its scheme.
        scheme: String,
    },
    /// A `file://` URL that names no path.
    #[error("is {written:?}, which names no local path")]
    NoPath {
        /// As it stands in the job file.
        written: String,
    },
    /// The working directory is gone.
    #[error("is relative, and the working directory cannot be read: {0}")]
    WorkingDirectory(#[from] std::io::Error),
}

impl Location {
    /// Resolves what a job file says against the folder of the job file.
    ///
    /// # Errors
    /// [`LocationError`] for URLs that name no local path.
    pub fn resolve(written: &str, folder: &Path) -> Result<Self, LocationError> {
        let path = match written.split_once("://") {
            Some(("file", _)) => Url::parse(written)
                .ok()
                .and_then(|url| url.to_file_path().ok())
                .ok_or_else(|| LocationError::NoPath { written: written.to_owned() })?,
            Some((scheme, _)) => {
                return Err(LocationError::Scheme { written: written.to_owned(), scheme: scheme.to_owned() });
            }
            None => PathBuf::from(written),
        };
        let absolute = std::path::absolute(folder.join(path))?;
        Ok(Location { path: tidy(&absolute) })
    }

    /// The place with this absolute path.
    #[must_use]
    pub fn local(path: impl Into<PathBuf>) -> Self {
        Location { path: path.into() }
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Location { path: self.path.join(name) }
    }

    /// The absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a place below the other one, symbolic links followed where they exist.
    #[must_use]
    pub fn is_inside(&self, other: &Location) -> bool {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (own, other) = (real(&self.path), real(&other.path));
        own != other && own.starts_with(&other)
    }

    /// Whether both name the same file or folder, symbolic links followed where they exist.
    #[must_use]
    pub fn is_same_place(&self, other: &Location) -> bool {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        real(&self.path) == real(&other.path)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Takes `.` and `a/..` out of an absolute path, for messages. A link that `..` would leave by its own
/// way is left alone: such a path is canonical already when it exists.
fn tidy(path: &Path) -> PathBuf {
    if let Ok(real) = std::fs::canonicalize(path) {
        return real;
    }
    let mut tidied = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                tidied.pop();
            }
            other => tidied.push(other),
        }
    }
    tidied
}
