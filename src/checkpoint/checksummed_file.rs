//! A file of a job's state: one JSON document with a checksum, replaced as a whole.
//!
//! ```json
//! {"format":1,"checksum":"<32 hex digits>","checkpoint":{…}}
//! ```
//! The checksum is the [`Fingerprint`] of the bytes of the inner document as stored: without it, a flipped digit in
//! a row range would lose rows silently.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::CheckpointError;
use crate::faultpoint::{self, Side};
use crate::ident::Fingerprint;
use crate::store::{self, Folder, Location, Objects, PutCondition, PutError, StoreError, Version};

/// What a file holds, and how it is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChecksummedFileKind {
    /// What it is, for messages.
    pub(super) what: &'static str,
    pub(super) name: &'static str,
    /// Name of one that was put aside.
    pub(super) aside: &'static str,
    /// Key of the inner document.
    pub(super) key: &'static str,
    pub(super) format: u32,
    /// The fault point of its replacement.
    pub(super) action: &'static str,
}

/// A file with a checksum, on a disk or in an object store.
#[derive(Clone, Debug)]
pub(super) struct ChecksummedFile {
    folder: Folder,
    kind: ChecksummedFileKind,
    /// The version in an object store that was read or written last; `None` if there was no file.
    known: Arc<Mutex<Option<Version>>>,
}

impl ChecksummedFile {
    pub(super) fn in_folder(folder: &Folder, kind: ChecksummedFileKind) -> Self {
        ChecksummedFile { folder: folder.clone(), kind, known: Arc::default() }
    }

    /// Returns the location of the file.
    pub(super) fn at(&self) -> Location {
        match &self.folder {
            Folder::Local(path) => path.join(self.kind.name).into(),
            Folder::Remote(objects) => objects.place(self.kind.name),
        }
    }

    /// Reads the document; `None` if there is no file.
    pub(super) async fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, CheckpointError> {
        let bytes = match &self.folder {
            Folder::Local(path) => store::read(&path.join(self.kind.name))?.map(Bytes::from),
            Folder::Remote(objects) => {
                let found = objects.get(self.kind.name).await?;
                self.knows(found.as_ref().map(|object| object.version.clone()));
                found.map(|object| object.bytes)
            }
        };
        bytes.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// Notes which version of the file is in the object store, so that [`ChecksummedFile::save`] may replace it.
    pub(super) async fn look(&self) -> Result<(), CheckpointError> {
        if let Folder::Remote(objects) = &self.folder {
            let found = objects.get(self.kind.name).await?;
            self.knows(found.map(|object| object.version));
        }
        Ok(())
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CheckpointError> {
        let ChecksummedFileKind { what: file, key, format, .. } = self.kind;
        let damaged =
            |what: &dyn ToString| CheckpointError::Damaged { file, at: self.at(), what: what.to_string() };
        let envelope: BTreeMap<&str, &RawValue> =
            serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        let field = |name: &str| envelope.get(name).map_or("null", |value| value.get());
        let found: u32 = serde_json::from_str(field("format")).map_err(|error| damaged(&error))?;
        if found != format {
            return Err(CheckpointError::Version { file, at: self.at(), found, known: format });
        }
        let stated: String = serde_json::from_str(field("checksum")).map_err(|error| damaged(&error))?;
        let body = field(key);
        if envelope.len() != 3 || checksum(body) != stated {
            return Err(damaged(&"its checksum does not match its content"));
        }
        serde_json::from_str(body).map_err(|error| damaged(&error))
    }

    /// Replaces the document. When this returns, the new one is durable on the disk or in the store.
    pub(super) async fn save<T: Serialize>(&self, document: &T) -> Result<(), CheckpointError> {
        let ChecksummedFileKind { name, key, format, action, .. } = self.kind;
        let body = serde_json::value::to_raw_value(document).expect("the document has only string keys");
        let bytes =
            format!("{{\"format\":{format},\"checksum\":\"{}\",\"{key}\":{body}}}", checksum(body.get()));
        let pass = |side| faultpoint::pass(action, side).map_err(StoreError::of("write", self.at()));
        pass(Side::Before)?;
        match &self.folder {
            Folder::Local(path) => {
                let path = path.join(name);
                let task = tokio::task::spawn_blocking(move || store::replace(&path, bytes.as_bytes()));
                let replaced = task.await.map_err(|error| std::io::Error::other(error.to_string()));
                replaced.map_err(StoreError::of("write", self.at()))??;
            }
            Folder::Remote(objects) => self.swap(objects, bytes.into()).await?,
        }
        pass(Side::After)?;
        Ok(())
    }

    async fn swap(&self, objects: &Objects, bytes: Bytes) -> Result<(), CheckpointError> {
        let ChecksummedFileKind { what: file, name, .. } = self.kind;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let expected = known.as_ref().map_or(PutCondition::Absent, PutCondition::Version);
        let error = match objects.put_if(name, bytes.clone(), expected).await {
            Ok(version) => {
                self.knows(Some(version));
                return Ok(());
            }
            Err(error) => error,
        };
        // The put may have succeeded all the same: its response was lost, or the client repeated it and the repetition
        // was refused.
        if let Ok(Some(found)) = objects.get(name).await
            && found.bytes == bytes
        {
            self.knows(Some(found.version));
            return Ok(());
        }
        Err(match error {
            PutError::Changed => CheckpointError::Changed { file, at: self.at() },
            PutError::Store(error) => error.into(),
        })
    }

    fn knows(&self, version: Option<Version>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Moves a file that cannot be read aside, and returns its new location.
    pub(super) async fn put_aside(&self) -> Result<Location, CheckpointError> {
        let ChecksummedFileKind { name, aside, .. } = self.kind;
        match &self.folder {
            Folder::Local(path) => {
                let aside = path.join(aside);
                std::fs::rename(path.join(name), &aside).map_err(StoreError::of("put aside", self.at()))?;
                Ok(aside.into())
            }
            Folder::Remote(objects) => {
                if let Some(found) = objects.get(name).await? {
                    objects.put(aside, found.bytes).await?;
                    objects.delete(name).await?;
                }
                self.knows(None);
                Ok(objects.place(aside))
            }
        }
    }
}

fn checksum(body: &str) -> String {
    Fingerprint::of([body.as_bytes()]).to_string()
}
