//! The size of a file as its footer states it, and the rows of it that fit into a batch.

use ::arrow::datatypes::Fields;

use super::row_mask::RowMask;

/// The footer of a file.
#[derive(Clone, Debug)]
pub(super) enum Footer {
    Whole {
        rows: u64,
        columns: Fields,
        /// Number of rows that were left out because they cannot be read.
        skipped: u64,
    },
    /// The file has no footer, or none yet.
    Missing,
    Damaged(String),
}

/// Row groups of a file: the number of rows of each, and the uncompressed bytes of the columns that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileShape {
    groups: Vec<(u64, u64)>,
}

/// The rows of a file that fit into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting {
    /// Physical row to go on with: the first kept row that does not fit, or the end of the file.
    pub end: u64,
    /// Number of kept rows that fit.
    pub rows: u64,
    /// Uncompressed size of these rows, in bytes.
    pub bytes: u64,
    /// Whether no kept row of the file is left after them.
    pub is_last: bool,
}

impl FileShape {
    /// Returns the shape of a file with these row groups, given as (rows, bytes).
    pub(super) fn new(groups: Vec<(u64, u64)>) -> Self {
        FileShape { groups }
    }

    /// Returns the number of rows in the file.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|(rows, _)| rows).sum()
    }

    /// Returns how many kept rows from `start` on fit `max_rows` and `max_bytes`. If `must_take` is set and `max_rows`
    /// is not 0, the first row fits whatever its size.
    #[must_use]
    pub fn fit(&self, start: u64, kept: &RowMask, max_rows: u64, max_bytes: u64, must_take: bool) -> Fitting {
        let mut fitting = Fitting { end: self.rows(), rows: 0, bytes: 0, is_last: true };
        let mut first = 0;
        for (rows, size) in &self.groups {
            let end = first + rows;
            let row_bytes = size.div_ceil((*rows).max(1)).max(1);
            for row in kept.rows(start.max(first)..end) {
                let fits = fitting.bytes + row_bytes <= max_bytes || (fitting.rows == 0 && must_take);
                if fitting.rows == max_rows || !fits {
                    return Fitting { end: row, is_last: false, ..fitting };
                }
                fitting.rows += 1;
                fitting.bytes += row_bytes;
            }
            first = end;
        }
        fitting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(shape: &FileShape, start: u64, max_rows: u64, max_bytes: u64, must_take: bool) -> (u64, u64, u64) {
        let fitting = shape.fit(start, &RowMask::default(), max_rows, max_bytes, must_take);
        assert_eq!(fitting.is_last, fitting.end == shape.rows());
        (fitting.end, fitting.rows, fitting.bytes)
    }

    #[test]
    fn a_batch_takes_what_fits_across_row_groups() {
        let shape = FileShape { groups: vec![(10, 100), (0, 0), (10, 1_000)] };
        assert_eq!(fit(&shape, 0, 100, 1_000_000, true), (20, 20, 1_100));
        assert_eq!(fit(&shape, 0, 5, 1_000_000, true), (5, 5, 50));
        assert_eq!(fit(&shape, 8, 5, 1_000_000, true), (13, 5, 20 + 300));
        assert_eq!(fit(&shape, 0, 100, 250, true), (11, 11, 200));
        assert_eq!(fit(&shape, 10, 100, 50, true), (11, 1, 100), "one row always fits");
        assert_eq!(fit(&shape, 10, 100, 50, false), (10, 0, 0), "unless the batch has rows already");
        assert_eq!(fit(&shape, 20, 100, 50, true), (20, 0, 0));
    }

    #[test]
    fn rows_that_are_not_kept_take_no_room() {
        let shape = FileShape { groups: vec![(4, 40), (4, 40)] };
        let kept = [false, true, false, false, false, true, true, false];
        let kept = RowMask::undeleted(Some(kept.into()));
        let fit = |start, max_rows| shape.fit(start, &kept, max_rows, 1_000, true);
        assert_eq!(fit(0, 2), Fitting { end: 6, rows: 2, bytes: 20, is_last: false });
        assert_eq!(fit(6, 2), Fitting { end: 8, rows: 1, bytes: 10, is_last: true });
        assert_eq!(fit(0, 3), Fitting { end: 8, rows: 3, bytes: 30, is_last: true });
        assert_eq!(fit(7, 3), Fitting { end: 8, rows: 0, bytes: 0, is_last: true });
    }
}
