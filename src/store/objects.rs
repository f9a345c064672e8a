//! A folder in an object store. Objects are read as a whole, and put as a whole or not at all; a put may depend on the
//! version of the existing object.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::{Location, StoreError};

/// A folder in an object store.
#[derive(Clone, Debug)]
pub struct Objects {
    at: Location,
    store: Arc<dyn ObjectStore>,
    /// Path of the folder within `store`.
    below: Path,
}

/// The version of an object's content: its ETag or generation in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// The condition under which an object is put.
#[derive(Clone, Copy, Debug)]
pub enum PutCondition<'a> {
    /// The object does not exist.
    Absent,
    /// The object still has this version, which was read or put last.
    Version(&'a Version),
}

/// An object, read as a whole.
#[derive(Clone, Debug)]
pub struct Object {
    /// The whole content.
    pub bytes: Bytes,
    /// The version of the content.
    pub version: Version,
    /// When the object was put, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// Why a conditional put failed.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The object has another version than expected.
    #[error("it was changed meanwhile")]
    Changed,
    /// The store rejected the put, or its response was lost.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Objects {
    /// Returns the root folder of `store`. `at` is its location, for messages.
    #[must_use]
    pub fn new(at: Location, store: Arc<dyn ObjectStore>) -> Self {
        Objects { at, store, below: Path::default() }
    }

    /// Returns a folder inside this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let below = name.split('/').fold(self.below.clone(), Path::join);
        Objects { at: self.at.join(name), store: Arc::clone(&self.store), below }
    }

    /// Returns the location of an object in the folder.
    #[must_use]
    pub fn place(&self, name: &str) -> Location {
        self.at.join(name)
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.below.clone(), Path::join)
    }

    fn error(&self, action: &'static str, name: &str) -> impl FnOnce(Error) -> StoreError {
        let at = self.place(name);
        move |error| StoreError::of(action, at)(std::io::Error::other(error))
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let found = match self.store.get(&self.path(name)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.error("read", name)(error)),
        };
        let meta = found.meta.clone();
        let version = Version(UpdateVersion { e_tag: meta.e_tag, version: meta.version });
        let bytes = found.bytes().await.map_err(self.error("read", name))?;
        Ok(Some(Object { bytes, version, modified: meta.last_modified }))
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has(&self, name: &str) -> Result<bool, StoreError> {
        match self.store.head(&self.path(name)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.error("look for", name)(error)),
        }
    }

    /// Begins to put an object in several requests. It is there once they are completed.
    pub(super) async fn upload(&self, name: &str) -> Result<Box<dyn MultipartUpload>, StoreError> {
        self.store.put_multipart(&self.path(name)).await.map_err(self.error("write", name))
    }

    /// Puts an object unconditionally.
    ///
    /// # Errors
    /// When the store rejects the put.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.store.put(&self.path(name), PutPayload::from(bytes)).await;
        put.map(|_| ()).map_err(self.error("write", name))
    }

    /// Puts an object if the existing one meets the condition, and returns the new version.
    ///
    /// # Errors
    /// [`PutError::Changed`] if the existing object does not meet the condition. After any error the new object may be
    /// there all the same: the store's response may have been lost, or the client may have repeated a put that had
    /// succeeded and been refused.
    pub async fn put_if(
        &self,
        name: &str,
        bytes: Bytes,
        expected: PutCondition<'_>,
    ) -> Result<Version, PutError> {
        let mode = match expected {
            PutCondition::Absent => PutMode::Create,
            PutCondition::Version(version) => PutMode::Update(version.0.clone()),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name), PutPayload::from(bytes), options).await {
            Ok(put) => Ok(Version(put.into())),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => {
                Err(PutError::Changed)
            }
            Err(error) => Err(self.error("write", name)(error).into()),
        }
    }

    /// Removes an object; does nothing if it does not exist.
    ///
    /// # Errors
    /// When the store does not remove it.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("remove", name)(error)),
        }
    }

    /// Lists the names of all objects below the folder, relative to it, in order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list(&self) -> Result<Vec<String>, StoreError> {
        let listed = self.store.list(Some(&self.below)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(self.error("list", ""))?;
        let below = |path: &Path| -> Option<String> {
            let parts = path.prefix_match(&self.below)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        let mut names: Vec<String> = listed.iter().filter_map(|object| below(&object.location)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the time by the store's clock, in whole seconds. Puts an object to find out, and removes it.
    ///
    /// # Errors
    /// When that object cannot be put, read or removed.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        let name = format!(".clock-{}", uuid::Uuid::new_v4());
        self.put(&name, Bytes::from_static(b"now")).await?;
        let found = self.get(&name).await;
        self.delete(&name).await?;
        let not_found = || StoreError::of("read", self.place(&name))(std::io::ErrorKind::NotFound.into());
        Ok(found?.ok_or_else(not_found)?.modified)
    }

    /// Checks that objects can be put here, and that the store honors the conditions of a put.
    ///
    /// # Errors
    /// When an object cannot be put, or a condition is ignored.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let name = format!(".probe-{}", uuid::Uuid::new_v4());
        let probed = self.probe_with(&name).await;
        let removed = self.delete(&name).await;
        probed.and(removed)
    }

    async fn probe_with(&self, name: &str) -> Result<(), StoreError> {
        let put = async |text: &'static str, expected: PutCondition<'_>| {
            self.put_if(name, Bytes::from_static(text.as_bytes()), expected).await
        };
        let unfit = || {
            let source = std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "the store does not keep to the conditions of a put (If-None-Match, If-Match), on which safety rests",
            );
            StoreError::of("use", self.at.clone())(source)
        };
        // If the response to a put is lost, the client repeats the put, which is refused because of the object that
        // the first attempt put.
        let landed = async |put: Result<Version, PutError>, text: &'static str| match put {
            Ok(version) => Ok(version),
            Err(PutError::Changed) => match self.get(name).await? {
                Some(found) if found.bytes == text => Ok(found.version),
                _ => Err(unfit()),
            },
            Err(PutError::Store(error)) => Err(error),
        };
        let version = landed(put("one", PutCondition::Absent).await, "one").await?;
        let is_refused = |put: Result<Version, PutError>| match put {
            Err(PutError::Changed) => Ok(true),
            Ok(_) => Ok(false),
            Err(PutError::Store(error)) => Err(error),
        };
        if !is_refused(put("two", PutCondition::Absent).await)? {
            return Err(unfit());
        }
        landed(put("three", PutCondition::Version(&version)).await, "three").await?;
        match is_refused(put("four", PutCondition::Version(&version)).await)? {
            true => Ok(()),
            false => Err(unfit()),
        }
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn objects_are_put_under_conditions_and_listed_by_name() {
        let at = Location::resolve("s3://bucket/folder", std::path::Path::new("/")).unwrap();
        let folder = Objects::new(at, Arc::new(InMemory::new()));
        folder.probe().await.unwrap();
        let below = folder.join("a b/c");
        let bytes = Bytes::from_static;
        let version = below.put_if("x", bytes(b"1"), PutCondition::Absent).await.unwrap();
        let again = below.put_if("x", bytes(b"2"), PutCondition::Absent).await;
        assert!(matches!(again, Err(PutError::Changed)));
        below.put_if("x", bytes(b"3"), PutCondition::Version(&version)).await.unwrap();
        let late = below.put_if("x", bytes(b"4"), PutCondition::Version(&version)).await;
        assert!(matches!(late, Err(PutError::Changed)));
        assert_eq!(below.get("x").await.unwrap().unwrap().bytes, bytes(b"3"));
        assert_eq!(folder.list().await.unwrap(), ["a b/c/x"], "the probe is gone");
        assert_eq!(below.list().await.unwrap(), ["x"]);
        assert_eq!(below.place("x").to_string(), "s3://bucket/folder/a%20b/c/x");
        below.delete("x").await.unwrap();
        below.delete("x").await.unwrap();
        assert!(below.get("x").await.unwrap().is_none());
    }
}
