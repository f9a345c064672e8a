//! What the footer of a Parquet file tells about its size.

use std::fs::File;
use std::path::Path;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::SourceError;

/// Row groups of a file: their rows and the bytes that these take uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileShape {
    groups: Vec<(u64, u64)>,
}

impl FileShape {
    /// Reads the footer of a file.
    ///
    /// # Errors
    /// When the file is not there, is no Parquet file, or is cut off.
    pub fn read(path: &Path) -> Result<FileShape, SourceError> {
        let metadata = metadata(path)?;
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        let groups = metadata.metadata().row_groups().iter();
        Ok(FileShape {
            groups: groups.map(|group| (count(group.num_rows()), count(group.total_byte_size()))).collect(),
        })
    }

    /// Rows of the file.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|(rows, _)| rows).sum()
    }

    /// How many rows from `start` on fit `max_rows` and `max_bytes`, and what they take in bytes. At least
    /// one row if there is one and `max_rows` is not 0 and `must_take` is set.
    #[must_use]
    pub fn fit(&self, start: u64, max_rows: u64, max_bytes: u64, must_take: bool) -> (u64, u64) {
        let (mut first, mut taken, mut bytes) = (0, 0, 0);
        for (rows, size) in &self.groups {
            let end = first + rows;
            let begin = (start + taken).max(first);
            first = end;
            if begin >= end || taken == max_rows {
                continue;
            }
            let row_bytes = size.div_ceil(*rows).max(1);
            let mut fitting = (max_bytes.saturating_sub(bytes)) / row_bytes;
            if fitting == 0 && taken == 0 && must_take {
                fitting = 1;
            }
            let take = (end - begin).min(max_rows - taken).min(fitting);
            taken += take;
            bytes += take * row_bytes;
            if begin + take < end {
                break;
            }
        }
        (taken, bytes)
    }
}

pub(super) fn metadata(path: &Path) -> Result<ArrowReaderMetadata, SourceError> {
    let file = File::open(path).map_err(|error| SourceError::file(path, error))?;
    ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| {
        SourceError::file(
            path,
            format!("it is no whole Parquet file (cut off, or still being written?): {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_what_fits_across_row_groups() {
        let shape = FileShape { groups: vec![(10, 100), (0, 0), (10, 1_000)] };
        assert_eq!(shape.fit(0, 100, 1_000_000, true), (20, 1_100));
        assert_eq!(shape.fit(0, 5, 1_000_000, true), (5, 50));
        assert_eq!(shape.fit(8, 5, 1_000_000, true), (5, 20 + 300));
        assert_eq!(shape.fit(0, 100, 250, true), (11, 200));
        assert_eq!(shape.fit(10, 100, 50, true), (1, 100), "one row always fits");
        assert_eq!(shape.fit(10, 100, 50, false), (0, 0), "unless the batch has rows already");
        assert_eq!(shape.fit(20, 100, 50, true), (0, 0));
    }
}
