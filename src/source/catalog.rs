//! The catalog of a source: which files it has, in which order they are read, and what a position in it means.
//!
//! A catalog does not read rows: the files' format does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::SourceError;
use super::delta_catalog::DeltaCatalog;
use super::folder_catalog::FolderCatalog;
use super::position::{HeldFile, NextFile, NextRows, ReadProgress};
use crate::checkpoint::{FileRange, Position};
use crate::passed::PassedOver;

/// The files of a source.
#[derive(Debug)]
pub(super) enum Catalog {
    /// The log of a Delta table.
    Delta(Box<DeltaCatalog>),
    /// A folder, or a single file.
    Folder(Box<FolderCatalog>),
}

impl Catalog {
    /// Returns the next file after a position, with the row to begin at.
    ///
    /// # Errors
    /// As [`super::Source::next_file`].
    pub(super) async fn next_file(&mut self, position: &Position) -> Result<NextRows, SourceError> {
        match self {
            Catalog::Delta(delta) => delta.next_file(position).await,
            Catalog::Folder(folder) => {
                let part = folder.next_file(position)?;
                let file = part.map(|part| NextFile { part, may_match: true, rows: None });
                Ok(NextRows { passed: PassedOver::default(), file })
            }
        }
    }

    /// Returns at most `most` files that may come after a part of a file that [`Catalog::next_file`] returned last, as far
    /// as they are known without reading the log.
    pub(super) fn following(&self, part: &FileRange, most: usize) -> Vec<FileRange> {
        match self {
            Catalog::Delta(delta) => delta.following(part, most),
            Catalog::Folder(folder) => folder.following(most),
        }
    }

    /// Returns the position after rows up to `end` of a file that [`Catalog::next_file`] returned for `before`;
    /// `is_whole` if nothing of the file is left.
    pub(super) fn advance(&self, before: Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        match self {
            Catalog::Delta(delta) => delta.advance(&before, part, end, is_whole),
            Catalog::Folder(folder) => folder.advance(before, part, end, is_whole),
        }
    }

    /// Returns the position after everything in the source, or `None` if it equals the position after the last file.
    pub(super) fn end(&self) -> Option<Position> {
        match self {
            Catalog::Delta(delta) => Some(delta.end()),
            Catalog::Folder(_) => None,
        }
    }

    /// Returns the position after every file, also where [`Catalog::end`] returns `None`.
    pub(super) fn end_of_all(&self) -> Position {
        match self {
            Catalog::Delta(delta) => delta.end(),
            Catalog::Folder(folder) => folder.end(),
        }
    }

    /// Returns for each row of a part's file whether it is not deleted, or `None` if no row is deleted.
    ///
    /// # Errors
    /// When the log or a deletion vector cannot be read.
    pub(super) async fn undeleted(&mut self, part: &FileRange) -> Result<Option<Arc<[bool]>>, SourceError> {
        match self {
            Catalog::Delta(delta) => delta.kept(part).await,
            Catalog::Folder(_) => Ok(None),
        }
    }

    /// Whether files may be replaced by others that hold the same rows, as by a compaction.
    pub(super) fn replaces_files(&self) -> bool {
        match self {
            Catalog::Delta(_) => true,
            Catalog::Folder(_) => false,
        }
    }

    /// Returns how long removed files are kept, or `None` if files are not removed.
    pub(super) fn retention(&self) -> Option<Duration> {
        match self {
            Catalog::Delta(delta) => Some(delta.retention()),
            Catalog::Folder(_) => None,
        }
    }

    /// Returns a description of the source for messages.
    pub(super) fn what(&self) -> String {
        match self {
            Catalog::Delta(delta) => format!("Delta, version {}", delta.version()),
            Catalog::Folder(folder) => folder.what(),
        }
    }

    /// Returns descriptions of what is left out of the source, with the reasons; empty for a Delta table.
    pub(super) fn left_out(&self) -> &[String] {
        match self {
            Catalog::Delta(_) => &[],
            Catalog::Folder(folder) => folder.left_out(),
        }
    }

    /// Returns the files that were passed over because they are not complete yet.
    pub(super) fn unfinished(&self) -> Vec<&str> {
        match self {
            Catalog::Delta(_) => Vec::new(),
            Catalog::Folder(folder) => folder.unfinished().iter().map(String::as_str).collect(),
        }
    }

    /// Returns the number of rows after a position, or `None` if it is not known without opening files.
    pub(super) async fn rows_after(&self, position: &Position) -> Option<u64> {
        match self {
            Catalog::Delta(delta) => delta.rows_after(position).await,
            Catalog::Folder(folder) => folder.rows_after(position),
        }
    }

    /// Returns the number of versions that are not read to their end yet, or `None` if the source has no versions.
    pub(super) fn versions_after(&self, position: &Position) -> Option<u64> {
        let Catalog::Delta(delta) = self else { return None };
        let read = match position {
            Position::Start => delta.first().unwrap_or_default(),
            Position::DeltaSnapshot { version, .. } => version + 1,
            Position::DeltaLog { version, .. } => *version,
            Position::Folder { .. } => return None,
        };
        Some((delta.version() + 1).saturating_sub(read))
    }

    /// Returns the files of the source, each as a whole (`end` is 0); of a Delta table only those in which a row may
    /// meet the condition.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) async fn parts(&self) -> Result<Vec<FileRange>, SourceError> {
        match self {
            Catalog::Delta(delta) => delta.parts().await,
            Catalog::Folder(folder) => Ok(folder.parts()),
        }
    }

    /// Returns the position after all rows that a target holds. With a condition, `expected` has the files' read
    /// progress.
    ///
    /// # Errors
    /// When these rows are not the first ones of the source.
    pub(super) async fn position_after(
        &self,
        held: &[HeldFile],
        expected: &HashMap<String, ReadProgress>,
    ) -> Result<Position, SourceError> {
        match self {
            Catalog::Delta(delta) => delta.position_after(held, expected).await,
            Catalog::Folder(folder) => folder.position_after(held, expected),
        }
    }

    /// Returns the parts of files that are before a position (`end` is 0 for a whole file), and the names of files that
    /// were read and no longer exist.
    ///
    /// # Errors
    /// When a file has changed, or the log cannot be read or does not show which files were read.
    pub(super) async fn parts_before(
        &mut self,
        position: &Position,
    ) -> Result<(Vec<FileRange>, Vec<String>), SourceError> {
        match self {
            Catalog::Delta(delta) => Ok((delta.parts_before(position).await?, Vec::new())),
            Catalog::Folder(folder) => folder.parts_before(position),
        }
    }
}
