//! What is read: a Delta table or Parquet files, as rows in a fixed order with their keys.
//!
//! The end is fixed when a run starts; later runs take what came after. Files are read row group by row
//! group and never as a whole; consecutive batches of a file go on with the same reader.

mod columns;
mod conform;
mod delta;
mod error;
mod file;
mod filter;
mod footer;
mod listing;
mod merge;
mod missing;
mod parquet;
mod reader;
mod row_mask;
mod shape;

pub use error::SourceError;
pub use file::Root;
pub use missing::{HeldRows, MissingRows};
pub use reader::RowReader;
pub use row_mask::RowMask;
pub use shape::{FileShape, Fitting};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ::arrow::datatypes::{Schema, SchemaRef};

use crate::checkpoint::{FileRange, Position, SourceId};
use crate::config::{OnUnsupported, SourceSpec, nearest};
use crate::passed::PassedOver;
use crate::store::Location;
use crate::table::{has_empty_log, is_delta_table, objects};

use self::columns::UnsupportedColumn;
use self::delta::DeltaSource;
use self::file::ByteStrings;
use self::filter::Filter;
use self::parquet::ParquetSource;

/// Files, and rows of them, that are remembered as kept or not: a batch is planned and then read.
const KEPT_FILES: usize = 1_000;
const KEPT_ROWS: usize = 16_000_000;

/// What comes after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextRows {
    /// Rows between the position and the file, or the end, that are passed over whatever `source.where` says.
    pub passed: PassedOver,
    /// The file; `None` at the end.
    pub file: Option<NextFile>,
}

/// A file with rows that are not planned yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextFile {
    /// The whole file as a part; `end` is not known and 0.
    pub part: FileRange,
    /// Whether it may have a row that meets the source's condition, as far as the log tells.
    pub may_match: bool,
    /// Its rows that are not deleted, where the log tells them.
    pub rows: Option<u64>,
}

/// A source whose end is fixed.
#[derive(Debug)]
pub struct Source {
    root: Root,
    /// The columns that are carried to the target.
    schema: SchemaRef,
    /// The same, with what the table notes about them.
    noted: SchemaRef,
    /// All columns.
    all: SchemaRef,
    filter: Option<Arc<Filter>>,
    /// The files and conditions that were asked for last, and the answers.
    kept: VecDeque<(String, Option<String>, RowMask)>,
    id: SourceId,
    kind: SourceKind,
}

#[derive(Debug)]
enum SourceKind {
    Delta(Box<DeltaSource>),
    Parquet(ParquetSource),
}

impl Source {
    /// Opens a source, finds out what it is and fixes its end.
    ///
    /// # Errors
    /// When it is not there, is no table, or has something that cannot be read.
    pub async fn open(spec: &SourceSpec) -> Result<Source, SourceError> {
        let at = &spec.location;
        if at.path().is_some_and(|path| !path.exists()) {
            return Err(SourceError::Missing { path: at.clone() });
        }
        let filter = |root: &Root, all: &SchemaRef| {
            let filter = spec.condition.as_deref().map(|condition| Filter::new(condition, root, all));
            filter.transpose().map(|filter| filter.map(Arc::new))
        };
        let (root, all, filter, id, kind) = if is_delta_table(at).await? {
            let (mut source, all, id) = DeltaSource::open(at, spec).await?;
            let root = match at.path() {
                Some(_) => Root::from(at.clone()),
                None => Root::remote(at.clone(), objects(at).await?),
            };
            let root = if spec.binary_as_text { root.reading(ByteStrings::AsText) } else { root };
            let filter = filter(&root, &all)?;
            source.condition = filter.as_ref().map(|filter| filter.condition().clone());
            (root, all, filter, id, SourceKind::Delta(Box::new(source)))
        } else if has_empty_log(at).await? {
            let what = "has a _delta_log without a single commit: it is no Delta table any more, and its data files may \
                        have rows that were deleted. Bring the log back, or remove the folder _delta_log to read it as \
                        Parquet files";
            return Err(SourceError::Unsupported { path: at.clone(), what: what.to_owned() });
        } else {
            if let Some(start) = &spec.start {
                return Err(SourceError::Start {
                    path: at.clone(),
                    key: start.key(),
                    message: "Parquet files have no versions; take the key out".into(),
                });
            }
            let (mut source, root, all, unsupported) = ParquetSource::open(at, spec).await?;
            may_leave_out(spec, at, &all, &unsupported)?;
            unsupported.iter().for_each(|column| source.leave_out(column.to_string()));
            let filter = filter(&root, &all)?;
            let id = SourceId::Parquet { written: spec.written.clone(), path: at.to_string() };
            (root, all, filter, id, SourceKind::Parquet(source))
        };
        let noted = chosen(spec, at, &all)?;
        Ok(Source { root, schema: plain(&noted), noted, all, filter, kept: VecDeque::new(), id, kind })
    }

    /// The columns, in types that a Delta table can hold.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Columns that it has and that are not carried.
    #[must_use]
    pub fn columns_left_out(&self) -> Vec<String> {
        let is_carried = |name: &String| self.schema.field_with_name(name).is_ok();
        self.all.fields().iter().map(|field| field.name().clone()).filter(|name| !is_carried(name)).collect()
    }

    /// A reader of its rows.
    #[must_use]
    pub fn reader(&self) -> RowReader {
        RowReader::new(self.root.clone(), Arc::clone(&self.schema), Arc::clone(&self.noted))
    }

    /// The condition that rows must meet, if there is one.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        self.filter.as_deref().map(|filter| filter.condition().written())
    }

    /// The rows of a file and what they take.
    ///
    /// # Errors
    /// As [`FileShape::read`].
    pub async fn shape(&self, part: &FileRange) -> Result<FileShape, SourceError> {
        let (file, noted) = (part.file.clone(), Arc::clone(&self.noted));
        self.root.blocking(move |root| FileShape::read(&root, &file, &noted)).await
    }

    /// Which rows of a part's file are there and meet a condition, which may be an earlier one of this source.
    ///
    /// # Errors
    /// When the log, a deletion vector or the file cannot be read, and when the condition does not fit the source.
    pub async fn kept(&mut self, part: &FileRange, condition: Option<&str>) -> Result<RowMask, SourceError> {
        let known =
            self.kept.iter().find(|(file, asked, _)| *file == part.file && asked.as_deref() == condition);
        if let Some((_, _, kept)) = known {
            return Ok(kept.clone());
        }
        let there = match &mut self.kind {
            SourceKind::Delta(delta) => delta.kept(part).await?,
            SourceKind::Parquet(_) => None,
        };
        let there = RowMask::there(there);
        let kept = match condition {
            None => there,
            Some(condition) => {
                let own = self.filter.as_ref().filter(|own| own.condition().written() == condition);
                let filter = match own {
                    Some(own) => Arc::clone(own),
                    None => Arc::new(Filter::new(condition, &self.root, &self.all)?),
                };
                let part = part.clone();
                let look = move |_| filter.rows(&part, &there).map(|rows| there.and(rows));
                self.root.blocking(look).await?
            }
        };
        self.kept.push_back((part.file.clone(), condition.map(ToOwned::to_owned), kept.clone()));
        let rows =
            |kept: &VecDeque<(_, _, RowMask)>| kept.iter().map(|(_, _, kept)| kept.size()).sum::<usize>();
        while self.kept.len() > 1 && (self.kept.len() > KEPT_FILES || rows(&self.kept) > KEPT_ROWS) {
            self.kept.pop_front();
        }
        Ok(kept)
    }

    /// Which source it is.
    #[must_use]
    pub fn id(&self) -> &SourceId {
        &self.id
    }

    /// The folder that paths of files are relative to.
    #[must_use]
    pub fn root(&self) -> &Location {
        self.root.at()
    }

    /// The next file after a position, with the row to begin at.
    ///
    /// # Errors
    /// When the log or the folder says something that must not be passed over.
    pub async fn next_file(&mut self, position: &Position) -> Result<NextRows, SourceError> {
        match &mut self.kind {
            SourceKind::Delta(delta) => delta.next_file(position).await,
            SourceKind::Parquet(parquet) => {
                let part = parquet.next_file(position)?;
                let file = part.map(|part| NextFile { part, may_match: true, rows: None });
                Ok(NextRows { passed: PassedOver::default(), file })
            }
        }
    }

    /// The position after rows up to `end` of a file that [`Source::next_file`] returned for `before`;
    /// `is_whole` when nothing of the file is left.
    #[must_use]
    pub fn advance(&self, before: &Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        match &self.kind {
            SourceKind::Delta(delta) => delta.advance(before, part, end, is_whole),
            SourceKind::Parquet(_) => parquet::advance(before, part, end, is_whole),
        }
    }

    /// The position after everything that this source has, for when it is planned to its end; none where
    /// that says no more than the position does.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        match &self.kind {
            SourceKind::Delta(delta) => Some(delta.end()),
            SourceKind::Parquet(_) => None,
        }
    }

    /// How long files that a Delta table removes are kept; none for Parquet files.
    #[must_use]
    pub fn retention(&self) -> Option<Duration> {
        match &self.kind {
            SourceKind::Delta(delta) => Some(delta.retention()),
            SourceKind::Parquet(_) => None,
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn what(&self) -> String {
        match &self.kind {
            SourceKind::Delta(delta) => format!("Delta, version {}", delta.version()),
            SourceKind::Parquet(parquet) => parquet.what(),
        }
    }

    /// What of a folder of Parquet files is no part of the source, and why.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        match &self.kind {
            SourceKind::Delta(_) => &[],
            SourceKind::Parquet(parquet) => parquet.left_out(),
        }
    }

    /// Files that were passed over because they are not whole yet; they are read when they are.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Location> {
        match &self.kind {
            SourceKind::Delta(_) => Vec::new(),
            SourceKind::Parquet(parquet) => {
                parquet.unfinished().iter().map(|file| self.root.place(file)).collect()
            }
        }
    }

    /// Rows after a position, where that is known without opening files.
    pub async fn rows_after(&self, position: &Position) -> Option<u64> {
        if self.filter.is_some() {
            return None;
        }
        match &self.kind {
            SourceKind::Delta(delta) => delta.rows_after(position).await,
            SourceKind::Parquet(parquet) => parquet.rows_after(position),
        }
    }

    /// What there is after a position. Opens the footer of each file that is not planned, and reads the columns of
    /// a condition.
    ///
    /// # Errors
    /// As [`Source::next_file`].
    pub async fn lag(&mut self, position: &Position) -> Result<Lag, SourceError> {
        let mut lag = Lag { versions: self.versions_after(position), files: 0, rows: 0 };
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
            position = self.advance(&position, &part, end, true);
        }
        Ok(lag)
    }

    /// Whether a position is known to be after everything that there is.
    pub async fn is_after_all(&self, position: &Position) -> bool {
        self.end().as_ref() == Some(position) || self.rows_after(position).await == Some(0)
    }

    /// Whether the file of a planned part is there as it was planned.
    ///
    /// # Errors
    /// When it is not.
    pub async fn holds(&self, part: &FileRange) -> Result<(), SourceError> {
        let path = self.root.place(&part.file);
        let size = self.root.size(&part.file).await;
        let size = size.map_err(|error| SourceError::gone(&path, part, error))?;
        if size == part.size {
            return Ok(());
        }
        let what = format!("it had {} bytes when it was planned and has {size} now", part.size);
        Err(SourceError::file(&path, what))
    }

    /// Whether it has a file, by the path that keys of rows have.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub async fn has_file(&self, file: &str) -> Result<bool, SourceError> {
        match self.root.size(file).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(SourceError::file(&self.root.place(file), error)),
        }
    }

    fn versions_after(&self, position: &Position) -> Option<u64> {
        let SourceKind::Delta(delta) = &self.kind else { return None };
        let read = match position {
            Position::Start => delta.first().unwrap_or_default(),
            Position::DeltaSnapshot { version, .. } => version + 1,
            Position::DeltaLog { version, .. } => *version,
            Position::Parquet { .. } => return None,
        };
        Some((delta.version() + 1).saturating_sub(read))
    }

    /// The position after everything that a target holds, given per file the number of rows and the row
    /// after the last; for a checkpoint that was lost.
    ///
    /// # Errors
    /// When the rows are not the beginning of this source.
    pub async fn position_after(&mut self, held: &[HeldFile]) -> Result<Position, SourceError> {
        let expected = self.expected(held).await?;
        match &self.kind {
            SourceKind::Delta(delta) => delta.position_after(held, &expected).await,
            SourceKind::Parquet(parquet) => parquet.position_after(held, &expected),
        }
    }

    /// What a target holds of each file that was read as far as it says, where a condition chose the rows.
    async fn expected(&mut self, held: &[HeldFile]) -> Result<HashMap<String, ReadProgress>, SourceError> {
        let mut expected = HashMap::new();
        let Some(condition) = self.condition().map(ToOwned::to_owned) else { return Ok(expected) };
        let ends: HashMap<&str, u64> = held.iter().map(|held| (held.file.as_str(), held.end)).collect();
        let parts = match &self.kind {
            SourceKind::Delta(delta) => delta.parts().await?,
            SourceKind::Parquet(parquet) => parquet.parts(),
        };
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

/// The columns that a job carries to its target, in the order in which it names them.
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

/// Whether a job can do without the columns that its target cannot hold.
fn may_leave_out(
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
        None => {
            let names: Vec<&str> = all.fields().iter().map(|field| field.name().as_str()).collect();
            let line = format!("source.columns = {names:?}");
            format!("Leave it out with {line} or source.on_unsupported = \"skip\"{text}")
        }
    };
    Err(SourceError::Unsupported { path: at.clone(), what: format!("has {column}. {mend}") })
}

/// Columns without what a table notes about them.
fn plain(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(conform::logical(schema.fields())))
}

/// How far a job is behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Versions of a Delta table that are not read to their end; none for Parquet files.
    pub versions: Option<u64>,
    /// Files with rows that are not planned.
    pub files: u64,
    /// Those rows.
    pub rows: u64,
}

/// What a target holds of a source file that was read up to some row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReadProgress {
    /// Rows before it that are kept.
    before: u64,
    /// Deleted rows before it, which may be in the target from before they were.
    deleted: u64,
    /// Rows after it that are kept.
    after: u64,
}

/// What a target holds of a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Path relative to the source's root.
    pub file: String,
    /// Rows in the target.
    pub rows: u64,
    /// Physical row after the last of them.
    pub end: u64,
}
