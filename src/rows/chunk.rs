//! Rows of a source as they travel from source to sink: record batches with row keys.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;

/// Rows of one file, in the order of the file. Rows between them may be left out.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Path of the file, relative to the source's root.
    pub file: Arc<str>,
    /// Physical row of each of `rows`: its index in the file, with deleted rows counted.
    pub physical: Vec<u64>,
    /// The rows, in the source's columns.
    pub rows: RecordBatch,
}

impl Chunk {
    /// Returns a range of the rows.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        Chunk {
            file: Arc::clone(&self.file),
            rows: self.rows.slice(rows.start, rows.len()),
            physical: self.physical[rows].to_vec(),
        }
    }

    /// Returns the size of the rows in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default() as u64;
        self.rows.columns().iter().map(column).sum()
    }
}
