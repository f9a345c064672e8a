//! Writes record batches as JSON lines, CSV or Parquet, to a file or to standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use arrow::array::RecordBatch;

use crate::export::{CellStyle, Encoder, ExportFormat, FormulaCells, TextReader};

/// A listing to which batches are written.
pub(super) struct BatchListing {
    out: Box<dyn Write + Send>,
    format: ExportFormat,
    style: CellStyle,
    /// Created with the first batch, so that an empty listing has no header.
    encoder: Option<Encoder>,
}

impl BatchListing {
    pub(super) fn open(
        format: ExportFormat,
        file: Option<&Path>,
        formulas: FormulaCells,
    ) -> anyhow::Result<BatchListing> {
        let is_shown = file.is_none() && console::Term::stdout().is_term();
        let out: Box<dyn Write + Send> = match file {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Box::new(io::BufWriter::new(file))
            }
            None if format == ExportFormat::Parquet && is_shown => {
                anyhow::bail!("parquet is no text; give a file with --output FILE")
            }
            None => Box::new(io::BufWriter::new(io::stdout())),
        };
        let reader = if is_shown { TextReader::Terminal } else { TextReader::Program };
        Ok(BatchListing { out, format, style: CellStyle { formulas, reader }, encoder: None })
    }

    /// Writes a batch. Returns `false` if the reader has closed the output.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new(self.format, batch.schema_ref(), self.style)?),
        };
        is_open(self.out.write_all(&encoder.encode(batch)?))
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let last = self.encoder.take().map(Encoder::finish).transpose()?.unwrap_or_default();
        is_open(self.out.write_all(&last).and_then(|()| self.out.flush())).map(drop)
    }
}

fn is_open(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
