//! Splits a source into batches.
//!
//! A plan depends on the source, the position and the limits. It names files and row ranges, so that it can be stored
//! and is never computed twice for the same batch.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use futures::{StreamExt, future, stream};

use crate::checkpoint::{FileRange, PlannedBatch, Position};
use crate::config::BatchLimits;
use crate::faultpoint::{self, Side};
use crate::ident::BatchId;
use crate::passed::PassedOver;
use crate::source::{FileShape, MissingRows, NextFile, NextRows, Source, SourceError};

/// Number of footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 16;
/// Maximum number of files that are read ahead of the one that is planned.
const MAX_AHEAD: usize = 63;

/// Plans one batch after another.
#[derive(Debug)]
pub struct Planner {
    source: Source,
    limits: BatchLimits,
    position: Position,
    /// Rows passed over up to the position since the planner was created.
    passed: PassedOver,
    /// Rows passed over after the position, if nothing is left to plan.
    passed_at_end: PassedOver,
    shapes: FileShapes,
    /// Number of rows that may still be planned in this run; `None` for no limit.
    rows_left: Option<u64>,
    /// Ranges of rows before the position that the target lacks, by file. They are planned first.
    missing: VecDeque<(FileRange, VecDeque<Range<u64>>)>,
}

impl Planner {
    /// Creates a planner that starts after a position and plans at most `rows_left` rows, if that is set.
    #[must_use]
    pub fn new(source: Source, limits: BatchLimits, position: Position, rows_left: Option<u64>) -> Self {
        let (passed, passed_at_end) = (PassedOver::default(), PassedOver::default());
        Planner {
            source,
            limits,
            position,
            passed,
            passed_at_end,
            shapes: FileShapes::default(),
            rows_left,
            missing: VecDeque::new(),
        }
    }

    /// Adds rows before the position that the target lacks. They are planned first.
    #[must_use]
    pub fn with_missing(self, missing: MissingRows) -> Self {
        Planner { missing: missing.files.into(), ..self }
    }

    fn next_missing(&mut self) -> Option<FileRange> {
        loop {
            let (part, ranges) = self.missing.front_mut()?;
            if let Some(rows) = ranges.pop_front() {
                return Some(FileRange { start: rows.start, end: rows.end, ..part.clone() });
            }
            self.missing.pop_front();
        }
    }

    /// Returns the source.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the source, mutably, for further queries.
    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Returns the position after the planned batches, and after files that follow them and have no row to plan.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Returns the rows passed over up to the position since the planner was created.
    #[must_use]
    pub fn passed(&self) -> PassedOver {
        self.passed
    }

    /// Returns the rows passed over from the position to the end of the source, if nothing is left to plan.
    #[must_use]
    pub fn passed_at_end(&self) -> PassedOver {
        self.passed_at_end
    }

    /// Returns the number of rows that may still be planned, or `None` if there is no limit.
    #[must_use]
    pub fn rows_left(&self) -> Option<u64> {
        self.rows_left
    }

    /// Adds up to `max_rows` missing rows to a batch, and returns their number.
    async fn plan_missing(&mut self, batch: &mut PlannedBatch, max_rows: u64) -> Result<u64, SourceError> {
        let mut rows = 0;
        while rows < max_rows
            && let Some(part) = self.next_missing()
        {
            let shape = self.shapes.of(&self.source, &part).await?;
            let kept = self.source.kept(&part, batch.condition.as_deref()).await?;
            let room = usize::try_from(max_rows - rows).unwrap_or(usize::MAX);
            let most = kept.rows(part.rows()).take(room).count() as u64;
            let room = self.limits.max_bytes.saturating_sub(batch.bytes);
            let fitting = shape.fit(part.start, &kept, most, room, rows == 0);
            let end = fitting.end.min(part.end);
            rows += fitting.rows;
            batch.bytes += fitting.bytes;
            if fitting.rows > 0 {
                batch.parts.push(FileRange { end, ..part.clone() });
            }
            if end < part.end {
                if let Some((_, ranges)) = self.missing.front_mut() {
                    ranges.push_front(end..part.end);
                }
                break;
            }
        }
        Ok(rows)
    }

    /// Plans the next batch, or returns `None` if the source is planned to its end.
    ///
    /// # Errors
    /// When the source cannot be read further; the position stays unchanged.
    pub async fn next(&mut self, id: BatchId) -> Result<Option<PlannedBatch>, SourceError> {
        let failed = |error: std::io::Error, source: &Source| SourceError::file(source.root(), error);
        faultpoint::pass("plan", Side::Before).map_err(|error| failed(error, &self.source))?;
        let max_rows = self.rows_left.unwrap_or(u64::MAX).min(u64::from(self.limits.max_rows));
        let condition = self.source.condition().map(ToOwned::to_owned);
        let mut batch = PlannedBatch {
            id,
            parts: Vec::new(),
            bytes: 0,
            next: self.position.clone(),
            condition,
            kept: None,
        };
        self.shapes.ahead = 0;
        let mut rows = self.plan_missing(&mut batch, max_rows).await?;
        let is_of_missing = rows > 0;
        let mut left_out = self.passed;
        self.passed_at_end = PassedOver::default();
        // Missing rows get batches of their own.
        while rows < max_rows && !is_of_missing {
            let NextRows { passed, file } = self.source.next_file(&batch.next).await?;
            let Some(NextFile { part, may_match, rows: of_file }) = file else {
                self.passed_at_end = passed;
                break;
            };
            if !may_match {
                left_out += passed;
                match of_file {
                    Some(of_file) => left_out.by_condition += of_file.saturating_sub(part.start),
                    None => left_out.or_more = true,
                }
                batch.next = self.source.advance(std::mem::take(&mut batch.next), &part, 0, true);
                continue;
            }
            let shape = self.shapes.of(&self.source, &part).await?;
            let kept = self.source.kept(&part, batch.condition.as_deref()).await?;
            let room = self.limits.max_bytes.saturating_sub(batch.bytes);
            let fitting = shape.fit(part.start, &kept, max_rows - rows, room, rows == 0);
            if fitting.rows == 0 && !fitting.is_last {
                break;
            }
            // The rows after the last kept one need not be examined again.
            let end = if fitting.is_last { shape.rows() } else { fitting.end };
            batch.next = self.source.advance(std::mem::take(&mut batch.next), &part, end, fitting.is_last);
            let looked_at = part.start..end;
            left_out += passed;
            left_out.by_condition +=
                (end - part.start).saturating_sub(kept.deleted(looked_at) + fitting.rows);
            rows += fitting.rows;
            batch.bytes += fitting.bytes;
            if fitting.rows > 0 {
                batch.parts.push(FileRange { end, ..part });
            }
        }
        self.position = batch.next.clone();
        self.passed = left_out;
        if rows == 0 {
            return Ok(None);
        }
        batch.kept = (rows != batch.rows()).then_some(rows);
        if let Some(left) = &mut self.rows_left {
            *left -= rows;
        }
        faultpoint::pass("plan", Side::After).map_err(|error| failed(error, &self.source))?;
        Ok(Some(batch))
    }
}

/// Shapes of the file that is planned and of files that follow it.
#[derive(Debug, Default)]
struct FileShapes {
    by_file: HashMap<String, FileShape>,
    /// Number of following files to read beside the next one whose shape is not known.
    ahead: usize,
}

impl FileShapes {
    /// Returns the shape of a part's file. If the file has to be read, some of the files that follow it are read at the
    /// same time: of a batch that takes many small files, each time twice as many.
    async fn of(&mut self, source: &Source, part: &FileRange) -> Result<&FileShape, SourceError> {
        if !self.by_file.contains_key(&part.file) {
            let following = source.following(part, self.ahead);
            self.ahead = (2 * self.ahead + 1).min(MAX_AHEAD);
            let shapes = following.into_iter().map(|part| async move {
                let shape = source.shape(&part).await;
                (part.file, shape)
            });
            let shapes = stream::iter(shapes).buffer_unordered(FOOTERS_AT_ONCE).collect::<Vec<_>>();
            let (own, others) = future::join(source.shape(part), shapes).await;
            self.by_file.clear();
            self.by_file.insert(part.file.clone(), own?);
            // A file that cannot be read is an error once it is its turn.
            let readable = others.into_iter().filter_map(|(file, shape)| Some((file, shape.ok()?)));
            self.by_file.extend(readable);
        }
        match self.by_file.get(&part.file) {
            Some(shape) => Ok(shape),
            None => Err(SourceError::file(source.root(), "a shape that was read is not there")),
        }
    }
}
