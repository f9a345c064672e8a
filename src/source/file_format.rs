//! The format of a source's files, and the files of a source with their format.
//!
//! A format is one Rust file in the folder of this one and one variant of `FileFormat`. A catalog uses it to recognise files and
//! to read their footers, a reader to read rows from an offset on, and a filter to find the rows that may meet a
//! condition.

#[cfg(test)]
mod lines;
mod parquet;

use ::arrow::datatypes::Schema;
use ::arrow::record_batch::RecordBatch;

use super::SourceError;
use super::file::Root;
use super::row_mask::RowMask;
use super::shape::{FileShape, Footer};
use crate::checkpoint::FileRange;
use crate::store::Location;
use crate::table::Condition;

pub(super) use parquet::ByteStrings;

/// The format of a file, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// Apache Parquet.
    Parquet(ByteStrings),
    /// One row per line; shows what a format has to provide.
    #[cfg(test)]
    Lines,
}

/// Rows of a file in pieces, in order. An error is a message.
pub(super) type Pieces = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

impl FileFormat {
    /// Returns the formats that a folder may have, in the order in which they are looked for.
    pub(super) fn all(bytes: ByteStrings) -> Vec<FileFormat> {
        vec![
            FileFormat::Parquet(bytes),
            #[cfg(test)]
            FileFormat::Lines,
        ]
    }

    /// Whether a file's name has the ending of this format, in any case.
    pub(super) fn has_ending(self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(self.ending()))
    }

    /// Returns the name of the format for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            FileFormat::Parquet(_) => "Parquet",
            #[cfg(test)]
            FileFormat::Lines => "line",
        }
    }

    /// Returns the ending of the format's file names, without the dot.
    pub(super) fn ending(self) -> &'static str {
        match self {
            FileFormat::Parquet(_) => "parquet",
            #[cfg(test)]
            FileFormat::Lines => "lines",
        }
    }

    /// Whether a single file that is the whole source is of this format. Blocks.
    pub(super) fn matches_single_file(self, root: &Root, path: &str) -> bool {
        match self {
            FileFormat::Parquet(_) => self.matches_content(root, path),
            #[cfg(test)]
            FileFormat::Lines => self.has_ending(path),
        }
    }

    /// Whether a file with another ending is of this format by its content. Blocks.
    pub(super) fn matches_content(self, root: &Root, path: &str) -> bool {
        match self {
            FileFormat::Parquet(_) => parquet::has_magic(root, path),
            #[cfg(test)]
            FileFormat::Lines => false,
        }
    }

    /// Reads the footer of a file. Blocks.
    pub(super) fn look(self, root: &Root, path: &str) -> Footer {
        match self {
            FileFormat::Parquet(bytes) => parquet::look(root, path, bytes),
            #[cfg(test)]
            FileFormat::Lines => lines::look(root, path),
        }
    }
}

/// Root and format of a source's files.
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

    /// Reads the number and size of a file's rows. `columns` are the columns that are read: only these count. Blocks.
    ///
    /// # Errors
    /// When the file is not there or is damaged.
    pub(super) fn shape(&self, file: &str, columns: &Schema) -> Result<FileShape, SourceError> {
        match self.format {
            FileFormat::Parquet(bytes) => parquet::shape(&self.root, file, columns, bytes),
            #[cfg(test)]
            FileFormat::Lines => lines::shape(&self.root, file),
        }
    }

    /// Returns for each row of a part's file whether it is in `there` and may meet a condition, by what is known
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
            FileFormat::Parquet(bytes) => parquet::candidates(&self.root, part, condition, there, bytes),
            #[cfg(test)]
            FileFormat::Lines => {
                let rows = lines::shape(&self.root, &part.file)?.rows();
                Ok((0..rows).map(|row| there.holds(row)).collect())
            }
        }
    }

    /// Opens a file to read its kept rows from the first row of a part on. `noted` are the columns to read. Returns the
    /// rows, and the number of rows before the part that have to be decoded for them. Blocks.
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
                let (pieces, before) = parquet::open(&self.root, part, kept, noted, bytes)?;
                Ok((Box::new(pieces), before))
            }
            #[cfg(test)]
            FileFormat::Lines => {
                let (pieces, before) = lines::open(&self.root, part, kept)?;
                Ok((Box::new(pieces), before))
            }
        }
    }

    /// Runs blocking work on the files.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(SourceFiles) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let files = self.clone();
        self.root.blocking(move |_| work(files)).await
    }
}
