//! Turns rows into the bytes of one file.

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;

use super::error::EncodeError;
use super::format::{ExportFormat, TextCompression};
use super::text::{CellStyle, write_cells, write_json_lines};
use crate::table::writer_properties;

/// Number of rows that become text at once.
const TEXT_ROWS: usize = 1_024;

/// Turns rows into the bytes of one file. Bytes are handed out as soon as they are final.
pub struct Encoder(EncoderKind);

enum EncoderKind {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Text { layout: TextLayout, text: Vec<u8>, compressed: Option<Box<GzEncoder<Vec<u8>>>> },
}

#[derive(Clone, Copy)]
enum TextLayout {
    Cells { delimiter: u8, style: CellStyle },
    JsonLines,
}

impl Encoder {
    /// Creates the encoder of a file with these columns. A file of cells begins with their names.
    ///
    /// # Errors
    /// When the format cannot hold a column.
    pub fn new(format: ExportFormat, columns: &SchemaRef, style: CellStyle) -> Result<Self, EncodeError> {
        let (layout, compression) = match format {
            ExportFormat::Parquet => {
                let properties = writer_properties(columns);
                let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(columns), Some(properties))?;
                return Ok(Encoder(EncoderKind::Parquet(Box::new(writer))));
            }
            ExportFormat::Csv(compression) => (TextLayout::Cells { delimiter: b',', style }, compression),
            ExportFormat::Tsv(compression) => (TextLayout::Cells { delimiter: b'\t', style }, compression),
            ExportFormat::JsonLines(compression) => (TextLayout::JsonLines, compression),
        };
        let mut text = Vec::new();
        if let TextLayout::Cells { delimiter, style } = layout {
            write_cells(&RecordBatch::new_empty(Arc::clone(columns)), delimiter, style, true, &mut text)?;
        }
        let compressed = match compression {
            TextCompression::Plain => None,
            TextCompression::Gzip => Some(Box::new(GzEncoder::new(Vec::new(), Compression::default()))),
        };
        Ok(Encoder(EncoderKind::Text { layout, text, compressed }))
    }

    /// Encodes rows, and returns the bytes that are final.
    ///
    /// # Errors
    /// When the rows do not have the columns of the file.
    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Vec<u8>, EncodeError> {
        match &mut self.0 {
            EncoderKind::Parquet(writer) => {
                writer.write(rows)?;
                Ok(std::mem::take(writer.inner_mut()))
            }
            EncoderKind::Text { layout, text, compressed } => {
                for first in (0..rows.num_rows()).step_by(TEXT_ROWS) {
                    let rows = rows.slice(first, TEXT_ROWS.min(rows.num_rows() - first));
                    match *layout {
                        TextLayout::Cells { delimiter, style } => {
                            write_cells(&rows, delimiter, style, false, text)?;
                        }
                        TextLayout::JsonLines => write_json_lines(&rows, text)?,
                    }
                    if let Some(compressed) = compressed {
                        compressed.write_all(text)?;
                        text.clear();
                    }
                }
                Ok(std::mem::take(compressed.as_mut().map_or(text, |compressed| compressed.get_mut())))
            }
        }
    }

    /// Returns the number of encoded bytes that are not final yet, about.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        match &self.0 {
            EncoderKind::Parquet(writer) => writer.in_progress_size() as u64,
            EncoderKind::Text { .. } => 0,
        }
    }

    /// Returns the last bytes of the file.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.0 {
            EncoderKind::Parquet(writer) => Ok(writer.into_inner()?),
            EncoderKind::Text { text, compressed: None, .. } => Ok(text),
            EncoderKind::Text { text, compressed: Some(mut compressed), .. } => {
                compressed.write_all(&text)?;
                Ok(compressed.finish()?)
            }
        }
    }
}
