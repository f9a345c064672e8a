//! Rows as text: JSON lines, and the cells of CSV.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;

use crate::fault::is_format_control;

/// What is done with cells that a spreadsheet would take for formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormulaCells {
    /// They are written as they are.
    #[default]
    Unchanged,
    /// A `'` is put before them.
    Escaped,
}

/// Who reads the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextReader {
    /// A program, which needs the text as it is.
    #[default]
    Program,
    /// A terminal, which would execute control sequences in it.
    Terminal,
}

/// How cells are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellStyle {
    /// What is done with formulas.
    pub formulas: FormulaCells,
    /// Who reads the cells.
    pub reader: TextReader,
}

/// Appends rows as lines of cells.
pub(super) fn write_cells(
    batch: &RecordBatch,
    delimiter: u8,
    style: CellStyle,
    has_header: bool,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    let builder = csv::WriterBuilder::new().with_header(has_header).with_delimiter(delimiter);
    builder.build(out).write(&with_plain_cells(batch, style)?)
}

/// Appends rows as JSON objects, one per line. Characters that make a line appear as another one are escaped.
pub(super) fn write_json_lines(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let lines = json_lines(batch)?;
    let is_hidden = |c: char| is_format_control(c) || ('\u{7f}'..='\u{9f}').contains(&c);
    if !lines.contains(is_hidden) {
        out.extend_from_slice(lines.as_bytes());
        return Ok(());
    }
    for c in lines.chars() {
        // They occur only within strings.
        match is_hidden(c) {
            true => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            false => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(())
}

/// Converts rows to what cells can hold: nested columns become JSON.
fn with_plain_cells(batch: &RecordBatch, style: CellStyle) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let texts: Option<StringArray> = if column.data_type().is_nested() {
            Some(nested_as_json(field, column)?)
        } else {
            column.as_string_opt::<i32>().cloned()
        };
        let name = cell(field.name(), style);
        let Some(texts) = texts else {
            fields.push(field.as_ref().clone().with_name(name));
            columns.push(Arc::clone(column));
            continue;
        };
        let is_changed = style != CellStyle::default();
        let texts = match is_changed {
            true => texts.iter().map(|text| text.map(|text| cell(text, style))).collect(),
            false => texts,
        };
        fields.push(Field::new(name, DataType::Utf8, true));
        columns.push(Arc::new(texts));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn cell(text: &str, style: CellStyle) -> String {
    let is_formula =
        style.formulas == FormulaCells::Escaped && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_obeyed = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || is_format_control(c);
    let shown: String = match style.reader {
        TextReader::Terminal => {
            text.chars().map(|c| if is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
        }
        TextReader::Program => text.to_owned(),
    };
    if is_formula { format!("'{shown}") } else { shown }
}

fn json_lines(batch: &RecordBatch) -> Result<String, ArrowError> {
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut lines);
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    String::from_utf8(lines).map_err(|error| ArrowError::ExternalError(Box::new(error)))
}

/// Formats the values of a nested column as JSON.
fn nested_as_json(field: &Field, column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let value = Field::new("", field.data_type().clone(), true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![value])), vec![Arc::clone(column)])?;
    let lines = json_lines(&batch)?;
    let value = |line| str::strip_prefix(line, "{\"\":").and_then(|line| line.strip_suffix('}'));
    let values = lines.lines().enumerate();
    Ok(values.map(|(at, line)| value(line).filter(|_| !column.is_null(at))).collect())
}
