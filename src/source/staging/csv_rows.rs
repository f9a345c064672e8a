//! Stages CSV and TSV files.
//!
//! A file is read once if the values in its first megabytes are of the kinds of all. Where a later value is not, the
//! rest is looked through for kinds alone, and the file is read again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, Read};
use std::sync::Arc;

use ::arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Float64Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use ::arrow::datatypes::{Field, Schema, SchemaRef};
use ::arrow::record_batch::RecordBatch;
use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::bad_row::{BadRow, NOT_TEXT, SkippedRows, StageError, shown};
use super::input::{BoundedReader, ByteAllowance, MAX_RECORD_BYTES, StagingInput};
use super::kind::{CellValue, ColumnKind, ColumnKinds, KindOrigin};
use super::parquet_file::{ParquetFileWriter, StagedNote};
use crate::config::{FilesSpec, SourceFormat};
use crate::wording::counted;

/// Bytes of the first rows, whose values decide what is tried.
const SAMPLE_BYTES: usize = 4_000_000;
/// Bytes and rows that are written together.
const PIECE_BYTES: usize = 4_000_000;
const PIECE_ROWS: usize = 8_192;
/// Length of the line behind the end of a file.
const END_LENGTH: usize = 32;
/// What spreadsheets write before the header, with the delimiter behind it.
const SEPARATOR: &[u8] = b"sep=";
/// What a delimiter may be that the job does not state, the likeliest first.
const CANDIDATES: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Stages a file into `to`. Returns what it holds.
///
/// # Errors
/// When the file cannot be read, or a bad row stops it.
pub(super) fn stage(
    input: StagingInput<'_>,
    spec: &FilesSpec,
    format: SourceFormat,
    known: &ColumnKinds,
    skipped: &mut SkippedRows,
    to: &File,
) -> Result<StagedNote, StageError> {
    let mut tried = None;
    loop {
        skipped.clear();
        to.set_len(0)?;
        std::io::Seek::rewind(&mut &*to)?;
        let pass = CsvPass::begin(input, spec, format, known, tried.take())?;
        match pass.run(skipped, to)? {
            CsvPassEnd::Whole(kinds) => return Ok(StagedNote { kinds, skipped: skipped.count }),
            CsvPassEnd::Misfit(kinds) => tried = Some(kinds),
        }
    }
}

/// How a pass over a file ended.
enum CsvPassEnd {
    /// It is staged.
    Whole(Vec<(String, ColumnKind)>),
    /// Some value was not of its column's kind. These are the kinds of all.
    Misfit(Vec<ColumnKind>),
}

/// A column of a file.
struct CsvColumn {
    name: String,
    origin: KindOrigin,
    kind: ColumnKind,
}

/// One reading of a file.
struct CsvPass<'a> {
    spec: &'a FilesSpec,
    delimiter: u8,
    lines: CsvRecords,
    columns: Vec<CsvColumn>,
    /// The first rows, which are read before the columns' kinds are tried.
    sample: Vec<StringRecord>,
    needs_sample: bool,
}

/// Records of a file, with bounds on each.
struct CsvRecords {
    reader: csv::Reader<Box<dyn Read>>,
    /// A line behind the end of the file: where it comes back as part of a cell, a quote was not closed.
    end: String,
    allowance: ByteAllowance,
}

/// The next record of a file.
enum NextRecord {
    Record,
    /// It is not UTF-8 in this cell.
    NotText {
        line: u64,
        cell: usize,
    },
    End,
}

impl CsvRecords {
    /// Reads the next record.
    ///
    /// # Errors
    /// When the file cannot be read on.
    fn next(&mut self, record: &mut StringRecord) -> Result<NextRecord, StageError> {
        self.allowance.renew();
        let line = self.reader.position().line();
        match self.reader.read_record(record) {
            Ok(false) => Ok(NextRecord::End),
            Ok(true) => match record.get(record.len().saturating_sub(1)) {
                Some(cell) if cell == self.end && record.len() == 1 => Ok(NextRecord::End),
                Some(cell) if cell.strip_suffix('\n').is_some_and(|cell| cell.ends_with(&self.end)) => {
                    Err(StageError::File(format!(
                        "line {}: a quote is opened in this row and not closed up to the end of the file",
                        position(record)
                    )))
                }
                _ => Ok(NextRecord::Record),
            },
            Err(error) => match error.into_kind() {
                ErrorKind::Utf8 { pos, err } => {
                    Ok(NextRecord::NotText { line: pos.map_or(line, |pos| pos.line()), cell: err.field() })
                }
                ErrorKind::Io(error) if self.allowance.is_spent() => Err(StageError::File(format!(
                    "line {line}: the row that begins here cannot be read: {error}"
                ))),
                ErrorKind::Io(error) => Err(error.into()),
                other => Err(StageError::File(format!("line {line}: {other:?}"))),
            },
        }
    }
}

/// Returns a line that no file has, of a character that neither separates nor encloses cells.
fn end_line(delimiter: u8, quote: Option<u8>) -> String {
    let is_free = |byte: &u8| *byte != delimiter && Some(*byte) != quote;
    let byte = [1, 2, 3].into_iter().find(is_free).unwrap_or(1);
    char::from(byte).to_string().repeat(END_LENGTH)
}

/// Returns the line on which a record begins.
fn position(record: &StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

impl<'a> CsvPass<'a> {
    /// Opens a file and reads the names of its columns. `tried` are the kinds that an earlier pass found.
    fn begin(
        input: StagingInput<'_>,
        spec: &'a FilesSpec,
        format: SourceFormat,
        known: &ColumnKinds,
        tried: Option<Vec<ColumnKind>>,
    ) -> Result<Self, StageError> {
        let mut text = input.text()?;
        let named = separator_line(text.fill_buf()?);
        let delimiter = match (spec.delimiter.or(named), format) {
            (Some(delimiter), _) => delimiter,
            (None, SourceFormat::Tsv) => b'\t',
            (None, _) => delimiter_of(text.fill_buf()?, spec.quote),
        };
        let end = end_line(delimiter, spec.quote);
        let behind = std::io::Cursor::new(format!("\n{end}\n"));
        let (bounded, allowance) = BoundedReader::new(text.chain(behind), MAX_RECORD_BYTES);
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .quoting(spec.quote.is_some())
            .quote(spec.quote.unwrap_or(b'"'))
            .buffer_capacity(256 * 1_024)
            .from_reader(Box::new(bounded) as Box<dyn Read>);
        let mut lines = CsvRecords { reader, end, allowance };
        let mut first = StringRecord::new();
        for _ in 0..=u8::from(named.is_some()) {
            match lines.next(&mut first)? {
                NextRecord::Record => {}
                NextRecord::NotText { line, .. } => {
                    return Err(StageError::File(format!("line {line}: {NOT_TEXT}")));
                }
                NextRecord::End => return Err(StageError::Empty),
            }
        }
        let needs_sample = tried.is_none();
        let names = match spec.has_header {
            true => names(&first),
            false => names(&StringRecord::from(vec![""; first.len()])),
        };
        let mut tried = tried.unwrap_or_default().into_iter();
        let columns = names.into_iter().map(|name| {
            let tried = tried.next();
            let (origin, kind) = match (spec.schema.get(&name), known.get(&name)) {
                (Some(declared), _) => (KindOrigin::Declared, ColumnKind::from(*declared)),
                (None, Some(known)) => (KindOrigin::Known, known.clone()),
                (None, None) => (KindOrigin::Inferred, tried.unwrap_or(ColumnKind::Null)),
            };
            CsvColumn { name, origin, kind }
        });
        let columns = columns.collect();
        let sample = if spec.has_header { Vec::new() } else { vec![first] };
        Ok(CsvPass { spec, delimiter, lines, columns, sample, needs_sample })
    }

    /// Reads the rows into a staged file.
    fn run(mut self, skipped: &mut SkippedRows, to: &File) -> Result<CsvPassEnd, StageError> {
        if self.needs_sample {
            self.read_sample(skipped)?;
        }
        let mut rows = PendingRows::new(&self.columns);
        let mut file = ParquetFileWriter::new(to.try_clone()?, Arc::clone(&rows.schema))?;
        let mut cells = Vec::with_capacity(self.columns.len());
        let mut is_misfit = false;
        let mut sample = std::mem::take(&mut self.sample).into_iter();
        let mut record = StringRecord::new();
        loop {
            if let Some(first) = sample.next() {
                record = first;
            } else if !self.next(&mut record, skipped)? {
                break;
            }
            if is_misfit {
                self.infer(&record);
            } else if let Some(misfit) = self.read_cells(&record, &mut cells) {
                match self.columns[misfit].origin {
                    KindOrigin::Inferred => {
                        is_misfit = true;
                        self.infer(&record);
                    }
                    KindOrigin::Declared | KindOrigin::Known => {
                        skipped.skip(self.bad_cell(&record, misfit))?;
                    }
                }
            } else {
                rows.push(&record, &cells);
                if rows.is_full() {
                    file.write(&rows.take()?)?;
                }
            }
        }
        if is_misfit {
            return Ok(CsvPassEnd::Misfit(self.columns.into_iter().map(|column| column.kind).collect()));
        }
        file.write(&rows.take()?)?;
        let kinds: Vec<_> = self.columns.into_iter().map(|column| (column.name, column.kind)).collect();
        file.finish_with(&StagedNote { kinds: kinds.clone(), skipped: skipped.count })?;
        Ok(CsvPassEnd::Whole(kinds))
    }

    fn read_sample(&mut self, skipped: &mut SkippedRows) -> Result<(), StageError> {
        let mut bytes = 0;
        let mut record = StringRecord::new();
        for first in &self.sample.clone() {
            self.infer(first);
        }
        while bytes < SAMPLE_BYTES && self.next(&mut record, skipped)? {
            self.infer(&record);
            bytes += record.as_slice().len() + 8 * record.len();
            self.sample.push(record.clone());
        }
        Ok(())
    }

    /// Reads the next record that has a cell for each column, and skips bad ones. Returns whether there is one.
    fn next(&mut self, record: &mut StringRecord, skipped: &mut SkippedRows) -> Result<bool, StageError> {
        loop {
            let bad = match self.lines.next(record)? {
                NextRecord::End => return Ok(false),
                NextRecord::Record if record.len() == self.columns.len() => return Ok(true),
                NextRecord::Record => BadRow {
                    line: position(record),
                    column: None,
                    reason: format!(
                        "the row has {}, and there are {}, with {:?} between them; delimiter and quote in \
                         [{}] say what separates and encloses cells",
                        counted(record.len() as u64, "cell"),
                        counted(self.columns.len() as u64, "column"),
                        char::from(self.delimiter),
                        self.spec.section
                    ),
                },
                NextRecord::NotText { line, cell } => BadRow {
                    line,
                    column: self.columns.get(cell).map(|column| column.name.clone()),
                    reason: NOT_TEXT.to_owned(),
                },
            };
            skipped.skip(bad)?;
        }
    }

    fn is_null(&self, cell: &str) -> bool {
        self.spec.null_values.iter().any(|null| null == cell)
    }

    /// Widens the columns' kinds to those of a row's values.
    fn infer(&mut self, record: &StringRecord) {
        for (at, cell) in record.iter().enumerate() {
            let column = &self.columns[at];
            if column.origin == KindOrigin::Inferred && column.kind != ColumnKind::Text && !self.is_null(cell)
            {
                let column = &mut self.columns[at];
                column.kind =
                    std::mem::replace(&mut column.kind, ColumnKind::Null).join(ColumnKind::of(cell));
            }
        }
    }

    /// Reads a row's cells. Returns the first column whose value is not of its kind.
    fn read_cells(&mut self, record: &StringRecord, cells: &mut Vec<CellValue>) -> Option<usize> {
        cells.clear();
        for (at, text) in record.iter().enumerate() {
            let column = &self.columns[at];
            let cell = match self.is_null(text) {
                true => CellValue::Null,
                false => match column.kind.read(text, column.origin) {
                    Some(cell) => cell,
                    None => return Some(at),
                },
            };
            if let (ColumnKind::Int, CellValue::Int(number)) = (&column.kind, cell) {
                self.columns[at].kind = ColumnKind::of_int(number);
            }
            cells.push(cell);
        }
        None
    }

    fn bad_cell(&self, record: &StringRecord, at: usize) -> BadRow {
        let column = &self.columns[at];
        let why = match column.origin {
            KindOrigin::Declared => "as the schema of the job says",
            _ => "as in the files that were read first",
        };
        let value = shown(record.get(at).unwrap_or_default());
        BadRow {
            line: position(record),
            column: Some(column.name.clone()),
            reason: format!("{value} is not {}, {why}", column.kind.what()),
        }
    }
}

/// Returns the delimiter that the first line names, as spreadsheets write it; `None` if that is no such line.
fn separator_line(start: &[u8]) -> Option<u8> {
    match start.strip_prefix(SEPARATOR)? {
        [delimiter, b'\n' | b'\r', ..] if !matches!(delimiter, b'\n' | b'\r') => Some(*delimiter),
        _ => None,
    }
}

/// Returns the most frequent candidate in the first line, outside of quotes.
fn delimiter_of(start: &[u8], quote: Option<u8>) -> u8 {
    let mut counts = [0_u32; CANDIDATES.len()];
    let mut is_quoted = false;
    for byte in start {
        match byte {
            b'\n' | b'\r' if !is_quoted => break,
            byte if Some(*byte) == quote => is_quoted = !is_quoted,
            byte if !is_quoted => {
                if let Some(at) = CANDIDATES.iter().position(|candidate| candidate == byte) {
                    counts[at] += 1;
                }
            }
            _ => {}
        }
    }
    let most = counts.iter().max().copied().unwrap_or_default();
    CANDIDATES
        .into_iter()
        .zip(counts)
        .find(|(_, count)| *count == most)
        .map_or(b',', |(candidate, _)| candidate)
}

/// Returns the columns' names: without spaces around them, those without a name numbered, and equal ones told apart by a
/// number behind them.
fn names(header: &StringRecord) -> Vec<String> {
    let given: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(at, name)| match name.trim() {
            "" => format!("column_{}", at + 1),
            name => name.to_owned(),
        })
        .collect();
    let all: HashSet<String> = given.iter().map(|name| name.to_lowercase()).collect();
    let mut taken = HashSet::new();
    let names = given.into_iter().map(|name| {
        if taken.insert(name.to_lowercase()) {
            return name;
        }
        let numbered = (2..).map(|number: u32| format!("{name}_{number}"));
        let free = |name: &String| !all.contains(&name.to_lowercase()) && taken.insert(name.to_lowercase());
        let mut free = free;
        numbered.into_iter().find(|name| free(name)).unwrap_or(name)
    });
    names.collect()
}

/// Rows that are not written yet.
struct PendingRows {
    schema: SchemaRef,
    builders: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
}

enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Date(Date32Builder),
    Time(TimestampMicrosecondBuilder),
    Text(StringBuilder),
}

impl ColumnBuilder {
    fn new(kind: &ColumnKind) -> Self {
        match kind {
            ColumnKind::Bool => ColumnBuilder::Bool(BooleanBuilder::with_capacity(0)),
            ColumnKind::Int | ColumnKind::LongInt => ColumnBuilder::Int(Int64Builder::with_capacity(0)),
            ColumnKind::Float => ColumnBuilder::Float(Float64Builder::with_capacity(0)),
            ColumnKind::Date => ColumnBuilder::Date(Date32Builder::with_capacity(0)),
            ColumnKind::Timestamp => {
                ColumnBuilder::Time(TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC"))
            }
            ColumnKind::TimestampNtz => ColumnBuilder::Time(TimestampMicrosecondBuilder::with_capacity(0)),
            ColumnKind::Null | ColumnKind::Text | ColumnKind::List(_) | ColumnKind::Struct(_) => {
                ColumnBuilder::Text(StringBuilder::with_capacity(0, 0))
            }
        }
    }

    fn push(&mut self, cell: CellValue, text: &str) {
        match (self, cell) {
            (ColumnBuilder::Bool(builder), CellValue::Bool(value)) => builder.append_value(value),
            (ColumnBuilder::Int(builder), CellValue::Int(value)) => builder.append_value(value),
            (ColumnBuilder::Float(builder), CellValue::Float(value)) => builder.append_value(value),
            (ColumnBuilder::Date(builder), CellValue::Date(value)) => builder.append_value(value),
            (ColumnBuilder::Time(builder), CellValue::Timestamp(value) | CellValue::TimestampNtz(value)) => {
                builder.append_value(value);
            }
            (ColumnBuilder::Text(builder), CellValue::Text) => builder.append_value(text),
            (ColumnBuilder::Bool(builder), _) => builder.append_null(),
            (ColumnBuilder::Int(builder), _) => builder.append_null(),
            (ColumnBuilder::Float(builder), _) => builder.append_null(),
            (ColumnBuilder::Date(builder), _) => builder.append_null(),
            (ColumnBuilder::Time(builder), _) => builder.append_null(),
            (ColumnBuilder::Text(builder), _) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            ColumnBuilder::Bool(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Int(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Float(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Date(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Time(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Text(builder) => Arc::new(builder.finish()),
        }
    }
}

impl PendingRows {
    fn new(columns: &[CsvColumn]) -> Self {
        let field = |column: &CsvColumn| Field::new(&column.name, column.kind.data_type(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let builders = columns.iter().map(|column| ColumnBuilder::new(&column.kind)).collect();
        PendingRows { schema: Arc::new(schema), builders, rows: 0, bytes: 0 }
    }

    fn push(&mut self, record: &StringRecord, cells: &[CellValue]) {
        for ((builder, cell), text) in self.builders.iter_mut().zip(cells).zip(record) {
            builder.push(*cell, text);
        }
        self.rows += 1;
        self.bytes += record.as_slice().len() + 8 * cells.len();
    }

    fn is_full(&self) -> bool {
        self.rows >= PIECE_ROWS || self.bytes >= PIECE_BYTES
    }

    fn take(&mut self) -> Result<RecordBatch, StageError> {
        (self.rows, self.bytes) = (0, 0);
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_are_told_apart() {
        let header = StringRecord::from(vec![" a b ", "A b", "x.y", "", "a b_2", "x.y"]);
        assert_eq!(names(&header), ["a b", "A b_3", "x.y", "column_4", "a b_2", "x.y_2"]);
    }

    #[test]
    fn the_most_frequent_character_of_the_first_line_delimits() {
        for (line, delimiter) in [
            ("a,b,c", b','),
            ("a;b;c\nx,y,z,u,v", b';'),
            ("a\tb", b'\t'),
            ("\"a;b;c\",d", b','),
            ("a", b','),
            ("a,b;c", b','),
        ] {
            assert_eq!(delimiter_of(line.as_bytes(), Some(b'"')), delimiter, "{line}");
        }
    }
}
