//! Finds the rows that were read and that a target no longer holds.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;

use roaring::RoaringTreemap;

use super::{Source, SourceError};
use crate::checkpoint::{FileRange, Position};

/// A set of physical rows of source files, by file.
#[derive(Clone, Debug, Default)]
pub struct HeldRows(BTreeMap<String, RoaringTreemap>);

impl HeldRows {
    /// Adds one row of a file.
    pub fn insert(&mut self, file: &str, row: u64) {
        match self.0.get_mut(file) {
            Some(rows) => _ = rows.insert(row),
            None => self.insert_rows(file, row..row + 1),
        }
    }

    /// Adds the rows of a planned part.
    pub fn insert_part(&mut self, part: &FileRange) {
        self.insert_rows(&part.file, part.rows());
    }

    fn insert_rows(&mut self, file: &str, rows: Range<u64>) {
        self.0.entry(file.to_owned()).or_default().insert_range(rows);
    }

    fn has(&self, file: &str, row: u64) -> bool {
        self.0.get(file).is_some_and(|rows| rows.contains(row))
    }
}

/// The rows before a position that a target lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingRows {
    /// Parts of files that were read, each with the ranges of its missing rows, in the source's order. A range may
    /// include rows that a condition leaves out.
    pub files: Vec<(FileRange, VecDeque<Range<u64>>)>,
    /// Number of missing rows, without those that a condition leaves out.
    pub rows: u64,
    /// Files that were read and no longer exist: which of their rows are missing cannot be determined.
    pub lost_files: Vec<String>,
}

impl Source {
    /// Returns the position after everything in the source.
    #[must_use]
    pub fn end_of_all(&self) -> Position {
        self.catalog.end_of_all()
    }

    /// Returns the rows before a position that meet the present condition and are not in `held`.
    ///
    /// # Errors
    /// When files before the position cannot be read, or `held` has rows of files that a Delta table did not have
    /// there: those rows may be in other files too.
    pub async fn missing(
        &mut self,
        position: &Position,
        held: &HeldRows,
    ) -> Result<MissingRows, SourceError> {
        let (parts, lost_files) = self.catalog.parts_before(position).await?;
        if self.catalog.replaces_files()
            && let Some(file) = {
                let known: HashSet<&str> = parts.iter().map(|part| part.file.as_str()).collect();
                held.0.keys().find(|file| !known.contains(file.as_str()))
            }
        {
            return Err(SourceError::Unsupported {
                path: self.root().clone(),
                what: format!(
                    "was compacted, or changed, since the target got its rows: these are of files that it does not have any more ({file}), so what is missing cannot be determined"
                ),
            });
        }
        let condition = self.condition().map(ToOwned::to_owned);
        let mut missing = MissingRows { lost_files, ..MissingRows::default() };
        for part in parts {
            let rows = self.shape(&part).await?.rows();
            let end = if part.end == 0 { rows } else { part.end };
            let kept = self.kept(&part, condition.as_deref()).await?;
            let mut ranges = VecDeque::new();
            let mut range: Option<Range<u64>> = None;
            for row in kept.rows(0..end) {
                match (&mut range, held.has(&part.file, row)) {
                    (open, true) => ranges.extend(open.take()),
                    (Some(open), false) => open.end = row + 1,
                    (None, false) => range = Some(row..row + 1),
                }
                missing.rows += u64::from(!held.has(&part.file, row));
            }
            ranges.extend(range);
            if !ranges.is_empty() {
                missing.files.push((part, ranges));
            }
        }
        Ok(missing)
    }
}
