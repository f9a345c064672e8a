//! The format of a source's files, and the files of a source with their format.
//!
//! A format is one file beside this one and one variant here. A catalog asks it which files are its own and what they say
//! of themselves; a reader asks it for rows from an offset on, and a filter for the rows that may meet a condition.

use ::arrow::datatypes::Schema;
use ::arrow::record_batch::RecordBatch;

use super::SourceError;
use super::file::Root;
#[cfg(test)]
use super::lines_format;
use super::parquet_format::{self, ByteStrings};
use super::row_mask::RowMask;
use super::shape::{FileShape, Footer};
use crate::checkpoint::FileRange;
use crate::store::Location;
use crate::table::Condition;

/// The format of a file, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// Apache Parquet.
    Parquet(ByteStrings),
    /// One row a line; shows what a format needs.
    #[cfg(test)]
    Lines,
}

/// Rows of a file in pieces, in their order; an error is in words.
pub(super) type Pieces = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

impl FileFormat {
    /// The formats that a folder may have, in the order in which they are looked for.
    pub(super) fn all(bytes: ByteStrings) -> Vec<FileFormat> {
        vec![
            FileFormat::Parquet(bytes),
            #[cfg(test)]
            FileFormat::Lines,
        ]
    }

    /// Whether a file has a name of this format.
    pub(super) fn claims(self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(self.ending()))
    }

    /// The name of the format, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            FileFormat::Parquet(_) => "Parquet",
            #[cfg(test)]
            FileFormat::Lines => "line",
        }
    }

    /// How names of its files end, without the dot.
    pub(super) fn ending(self) -> &'static str {
        match self {
            FileFormat::Parquet(_) => "parquet",
            #[cfg(test)]
            FileFormat::Lines => "lines",
        }
    }

    /// Whether a single file, named as a source, is of this format. Blocks.
    pub(super) fn is_file_of(self, root: &Root, path: &str) -> bool {
        match self {
            FileFormat::Parquet(_) => self.is_format_of(root, path),
            #[cfg(test)]
            FileFormat::Lines => self.claims(path),
        }
    }

    /// Whether a file with another name is of this format by its content. Blocks.
    pub(super) fn is_format_of(self, root: &Root, path: &str) -> bool {
        match self {
            FileFormat::Parquet(_) => parquet_format::is_one(root, path),
            #[cfg(test)]
            FileFormat::Lines => false,
        }
    }

    /// Reads what a file says of itself. Blocks.
    pub(super) fn look(self, root: &Root, path: &str) -> Footer {
        match self {
            FileFormat::Parquet(bytes) => parquet_format::look(root, path, bytes),
            #[cfg(test)]
            FileFormat::Lines => lines_format::look(root, path),
        }
    }
}

/// The files of a source and their format.
#[derive(Clone, Debug)]
pub struct SourceFiles {
    root: Root,
    format: FileFormat,
}

impl From<Location> for SourceFiles {
    fn from(at: Location) -> Self {
        SourceFiles { root: at.into(), format: FileFormat::Parquet(ByteStrings::default()) }
    }
}

impl SourceFiles {
    pub(super) fn new(root: Root, format: FileFormat) -> Self {
        SourceFiles { root, format }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Reads how many rows a file has and how large they are; `columns` are those that are read. Blocks.
    ///
    /// # Errors
    /// When the file is not there or is damaged.
    pub(super) fn shape(&self, file: &str, columns: &Schema) -> Result<FileShape, SourceError> {
        match self.format {
            FileFormat::Parquet(bytes) => parquet_format::shape(&self.root, file, columns, bytes),
            #[cfg(test)]
            FileFormat::Lines => lines_format::shape(&self.root, file),
        }
    }

    /// Returns for each row of a part's file whether it is there and may meet a condition, as far as that is known
    /// without reading rows. Blocks.
    ///
    /// # Errors
    /// When the file is not there or is damaged.
    pub(super) fn candidates(
        &self,
        part: &FileRange,
        condition: &Condition,
        there: &RowMask,
    ) -> Result<Vec<bool>, SourceError> {
        match self.format {
            FileFormat::Parquet(bytes) => {
                parquet_format::candidates(&self.root, part, condition, there, bytes)
            }
            #[cfg(test)]
            FileFormat::Lines => {
                let rows = lines_format::shape(&self.root, &part.file)?.rows();
                Ok((0..rows).map(|row| there.holds(row)).collect())
            }
        }
    }

    /// Opens a file at the first row of a part, for the rows from there on that are kept; `noted` are the columns that are
    /// read. Returns the rows, and the number of rows before the part that have to be decoded for them. Blocks.
    ///
    /// # Errors
    /// When the file is gone, has changed since it was planned, or is damaged.
    pub(super) fn open(
        &self,
        part: &FileRange,
        kept: &RowMask,
        noted: &Schema,
    ) -> Result<(Pieces, u64), SourceError> {
        match self.format {
            FileFormat::Parquet(bytes) => {
                let (pieces, before) = parquet_format::open(&self.root, part, kept, noted, bytes)?;
                Ok((Box::new(pieces), before))
            }
            #[cfg(test)]
            FileFormat::Lines => {
                let (pieces, before) = lines_format::open(&self.root, part, kept)?;
                Ok((Box::new(pieces), before))
            }
        }
    }

    /// Runs what blocks on the files.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(SourceFiles) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let files = self.clone();
        self.root.blocking(move |_| work(files)).await
    }
}
