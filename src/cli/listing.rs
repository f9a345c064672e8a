//! Record batches as JSON lines, CSV or Parquet, to a file or to standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::csv;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;

/// How batches are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Parquet,
}

/// Batches being written.
pub(super) struct Listing {
    out: Box<dyn Write + Send>,
    format: Format,
    parquet: Option<ArrowWriter<Box<dyn Write + Send>>>,
    begun: bool,
}

impl Listing {
    pub(super) fn open(format: Format, file: Option<&Path>) -> anyhow::Result<Listing> {
        let out: Box<dyn Write + Send> = match file {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Box::new(io::BufWriter::new(file))
            }
            None if format == Format::Parquet && console::Term::stdout().is_term() => {
                anyhow::bail!("parquet is no text; give a file with --output FILE")
            }
            None => Box::new(io::BufWriter::new(io::stdout())),
        };
        Ok(Listing { out, format, parquet: None, begun: false })
    }

    /// Writes a batch. False if nobody reads any more.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        let written = match self.format {
            Format::Json => {
                let mut writer =
                    WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut self.out);
                writer.write(batch).map_err(io::Error::other)
            }
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().with_header(!self.begun).build(&mut self.out);
                writer.write(batch).map_err(io::Error::other)
            }
            Format::Parquet => {
                if self.parquet.is_none() {
                    let out = std::mem::replace(&mut self.out, Box::new(io::sink()));
                    self.parquet = Some(ArrowWriter::try_new(out, batch.schema(), None)?);
                }
                let Some(writer) = &mut self.parquet else { return Ok(false) };
                writer.write(batch).map_err(io::Error::other)
            }
        };
        self.begun = true;
        is_open(written)
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let flushed = match self.parquet.take() {
            Some(writer) => writer.close().map(drop).map_err(io::Error::other),
            None => self.out.flush(),
        };
        is_open(flushed).map(drop)
    }
}

fn is_open(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if is_broken_pipe(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.to_string().contains("Broken pipe")
}
