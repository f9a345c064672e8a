//! A location named in a job file: a local path, resolved against the file's folder, or a URL of an object store.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use url::Url;

use super::dataset_path::{DatasetPath, SCHEME};

/// URL schemes of object stores.
const REMOTE: [&str; 9] = ["s3", "s3a", "az", "azure", "abfs", "abfss", "adl", "gs", SCHEME];

/// The location of a table, folder or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(LocationKind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum LocationKind {
    Local(PathBuf),
    /// The URL, without a slash at the end.
    Remote(Arc<Url>),
}

/// Why a location cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The URL has an unsupported scheme.
    #[error(
        "is {written:?}; it is a local path, or a URL that begins with file, s3, az, abfss, gs or hf, not with {scheme}"
    )]
    Scheme {
        /// The text in the job file.
        written: String,
        /// Scheme of the URL.
        scheme: String,
    },
    /// The URL of an object store is not exactly a bucket and a path.
    #[error("is {written:?}, which is no URL of a place in an object store: {message}")]
    NoPlace {
        /// The text in the job file.
        written: String,
        /// The fault, in words.
        message: String,
    },
    /// The `file://` URL names no path.
    #[error("is {written:?}, which names no local path")]
    NoPath {
        /// The text in the job file.
        written: String,
    },
    /// Something is to be written to a location that is only read.
    #[error(
        "is {written:?}, and repositories of Hugging Face are only read: write to a folder or an object store, and upload \
         that"
    )]
    ReadOnly {
        /// The text in the job file.
        written: String,
    },
    /// The working directory cannot be read, perhaps because it is gone.
    #[error("is relative, and the working directory cannot be read: {0}")]
    WorkingDirectory(#[from] std::io::Error),
}

impl Location {
    /// Resolves a location in a job file against the folder of the job file.
    ///
    /// # Errors
    /// [`LocationError`] for a URL of another scheme or one that names no file or folder, and when the working
    /// directory cannot be read.
    pub fn resolve(written: &str, folder: &Path) -> Result<Self, LocationError> {
        let path = match written.split_once("://") {
            Some(("file", _)) => Url::parse(written)
                .ok()
                .and_then(|url| url.to_file_path().ok())
                .ok_or_else(|| LocationError::NoPath { written: written.to_owned() })?,
            Some((scheme, _)) if REMOTE.contains(&scheme) => return remote(written),
            Some((scheme, _)) => {
                return Err(LocationError::Scheme { written: written.to_owned(), scheme: scheme.to_owned() });
            }
            None => PathBuf::from(written),
        };
        let absolute = std::path::absolute(folder.join(path))?;
        Ok(Location(LocationKind::Local(tidy(&absolute))))
    }

    /// Resolves a location as [`Location::resolve`] does, for something that is written.
    ///
    /// # Errors
    /// As [`Location::resolve`], and [`LocationError::ReadOnly`] for a location that is only read.
    pub fn resolve_to_write(written: &str, folder: &Path) -> Result<Self, LocationError> {
        let at = Location::resolve(written, folder)?;
        match at.dataset() {
            Some(_) => Err(LocationError::ReadOnly { written: written.to_owned() }),
            None => Ok(at),
        }
    }

    /// Returns the path in a dataset repository of Hugging Face; `None` elsewhere.
    #[must_use]
    pub fn dataset(&self) -> Option<DatasetPath> {
        let url = self.url().filter(|url| url.scheme() == SCHEME)?;
        DatasetPath::of(url).ok()
    }

    /// Returns this location at a revision of its repository, or without one. Elsewhere than in a repository of Hugging
    /// Face it is the location itself.
    #[must_use]
    pub fn at_revision(&self, revision: Option<&str>) -> Self {
        let url = self.dataset().and_then(|dataset| dataset.url(revision));
        url.map_or_else(|| self.clone(), |url| Location(LocationKind::Remote(url.into())))
    }

    /// Returns the location with this absolute path.
    #[must_use]
    pub fn local(path: impl Into<PathBuf>) -> Self {
        Location(LocationKind::Local(path.into()))
    }

    /// Returns a location below this one, by a relative path with `/` between its parts.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Location(match &self.0 {
            LocationKind::Local(path) => LocationKind::Local(path.join(name)),
            LocationKind::Remote(url) => {
                let mut joined = Url::clone(url);
                if let Ok(mut parts) = joined.path_segments_mut() {
                    parts.pop_if_empty().extend(name.split('/').filter(|part| !part.is_empty()));
                }
                LocationKind::Remote(joined.into())
            }
        })
    }

    /// Returns the parent location, and the name of this one in it; `None` for a root or a name that is not UTF-8.
    #[must_use]
    pub fn split(&self) -> Option<(Location, String)> {
        match &self.0 {
            LocationKind::Local(path) => {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((Location(LocationKind::Local(path.parent()?.to_owned())), name))
            }
            LocationKind::Remote(url) => {
                let name = percent_decode_str(url.path_segments()?.next_back()?).decode_utf8().ok()?;
                let name = name.into_owned();
                let mut parent = Url::clone(url);
                parent.path_segments_mut().ok()?.pop();
                Some((Location(LocationKind::Remote(parent.into())), name))
            }
        }
    }

    /// Returns the absolute path; `None` in an object store.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            LocationKind::Local(path) => Some(path),
            LocationKind::Remote(_) => None,
        }
    }

    /// Returns the URL, without a slash at its end; `None` for a local path.
    #[must_use]
    pub fn url(&self) -> Option<&Url> {
        match &self.0 {
            LocationKind::Local(_) => None,
            LocationKind::Remote(url) => Some(url),
        }
    }

    /// Whether this location is below the other one. Symbolic links are followed where they exist.
    #[must_use]
    pub fn is_inside(&self, other: &Location) -> bool {
        match (&self.0, &other.0) {
            (LocationKind::Local(own), LocationKind::Local(other)) => {
                let (own, other) = (real(own), real(other));
                own != other && own.starts_with(&other)
            }
            (LocationKind::Remote(own), LocationKind::Remote(other)) => {
                own.as_str().strip_prefix(other.as_str()).is_some_and(|below| below.starts_with('/'))
            }
            _ => false,
        }
    }

    /// Whether both name the same file or folder. Symbolic links are followed where they exist.
    #[must_use]
    pub fn is_same_place(&self, other: &Location) -> bool {
        match (&self.0, &other.0) {
            (LocationKind::Local(own), LocationKind::Local(other)) => real(own) == real(other),
            (own, other) => own == other,
        }
    }
}

fn remote(written: &str) -> Result<Location, LocationError> {
    let wrong =
        |message: &str| LocationError::NoPlace { written: written.to_owned(), message: message.to_owned() };
    let mut url = Url::parse(written).map_err(|error| wrong(&error.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() || url.password().is_some() {
        return Err(wrong("it has more than a bucket and a path; options come from the environment"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no bucket"));
    }
    if url.path().trim_matches('/').is_empty() {
        return Err(wrong("it names a bucket and no place in it"));
    }
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty();
    }
    if url.scheme() == SCHEME {
        DatasetPath::of(&url).map_err(wrong)?;
    }
    Ok(Location(LocationKind::Remote(url.into())))
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Location::local(path)
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Location::local(path)
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Location::local(path)
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LocationKind::Local(path) => path.display().fmt(f),
            LocationKind::Remote(url) => url.fmt(f),
        }
    }
}

/// Removes `.` and `a/..` from an absolute path, for messages. A path that exists is made canonical instead, since
/// `..` after a symbolic link may lead elsewhere.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(written: &str) -> Location {
        Location::resolve(written, Path::new("/jobs")).unwrap()
    }

    #[test]
    fn places_are_joined_and_compared_in_stores_as_on_the_disk() {
        let table = at("s3://bucket/tables/reviews/");
        assert_eq!(table.to_string(), "s3://bucket/tables/reviews");
        assert_eq!(
            table.join("_checkpoints/a b").to_string(),
            "s3://bucket/tables/reviews/_checkpoints/a%20b"
        );
        assert!(table.is_same_place(&at("s3://bucket/tables/reviews")));
        assert!(table.join("x").is_inside(&table) && !table.is_inside(&table));
        assert!(!at("s3://bucket/tables/reviews2").is_inside(&table));
        assert!(!at("gs://bucket/tables/reviews/x").is_inside(&table) && !at("tables").is_inside(&table));
        assert_eq!(table.join("a b").split(), Some((table, "a b".to_owned())));
        let dataset = at("hf://datasets/a/b@v1/c d");
        assert_eq!(dataset.at_revision(Some("0f")).to_string(), "hf://datasets/a/b@0f/c%20d");
        assert_eq!(dataset.at_revision(None).to_string(), "hf://datasets/a/b/c%20d");
        assert_eq!(at("../data").path(), Some(Path::new("/data")));
        assert_eq!(at("abfss://container@account.dfs.core.windows.net/t").path(), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (written, expected) in [
            ("s3://bucket", "names a bucket and no place in it"),
            ("s3:///tables", "names no bucket"),
            ("s3://bucket/t?region=x", "options come from the environment"),
            ("ftp://host/t", "not with ftp"),
            ("hf://models/a/b", "only datasets are read"),
            ("hf://datasets/a", "names no repository"),
        ] {
            let error = Location::resolve(written, Path::new("/jobs")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let refused = Location::resolve_to_write("hf://datasets/a/b/c", Path::new("/jobs")).unwrap_err();
        assert!(refused.to_string().contains("only read"), "{refused}");
    }
}
