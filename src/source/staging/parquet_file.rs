//! The Parquet file into which a file's rows are staged.

use std::fs::File;

use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

use super::bad_row::StageError;
use super::kind::ColumnKind;

/// Key of what a staged file says about itself, in its footer.
pub(super) const NOTE: &str = "enrich";
/// Approximate size in memory of a row group.
const GROUP_BYTES: usize = 24_000_000;
const GROUP_ROWS: usize = 1_000_000;
const PAGE_BYTES: usize = 256 * 1_024;

/// What a staged file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StagedNote {
    /// The columns of a text file, and what its values are.
    pub(super) kinds: Vec<(String, ColumnKind)>,
    /// Number of rows that were skipped.
    pub(super) skipped: u64,
}

/// Writer of a Parquet file, in row groups of bounded size.
pub(crate) struct ParquetFileWriter(ArrowWriter<File>);

impl ParquetFileWriter {
    pub(crate) fn new(file: File, schema: SchemaRef) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        Ok(ParquetFileWriter(ArrowWriter::try_new(file, schema, Some(properties))?))
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        self.0.write(rows)?;
        if self.0.in_progress_size() > GROUP_BYTES {
            self.0.flush()?;
        }
        Ok(())
    }

    /// Writes what the file says about itself, and the footer, and flushes the file to the disk.
    pub(super) fn finish_with(mut self, note: &StagedNote) -> Result<(), StageError> {
        let text = serde_json::to_string(note).map_err(std::io::Error::from)?;
        self.0.append_key_value_metadata(KeyValue::new(NOTE.to_owned(), text));
        Ok(self.finish()?)
    }

    /// Writes the footer and flushes the file to the disk.
    pub(crate) fn finish(self) -> Result<(), ParquetError> {
        let file = self.0.into_inner()?;
        Ok(file.sync_all()?)
    }
}
