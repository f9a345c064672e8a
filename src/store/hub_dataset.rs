//! A dataset repository of Hugging Face as an object store that is only read.
//!
//! A store is of one revision. What is read in several requests is of one commit if that revision is a commit
//! ([`HubDataset::pin`]). The repository knows no modification times of files: they are 1970 here, and the ETag of a file
//! is the id of its content.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use serde::Deserialize;
use url::Url;

use super::Location;
use super::dataset_path::DatasetPath;
use super::hub_client::{HubClient, HubError, HubResponse, MAX_WHOLE_BYTES};

/// Name of the store in errors of object_store.
const NAME: &str = "Hugging Face";
const MAIN: &str = "main";
/// Bytes that are fetched at once where a whole file is read.
const CHUNK_BYTES: u64 = 8_000_000;
/// The server's name for a path that is not there, as opposed to a repository or a revision.
const NO_ENTRY: &str = "EntryNotFound";

/// A folder of a dataset repository at a revision.
#[derive(Clone, Debug)]
pub struct HubDataset(Arc<DatasetRevision>);

#[derive(Debug)]
struct DatasetRevision {
    client: HubClient,
    folder: DatasetPath,
    revision: String,
    /// Files that were listed.
    found: Mutex<HashMap<Path, ObjectMeta>>,
}

/// An entry of a listing.
#[derive(Debug, Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: TreeEntryKind,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    /// Where the content is kept outside of Git.
    lfs: Option<LfsObject>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TreeEntryKind {
    File,
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct LfsObject {
    oid: String,
    size: u64,
}

/// What a revision is.
#[derive(Debug, Deserialize)]
struct RevisionInfo {
    sha: String,
}

/// Whether a listing descends into folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListingDepth {
    All,
    One,
}

impl HubDataset {
    /// Returns the store of a location; its paths are relative to that. `None` for a location that is in no dataset
    /// repository.
    ///
    /// # Errors
    /// When a setting in the environment is wrong.
    pub fn open(at: &Location) -> Result<Option<Self>, HubError> {
        let Some(folder) = at.dataset() else { return Ok(None) };
        let revision = folder.revision.clone().unwrap_or_else(|| MAIN.to_owned());
        let client = HubClient::of_environment()?;
        Ok(Some(HubDataset(Arc::new(DatasetRevision { client, folder, revision, found: Mutex::default() }))))
    }

    /// Returns the location at the commit that its revision is now. A location in no dataset repository is returned as it
    /// is.
    ///
    /// # Errors
    /// When the repository or its revision is not there, or may not be read.
    pub async fn pin(at: &Location) -> Result<Location, HubError> {
        let Some(dataset) = HubDataset::open(at)? else { return Ok(at.clone()) };
        let repository = &dataset.0;
        let url = repository.url(&["api"], "revision", &[]);
        let response = repository.client.get(&url, None).await?;
        let info: RevisionInfo = parsed(&response)?;
        Ok(at.at_revision(Some(&info.sha)))
    }
}

fn parsed<T: for<'a> Deserialize<'a>>(response: &HubResponse) -> Result<T, HubError> {
    serde_json::from_slice(&response.body).map_err(|error| HubError::Unusable(error.to_string()))
}

/// Returns an error of an object store without the store's name before it, where a repository's own says all.
#[must_use]
pub fn without_store_name(error: Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        Error::Generic { store: NAME, source } => source,
        error => error.into(),
    }
}

fn generic(error: HubError) -> Error {
    Error::Generic { store: NAME, source: error.into() }
}

impl DatasetRevision {
    /// Returns a URL of an interface of the repository, such as `tree`.
    fn url(&self, before: &[&str], interface: &str, parts: &[&str]) -> Url {
        let DatasetPath { owner, name, .. } = &self.folder;
        let repository = ["datasets", owner, name, interface, &self.revision];
        self.client.url(before.iter().copied().chain(repository).chain(parts.iter().copied()))
    }

    /// Returns the parts of the path of an object from the repository's root on.
    fn parts<'a>(&'a self, path: &'a Path) -> Vec<&'a str> {
        let folder = self.folder.parts.iter().map(String::as_str);
        folder.chain(path.as_ref().split('/').filter(|part| !part.is_empty())).collect()
    }

    /// Reads a page of a listing. A path that is not there has no entries.
    async fn page(&self, url: &Url) -> Result<(Vec<TreeEntry>, Option<Url>), HubError> {
        match self.client.get(url, None).await {
            Ok(response) => Ok((parsed(&response)?, response.next)),
            Err(HubError::NotFound { code, .. }) if code.is_empty() || code == NO_ENTRY => {
                Ok((Vec::new(), None))
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the files of a folder, and the names of its folders if the listing does not descend into them.
    fn entries(
        self: &Arc<Self>,
        folder: &Path,
        depth: ListingDepth,
    ) -> BoxStream<'static, object_store::Result<(TreeEntryKind, ObjectMeta)>> {
        let mut url = self.url(&["api"], "tree", &self.parts(folder));
        if depth == ListingDepth::All {
            url.query_pairs_mut().append_pair("recursive", "true");
        }
        let repository = Arc::clone(self);
        let pages = stream::try_unfold(Some(url), move |url| {
            let repository = Arc::clone(&repository);
            async move {
                let Some(url) = url else { return Ok(None) };
                let (entries, next) = repository.page(&url).await.map_err(generic)?;
                let entries: Vec<_> =
                    entries.into_iter().filter_map(|entry| repository.object(entry).transpose()).collect();
                Ok::<_, Error>(Some((stream::iter(entries), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// Returns an entry with its path relative to the store, and remembers it; `None` if it is not in the store's folder.
    fn object(&self, entry: TreeEntry) -> object_store::Result<Option<(TreeEntryKind, ObjectMeta)>> {
        let mut path = entry.path.as_str();
        for part in &self.folder.parts {
            match path.strip_prefix(part.as_str()).and_then(|rest| rest.strip_prefix('/')) {
                Some(rest) => path = rest,
                None => return Ok(None),
            }
        }
        let location = Path::parse(path)?;
        let (size, oid) = entry.lfs.map_or((entry.size, entry.oid), |lfs| (lfs.size, lfs.oid));
        let e_tag = Some(oid).filter(|oid| !oid.is_empty());
        let last_modified = DateTime::UNIX_EPOCH;
        let object = ObjectMeta { location, last_modified, size, e_tag, version: None };
        if entry.kind == TreeEntryKind::File {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.insert(object.location.clone(), object.clone());
        }
        Ok(Some((entry.kind, object)))
    }

    fn known(&self, path: &Path) -> Option<ObjectMeta> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Returns a file as the listing of its folder has it.
    async fn head(self: &Arc<Self>, path: &Path) -> object_store::Result<ObjectMeta> {
        if let Some(known) = self.known(path) {
            return Ok(known);
        }
        let folder = path.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut entries = self.entries(&Path::parse(folder)?, ListingDepth::One);
        while entries.try_next().await?.is_some() {}
        let nowhere = || Error::NotFound { path: path.to_string(), source: "it is in no listing".into() };
        self.known(path).ok_or_else(nowhere)
    }

    /// Reads a range of a file of a size.
    async fn bytes(&self, path: &Path, size: u64, range: Range<u64>) -> object_store::Result<Bytes> {
        let url = self.url(&[], "resolve", &self.parts(path));
        let read = self.client.get(&url, Some(&range)).await.map_err(|error| match error {
            error @ HubError::NotFound { .. } => {
                Error::NotFound { path: path.to_string(), source: error.into() }
            }
            error => generic(error),
        })?;
        let wrong = |what: String| generic(HubError::Unusable(what));
        let (length, bytes) = (read.body.len() as u64, read.body);
        match read.is_partial {
            true if length == range.end - range.start => Ok(bytes),
            false if length == size && size <= MAX_WHOLE_BYTES => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(bytes.slice(at(range.start)..at(range.end)))
            }
            true => Err(wrong(format!(
                "{length} bytes instead of the {} that were asked for",
                range.end - range.start
            ))),
            false => {
                Err(wrong(format!("{length} bytes of a file of {size}: it does not give parts of files")))
            }
        }
    }
}

fn refused<T>() -> object_store::Result<T> {
    Err(Error::NotSupported { source: "repositories of Hugging Face are only read".into() })
}

impl fmt::Display for HubDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

#[async_trait]
impl ObjectStore for HubDataset {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        refused()
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        refused()
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let meta = self.0.head(location).await?;
        let size = meta.size;
        let range = match &options.range {
            Some(range) => {
                range.as_range(size).map_err(|error| generic(HubError::Unusable(error.to_string())))?
            }
            None => 0..size,
        };
        let wanted = if options.head { 0..0 } else { range.clone() };
        let starts = (wanted.start..wanted.end).step_by(usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX));
        let (repository, path) = (Arc::clone(&self.0), location.clone());
        let chunks = stream::iter(starts).then(move |start| {
            let (repository, path) = (Arc::clone(&repository), path.clone());
            let chunk = start..(start + CHUNK_BYTES).min(wanted.end);
            async move { repository.bytes(&path, size, chunk).await }
        });
        let payload = GetResultPayload::Stream(chunks.boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        locations.map(|_| refused()).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let entries = self.0.entries(&prefix.cloned().unwrap_or_default(), ListingDepth::All);
        let files = entries
            .try_filter_map(async |(kind, object)| Ok((kind == TreeEntryKind::File).then_some(object)));
        files.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let entries = self.0.entries(&prefix.cloned().unwrap_or_default(), ListingDepth::One);
        let entries: Vec<_> = entries.try_collect().await?;
        let (files, folders): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(kind, _)| *kind == TreeEntryKind::File);
        let objects = files.into_iter().map(|(_, object)| object).collect();
        let common_prefixes = folders.into_iter().map(|(_, folder)| folder.location).collect();
        Ok(ListResult { common_prefixes, objects })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        refused()
    }
}
