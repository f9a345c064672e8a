//! A source whose end is fixed: a catalog of files, their format, and the condition that chooses rows.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::arrow::datatypes::{Schema, SchemaRef};

use super::catalog::Catalog;
use super::columns::UnsupportedColumn;
use super::conform;
use super::delta_catalog::DeltaCatalog;
use super::error::SourceError;
use super::file::Root;
use super::file_format::ByteStrings;
use super::file_format::SourceFiles;
use super::filter::Filter;
use super::folder_catalog::FolderCatalog;
use super::position::{HeldFile, Lag, NextFile, NextRows, ReadProgress};
use super::reader::RowReader;
use super::row_mask::RowMask;
use super::shape::FileShape;
use super::staging::{StagingPlace, StagingProgress};
use crate::checkpoint::{FileRange, PlannedBatch, Position, SourceId};
use crate::config::{OnUnsupported, SourceSpec, nearest};
use crate::store::{HubDataset, Location};
use crate::table::{has_empty_log, is_delta_table, objects};

/// Maximum number of row masks in memory. A file's mask is used when a batch is planned, and again when it is read.
const MAX_CACHED_MASKS: usize = 1_000;
/// Maximum number of rows that these masks cover together.
const MAX_CACHED_ROWS: usize = 16_000_000;

/// A source whose end is fixed.
#[derive(Debug)]
pub struct Source {
    files: SourceFiles,
    /// The columns that are carried to the target.
    schema: SchemaRef,
    /// The columns that are carried to the target, with their metadata in the source table.
    noted: SchemaRef,
    /// All columns of the source, with their metadata in the source table.
    all: SchemaRef,
    filter: Option<Arc<Filter>>,
    /// The row masks that were computed last, by file and condition, oldest first.
    kept: VecDeque<(String, Option<String>, RowMask)>,
    id: SourceId,
    pub(super) catalog: Catalog,
}

impl Source {
    /// Opens a source, determines its kind and fixes its end. `state` is the local folder with what earlier runs found
    /// out about its files.
    ///
    /// # Errors
    /// When the source does not exist, is neither a table nor files, or has something that cannot be read.
    pub async fn open(spec: &SourceSpec, state: &Path) -> Result<Source, SourceError> {
        Source::open_with(spec, state, StagingPlace::StateIfThere, StagingProgress::default()).await
    }

    /// Opens a source for a run: as [`Source::open`], and files that are no tables are staged in `state`. `progress` tells
    /// meanwhile how far that is.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub async fn open_to_run(
        spec: &SourceSpec,
        state: &Path,
        progress: StagingProgress,
    ) -> Result<Source, SourceError> {
        Source::open_with(spec, state, StagingPlace::State, progress).await
    }

    async fn open_with(
        spec: &SourceSpec,
        state: &Path,
        place: StagingPlace,
        progress: StagingProgress,
    ) -> Result<Source, SourceError> {
        let pinned = HubDataset::pin(&spec.location).await;
        let at = &pinned.map_err(|error| SourceError::Hub { path: spec.location.clone(), error })?;
        if at.path().is_some_and(|path| !path.exists()) {
            return Err(SourceError::Missing { path: at.clone() });
        }
        let filter = |files: &SourceFiles, all: &SchemaRef| {
            let filter = spec.condition.as_deref().map(|condition| Filter::new(condition, files, all));
            filter.transpose().map(|filter| filter.map(Arc::new))
        };
        let (files, all, filter, id, catalog) = if is_delta_table(at).await? {
            let (mut source, all, id) = DeltaCatalog::open(at, spec).await?;
            let root = match at.path() {
                Some(_) => Root::from(at.clone()),
                None => Root::remote(at.clone(), objects(at).await?),
            };
            let files = SourceFiles::parquet(root, ByteStrings::of(spec));
            let filter = filter(&files, &all)?;
            source.condition = filter.as_ref().map(|filter| filter.condition().clone());
            (files, all, filter, id, Catalog::Delta(Box::new(source)))
        } else if has_empty_log(at).await? {
            let what = "has a _delta_log without a single commit: it is no Delta table any more, and its data files may \
                        have rows that were deleted. Bring the log back, or remove the folder _delta_log to read it as \
                        files";
            return Err(SourceError::Unsupported { path: at.clone(), what: what.to_owned() });
        } else {
            if let Some(start) = &spec.start {
                return Err(SourceError::Start {
                    path: at.clone(),
                    key: start.key(),
                    message: "files have no versions; take the key out".into(),
                });
            }
            let (mut source, files, all, unsupported) =
                FolderCatalog::open(at, spec, state, place, progress).await?;
            check_unsupported(spec, at, &all, &unsupported)?;
            unsupported.iter().for_each(|column| source.leave_out(column.to_string()));
            let filter = filter(&files, &all)?;
            let id = match &spec.query {
                None => {
                    SourceId::Folder { written: spec.written.clone(), path: at.at_revision(None).to_string() }
                }
                Some(query) => {
                    source.set_removing();
                    SourceId::Query { key: query.key.clone() }
                }
            };
            (files, all, filter, id, Catalog::Folder(Box::new(source)))
        };
        let noted = chosen(spec, at, &all)?;
        let mut key = spec.query.iter().flat_map(|query| &query.key);
        if let Some(missing) = key.find(|name| noted.index_of(name).is_err()) {
            let message =
                format!("has the key {missing:?} in a type that is not carried to the target; cast it");
            return Err(SourceError::Query { message });
        }
        Ok(Source { files, schema: plain(&noted), noted, all, filter, kept: VecDeque::new(), id, catalog })
    }

    /// Returns the columns that are carried to the target, in types that a Delta table can hold.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the names of the columns that are not carried to the target.
    #[must_use]
    pub fn columns_left_out(&self) -> Vec<String> {
        let is_carried = |name: &String| self.schema.field_with_name(name).is_ok();
        self.all.fields().iter().map(|field| field.name().clone()).filter(|name| !is_carried(name)).collect()
    }

    /// Returns the files with their columns: as they are carried, and with their metadata in the source table.
    pub(super) fn into_columns(self) -> (SourceFiles, SchemaRef, SchemaRef) {
        (self.files, self.schema, self.noted)
    }

    /// Returns a reader of the source's rows.
    #[must_use]
    pub fn reader(&self) -> RowReader {
        RowReader::new(self.files.clone(), Arc::clone(&self.schema), Arc::clone(&self.noted))
    }

    /// Returns the condition that rows must meet, or `None` if there is none.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        self.filter.as_deref().map(|filter| filter.condition().written())
    }

    /// Returns the number and size of the rows of a part's file.
    ///
    /// # Errors
    /// When the file is not there or is damaged.
    pub async fn shape(&self, part: &FileRange) -> Result<FileShape, SourceError> {
        let (file, noted) = (part.file.clone(), Arc::clone(&self.noted));
        self.files.blocking(move |files| files.shape(&file, &noted)).await
    }

    /// Returns which rows of a part's file are not deleted and meet a condition, which may be an earlier one of this
    /// source.
    ///
    /// # Errors
    /// When the log, a deletion vector or the file cannot be read, and when the condition does not fit the source.
    pub async fn kept(&mut self, part: &FileRange, condition: Option<&str>) -> Result<RowMask, SourceError> {
        let known = self
            .kept
            .iter()
            .find(|(file, known_condition, _)| *file == part.file && known_condition.as_deref() == condition);
        if let Some((_, _, kept)) = known {
            return Ok(kept.clone());
        }
        let there = RowMask::undeleted(self.catalog.undeleted(part).await?);
        let kept = match condition {
            None => there,
            Some(condition) => {
                let own = self.filter.as_ref().filter(|own| own.condition().written() == condition);
                let filter = match own {
                    Some(own) => Arc::clone(own),
                    None => Arc::new(Filter::new(condition, &self.files, &self.all)?),
                };
                let part = part.clone();
                let look = move |_| filter.rows(&part, &there).map(|rows| there.with_selected(rows));
                self.files.blocking(look).await?
            }
        };
        self.kept.push_back((part.file.clone(), condition.map(ToOwned::to_owned), kept.clone()));
        let rows =
            |kept: &VecDeque<(_, _, RowMask)>| kept.iter().map(|(_, _, kept)| kept.size()).sum::<usize>();
        while self.kept.len() > 1
            && (self.kept.len() > MAX_CACHED_MASKS || rows(&self.kept) > MAX_CACHED_ROWS)
        {
            self.kept.pop_front();
        }
        Ok(kept)
    }

    /// Returns the identity of the source, by which a checkpoint recognises it.
    #[must_use]
    pub fn id(&self) -> &SourceId {
        &self.id
    }

    /// Returns the folder or prefix that paths of files are relative to.
    #[must_use]
    pub fn root(&self) -> &Location {
        self.files.root().at()
    }

    /// Stores what was found out about files, for later runs, in the folder that [`Source::open`] was given. If that
    /// fails, it is found out again.
    pub fn save_state(&mut self) {
        if let Catalog::Folder(folder) = &mut self.catalog {
            let _ = folder.save_footers();
        }
    }

    /// Removes the staged files that neither a planned batch nor the rest of the source after a position needs. If that
    /// fails, the next run does it.
    pub fn remove_staged(&self, position: &Position, planned: &[PlannedBatch]) {
        if let Catalog::Folder(folder) = &self.catalog {
            let parts = planned.iter().flat_map(|batch| &batch.parts);
            let _ = folder.remove_staged(position, parts.map(|part| part.file.as_str()));
        }
    }

    /// Returns the next file after a position, with the row to begin at.
    ///
    /// # Errors
    /// When the log or a file cannot be read, when rows were changed or lost since the position, or when the position
    /// is that of another kind of source.
    pub async fn next_file(&mut self, position: &Position) -> Result<NextRows, SourceError> {
        self.catalog.next_file(position).await
    }

    /// Returns at most `most` files that may come after a part of a file that [`Source::next_file`] returned last, as far
    /// as they are known without reading a log.
    #[must_use]
    pub fn following(&self, part: &FileRange, most: usize) -> Vec<FileRange> {
        self.catalog.following(part, most)
    }

    /// Returns the position after rows up to `end` of a file that [`Source::next_file`] returned for `before`;
    /// `is_whole` if nothing of the file is left.
    #[must_use]
    pub fn advance(&self, before: Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        self.catalog.advance(before, part, end, is_whole)
    }

    /// Returns the position after everything in the source, for a plan that reaches its end, or `None` if that equals
    /// the position after the last file.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.catalog.end()
    }

    /// Returns how long files that a Delta table removes are kept, or `None` for Parquet files.
    #[must_use]
    pub fn retention(&self) -> Option<Duration> {
        self.catalog.retention()
    }

    /// Returns a description of the source for messages.
    #[must_use]
    pub fn what(&self) -> String {
        self.catalog.what()
    }

    /// Returns descriptions of what is left out of a folder of Parquet files, with the reasons.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        self.catalog.left_out()
    }

    /// Returns the files that were passed over because they are not complete yet. They are read once they are complete.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Location> {
        self.catalog.unfinished().into_iter().map(|file| self.files.root().place(file)).collect()
    }

    /// Returns the number of rows after a position, or `None` if it is not known without opening files, as with a
    /// condition.
    pub async fn rows_after(&self, position: &Position) -> Option<u64> {
        if self.filter.is_some() {
            return None;
        }
        self.catalog.rows_after(position).await
    }

    /// Returns how many versions, files and rows are after a position. Reads the footer of each of these files, and the
    /// columns of the condition.
    ///
    /// # Errors
    /// As [`Source::next_file`].
    pub async fn lag(&mut self, position: &Position) -> Result<Lag, SourceError> {
        let mut lag = Lag { versions: self.catalog.versions_after(position), files: 0, rows: 0 };
        let mut position = position.clone();
        let condition = self.condition().map(ToOwned::to_owned);
        while let Some(NextFile { part, may_match, .. }) = self.next_file(&position).await?.file {
            let mut end = 0;
            if may_match {
                end = self.shape(&part).await?.rows();
                let kept = self.kept(&part, condition.as_deref()).await?;
                let rows = kept.rows(part.start..end).count() as u64;
                lag.files += u64::from(rows > 0 || condition.is_none());
                lag.rows += rows;
            }
            position = self.advance(position, &part, end, true);
        }
        Ok(lag)
    }

    /// Whether a position is known to be after every row of the source.
    pub async fn is_after_all(&self, position: &Position) -> bool {
        self.end().as_ref() == Some(position) || self.rows_after(position).await == Some(0)
    }

    /// Checks that the file of a planned part exists and has the size that it had when it was planned.
    ///
    /// # Errors
    /// If the file is gone or has another size, or its size cannot be read.
    pub async fn holds(&self, part: &FileRange) -> Result<(), SourceError> {
        let path = self.files.root().place(&part.file);
        let size = self.files.root().size(&part.file).await;
        let size = size.map_err(|error| SourceError::missing_file(&path, part, error))?;
        if size == part.size {
            return Ok(());
        }
        let what = format!("it had {} bytes when it was planned and has {size} now", part.size);
        Err(SourceError::file(&path, what))
    }

    /// Whether a file exists, given its path as in row keys.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub async fn has_file(&self, file: &str) -> Result<bool, SourceError> {
        match self.files.root().size(file).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(SourceError::file(&self.files.root().place(file), error)),
        }
    }

    /// Returns the position after all rows that a target holds, to replace a lost checkpoint.
    ///
    /// # Errors
    /// When these rows are not the first ones of the source.
    pub async fn position_after(&mut self, held: &[HeldFile]) -> Result<Position, SourceError> {
        let expected = self.expected(held).await?;
        self.catalog.position_after(held, &expected).await
    }

    /// Returns each file's read progress at the end of the rows that the target holds of it; empty without a condition.
    async fn expected(&mut self, held: &[HeldFile]) -> Result<HashMap<String, ReadProgress>, SourceError> {
        let mut expected = HashMap::new();
        let Some(condition) = self.condition().map(ToOwned::to_owned) else { return Ok(expected) };
        let ends: HashMap<&str, u64> = held.iter().map(|held| (held.file.as_str(), held.end)).collect();
        let parts = self.catalog.parts().await?;
        for part in parts {
            let end = ends.get(part.file.as_str()).copied().unwrap_or_default();
            let rows = self.shape(&part).await?.rows();
            let kept = self.kept(&part, Some(&condition)).await?;
            let count = |range| kept.rows(range).count() as u64;
            let of_file = ReadProgress {
                before: count(0..end),
                deleted: kept.deleted(0..end),
                after: count(end..rows),
            };
            expected.insert(part.file, of_file);
        }
        Ok(expected)
    }
}

/// Returns the columns that a job carries to its target, in the order in which it names them; all if it names none.
fn chosen(spec: &SourceSpec, path: &Location, all: &SchemaRef) -> Result<SchemaRef, SourceError> {
    let Some(columns) = &spec.columns else { return Ok(Arc::clone(all)) };
    let place = |column: &String| {
        all.index_of(column).map_err(|_| SourceError::UnknownColumn {
            path: path.to_owned(),
            column: column.clone(),
            near: nearest(column, all.fields().iter().map(|field| field.name().as_str())).map(Into::into),
        })
    };
    let places = columns.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let fields: Vec<_> = places.into_iter().map(|at| Arc::clone(&all.fields()[at])).collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, all.metadata().clone())))
}

/// Checks that the job leaves out the columns that its target cannot hold.
fn check_unsupported(
    spec: &SourceSpec,
    at: &Location,
    all: &SchemaRef,
    unsupported: &[UnsupportedColumn],
) -> Result<(), SourceError> {
    let named = |column: &&UnsupportedColumn| match &spec.columns {
        Some(columns) => columns.contains(&column.name),
        None => spec.on_unsupported != OnUnsupported::Skip,
    };
    let Some(column) = unsupported.iter().find(named) else { return Ok(()) };
    let text = match spec.on_unsupported {
        OnUnsupported::Text => "",
        _ => ", or carry it as text with source.on_unsupported = \"text\"",
    };
    let mend = match spec.columns {
        Some(_) => format!("Take it out of source.columns{text}"),
        None if all.fields().is_empty() => {
            format!("No column is left; rename it in the files{text}")
        }
        None => {
            let names: Vec<&str> = all.fields().iter().map(|field| field.name().as_str()).collect();
            let line = format!("source.columns = {names:?}");
            format!("Leave it out with {line} or source.on_unsupported = \"skip\"{text}")
        }
    };
    Err(SourceError::Unsupported { path: at.clone(), what: format!("has {column}. {mend}") })
}

/// Returns the columns without their table's metadata.
fn plain(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(conform::logical(schema.fields())))
}
