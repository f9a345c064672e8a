//! What is read: a Delta table or Parquet files, as rows in a fixed order with their keys.
//!
//! The end is fixed when a run starts; later runs take what came after. Files are read row group by row
//! group and never as a whole; consecutive batches of a file go on with the same reader.

mod conform;
mod delta;
mod parquet;
mod reader;
mod shape;

pub use reader::{Chunk, RowReader};
pub use shape::FileShape;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::arrow::datatypes::{Schema, SchemaRef};

use crate::checkpoint::{Part, Position, SourceId};
use crate::config::SourceSpec;
use crate::report::counted;
use crate::table::{TableError, is_delta_table};

use self::delta::DeltaSource;
use self::parquet::ParquetSource;

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is nothing at its place.
    #[error("the source {} is not there", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// What is there is no table.
    #[error("the source {} is neither a Delta table nor a Parquet file nor a directory of Parquet files", path.display())]
    NoTable {
        /// Where it is.
        path: PathBuf,
    },
    /// It has something that this version cannot read.
    #[error("the source {} {what}", path.display())]
    Unsupported {
        /// Where it is.
        path: PathBuf,
        /// What it has.
        what: String,
    },
    /// A commit changes rows that may have been read.
    #[error("version {version} of the source {} {operation} rows of {}: a later run would not see the change. Set source.skip_change_commits = true to pass over such commits", path.display(), counted(*files as u64, "file"))]
    Changed {
        /// Where it is.
        path: PathBuf,
        /// The version.
        version: u64,
        /// What the commit does, for example "deletes".
        operation: String,
        /// Number of files whose rows it takes away.
        files: usize,
    },
    /// The log lacks a version that is to be read.
    #[error("version {version} of the source {} is no longer in its log: the rows that it added cannot be found", path.display())]
    Gap {
        /// Where it is.
        path: PathBuf,
        /// The version.
        version: u64,
    },
    /// A file cannot be read.
    #[error("cannot read the source file {}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Its log cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl SourceError {
    #[expect(clippy::needless_pass_by_value, reason = "errors and strings are handed over alike")]
    pub(crate) fn file(path: &Path, message: impl ToString) -> Self {
        SourceError::File { path: path.to_owned(), message: message.to_string() }
    }
}

/// A file with rows that are not planned yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextFile {
    /// The whole file as a part; `end` is not known and 0.
    pub part: Part,
    /// Absolute path.
    pub path: PathBuf,
}

/// A source whose end is fixed.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    schema: SchemaRef,
    noted: SchemaRef,
    id: SourceId,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Delta(Box<DeltaSource>),
    Parquet(ParquetSource),
}

impl Source {
    /// Opens a source, finds out what it is and fixes its end.
    ///
    /// # Errors
    /// When it is not there, is no table, or has something that cannot be read.
    pub async fn open(spec: &SourceSpec) -> Result<Source, SourceError> {
        let path = spec.location.path();
        if !path.exists() {
            return Err(SourceError::Missing { path: path.to_owned() });
        }
        if is_delta_table(path) {
            let (source, schema, id) = DeltaSource::open(path, spec.skip_change_commits).await?;
            let kind = Kind::Delta(Box::new(source));
            return Ok(Source { root: path.to_owned(), schema: plain(&schema), noted: schema, id, kind });
        }
        let (source, root, schema) = ParquetSource::open(path)?;
        let id =
            SourceId::Parquet { written: spec.written.clone(), path: path.to_string_lossy().into_owned() };
        Ok(Source { root, noted: plain(&schema), schema, id, kind: Kind::Parquet(source) })
    }

    /// The columns, in types that a Delta table can hold.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A reader of its rows.
    #[must_use]
    pub fn reader(&self) -> RowReader {
        RowReader::new(self.root.clone(), Arc::clone(&self.schema), Arc::clone(&self.noted))
    }

    /// Which rows of a part's file are there, one entry for each row of the file as far as there are deleted ones;
    /// none if all are.
    ///
    /// # Errors
    /// When the log or a deletion vector cannot be read.
    pub async fn kept(&mut self, part: &Part) -> Result<Option<Arc<[bool]>>, SourceError> {
        match &mut self.kind {
            Kind::Delta(delta) => delta.kept(part).await,
            Kind::Parquet(_) => Ok(None),
        }
    }

    /// Which source it is.
    #[must_use]
    pub fn id(&self) -> &SourceId {
        &self.id
    }

    /// The folder that paths of files are relative to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The next file after a position, with the row to begin at; none at the end.
    ///
    /// # Errors
    /// When the log or the folder says something that must not be passed over.
    pub async fn next_file(&mut self, position: &Position) -> Result<Option<NextFile>, SourceError> {
        let part = match &mut self.kind {
            Kind::Delta(delta) => delta.next_file(position).await?,
            Kind::Parquet(parquet) => parquet.next_file(position)?,
        };
        Ok(part.map(|part| NextFile { path: self.root.join(&part.file), part }))
    }

    /// The position after rows up to `end` of a file that [`Source::next_file`] returned for `before`;
    /// `is_whole` when nothing of the file is left.
    #[must_use]
    pub fn advance(&self, before: &Position, part: &Part, end: u64, is_whole: bool) -> Position {
        match &self.kind {
            Kind::Delta(delta) => delta.advance(before, part, end, is_whole),
            Kind::Parquet(_) => parquet::advance(before, part, end, is_whole),
        }
    }

    /// The position after everything that this source has, for when it is planned to its end; none where
    /// that says no more than the position does.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        match &self.kind {
            Kind::Delta(delta) => Some(delta.end()),
            Kind::Parquet(_) => None,
        }
    }

    /// Files that were passed over because they are not whole yet; they are read when they are.
    #[must_use]
    pub fn unfinished(&self) -> Vec<PathBuf> {
        match &self.kind {
            Kind::Delta(_) => Vec::new(),
            Kind::Parquet(parquet) => parquet.unfinished().iter().map(|file| self.root.join(file)).collect(),
        }
    }

    /// Rows after a position, where that is known without opening files.
    pub fn rows_after(&self, position: &Position) -> Option<u64> {
        match &self.kind {
            Kind::Delta(delta) => delta.rows_after(position),
            Kind::Parquet(parquet) => parquet.rows_after(position),
        }
    }

    /// What there is after a position. Opens the footer of each file that is not planned.
    ///
    /// # Errors
    /// As [`Source::next_file`].
    pub async fn lag(&mut self, position: &Position) -> Result<Lag, SourceError> {
        let mut lag = Lag { versions: self.versions_after(position), files: 0, rows: 0 };
        let mut position = position.clone();
        while let Some(NextFile { part, path }) = self.next_file(&position).await? {
            let rows = FileShape::read(&path)?.rows();
            lag.files += 1;
            lag.rows += rows.saturating_sub(part.start);
            position = self.advance(&position, &part, rows, true);
        }
        Ok(lag)
    }

    /// Whether a position is known to be after everything that there is.
    #[must_use]
    pub fn is_after_all(&self, position: &Position) -> bool {
        self.end().as_ref() == Some(position) || self.rows_after(position) == Some(0)
    }

    /// Whether the file of a planned part is there as it was planned.
    ///
    /// # Errors
    /// When it is not.
    pub fn holds(&self, part: &Part) -> Result<(), SourceError> {
        let path = self.root.join(&part.file);
        let size = std::fs::metadata(&path).map_err(|error| SourceError::file(&path, error))?.len();
        if size == part.size {
            return Ok(());
        }
        let what = format!("it had {} bytes when it was planned and has {size} now", part.size);
        Err(SourceError::file(&path, what))
    }

    fn versions_after(&self, position: &Position) -> Option<u64> {
        let Kind::Delta(delta) = &self.kind else { return None };
        let read = match position {
            Position::Start => 0,
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
    pub fn position_after(&self, held: &[HeldFile]) -> Result<Position, SourceError> {
        match &self.kind {
            Kind::Delta(delta) => delta.position_after(held),
            Kind::Parquet(parquet) => parquet.position_after(held),
        }
    }
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
