//! The format of a source's files, and the files of a source with their format.
//!
//! A format is one Rust file in the folder of this one and one variant of `FileFormat`. A catalog uses it to recognise files and
//! to read their footers, a reader to read rows from an offset on, and a filter to find the rows that may meet a
//! condition.

#[cfg(test)]
mod lines;
mod parquet;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ::arrow::datatypes::Schema;
use ::arrow::record_batch::RecordBatch;

use super::SourceError;
use super::file::Root;
use super::row_mask::RowMask;
use super::shape::{FileShape, Footer};
use super::staging::{ColumnKind, ColumnKinds, StagingArea, StagingResult};
use crate::checkpoint::FileRange;
use crate::config::SourceFormat;
use crate::store::{Location, StoreError};
use crate::table::Condition;

pub(super) use parquet::ByteStrings;

/// The formats that are staged, in the order in which they are looked for.
const STAGED: [SourceFormat; 5] =
    [SourceFormat::Csv, SourceFormat::Tsv, SourceFormat::Json, SourceFormat::Arrow, SourceFormat::Avro];
/// Endings of compressed files, behind those of their formats.
const COMPRESSED: [&str; 4] = [".gz", ".gzip", ".zst", ".zstd"];

/// The format of a file, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// Apache Parquet.
    Parquet(ByteStrings),
    /// A format whose files are staged as Parquet.
    Staged(SourceFormat),
    /// One row per line; shows what a format has to provide.
    #[cfg(test)]
    Lines,
}

/// Rows of a file in pieces, in order. An error is a message.
pub(super) type Pieces = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

impl FileFormat {
    /// Returns the formats that a source may have, in the order in which they are looked for: the one that the job
    /// states, or all.
    pub(super) fn all(stated: Option<SourceFormat>, bytes: ByteStrings) -> Vec<FileFormat> {
        match stated {
            Some(SourceFormat::Parquet) => vec![FileFormat::Parquet(bytes)],
            Some(stated) => vec![FileFormat::Staged(stated)],
            None => {
                let staged = STAGED.into_iter().map(FileFormat::Staged);
                let all = std::iter::once(FileFormat::Parquet(bytes)).chain(staged);
                #[cfg(test)]
                let all = all.chain([FileFormat::Lines]);
                all.collect()
            }
        }
    }

    /// Whether a file's name has an ending of this format, in any case.
    pub(super) fn has_ending(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let plain = match self {
            FileFormat::Staged(_) => COMPRESSED.iter().find_map(|ending| name.strip_suffix(ending)),
            _ => None,
        };
        let ending = plain.unwrap_or(&name).rsplit_once('.').map(|(_, ending)| ending);
        ending.is_some_and(|ending| self.endings().contains(&ending))
    }

    /// Returns the name of the format for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            FileFormat::Parquet(_) | FileFormat::Staged(SourceFormat::Parquet) => "Parquet",
            FileFormat::Staged(SourceFormat::Csv) => "CSV",
            FileFormat::Staged(SourceFormat::Tsv) => "TSV",
            FileFormat::Staged(SourceFormat::Jsonl | SourceFormat::Json) => "JSON",
            FileFormat::Staged(SourceFormat::Arrow) => "Arrow",
            FileFormat::Staged(SourceFormat::Avro) => "Avro",
            #[cfg(test)]
            FileFormat::Lines => "line",
        }
    }

    /// Returns the endings of the format's file names, without the dot.
    pub(super) fn endings(self) -> &'static [&'static str] {
        match self {
            FileFormat::Parquet(_) | FileFormat::Staged(SourceFormat::Parquet) => &["parquet"],
            FileFormat::Staged(SourceFormat::Csv) => &["csv"],
            FileFormat::Staged(SourceFormat::Tsv) => &["tsv", "tab"],
            FileFormat::Staged(SourceFormat::Jsonl | SourceFormat::Json) => &["jsonl", "ndjson", "json"],
            FileFormat::Staged(SourceFormat::Arrow) => &["arrow", "arrows", "feather", "ipc"],
            FileFormat::Staged(SourceFormat::Avro) => &["avro"],
            #[cfg(test)]
            FileFormat::Lines => &["lines"],
        }
    }

    /// Whether a single file that is the whole source is of this format; `is_stated` if the job states the format.
    /// Blocks.
    pub(super) fn matches_single_file(self, root: &Root, path: &str, is_stated: bool) -> bool {
        match self {
            FileFormat::Parquet(_) => self.matches_content(root, path, is_stated),
            FileFormat::Staged(_) => is_stated || self.has_ending(path),
            #[cfg(test)]
            FileFormat::Lines => self.has_ending(path),
        }
    }

    /// Whether a file with another ending is of this format: by its content, or because the job states it. Blocks.
    pub(super) fn matches_content(self, root: &Root, path: &str, is_stated: bool) -> bool {
        match self {
            FileFormat::Parquet(_) => parquet::has_magic(root, path),
            FileFormat::Staged(_) => is_stated,
            #[cfg(test)]
            FileFormat::Lines => false,
        }
    }
}

/// Root and format of a source's files.
#[derive(Clone, Debug)]
pub struct SourceFiles {
    root: Root,
    reading: ReadMethod,
    /// Files that are not what they were when they were read, each with a message.
    refused: Arc<Mutex<BTreeMap<String, String>>>,
}

/// How the files of a source are read.
#[derive(Clone, Debug)]
enum ReadMethod {
    Parquet(ByteStrings),
    Staged(Arc<StagingArea>),
    #[cfg(test)]
    Lines,
}

/// What a look at a file has found.
#[derive(Debug)]
pub(super) struct FileInspection {
    pub(super) footer: Footer,
    /// ColumnKinds of the columns, if they were inferred.
    pub(super) kinds: Vec<(String, ColumnKind)>,
    /// Identifies the content; `None` if that takes to read the file once more from a store.
    pub(super) content: Option<String>,
}

impl From<Location> for SourceFiles {
    fn from(at: Location) -> Self {
        SourceFiles::parquet(at.into(), ByteStrings::default())
    }
}

impl SourceFiles {
    pub(super) fn parquet(root: Root, bytes: ByteStrings) -> Self {
        SourceFiles { root, reading: ReadMethod::Parquet(bytes), refused: Arc::default() }
    }

    pub(super) fn staged(root: Root, staging: Arc<StagingArea>) -> Self {
        SourceFiles { root, reading: ReadMethod::Staged(staging), refused: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn lines(root: Root) -> Self {
        SourceFiles { root, reading: ReadMethod::Lines, refused: Arc::default() }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Sets the kinds of columns to which files are held when they are staged.
    pub(super) fn set_kinds(&self, kinds: ColumnKinds) {
        if let ReadMethod::Staged(staging) = &self.reading {
            staging.set_kinds(kinds);
        }
    }

    /// Sets the files that are not read, each with a message.
    pub(super) fn refuse(&self, files: BTreeMap<String, String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Reads a file all the same. Returns whether it was refused.
    pub(super) fn accept(&self, path: &str) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(path).is_some()
    }

    /// Returns why a file is not read, or `None` if it is.
    pub(super) fn refusal(&self, path: &str) -> Option<SourceError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(path).map(|message| SourceError::file(&self.root.place(path), message))
    }

    /// Returns the path of a note on the skipped rows of a file.
    pub(super) fn skipped_rows(&self, file: &str) -> Option<PathBuf> {
        match &self.reading {
            ReadMethod::Staged(staging) => Some(staging.skipped_rows(file)),
            _ => None,
        }
    }

    /// Removes staged files, except those of the given source files.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn retain_staged<'a>(&self, needed: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        match &self.reading {
            ReadMethod::Staged(staging) => staging.retain(needed),
            _ => Ok(()),
        }
    }

    /// Reads the footer of a file; of a format that is staged it is that of its staged file, which is written `again` or
    /// if it is not there. Blocks.
    ///
    /// # Errors
    /// When a staged file cannot be written.
    pub(super) fn look(&self, path: &str, again: bool) -> Result<FileInspection, SourceError> {
        let (footer, content) = match &self.reading {
            ReadMethod::Parquet(bytes) => parquet::look(&self.root, path, *bytes),
            ReadMethod::Staged(staging) => match staging.stage(path, again)? {
                StagingResult::Empty => (Footer::Missing, None),
                StagingResult::Wrong(message) => (Footer::Damaged(message), None),
                StagingResult::Whole { kinds, skipped: count } => {
                    let (footer, _) =
                        parquet::look(&staging.root(), &staging.name(path), ByteStrings::default());
                    let footer = match footer {
                        Footer::Whole { rows, columns, .. } => {
                            Footer::Whole { rows, columns, skipped: count }
                        }
                        other => other,
                    };
                    return Ok(FileInspection { footer, kinds, content: staging.content(path) });
                }
            },
            #[cfg(test)]
            ReadMethod::Lines => (lines::look(&self.root, path), None),
        };
        Ok(FileInspection { footer, kinds: Vec::new(), content })
    }

    /// Reads the number and size of a file's rows. `columns` are the columns that are read: only these count. Blocks.
    ///
    /// # Errors
    /// When the file is not there or is damaged.
    pub(super) fn shape(&self, file: &str, columns: &Schema) -> Result<FileShape, SourceError> {
        match &self.reading {
            ReadMethod::Parquet(bytes) => parquet::shape(&self.root, file, columns, *bytes),
            ReadMethod::Staged(staging) => {
                parquet::shape(&staging.root(), &staging.file(file)?, columns, ByteStrings::default())
            }
            #[cfg(test)]
            ReadMethod::Lines => lines::shape(&self.root, file),
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
        match &self.reading {
            ReadMethod::Parquet(bytes) => parquet::candidates(&self.root, part, condition, there, *bytes),
            ReadMethod::Staged(staging) => {
                let part = staging.part(part)?;
                parquet::candidates(&staging.root(), &part, condition, there, ByteStrings::default())
            }
            #[cfg(test)]
            ReadMethod::Lines => {
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
        if let Some(refusal) = self.refusal(&part.file) {
            return Err(refusal);
        }
        match &self.reading {
            ReadMethod::Parquet(bytes) => {
                let (pieces, before) = parquet::open(&self.root, part, kept, noted, *bytes)?;
                Ok((Box::new(pieces), before))
            }
            ReadMethod::Staged(staging) => {
                let part = staging.part(part)?;
                let bytes = ByteStrings::default();
                let (pieces, before) = parquet::open(&staging.root(), &part, kept, noted, bytes)?;
                Ok((Box::new(pieces), before))
            }
            #[cfg(test)]
            ReadMethod::Lines => {
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
