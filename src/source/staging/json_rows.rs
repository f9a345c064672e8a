//! Stages JSON: one object per line, objects one after the other, or an array of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Seek};
use std::sync::Arc;

use ::arrow::datatypes::{Field, Schema};
use ::arrow::json::ReaderBuilder;
use ::arrow::json::reader::Decoder;
use serde_json::{Map, Value};

use super::bad_row::{BadRow, NOT_TEXT, SkippedRows, StageError, shown};
use super::input::StagingInput;
use super::json_records::{JsonRecord, JsonRecords};
use super::kind::{ColumnKind, ColumnKinds, KindOrigin, is_text};
use super::parquet_file::{ParquetFileWriter, StagedNote};
use crate::config::FilesSpec;

/// Bytes of the first rows, whose values decide what is tried.
const SAMPLE_BYTES: usize = 4_000_000;
/// Least double that no whole number of 64 bits is, with or without a sign.
const FIRST_BEYOND_INTEGERS: f64 = 9_223_372_036_854_775_808.0;
/// Bytes and rows that are written together.
const PIECE_BYTES: usize = 4_000_000;
const PIECE_ROWS: usize = 8_192;

/// An object of a file.
struct JsonRow {
    /// Line on which it begins, from 1.
    line: u64,
    object: Map<String, Value>,
    /// Size in the file.
    bytes: usize,
}

/// Stages a file into `to`. Returns what it holds.
///
/// # Errors
/// When the file cannot be read, or a bad row stops it.
pub(super) fn stage(
    input: StagingInput<'_>,
    spec: &FilesSpec,
    known: &ColumnKinds,
    skipped: &mut SkippedRows,
    to: &File,
) -> Result<StagedNote, StageError> {
    let mut columns = JsonColumns { spec, known, order: Vec::new(), inferred: BTreeMap::new() };
    let mut needs_sample = true;
    loop {
        skipped.clear();
        to.set_len(0)?;
        (&mut &*to).rewind()?;
        let is_whole = pass(input, &mut columns, needs_sample, skipped, to)?;
        if is_whole {
            return Ok(StagedNote { kinds: columns.kinds(), skipped: skipped.count });
        }
        needs_sample = false;
    }
}

/// Reads a file once. Returns whether all values were of the kinds that were tried.
fn pass(
    input: StagingInput<'_>,
    columns: &mut JsonColumns<'_>,
    needs_sample: bool,
    skipped: &mut SkippedRows,
    to: &File,
) -> Result<bool, StageError> {
    let mut records = JsonRecords::new(input.text()?)?;
    let mut sample = Vec::new();
    let mut bytes = 0;
    while needs_sample && bytes < SAMPLE_BYTES {
        let Some(row) = next(&mut records, skipped)? else { break };
        bytes += row.bytes;
        columns.infer(&row.object);
        sample.push(row);
    }
    let schema = Arc::new(columns.schema());
    let mut file = ParquetFileWriter::new(to.try_clone()?, Arc::clone(&schema))?;
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(PIECE_ROWS).build_decoder()?;
    let mut sample = sample.into_iter();
    let (mut piece, mut piece_bytes) = (Vec::new(), 0);
    let mut is_whole = true;
    let mut has_rows = false;
    loop {
        let next_row = match sample.next() {
            Some(row) => Some(row),
            None => next(&mut records, skipped)?,
        };
        let Some(JsonRow { line, object, bytes }) = next_row else { break };
        if !is_whole {
            columns.infer(&object);
            continue;
        }
        if columns.infer(&object) {
            is_whole = false;
            continue;
        }
        match columns.conform(object) {
            Ok(row) => {
                has_rows = true;
                piece.push(row);
                piece_bytes += bytes;
            }
            Err((column, reason)) => skipped.skip(BadRow { line, column: Some(column), reason })?,
        }
        if piece.len() >= PIECE_ROWS || piece_bytes >= PIECE_BYTES {
            write(&mut decoder, &mut piece, &mut file)?;
            piece_bytes = 0;
        }
    }
    if has_rows && schema.fields().is_empty() {
        return Err(StageError::File("its objects have no fields: there is nothing to read".into()));
    }
    if is_whole {
        write(&mut decoder, &mut piece, &mut file)?;
        file.finish_with(&StagedNote { kinds: columns.kinds(), skipped: skipped.count })?;
    }
    Ok(is_whole)
}

fn write(
    decoder: &mut Decoder,
    piece: &mut Vec<Map<String, Value>>,
    file: &mut ParquetFileWriter,
) -> Result<(), StageError> {
    decoder.serialize(piece)?;
    piece.clear();
    while let Some(rows) = decoder.flush()? {
        file.write(&rows)?;
    }
    Ok(())
}

/// Reads the next object, with its line and size, and skips what is none.
fn next<R: BufRead>(
    records: &mut JsonRecords<R>,
    skipped: &mut SkippedRows,
) -> Result<Option<JsonRow>, StageError> {
    while let Some(JsonRecord { line, text }) = records.next()? {
        let size = text.len();
        let text = text.trim_ascii_end();
        let bad = match serde_json::from_slice::<Value>(text) {
            Ok(value) if has_lost_digits(&value) => match serde_json::from_slice(&with_quoted_integers(text))
            {
                Ok(Value::Object(object)) => return Ok(Some(JsonRow { line, object, bytes: size })),
                _ => BadRow { line, column: None, reason: "it is no object".into() },
            },
            Ok(Value::Object(object)) => return Ok(Some(JsonRow { line, object, bytes: size })),
            Ok(_) => BadRow { line, column: None, reason: "it is no object".into() },
            Err(_) if std::str::from_utf8(text).is_err() => {
                BadRow { line, column: None, reason: NOT_TEXT.to_owned() }
            }
            Err(error) => {
                let message = error.to_string();
                let what = message.split(" at line ").next().unwrap_or_default();
                let what = what.replace("recursion limit exceeded", "it is nested more than 127 deep");
                let line = line + u64::try_from(error.line()).unwrap_or(1).saturating_sub(1);
                let reason = format!("it is no JSON: {what}, at character {}", error.column());
                BadRow { line, column: None, reason }
            }
        };
        skipped.skip(bad)?;
    }
    Ok(None)
}

/// Whether a value has a number that may have been a whole one of more digits than a double holds.
fn has_lost_digits(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= FIRST_BEYOND_INTEGERS)
        }
        Value::Array(items) => items.iter().any(has_lost_digits),
        Value::Object(fields) => fields.values().any(has_lost_digits),
        _ => false,
    }
}

/// Returns a JSON text with whole numbers of more than 64 bits as strings, so that no digit is lost.
fn with_quoted_integers(text: &[u8]) -> Vec<u8> {
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let mut quoted = Vec::with_capacity(text.len() + 16);
    let (mut rest, mut is_in_string) = (text, false);
    while let Some((&byte, after)) = rest.split_first() {
        let length = match byte {
            b'\\' if is_in_string => rest.len().min(2),
            b'"' => {
                is_in_string = !is_in_string;
                1
            }
            b'-' | b'0'..=b'9' if !is_in_string => {
                1 + after.iter().take_while(|byte| is_of_number(byte)).count()
            }
            _ => 1,
        };
        let (token, after) = rest.split_at(length);
        let is_whole = token.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
        let is_long =
            token.len() > 18 && std::str::from_utf8(token).is_ok_and(|text| text.parse::<i64>().is_err());
        let mark: &[u8] = if is_whole && is_long { b"\"" } else { b"" };
        quoted.extend_from_slice(mark);
        quoted.extend_from_slice(token);
        quoted.extend_from_slice(mark);
        rest = after;
    }
    quoted
}

/// The columns of a file that were met so far.
struct JsonColumns<'a> {
    spec: &'a FilesSpec,
    known: &'a ColumnKinds,
    /// Names in the order in which they were met.
    order: Vec<String>,
    /// ColumnKinds of the columns that neither the job nor earlier files decide.
    inferred: ColumnKinds,
}

impl JsonColumns<'_> {
    fn kind(&self, name: &str) -> (KindOrigin, ColumnKind) {
        match (self.spec.schema.get(name), self.known.get(name)) {
            (Some(declared), _) => (KindOrigin::Declared, ColumnKind::from(*declared)),
            (None, Some(known)) => (KindOrigin::Known, known.clone()),
            (None, None) => {
                (KindOrigin::Inferred, self.inferred.get(name).cloned().unwrap_or(ColumnKind::Null))
            }
        }
    }

    fn kinds(&self) -> Vec<(String, ColumnKind)> {
        self.order.iter().map(|name| (name.clone(), self.kind(name).1)).collect()
    }

    fn schema(&self) -> Schema {
        let fields = self.kinds().into_iter().map(|(name, kind)| Field::new(name, kind.data_type(), true));
        Schema::new(fields.collect::<Vec<_>>())
    }

    /// Widens the columns' kinds to those of a row's values. Returns whether the type of a column has changed.
    fn infer(&mut self, row: &Map<String, Value>) -> bool {
        let mut has_changed = false;
        for (name, value) in row {
            let is_decided = self.spec.schema.contains_key(name) || self.known.contains_key(name);
            if is_decided {
                if !self.order.contains(name) {
                    self.order.push(name.clone());
                    has_changed = true;
                }
                continue;
            }
            let Some(kind) = self.inferred.get_mut(name) else {
                self.order.push(name.clone());
                self.inferred.insert(name.clone(), kind_of(value));
                has_changed = true;
                continue;
            };
            if *kind != ColumnKind::Text {
                let before = kind.data_type();
                *kind = std::mem::replace(kind, ColumnKind::Null).join(kind_of(value));
                has_changed |= kind.data_type() != before;
            }
        }
        has_changed
    }

    /// Brings a row's values into the types of their columns.
    ///
    /// # Errors
    /// With the column whose value does not fit, and why.
    fn conform(&self, row: Map<String, Value>) -> Result<Map<String, Value>, (String, String)> {
        let mut conformed = Map::with_capacity(row.len());
        for (name, value) in row {
            let (origin, kind) = self.kind(&name);
            let shown_value = match (origin, &value) {
                (KindOrigin::Inferred, _) => None,
                (_, Value::String(text)) => Some(shown(text)),
                (_, value) => Some(shown(&value.to_string())),
            };
            match conform(value, &kind, origin) {
                Some(value) => conformed.insert(name, value),
                None => {
                    let value = shown_value.unwrap_or_default();
                    let why = match origin {
                        KindOrigin::Declared => "as the schema of the job says",
                        _ => "as in the files that were read first",
                    };
                    return Err((name, format!("{value} is not {}, {why}", kind.what())));
                }
            };
        }
        Ok(conformed)
    }
}

/// Returns the narrowest kind of a value. Strings are text, whatever they look like: JSON has types of its own.
fn kind_of(value: &Value) -> ColumnKind {
    match value {
        Value::Null => ColumnKind::Null,
        Value::Bool(_) => ColumnKind::Bool,
        Value::Number(number) => match number.as_i64() {
            Some(number) => ColumnKind::of_int(number),
            None if number.is_u64() => ColumnKind::Text,
            None => ColumnKind::Float,
        },
        Value::String(_) => ColumnKind::Text,
        Value::Array(items) => {
            ColumnKind::List(Box::new(items.iter().map(kind_of).fold(ColumnKind::Null, ColumnKind::join)))
        }
        Value::Object(fields) => {
            ColumnKind::Struct(fields.iter().map(|(name, value)| (name.clone(), kind_of(value))).collect())
        }
    }
}

/// Brings a value into the type of its column; `None` if it does not fit.
fn conform(value: Value, kind: &ColumnKind, origin: KindOrigin) -> Option<Value> {
    match (kind, value) {
        (_, Value::Null) => Some(Value::Null),
        (ColumnKind::Text | ColumnKind::Null, Value::String(text)) => Some(Value::String(text)),
        (ColumnKind::Text | ColumnKind::Null, other) => Some(Value::String(other.to_string())),
        (ColumnKind::Struct(fields), other) if is_text(fields) => Some(Value::String(other.to_string())),
        (ColumnKind::Bool, value @ Value::Bool(_)) => Some(value),
        (ColumnKind::Int | ColumnKind::LongInt, Value::Number(number)) => {
            number.is_i64().then_some(Value::Number(number))
        }
        (ColumnKind::Float, Value::Number(number)) => {
            let is_exact = number.is_f64()
                || number.as_i64().is_some_and(|number| ColumnKind::of_int(number) == ColumnKind::Int);
            (is_exact || origin == KindOrigin::Declared).then_some(Value::Number(number))
        }
        (ColumnKind::List(item), Value::Array(items)) => {
            let items = items.into_iter().map(|value| conform(value, item, origin));
            Some(Value::Array(items.collect::<Option<Vec<_>>>()?))
        }
        (ColumnKind::Struct(fields), Value::Object(values)) => {
            let values = values.into_iter().map(|(name, value)| {
                let (_, kind) = fields.iter().find(|(known, _)| *known == name)?;
                Some((name, conform(value, kind, origin)?))
            });
            Some(Value::Object(values.collect::<Option<Map<_, _>>>()?))
        }
        // A declared column: its text is read as a cell's would be.
        (kind, Value::String(text)) if origin == KindOrigin::Declared => {
            kind.read(&text, origin).map(|_| Value::String(text.trim().to_owned()))
        }
        _ => None,
    }
}
