//! The Parquet format: recognises files and reads their footers and rows.
//!
//! Writers store their own Arrow schema in the footer, with types that state how they held the values in memory: views,
//! 64-bit offsets, dictionaries with 8-bit keys. Here the Parquet types decide. Arrow's types are used only where they
//! state what a value is, as for a duration.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use ::arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelector,
};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::super::SourceError;
use super::super::conform::{ambiguous, place};
use super::super::file::{Root, SourceFile};
use super::super::row_mask::RowMask;
use super::super::shape::{FileShape, Footer};
use crate::checkpoint::FileRange;
use crate::config::SourceSpec;
use crate::ident::Fingerprint;
use crate::store::Location;
use crate::table::Condition;

/// Maximum number of digits of Arrow's 128-bit decimals, and of Delta's.
const MAX_DIGITS: u8 = 38;
/// Approximate size in bytes of the pieces in which rows are decoded.
const PIECE_BYTES: u64 = 1_000_000;
/// Maximum number of rows of a piece.
const PIECE_ROWS: u64 = 8_192;
/// First and last bytes of a file ("File format" in the documentation of Parquet).
const MAGIC: &[u8] = b"PAR1";
/// Bytes behind the footer: its length and the magic.
const FOOTER_END: u64 = 8;
/// Last bytes of a file whose footer is encrypted ("Parquet Modular Encryption").
const ENCRYPTED: &[u8] = b"PARE";

/// Whether byte strings without an annotation are text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::source) enum ByteStrings {
    #[default]
    AsTheyAre,
    AsText,
}

impl ByteStrings {
    /// Returns how a job reads the byte strings of its source.
    pub(in crate::source) fn of(spec: &SourceSpec) -> Self {
        if spec.binary_as_text { ByteStrings::AsText } else { ByteStrings::AsTheyAre }
    }
}

/// Whether a file begins as Parquet files do, whatever its name. Blocks.
pub(super) fn has_magic(root: &Root, path: &str) -> bool {
    let Ok(file) = root.open(path) else { return false };
    let begins = file.get_bytes(0, MAGIC.len());
    file.len() >= MAGIC.len() as u64 && begins.is_ok_and(|bytes| bytes.as_ref() == MAGIC)
}

/// Reads the footer of a file and returns its rows and columns, or why it has none that can be read, and a digest of the
/// footer. Blocks.
pub(super) fn look(root: &Root, path: &str, bytes: ByteStrings) -> (Footer, Option<String>) {
    match root.open(path) {
        Ok(file) => (look_at(&file, bytes), digest(&file)),
        Err(error) => (Footer::Damaged(error.to_string()), None),
    }
}

/// Returns a digest of a footer, which states where values lie, and as a rule the least and the greatest. `None` if there
/// is no footer.
fn digest(file: &SourceFile) -> Option<String> {
    let end = file.len().checked_sub(FOOTER_END)?;
    let length = file.get_bytes(end, 4).ok()?;
    let length = u32::from_le_bytes(length.as_ref().try_into().ok()?);
    let footer = file.get_bytes(end.checked_sub(length.into())?, usize::try_from(length).ok()?).ok()?;
    Some(Fingerprint::of([footer.as_ref()]).to_string())
}

fn look_at(file: &SourceFile, bytes: ByteStrings) -> Footer {
    let end = (file.len() >= 4).then(|| file.get_bytes(file.len() - 4, 4).ok()).flatten();
    match end.as_deref() {
        Some(MAGIC) => {}
        Some(ENCRYPTED) => {
            return Footer::Damaged("it is encrypted; this program has no keys for it".to_owned());
        }
        _ => return Footer::Missing,
    }
    match load(file, bytes) {
        Ok(footer) => {
            let rows = footer.metadata().file_metadata().num_rows();
            let columns = footer.schema().fields().clone();
            Footer::Whole { rows: u64::try_from(rows).unwrap_or_default(), columns, skipped: 0 }
        }
        Err(error) => Footer::Damaged(format!("its footer cannot be read: {error}")),
    }
}

/// Reads the shape of a file from its footer. `columns` are the columns that are read, with their table's metadata.
/// Blocks.
///
/// # Errors
/// When the file is not there, is no Parquet file, or is cut off.
pub(super) fn shape(
    root: &Root,
    file: &str,
    columns: &Schema,
    bytes: ByteStrings,
) -> Result<FileShape, SourceError> {
    let file = footer(root, file, bytes)?;
    let count = |number: i64| u64::try_from(number).unwrap_or_default();
    let places = columns.fields().iter().filter_map(|noted| place(file.schema().fields(), noted));
    let places: BTreeSet<usize> = places.collect();
    let roots = file.parquet_schema();
    let size = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().enumerate();
        let read = columns.filter(|(leaf, _)| places.contains(&roots.get_column_root_idx(*leaf)));
        read.map(|(_, column)| count(column.uncompressed_size())).sum()
    };
    let groups = file.metadata().row_groups().iter();
    Ok(FileShape::new(groups.map(|group| (count(group.num_rows()), size(group))).collect()))
}

/// Returns for each row of a part's file whether it may meet a condition: it is in `there`, and the statistics of its
/// row group do not rule it out. Blocks.
pub(super) fn candidates(
    root: &Root,
    part: &FileRange,
    condition: &Condition,
    there: &RowMask,
    bytes: ByteStrings,
) -> Result<Vec<bool>, SourceError> {
    let file = footer(root, &part.file, bytes)?;
    let may_hold = condition.may_hold_in_groups(&file, &part.partition);
    let mut candidates = Vec::new();
    for (group, may_hold) in file.metadata().row_groups().iter().zip(may_hold) {
        let first = candidates.len() as u64;
        let rows = first..first + u64::try_from(group.num_rows()).unwrap_or_default();
        candidates.extend(rows.map(|row| may_hold && there.holds(row)));
    }
    Ok(candidates)
}

/// Opens a file to read its kept rows from the first row of a part on. Row groups without such rows are not read.
/// `noted` are the columns to read. Returns the rows in pieces, and the number of rows before the part that have to be
/// decoded for them. Blocks.
pub(super) fn open(
    root: &Root,
    part: &FileRange,
    kept: &RowMask,
    noted: &Schema,
    bytes: ByteStrings,
) -> Result<(impl Iterator<Item = Result<RecordBatch, String>> + Send + use<>, u64), SourceError> {
    let path = root.place(&part.file);
    let error = |error: &dyn ToString| SourceError::file(&path, error.to_string());
    let file = root.open(&part.file).map_err(|error| SourceError::missing_file(&path, part, error))?;
    let size = file.len();
    if size != part.size {
        return Err(error(&format!("it had {} bytes when it was planned and has {size} now", part.size)));
    }
    let metadata = metadata(&file, &path, bytes)?;
    let of_file = metadata.schema().fields();
    if let Some((one, other)) = noted.fields().iter().find_map(|noted| ambiguous(of_file, noted)) {
        return Err(error(&format!(
            "its columns {one:?} and {other:?} are one to the table, which does not tell capital from small letters"
        )));
    }
    let mut picked = Vec::new();
    let mut selectors: Vec<RowSelector> = Vec::new();
    let (mut end, mut row_bytes, mut decoded_before) = (0, 1, 0);
    for (at, group) in metadata.metadata().row_groups().iter().enumerate() {
        let first = end;
        end += u64::try_from(group.num_rows()).unwrap_or_default();
        let of_group = selection(first.max(part.start)..end, kept);
        if !of_group.iter().any(|selector| !selector.skip) {
            continue;
        }
        picked.push(at);
        row_bytes = row_bytes.max(group.total_byte_size() / group.num_rows().max(1));
        let skipped = part.start.saturating_sub(first);
        if skipped > 0 {
            selectors.push(RowSelector::skip(usize::try_from(skipped).unwrap_or(usize::MAX)));
            decoded_before += skipped;
        }
        selectors.extend(of_group);
    }
    let piece = PIECE_BYTES / u64::try_from(row_bytes).unwrap_or_default().max(1);
    let roots = noted.fields().iter().filter_map(|noted| place(metadata.schema().fields(), noted));
    let columns = ProjectionMask::roots(metadata.parquet_schema(), roots);
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_row_groups(picked)
        .with_projection(columns)
        .with_batch_size(usize::try_from(piece.clamp(1, PIECE_ROWS)).unwrap_or(usize::MAX));
    if selectors.iter().any(|selector| selector.skip) {
        builder = builder.with_row_selection(selectors.into());
    }
    let reader = builder.build().map_err(|source| error(&source))?;
    let pieces = reader.map(|rows| {
        rows.map_err(|error| format!("{error}; it is damaged, or some of its columns are encrypted"))
    });
    Ok((pieces, decoded_before))
}

/// Reads the footer of a file. Blocks.
fn footer(root: &Root, file: &str, bytes: ByteStrings) -> Result<ArrowReaderMetadata, SourceError> {
    let path = root.place(file);
    let file = root.open(file).map_err(|error| SourceError::file(&path, error))?;
    metadata(&file, &path, bytes)
}

/// Reads the footer of an open file; `path` is for messages.
fn metadata(
    file: &SourceFile,
    path: &Location,
    bytes: ByteStrings,
) -> Result<ArrowReaderMetadata, SourceError> {
    load(file, bytes).map_err(|error| {
        SourceError::file(
            path,
            format!("it is no whole Parquet file (cut off, or still being written?): {error}"),
        )
    })
}

/// Reads the footer of an open file, with the types in which its columns are read.
fn load(file: &SourceFile, bytes: ByteStrings) -> Result<ArrowReaderMetadata, ParquetError> {
    let plain = ArrowReaderMetadata::load(file, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
    let of_file = Arc::clone(plain.metadata());
    let with = |options| ArrowReaderMetadata::try_new(Arc::clone(&of_file), options);
    // The Arrow types that the writer stored may be wrong, so those of Parquet alone are tried next.
    for read in [with(ArrowReaderOptions::new()).ok(), Some(plain)].into_iter().flatten() {
        let fields = retyped(read.schema(), read.parquet_schema(), bytes);
        if fields == *read.schema().fields() {
            return Ok(read);
        }
        let schema = Schema::new_with_metadata(fields, read.schema().metadata().clone());
        if let Ok(retyped) = with(ArrowReaderOptions::new().with_schema(Arc::new(schema))) {
            return Ok(retyped);
        }
    }
    with(ArrowReaderOptions::new().with_skip_arrow_metadata(true))
}

/// Returns the columns with the types in which they are read.
fn retyped(schema: &Schema, parquet: &SchemaDescriptor, bytes: ByteStrings) -> Fields {
    let mut leaf = 0;
    schema.fields().iter().map(|field| of_field(field, parquet, &mut leaf, bytes)).collect()
}

/// Returns a field with the type in which it is read. `leaf` is the index of its first Parquet column, and is moved
/// past its last one.
fn of_field(field: &FieldRef, parquet: &SchemaDescriptor, leaf: &mut usize, bytes: ByteStrings) -> FieldRef {
    let mut inner = |field: &FieldRef| of_field(field, parquet, leaf, bytes);
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(inner(item)),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        other => {
            let column = (*leaf < parquet.num_columns()).then(|| parquet.column(*leaf));
            *leaf += 1;
            of_leaf(other, column.as_deref(), bytes)
        }
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

fn of_leaf(data_type: &DataType, column: Option<&ColumnDescriptor>, bytes: ByteStrings) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => of_leaf(values, column, bytes),
        DataType::RunEndEncoded(_, values) => of_leaf(values.data_type(), column, bytes),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            if column.is_some_and(|column| is_text(column, bytes)) =>
        {
            DataType::Utf8
        }
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) => {
            DataType::Decimal128(*digits, *scale)
        }
        DataType::Decimal256(digits, scale) if *digits <= MAX_DIGITS => DataType::Decimal128(*digits, *scale),
        // INT96 holds times that do not fit into 64 bits of nanoseconds.
        DataType::Timestamp(TimeUnit::Nanosecond, zone)
            if column.is_some_and(|column| column.physical_type() == Type::INT96) =>
        {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        other => other.clone(),
    }
}

/// Whether a column of byte strings is text. A column annotated as an ENUM is text ("ENUM" in Parquet's logical
/// types); for a column without an annotation `bytes` decides.
fn is_text(column: &ColumnDescriptor, bytes: ByteStrings) -> bool {
    if column.physical_type() != Type::BYTE_ARRAY {
        return false;
    }
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Enum), _) | (None, ConvertedType::ENUM) => true,
        (None, ConvertedType::NONE) => bytes == ByteStrings::AsText,
        _ => false,
    }
}

/// Returns the rows of a range as runs of kept and skipped ones.
fn selection(range: Range<u64>, kept: &RowMask) -> Vec<RowSelector> {
    let mut runs: Vec<RowSelector> = Vec::new();
    if kept.is_all() {
        let rows = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        runs.extend((rows > 0).then(|| RowSelector::select(rows)));
        return runs;
    }
    for row in range {
        let skip = !kept.holds(row);
        match runs.last_mut() {
            Some(run) if run.skip == skip => run.row_count += 1,
            _ => runs.push(RowSelector { row_count: 1, skip }),
        }
    }
    runs
}
