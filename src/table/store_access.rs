//! Access to the object store of a location: fails fast if the store does not answer, and is patient once it has.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use deltalake::{DeltaTableBuilder, DeltaTableError, ensure_table_uri};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use url::Url;

use super::TableError;
use crate::store::{HubDataset, HubError, Location};

pub(super) const LOG_FOLDER: &str = "_delta_log";

/// Settings for retries once a store has answered: the delays grow to ten seconds, for about a minute in all. (With
/// object_store's own base of 2 its jittered delays do not grow, and ten of them last two seconds.)
const PATIENT: [(&str, &str); 5] = [
    ("max_retries", "15"),
    ("retry_timeout", "180s"),
    ("backoff_config.max_backoff", "10s"),
    ("backoff_config.base", "4"),
    ("timeout", "120s"),
];

/// Stores that have answered this process.
static REACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Returns the object store of a location. Its paths are relative to the location.
///
/// # Errors
/// When the environment lacks a required setting, or the store does not answer.
pub async fn objects(at: &Location) -> Result<Arc<dyn ObjectStore>, TableError> {
    let failed = |source: HubError| TableError { action: "reach", at: at.clone(), source: Box::new(source) };
    if let Some(dataset) = HubDataset::open(at).map_err(failed)? {
        return Ok(Arc::new(dataset));
    }
    let error = error_of("reach", at);
    Ok(builder(at).await?.build_storage().map_err(&error)?.object_store(None))
}

/// Returns the builder that opens a table. Before the first table of a store, checks that the store answers.
pub(super) async fn builder(at: &Location) -> Result<DeltaTableBuilder, TableError> {
    let error = error_of("reach", at);
    if at.dataset().is_some() {
        let what = "Delta tables in repositories of Hugging Face are not read, only files; copy it to a folder or an \
                    object store";
        return Err(error(DeltaTableError::Generic(what.to_owned())));
    }
    let new = || -> Result<DeltaTableBuilder, DeltaTableError> { DeltaTableBuilder::from_url(uri(at)?) };
    let builder = new().map_err(&error)?;
    let Some(url) = at.url() else { return Ok(builder) };
    let store = format!("{}://{}", url.scheme(), url.authority());
    if !is_reached(&store) {
        if let Some(endpoint) = forbidden_endpoint(url.scheme()) {
            let what = format!("the endpoint is {endpoint}, without TLS, and AWS_ALLOW_HTTP=true is not set");
            return Err(error(DeltaTableError::Generic(what)));
        }
        let quick = new().and_then(|builder| builder.build_storage()).map_err(&error)?.object_store(None);
        let mut listed = quick.list(Some(&Path::from(LOG_FOLDER)));
        listed.try_next().await.map_err(|source| error(source.into()))?;
        REACHED.lock().unwrap_or_else(PoisonError::into_inner).insert(store);
    }
    let options = PATIENT.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Ok(builder.with_storage_options(HashMap::from(options)))
}

/// Returns an endpoint that object_store refuses with an unhelpful message ("builder error").
fn forbidden_endpoint(scheme: &str) -> Option<String> {
    let text = |name| std::env::var(name).ok();
    let endpoint = text("AWS_ENDPOINT_URL").or_else(|| text("AWS_ENDPOINT"))?;
    let is_allowed =
        text("AWS_ALLOW_HTTP").is_some_and(|allowed| !matches!(allowed.as_str(), "" | "0" | "false"));
    (scheme.starts_with("s3") && endpoint.starts_with("http://") && !is_allowed).then_some(endpoint)
}

fn is_reached(store: &str) -> bool {
    REACHED.lock().unwrap_or_else(PoisonError::into_inner).contains(store)
}

pub(super) fn uri(at: &Location) -> Result<Url, DeltaTableError> {
    match at.path() {
        Some(path) => ensure_table_uri(path.to_string_lossy()),
        None => ensure_table_uri(at.to_string()),
    }
}

pub(super) fn error_of(
    action: &'static str,
    at: &Location,
) -> impl Fn(DeltaTableError) -> TableError + use<> {
    let at = at.clone();
    move |source| TableError { action, at: at.clone(), source: Box::new(source) }
}
