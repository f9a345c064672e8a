//! Streams rows into files.

use std::io::Write;
use std::pin::pin;

use arrow::array::RecordBatch;

use super::destination::Destination;
use super::encoder::Encoder;
use super::error::{EncodeError, ExportError};
use super::file_writer::FileWriter;
use super::format::ExportFormat;
use super::text::CellStyle;
use crate::sink::TargetRows;
use crate::store::ExistingFile;

/// An export: where rows go, and how they are written.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where the rows go.
    pub destination: Destination,
    /// Format of the files.
    pub format: ExportFormat,
    /// How cells are written, where the format has cells.
    pub style: CellStyle,
    /// What happens to a file that is there.
    pub existing: ExistingFile,
    /// Size in bytes at which a file of a folder ends and another one begins.
    pub file_bytes: u64,
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Number of rows.
    pub rows: u64,
    /// Number of files.
    pub files: u64,
    /// Number of bytes in all files.
    pub bytes: u64,
}

impl Export {
    /// Writes rows to the destination. `stream` is standard output; `stop` ends the export early.
    ///
    /// # Errors
    /// When rows cannot be read or written, and when `stop` came first. The destination is then as it was, unless a
    /// store cannot be reached, or a folder not flushed.
    pub async fn run(
        &self,
        rows: &TargetRows,
        stream: Box<dyn Write + Send>,
        stop: impl Future<Output = ()>,
    ) -> Result<Exported, ExportError> {
        let mut writer = FileWriter::open(&self.destination, self.format, self.existing, stream).await?;
        let mut rows_written = 0;
        let written = self.write(rows, &mut writer, stop, &mut rows_written).await;
        let finished = match written {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        match finished {
            Ok(()) => Ok(Exported { rows: rows_written, files: writer.files, bytes: writer.bytes }),
            Err(error) => {
                writer.discard().await;
                let is_closed = error.is_closed_output();
                Err(if is_closed { ExportError::ReaderClosed { rows: rows_written } } else { error })
            }
        }
    }

    async fn write(
        &self,
        rows: &TargetRows,
        writer: &mut FileWriter,
        stop: impl Future<Output = ()>,
        count: &mut u64,
    ) -> Result<(), ExportError> {
        let failed = |source: EncodeError| ExportError::Encode { format: self.format, source };
        let new_encoder = || Encoder::new(self.format, rows.schema(), self.style).map_err(failed);
        let mut encoder = new_encoder()?;
        let mut reader = rows.reader();
        let mut stop = pin!(stop);
        loop {
            let batch: Option<RecordBatch> = tokio::select! {
                biased;
                () = &mut stop => return Err(ExportError::Interrupted),
                batch = reader.next() => batch?,
            };
            let Some(batch) = batch else { break };
            if self.is_file_full(writer, &encoder) {
                let ended = std::mem::replace(&mut encoder, new_encoder()?);
                writer.write(&ended.finish().map_err(failed)?).await?;
                writer.next_file().await?;
            }
            writer.write(&encoder.encode(&batch).map_err(failed)?).await?;
            *count += batch.num_rows() as u64;
        }
        writer.write(&encoder.finish().map_err(failed)?).await
    }

    fn is_file_full(&self, writer: &FileWriter, encoder: &Encoder) -> bool {
        let is_folder = matches!(self.destination, Destination::Folder(_));
        is_folder && writer.file_bytes + encoder.pending_bytes() >= self.file_bytes
    }
}
