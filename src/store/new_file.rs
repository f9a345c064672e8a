//! Files and folders that have their names only once they are complete.
//!
//! On a local disk they are written beside their place under a hidden name, flushed and renamed; in an object store an
//! upload in several requests is completed at the end. What a killed process leaves behind is removed by the next one
//! that writes the same file; in a store it is an upload without an end, which the store's own rules remove.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use object_store::{MultipartUpload, PutPayload};
use tempfile::{Builder, NamedTempFile, TempDir};
use tokio::task::JoinSet;

use super::{Folder, Objects, StoreError, local};

/// Size in bytes of the requests of an upload. A store takes 10,000 of them.
const UPLOAD_BYTES: usize = 16 << 20;
/// Maximum number of requests of an upload at once; they are in memory.
const UPLOADS_AT_ONCE: usize = 2;

/// What happens to an existing file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingFile {
    /// It stays, and the new one is an error.
    Kept,
    /// The new one replaces it.
    Replaced,
}

/// A file that is being written. It has its name once it is [finished](NewFile::finish); if it is dropped, nothing is
/// there.
#[derive(Debug)]
pub struct NewFile {
    existing: ExistingFile,
    kind: NewFileKind,
}

#[derive(Debug)]
enum NewFileKind {
    Local { file: NamedTempFile, path: PathBuf },
    Remote { upload: ObjectUpload, folder: Objects, name: String },
}

impl NewFile {
    /// Begins to write a file.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn create(folder: &Folder, name: &str, existing: ExistingFile) -> Result<Self, StoreError> {
        let kind = match folder {
            Folder::Local(folder) => {
                let path = folder.join(name);
                let file = create_hidden(folder, name).map_err(StoreError::of("write", &path))?;
                NewFileKind::Local { file, path }
            }
            Folder::Remote(folder) => {
                let upload = ObjectUpload {
                    parts: folder.upload(name).await?,
                    next: Vec::new(),
                    sending: JoinSet::new(),
                };
                NewFileKind::Remote { upload, folder: folder.clone(), name: name.to_owned() }
            }
        };
        Ok(NewFile { existing, kind })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match &mut self.kind {
            NewFileKind::Local { file, path } => {
                file.write_all(bytes).map_err(StoreError::of("write", path.as_path()))
            }
            NewFileKind::Remote { upload, folder, name } => {
                upload.write(bytes).await.map_err(StoreError::of("write", folder.place(name)))
            }
        }
    }

    /// Flushes the file and gives it its name. An object store does not notice a file that another process puts there
    /// while an upload is completed, and replaces it.
    ///
    /// # Errors
    /// When a file of that name is there and stays, and when the file cannot be written. The old state is then unchanged,
    /// except after a failed flush of the folder.
    pub async fn finish(self) -> Result<(), StoreError> {
        match self.kind {
            NewFileKind::Local { file, path } => {
                file.as_file().sync_all().map_err(StoreError::of("write", &path))?;
                let named = match self.existing {
                    ExistingFile::Kept => file.persist_noclobber(&path),
                    ExistingFile::Replaced => file.persist(&path),
                };
                named.map_err(|error| StoreError::of("write", &path)(error.error))?;
                local::sync_folder(path.parent().unwrap_or(Path::new("/")))
            }
            NewFileKind::Remote { mut upload, folder, name } => {
                let finished = match self.existing {
                    ExistingFile::Kept if folder.has(&name).await? => Err(ErrorKind::AlreadyExists.into()),
                    _ => upload.finish().await,
                };
                if finished.is_err() {
                    upload.discard().await;
                }
                finished.map_err(StoreError::of("write", folder.place(&name)))
            }
        }
    }

    /// Removes what was written. A store may keep it if it cannot be reached.
    pub async fn discard(self) {
        if let NewFileKind::Remote { mut upload, .. } = self.kind {
            upload.discard().await;
        }
    }
}

/// An object that is put in several requests.
#[derive(Debug)]
struct ObjectUpload {
    parts: Box<dyn MultipartUpload>,
    /// Bytes of the next request.
    next: Vec<u8>,
    sending: JoinSet<object_store::Result<()>>,
}

impl ObjectUpload {
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(UPLOAD_BYTES - self.next.len()));
            self.next.extend_from_slice(now);
            bytes = later;
            if self.next.len() == UPLOAD_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> io::Result<()> {
        while self.sending.len() >= UPLOADS_AT_ONCE {
            self.wait().await?;
        }
        let part = PutPayload::from(std::mem::take(&mut self.next));
        self.sending.spawn(self.parts.put_part(part));
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        match self.sending.join_next().await {
            Some(sent) => sent.map_err(io::Error::other)?.map_err(io::Error::other),
            None => Ok(()),
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        if !self.next.is_empty() {
            self.send().await?;
        }
        while !self.sending.is_empty() {
            self.wait().await?;
        }
        self.parts.complete().await.map(drop).map_err(io::Error::other)
    }

    async fn discard(&mut self) {
        self.sending.shutdown().await;
        let _ = self.parts.abort().await;
    }
}

/// A local folder that is being filled. It has its name once it is [finished](NewFolder::finish); if it is dropped,
/// nothing is there.
#[derive(Debug)]
pub struct NewFolder {
    hidden: TempDir,
    path: PathBuf,
    /// Held while the folder is filled, so that others do not take it for a killed process's.
    _lock: File,
}

impl NewFolder {
    /// Creates a folder that is to be at `path`, where no file is, or an empty folder.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let (above, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
        let name = name.to_string_lossy();
        let create = || {
            remove_abandoned(above, &name);
            let mut builder = Builder::new();
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
            let hidden = builder.prefix(&hidden_prefix(&name)).suffix(HIDDEN_SUFFIX).tempdir_in(above)?;
            let lock = File::open(hidden.path())?;
            lock_if_possible(&lock);
            Ok((hidden, lock))
        };
        let (hidden, lock) = create().map_err(StoreError::of("create the folder", path))?;
        Ok(NewFolder { hidden, path: path.to_owned(), _lock: lock })
    }

    /// Returns the folder to write files to.
    #[must_use]
    pub fn folder(&self) -> Folder {
        Folder::Local(self.hidden.path().to_owned())
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// When something is at its place; the new folder is then removed.
    pub fn finish(self) -> Result<(), StoreError> {
        std::fs::rename(self.hidden.path(), &self.path)
            .map_err(StoreError::of("create the folder", &self.path))?;
        // Its hidden name is gone, and may be somebody else's.
        let _ = self.hidden.keep();
        local::sync_folder(self.path.parent().unwrap_or(Path::new("/")))
    }
}

const HIDDEN_SUFFIX: &str = ".tmp";

fn hidden_prefix(name: &str) -> String {
    format!(".{name}.")
}

/// Creates a file with a hidden name, and with the permissions of the file that has the name now.
fn create_hidden(folder: &Path, name: &str) -> io::Result<NamedTempFile> {
    remove_abandoned(folder, name);
    let mut builder = Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let replaced = std::fs::metadata(folder.join(name)).map(|replaced| replaced.permissions());
        builder.permissions(replaced.unwrap_or(Permissions::from_mode(0o666)));
    }
    let file = builder.prefix(&hidden_prefix(name)).suffix(HIDDEN_SUFFIX).tempfile_in(folder)?;
    lock_if_possible(file.as_file());
    Ok(file)
}

/// Locks a file, so that it can be told from one that a killed process left. Some file systems have no locks.
fn lock_if_possible(file: &File) {
    let _ = file.try_lock();
}

/// Removes what killed processes left of a file or folder, as far as possible: it has a hidden name of this one's and
/// nobody locks it.
fn remove_abandoned(folder: &Path, name: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = path.file_name().unwrap_or_default().to_string_lossy();
        let middle =
            hidden.strip_prefix(&hidden_prefix(name)).and_then(|rest| rest.strip_suffix(HIDDEN_SUFFIX));
        if middle.is_none_or(|middle| middle.contains('.')) {
            continue;
        }
        let is_abandoned = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        let _ = match (is_abandoned, path.is_dir()) {
            (false, _) => Ok(()),
            (true, true) => std::fs::remove_dir_all(&path),
            (true, false) => std::fs::remove_file(&path),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::store::Location;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_has_its_name_once_it_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let at = Location::resolve("s3://bucket/folder", Path::new("/")).unwrap();
        let remote = Folder::Remote(Objects::new(at, Arc::new(InMemory::new())));
        for folder in [Folder::Local(root.path().to_owned()), remote] {
            let create = async |existing| NewFile::create(&folder, "x.csv", existing).await.unwrap();
            let large = vec![b'a'; UPLOAD_BYTES * 3 + 1];
            let mut first = create(ExistingFile::Kept).await;
            first.write(&large).await.unwrap();
            let mut second = create(ExistingFile::Kept).await;
            second.write(b"late").await.unwrap();
            let mut dropped = create(ExistingFile::Replaced).await;
            dropped.write(b"none").await.unwrap();
            assert!(folder.get("x.csv").await.unwrap().is_none());
            first.finish().await.unwrap();
            let error = second.finish().await.unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::AlreadyExists, "{error}");
            dropped.discard().await;
            assert!(folder.get("x.csv").await.unwrap().unwrap() == large);
            let mut third = create(ExistingFile::Replaced).await;
            third.write(b"new").await.unwrap();
            third.finish().await.unwrap();
            assert_eq!(folder.get("x.csv").await.unwrap().unwrap(), "new");
        }
        assert_eq!(names(root.path()), ["x.csv"], "nothing is left beside it");
    }

    #[tokio::test]
    async fn what_killed_processes_left_is_removed_and_what_others_write_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::Local(root.path().to_owned());
        let written = NewFile::create(&folder, "x", ExistingFile::Kept).await.unwrap();
        let filled = NewFolder::create(&root.path().join("x")).unwrap();
        std::fs::write(root.path().join(".x.abandoned.tmp"), "half").unwrap();
        std::fs::create_dir_all(root.path().join(".x.folder.tmp/below")).unwrap();
        for kept in [".x.csv.other.tmp", ".y.other.tmp", "x.tmp"] {
            std::fs::write(root.path().join(kept), "").unwrap();
        }
        drop(NewFile::create(&folder, "x", ExistingFile::Kept).await.unwrap());
        let found = names(root.path());
        assert_eq!(found.len(), 5, "{found:?}");
        written.finish().await.unwrap();
        assert!(filled.finish().is_err(), "a file is there");
        assert_eq!(names(root.path()).len(), 4);
    }
}
