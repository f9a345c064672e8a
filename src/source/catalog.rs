//! The catalog of a source: which files it has, in which order they are read, and what a position in it means.
//!
//! A catalog does not read rows: the files' format does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::SourceError;
use super::delta_catalog::DeltaCatalog;
use super::folder_catalog::{self, FolderCatalog};
use super::position::{HeldFile, NextFile, NextRows, ReadProgress};
use crate::checkpoint::{FileRange, Position};
use crate::passed::PassedOver;

/// The files of a source.
#[derive(Debug)]
pub(super) enum Catalog {
    /// The log of a Delta table.
    Delta(Box<DeltaCatalog>),
    /// A folder, or a single file.
    Folder(FolderCatalog),
}

impl Catalog {
    /// Returns the next file after a position, with the row to begin at.
    ///
    /// # Errors
    /// When the log or the folder says something that must not be passed over.
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

    /// Returns the position after rows up to `end` of a file that [`Catalog::next_file`] returned for `before`;
    /// `is_whole` if nothing of the file is left.
    pub(super) fn advance(&self, before: &Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        match self {
            Catalog::Delta(delta) => delta.advance(before, part, end, is_whole),
            Catalog::Folder(_) => folder_catalog::advance(before, part, end, is_whole),
        }
    }

    /// Returns the position after everything that the source has, or `None` if that says no more than the position
    /// after the last file does.
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

    /// Returns which rows of a file are not deleted, or `None` if all are there.
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

    /// Returns what the source is, in words.
    pub(super) fn what(&self) -> String {
        match self {
            Catalog::Delta(delta) => format!("Delta, version {}", delta.version()),
            Catalog::Folder(folder) => folder.what(),
        }
    }

    /// Returns what of a folder is no part of the source, and why.
    pub(super) fn left_out(&self) -> &[String] {
        match self {
            Catalog::Delta(_) => &[],
            Catalog::Folder(folder) => folder.left_out(),
        }
    }

    /// Returns files that were passed over because they are not whole yet.
    pub(super) fn unfinished(&self) -> Vec<&str> {
        match self {
            Catalog::Delta(_) => Vec::new(),
            Catalog::Folder(folder) => folder.unfinished().iter().map(String::as_str).collect(),
        }
    }

    /// Returns the number of rows after a position, if it is known without opening files.
    pub(super) async fn rows_after(&self, position: &Position) -> Option<u64> {
        match self {
            Catalog::Delta(delta) => delta.rows_after(position).await,
            Catalog::Folder(folder) => folder.rows_after(position),
        }
    }

    /// Returns the number of versions that are not read to their end, or `None` if the source has no versions.
    pub(super) fn versions_after(&self, position: &Position) -> Option<u64> {
        let Catalog::Delta(delta) = self else { return None };
        let read = match position {
            Position::Start => delta.first().unwrap_or_default(),
            Position::DeltaSnapshot { version, .. } => version + 1,
            Position::DeltaLog { version, .. } => *version,
            Position::Parquet { .. } => return None,
        };
        Some((delta.version() + 1).saturating_sub(read))
    }

    /// Returns the whole files of the source.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) async fn parts(&self) -> Result<Vec<FileRange>, SourceError> {
        match self {
            Catalog::Delta(delta) => delta.parts().await,
            Catalog::Folder(folder) => Ok(folder.parts()),
        }
    }

    /// Returns the position after everything that a target holds; `expected` says what it should hold of a file of which a
    /// condition chooses the rows.
    ///
    /// # Errors
    /// When the rows are not the beginning of this source.
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

    /// Returns the files that were begun before a position, up to there (`end` is 0 for whole ones), and the names of
    /// those that are gone.
    ///
    /// # Errors
    /// When one is not as it was, or the log cannot be read.
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
