//! The query as the source of commands that write nothing.

use tempfile::TempDir;

use super::new_rows::{QueryReport, ResultPlace, add_new_rows_in};
use super::results::QueryResults;
use crate::config::{Job, SourceSpec};
use crate::source::SourceError;
use crate::store::{Folder, Location, StoreError};

/// The rows that a run would find, as a source.
#[derive(Debug)]
pub struct QueryPreview {
    /// The source, which is the job's own if that is no query.
    pub source: SourceSpec,
    /// What the computation has brought; `None` if the source is no query.
    pub report: Option<QueryReport>,
    /// The folder of the rows, which is removed with this.
    _folder: Option<TempDir>,
}

/// Computes the query of a job into a folder of its own, with the results that are kept.
///
/// # Errors
/// As [`super::add_new_rows`].
pub async fn preview(job: &Job, home: &Folder) -> Result<QueryPreview, SourceError> {
    let Some(query) = &job.source.query else {
        return Ok(QueryPreview { source: job.source.clone(), report: None, _folder: None });
    };
    let folder = tempfile::tempdir().map_err(StoreError::of("create a folder in", std::env::temp_dir()))?;
    let copies = QueryResults::in_folder(&Folder::Local(folder.path().to_owned()));
    let results = QueryResults::in_folder(home);
    for name in results.names().await? {
        results.copy_to(&name, &copies).await?;
    }
    let location = Location::local(copies.folder().path().unwrap_or(folder.path()));
    let source = SourceSpec { location, ..job.source.clone() };
    let work = folder.path().join("work");
    crate::store::create_folder(&work)?;
    let report = add_new_rows_in(job, query, &copies, ResultPlace::Elsewhere(&source), &work).await?;
    Ok(QueryPreview { source, report: Some(report), _folder: Some(folder) })
}
