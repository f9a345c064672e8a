//! Writes record batches as JSON lines, CSV or Parquet, to a file or to standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::fault::is_format_control;

/// Format of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Parquet,
}

/// A listing to which batches are written.
pub(super) struct BatchListing {
    out: Box<dyn Write + Send>,
    format: Format,
    /// Whether cells that a spreadsheet would take for formulas are escaped.
    escapes_formulas: bool,
    /// Whether the output is a terminal, which would execute control sequences in foreign text.
    is_shown: bool,
    parquet: Option<ArrowWriter<Box<dyn Write + Send>>>,
    begun: bool,
}

impl BatchListing {
    pub(super) fn open(
        format: Format,
        file: Option<&Path>,
        escapes_formulas: bool,
    ) -> anyhow::Result<BatchListing> {
        let is_shown = file.is_none() && console::Term::stdout().is_term();
        let out: Box<dyn Write + Send> = match file {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Box::new(io::BufWriter::new(file))
            }
            None if format == Format::Parquet && is_shown => {
                anyhow::bail!("parquet is no text; give a file with --output FILE")
            }
            None => Box::new(io::BufWriter::new(io::stdout())),
        };
        Ok(BatchListing { out, format, escapes_formulas, is_shown, parquet: None, begun: false })
    }

    /// Writes a batch. Returns `false` if the reader has closed the output.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        let written = match self.format {
            Format::Json => {
                let lines = as_json(batch)?;
                self.out.write_all(escaped(&lines).as_bytes())
            }
            Format::Csv => {
                let flat = self.flat(batch)?;
                let mut writer = csv::WriterBuilder::new().with_header(!self.begun).build(&mut self.out);
                writer.write(&flat).map_err(io::Error::other)
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

    /// Converts a batch to what CSV can hold: nested columns become JSON, and text is made harmless where that is
    /// requested.
    fn flat(&self, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let mut fields = Vec::with_capacity(batch.num_columns());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let texts: Option<StringArray> = if column.data_type().is_nested() {
                Some(nested_as_json(field, column)?)
            } else {
                column.as_string_opt::<i32>().cloned()
            };
            let name = self.cell(field.name());
            let Some(texts) = texts else {
                fields.push(field.as_ref().clone().with_name(name));
                columns.push(Arc::clone(column));
                continue;
            };
            let texts: StringArray = texts.iter().map(|text| text.map(|text| self.cell(text))).collect();
            fields.push(Field::new(name, DataType::Utf8, true));
            columns.push(Arc::new(texts));
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn cell(&self, text: &str) -> String {
        let is_formula = self.escapes_formulas && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let is_obeyed = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || is_format_control(c);
        let shown: String = match self.is_shown {
            true => {
                text.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
            }
            false => text.to_owned(),
        };
        if is_formula { format!("'{shown}") } else { shown }
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let flushed = match self.parquet.take() {
            Some(writer) => writer.close().map(drop).map_err(io::Error::other),
            None => self.out.flush(),
        };
        is_open(flushed).map(drop)
    }
}

/// Formats rows as JSON objects, one per line.
fn as_json(batch: &RecordBatch) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut lines);
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(String::from_utf8(lines)?)
}

/// Escapes the characters in JSON that make a line appear as another one. They occur only within strings.
fn escaped(json: &str) -> String {
    let is_hidden = |c: char| is_format_control(c) || ('\u{7f}'..='\u{9f}').contains(&c);
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match is_hidden(c) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// Formats the values of a nested column as JSON.
fn nested_as_json(field: &Field, column: &ArrayRef) -> anyhow::Result<StringArray> {
    let value = Field::new("value", field.data_type().clone(), true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![value])), vec![Arc::clone(column)])?;
    let lines = as_json(&batch)?;
    let values = lines.lines().enumerate().map(|(at, line)| {
        let object: Value = serde_json::from_str(line)?;
        anyhow::Ok((!column.is_null(at)).then(|| object["value"].to_string()))
    });
    values.collect()
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
