//! Stages formats that have types of their own: Arrow IPC, as file and as stream, and Avro.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::sync::Arc;

use ::arrow::buffer::Buffer;
use ::arrow::datatypes::SchemaRef;
use ::arrow::error::ArrowError;
use ::arrow::ipc::convert::fb_to_schema;
use ::arrow::ipc::reader::{FileDecoder, StreamReader, read_footer_length};
use ::arrow::ipc::{Block, root_as_footer};
use ::arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};

use super::bad_row::StageError;
use super::carried_types::ColumnConversion;
use super::input::{BoundedReader, ByteAllowance, StagingInput};
use super::parquet_file::{ParquetFileWriter, StagedNote};
use crate::source::file::SourceFile;

/// First bytes of an Arrow IPC file ("IPC File Format" in Arrow's documentation). Zeros follow them, then the stream
/// format, which begins with other bytes.
const ARROW_FILE: &[u8] = b"ARROW1";
/// Bytes behind the footer of an Arrow IPC file: its length and the magic.
const ARROW_FILE_END: u64 = 10;
/// First bytes of a file of the first version of Feather, which is another format.
const FEATHER_1: &[u8] = b"FEA1";
/// First bytes of an Avro object container file ("Object Container Files" in Avro's specification).
const AVRO_FILE: &[u8] = b"Obj\x01";
/// Key of the codec in the metadata of such a file, with its length before it.
const AVRO_CODEC: &[u8] = b"\x14avro.codec";
/// Codecs of Avro that are read.
const AVRO_CODECS: [&str; 4] = ["null", "deflate", "snappy", "zstandard"];
/// Largest record batch or block, in bytes.
const MAX_PIECE_BYTES: u64 = 256_000_000;

/// Stages an Arrow IPC file or stream.
pub(super) fn stage_arrow(input: StagingInput<'_>, to: &File) -> Result<StagedNote, StageError> {
    let file = input.file()?;
    if file.get_bytes(0, FEATHER_1.len()).is_ok_and(|start| start.as_ref() == FEATHER_1) {
        let what = "it is a Feather file of version 1; write it again as version 2, which is Arrow IPC";
        return Err(StageError::File(what.to_owned()));
    }
    if file.get_bytes(0, ARROW_FILE.len()).is_ok_and(|start| start.as_ref() == ARROW_FILE) {
        return stage_arrow_file(&file, to).map_err(|error| wrapped(error, "Arrow IPC"));
    }
    let mut bytes = input.bytes()?;
    if bytes.fill_buf()?.starts_with(ARROW_FILE) {
        bytes.consume(ARROW_FILE.len());
        while bytes.fill_buf()?.first() == Some(&0) {
            bytes.consume(1);
        }
    }
    let (bounded, allowance) = BoundedReader::new(bytes, MAX_PIECE_BYTES);
    let rows = StreamReader::try_new(bounded, None).map_err(damaged("Arrow IPC"))?;
    let schema = rows.schema();
    write(schema, rows, &allowance, to).map_err(|error| wrapped(error, "Arrow IPC"))
}

/// Stages an Arrow IPC file by its footer: what lies between magic and footer need not be a whole stream.
fn stage_arrow_file(file: &SourceFile, to: &File) -> Result<StagedNote, StageError> {
    let cut_off = || ArrowError::ParseError("it has no footer".to_owned());
    let end = file.len().checked_sub(ARROW_FILE_END).ok_or_else(cut_off)?;
    let tail = file.get_bytes(end, 10)?;
    let length = read_footer_length(tail.as_ref().try_into().map_err(|_| cut_off())?)?;
    let start = end.checked_sub(length as u64).ok_or_else(cut_off)?;
    let bytes = file.get_bytes(start, length)?;
    let footer = root_as_footer(&bytes).map_err(|error| ArrowError::ParseError(error.to_string()))?;
    let schema = footer.schema().ok_or_else(cut_off)?;
    let schema = Arc::new(fb_to_schema(schema));
    let mut decoder = FileDecoder::new(Arc::clone(&schema), footer.version());
    for block in footer.dictionaries().iter().flatten() {
        decoder.read_dictionary(block, &block_of(file, block)?)?;
    }
    let blocks = footer.recordBatches();
    let rows = blocks.iter().flatten().filter_map(|block| {
        let bytes = block_of(file, block);
        bytes.and_then(|bytes| decoder.read_record_batch(block, &bytes)).transpose()
    });
    let (_, allowance) = BoundedReader::new(std::io::empty(), MAX_PIECE_BYTES);
    write(schema, rows, &allowance, to)
}

/// Reads a block of an Arrow IPC file: a message and its body.
fn block_of(file: &SourceFile, block: &Block) -> Result<Buffer, ArrowError> {
    let wrong = || ArrowError::ParseError("a block lies outside of the file".to_owned());
    let number = |number: i64| u64::try_from(number).map_err(|_| wrong());
    let length = number(block.metaDataLength().into())?.saturating_add(number(block.bodyLength())?);
    if length > MAX_PIECE_BYTES {
        let most = MAX_PIECE_BYTES / 1_000_000;
        return Err(ArrowError::ParseError(format!("a record batch is larger than {most} MB")));
    }
    let start = number(block.offset())?;
    if start.saturating_add(length) > file.len() {
        return Err(wrong());
    }
    let length = usize::try_from(length).map_err(|_| wrong())?;
    let bytes: Bytes =
        file.get_bytes(start, length).map_err(|error| ArrowError::ParseError(error.to_string()))?;
    Ok(Buffer::from(bytes))
}

/// Stages an Avro object container file.
pub(super) fn stage_avro(input: StagingInput<'_>, to: &File) -> Result<StagedNote, StageError> {
    let mut bytes = input.bytes()?;
    let start = bytes.fill_buf()?;
    if let Some(codec) = avro_codec(start).filter(|codec| !AVRO_CODECS.contains(codec)) {
        let what = format!(
            "it is compressed with {codec}, which is not read; write it with deflate, snappy or zstandard"
        );
        return Err(StageError::File(what));
    }
    let is_avro = start.starts_with(AVRO_FILE);
    let (bounded, allowance) = BoundedReader::new(bytes, MAX_PIECE_BYTES);
    let rows = arrow_avro::reader::ReaderBuilder::new().build(BufReader::new(bounded)).map_err(|error| {
        match is_avro {
            true => StageError::File(format!(
                "its schema cannot be read (records are, also in records, and no types that contain themselves), or it \
                 is cut off: {error}"
            )),
            false => damaged("Avro")(error),
        }
    })?;
    let schema = rows.schema();
    write(schema, rows, &allowance, to).map_err(|error| wrapped(error, "Avro"))
}

/// Returns the codec that the metadata of an Avro file names.
fn avro_codec(start: &[u8]) -> Option<&str> {
    let at = start.windows(AVRO_CODEC.len()).position(|window| window == AVRO_CODEC)?;
    let (length, rest) = start.get(at + AVRO_CODEC.len()..)?.split_first()?;
    // A length is twice what it is, and of one byte here.
    std::str::from_utf8(rest.get(..usize::from(length / 2))?).ok()
}

fn damaged(format: &'static str) -> impl Fn(ArrowError) -> StageError {
    move |error| {
        StageError::File(format!("it is no whole {format} file (cut off, or still being written?): {error}"))
    }
}

fn wrapped(error: StageError, format: &'static str) -> StageError {
    match error {
        StageError::Arrow(error) => damaged(format)(error),
        other => other,
    }
}

fn write(
    schema: SchemaRef,
    rows: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    allowance: &ByteAllowance,
    to: &File,
) -> Result<StagedNote, StageError> {
    (&mut &*to).rewind()?;
    let columns = ColumnConversion::of(schema);
    let mut file = ParquetFileWriter::new(to.try_clone()?, Arc::clone(columns.schema()))?;
    for rows in rows {
        file.write(&columns.carry(&rows?).map_err(StageError::File)?)?;
        allowance.renew();
    }
    let note = StagedNote::default();
    file.finish_with(&note)?;
    Ok(note)
}
