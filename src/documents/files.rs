//! Files that match a pattern, in a local folder or an object store, and their content.

use std::collections::HashSet;
use std::fs;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::error::DocumentError;
use super::glob::FileGlob;
use super::unread::{UnreadDocument, UnreadReason};
use crate::store::Location;
use crate::table::objects;

/// The files that match a pattern, by path.
#[derive(Debug)]
pub(super) struct DocumentFiles {
    place: DocumentPlace,
    pub(super) files: Vec<DocumentFile>,
}

/// A file, as it was when it was listed.
#[derive(Clone, Debug)]
pub(super) struct DocumentFile {
    /// The path as the pattern is written: relative to the job's folder, absolute, or a whole address in a store.
    pub(super) path: String,
    /// The path below the listed folder or prefix.
    below: String,
    pub(super) size: u64,
    pub(super) modified: DateTime<Utc>,
}

#[derive(Clone, Debug)]
enum DocumentPlace {
    Folder(PathBuf),
    Store(Arc<dyn ObjectStore>),
}

impl DocumentFiles {
    /// Lists the files that match a pattern, which is relative to `folder`.
    ///
    /// # Errors
    /// When there are none, or the folder or prefix cannot be listed.
    pub(super) async fn list(written: &str, folder: &Path) -> Result<Self, DocumentError> {
        let glob = FileGlob::parse(written)?;
        let at = Location::resolve(&glob.base, folder)
            .map_err(|source| DocumentError::Location { glob: written.to_owned(), source })?;
        let (place, mut files) = match at.path() {
            Some(path) => {
                let (path, glob, at) = (path.to_owned(), glob.clone(), at.clone());
                let walk = move || {
                    let mut walk =
                        DocumentWalk { glob, folder: path, found: Vec::new(), seen: HashSet::new() };
                    walk.folder("").map(|()| (DocumentPlace::Folder(walk.folder), walk.found))
                };
                let walked = tokio::task::spawn_blocking(walk).await.map_err(Error::other).flatten();
                walked.map_err(|source| DocumentError::List { folder: at.to_string(), source })?
            }
            None => {
                let store = objects(&at).await?;
                let listed = list_store(store.as_ref(), &at, &glob).await;
                let listed = listed.map_err(|source| DocumentError::List {
                    folder: at.to_string(),
                    source: Error::other(source),
                })?;
                (DocumentPlace::Store(store), listed)
            }
        };
        if files.is_empty() {
            return Err(DocumentError::NoFiles {
                glob: glob.written,
                looked_for: glob.below,
                folder: at.to_string(),
            });
        }
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(DocumentFiles { place, files })
    }

    /// Reads a file, if it has at most so many bytes.
    ///
    /// # Errors
    /// When the disk or the store fails; what is wrong with the file alone is in the inner result.
    pub(super) async fn content(
        &self,
        file: &DocumentFile,
        max_bytes: usize,
    ) -> Result<Result<Bytes, UnreadDocument>, DocumentError> {
        let unread = |reason| Ok(Err(UnreadDocument::new(reason).with_name(Some(&file.path))));
        if file.size > max_bytes as u64 {
            return unread(UnreadReason::TooLarge);
        }
        let read = match &self.place {
            DocumentPlace::Folder(folder) => {
                let path = folder.join(&file.below);
                let read = tokio::task::spawn_blocking(move || read_at_most(&path, max_bytes));
                read.await.map_err(Error::other).flatten()
            }
            DocumentPlace::Store(store) => read_object(store.as_ref(), &file.below).await,
        };
        match read {
            Ok(content) if content.len() > max_bytes => unread(UnreadReason::TooLarge),
            Ok(content) => Ok(Ok(content)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                unread(UnreadReason::Inaccessible)
            }
            Err(source) => Err(DocumentError::Read { path: file.path.clone(), source }),
        }
    }
}

/// Reads a file, or one byte more than the maximum of a file that has grown.
fn read_at_most(path: &Path, max_bytes: usize) -> Result<Bytes, Error> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(max_bytes as u64 + 1).read_to_end(&mut content)?;
    Ok(content.into())
}

async fn read_object(store: &dyn ObjectStore, below: &str) -> Result<Bytes, Error> {
    let path = ObjectPath::parse(below).map_err(Error::other)?;
    let read = async { store.get(&path).await?.bytes().await };
    read.await.map_err(|error| match error {
        object_store::Error::NotFound { .. } => Error::new(ErrorKind::NotFound, error),
        object_store::Error::PermissionDenied { .. } => Error::new(ErrorKind::PermissionDenied, error),
        error => Error::other(error),
    })
}

/// Lists the objects below a prefix that match a pattern. The store's paths are relative to the prefix.
async fn list_store(
    store: &dyn ObjectStore,
    at: &Location,
    glob: &FileGlob,
) -> Result<Vec<DocumentFile>, object_store::Error> {
    let listed = store.list(None).try_collect::<Vec<_>>().await?;
    let matching = listed.into_iter().filter(|object| glob.matches(object.location.as_ref()));
    let file = |object: ObjectMeta| DocumentFile {
        path: at.join(object.location.as_ref()).to_string(),
        below: object.location.to_string(),
        size: object.size,
        modified: object.last_modified,
    };
    Ok(matching.map(file).collect())
}

/// A walk through a local folder, along symbolic links, too.
struct DocumentWalk {
    glob: FileGlob,
    folder: PathBuf,
    found: Vec<DocumentFile>,
    /// Folders that were entered, without symbolic links in their paths.
    seen: HashSet<PathBuf>,
}

impl DocumentWalk {
    fn folder(&mut self, below: &str) -> Result<(), Error> {
        let path = self.folder.join(below);
        if !self.seen.insert(fs::canonicalize(&path)?) {
            return Ok(());
        }
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            // A name that is not UTF-8 matches no pattern.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            let metadata = match fs::metadata(entry.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() && self.glob.may_match_below(&below) {
                self.folder(&below)?;
            } else if metadata.is_file() && self.glob.matches(&below) {
                self.found.push(DocumentFile {
                    path: format!("{}{below}", self.glob.base),
                    size: metadata.len(),
                    modified: metadata.modified()?.into(),
                    below,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn objects_are_listed_and_read_by_their_addresses() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for name in ["2020/b c.pdf", "a.pdf", "a.txt", ".hidden/a.pdf"] {
            store.put(&ObjectPath::from(name), name.as_bytes().to_vec().into()).await.unwrap();
        }
        let glob = FileGlob::parse("s3://bucket/docs/**/*.pdf").unwrap();
        let at = Location::resolve(&glob.base, Path::new("/jobs")).unwrap();
        let files = list_store(store.as_ref(), &at, &glob).await.unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["s3://bucket/docs/2020/b%20c.pdf", "s3://bucket/docs/a.pdf"]);

        let listed = DocumentFiles { place: DocumentPlace::Store(Arc::clone(&store)), files };
        let content = listed.content(&listed.files[0], 100).await.unwrap().unwrap();
        assert_eq!(content, "2020/b c.pdf");
        let unread = listed.content(&listed.files[0], 5).await.unwrap().unwrap_err();
        assert_eq!(unread.reason, UnreadReason::TooLarge);
        store.delete(&ObjectPath::from("a.pdf")).await.unwrap();
        let unread = listed.content(&listed.files[1], 100).await.unwrap().unwrap_err();
        assert_eq!(
            unread.to_string(),
            "s3://bucket/docs/a.pdf cannot be read: its file is gone or may not be read"
        );
    }
}
