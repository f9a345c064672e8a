//! Access to the bytes of source files, on disk or in an object store, in the form that the Parquet reader takes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use super::SourceError;
use crate::store::{Location, without_store_name};
use crate::table::objects;

/// Bytes that are fetched from a store at once: pages are read one after the other, in columns side by side.
const BLOCK_BYTES: u64 = 1_000_000;
/// Most blocks of a file in memory.
const BLOCKS: usize = 24;

/// The folder, or prefix in an object store, that contains a source's files.
#[derive(Clone, Debug)]
pub struct Root {
    at: Location,
    /// The store and the runtime for its requests; `None` on a local disk.
    store: Option<(Arc<dyn ObjectStore>, Handle)>,
}

impl From<Location> for Root {
    fn from(at: Location) -> Self {
        Root { at, store: None }
    }
}

impl Root {
    /// Returns a root in an object store. The paths of `store` are relative to `at`.
    pub(super) fn remote(at: Location, store: Arc<dyn ObjectStore>) -> Self {
        Root { at, store: Some((store, Handle::current())) }
    }

    /// Returns the location of the folder or prefix.
    #[must_use]
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Returns the location of a file: below the root, or where its URL states.
    pub(super) fn place(&self, file: &str) -> Location {
        elsewhere(file).unwrap_or_else(|| self.at.join(file))
    }

    /// Opens a file. Blocks, also on the network: never call it on a thread that runs futures.
    pub(super) fn open(&self, file: &str) -> io::Result<SourceFile> {
        if let Some(at) = elsewhere(file) {
            let (root, name) = Handle::current().block_on(self.of_place(&at))?;
            return root.open(&name);
        }
        match (&self.store, self.at.path()) {
            (Some((store, handle)), _) => {
                let path = ObjectPath::parse(file).map_err(io::Error::other)?;
                let size = handle.block_on(store.head(&path)).map_err(of_store)?.size;
                let blocks = Arc::default();
                let bytes =
                    StoredFile { store: Arc::clone(store), handle: handle.clone(), path, size, blocks };
                Ok(SourceFile::Stored(bytes))
            }
            (None, Some(folder)) => Ok(SourceFile::Local(File::open(folder.join(file))?)),
            (None, None) => Err(io::Error::other("it is in an object store that was not opened")),
        }
    }

    /// Returns the size of a file, in bytes.
    pub(super) async fn size(&self, file: &str) -> io::Result<u64> {
        if let Some(at) = elsewhere(file) {
            let (root, name) = self.of_place(&at).await?;
            return Box::pin(root.size(&name)).await;
        }
        match (&self.store, self.at.path()) {
            (Some((store, _)), _) => {
                let path = ObjectPath::parse(file).map_err(io::Error::other)?;
                Ok(store.head(&path).await.map_err(of_store)?.size)
            }
            (None, Some(folder)) => Ok(std::fs::metadata(folder.join(file))?.len()),
            (None, None) => Err(io::Error::other("it is in an object store that was not opened")),
        }
    }

    /// Returns the folder of a file outside the root, and the file's name in it.
    async fn of_place(&self, at: &Location) -> io::Result<(Root, String)> {
        let (folder, name) = at.split().ok_or_else(|| io::Error::other(format!("{at} is no file")))?;
        let root = match (folder.path(), self.at.path()) {
            (Some(_), Some(_)) => Root::from(folder),
            (None, _) => {
                let store = objects(&folder).await.map_err(io::Error::other)?;
                Root::remote(folder, store)
            }
            (Some(_), None) => {
                return Err(io::Error::other("a table in an object store names a file of this machine"));
            }
        };
        Ok((root, name))
    }

    /// Runs blocking work on the root's files.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Root) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let root = self.clone();
        let done = tokio::task::spawn_blocking(move || work(root)).await;
        done.map_err(|error| SourceError::file(&self.at, error))?
    }
}

/// Returns the location of a file that a Delta log names by an absolute URL, as shallow clones do ("Add File and Remove
/// File" in the Delta protocol), or `None` for a relative path. The reader of the log has decoded the URL and left one
/// slash after the scheme.
fn elsewhere(file: &str) -> Option<Location> {
    let (scheme, rest) = file.split_once(":/")?;
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || c == '+';
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return None;
    }
    let rest = rest.trim_start_matches('/');
    match scheme {
        "file" => Some(Location::local(format!("/{rest}"))),
        _ => Location::resolve(&format!("{scheme}://{rest}"), Path::new("/")).ok(),
    }
}

fn of_store(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(without_store_name(error)),
    }
}

#[derive(Debug)]
pub(super) enum SourceFile {
    Local(File),
    Stored(StoredFile),
}

/// A file in an object store, read in blocks.
#[derive(Clone, Debug)]
pub(super) struct StoredFile {
    store: Arc<dyn ObjectStore>,
    handle: Handle,
    path: ObjectPath,
    size: u64,
    /// Numbers and bytes of the blocks used last, the newest at the back.
    blocks: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
}

impl StoredFile {
    fn block(&self, number: u64) -> io::Result<Bytes> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = blocks.iter().position(|(held, _)| *held == number)
            && let Some(held) = blocks.remove(at)
        {
            let bytes = held.1.clone();
            blocks.push_back(held);
            return Ok(bytes);
        }
        let range = number * BLOCK_BYTES..((number + 1) * BLOCK_BYTES).min(self.size);
        let bytes = self.handle.block_on(self.store.get_range(&self.path, range)).map_err(of_store)?;
        blocks.push_back((number, bytes.clone()));
        if blocks.len() > BLOCKS {
            blocks.pop_front();
        }
        Ok(bytes)
    }

    /// Returns at most `most` bytes from an offset on, up to the end of its block; none at the end of the file.
    fn some(&self, at: u64, most: usize) -> io::Result<Bytes> {
        if at >= self.size {
            return Ok(Bytes::new());
        }
        let block = self.block(at / BLOCK_BYTES)?;
        let start = usize::try_from(at % BLOCK_BYTES).unwrap_or(usize::MAX).min(block.len());
        Ok(block.slice(start..block.len().min(start.saturating_add(most))))
    }
}

/// Reader of a stored file from an offset on.
pub(super) struct StoredFrom {
    file: StoredFile,
    at: u64,
}

impl Read for StoredFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.some(self.at, buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl Length for SourceFile {
    fn len(&self) -> u64 {
        match self {
            SourceFile::Local(file) => file.len(),
            SourceFile::Stored(file) => file.size,
        }
    }
}

impl ChunkReader for SourceFile {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match self {
            SourceFile::Local(file) => Ok(Box::new(file.get_read(start)?)),
            SourceFile::Stored(file) => Ok(Box::new(StoredFrom { file: file.clone(), at: start })),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let file = match self {
            SourceFile::Local(file) => return file.get_bytes(start, length),
            SourceFile::Stored(file) => file,
        };
        let first = file.some(start, length)?;
        if first.len() == length {
            return Ok(first);
        }
        let mut bytes = Vec::with_capacity(length);
        StoredFrom { file: file.clone(), at: start }.take(length as u64).read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF(format!("{} of {length} bytes at {start}", bytes.len()))),
        }
    }
}
