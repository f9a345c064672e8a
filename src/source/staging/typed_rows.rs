//! Stages formats that have types of their own: Arrow IPC, as file and as stream, and Avro.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};

use ::arrow::datatypes::SchemaRef;
use ::arrow::error::ArrowError;
use ::arrow::ipc::reader::StreamReader;
use ::arrow::record_batch::RecordBatch;

use super::bad_row::StageError;
use super::input::{BoundedReader, ByteAllowance, Input};
use super::parquet_file::{ParquetFile, StagedNote};

/// First bytes of an Arrow IPC file ("IPC File Format" in Arrow's documentation). Zeros follow them, then the stream
/// format, which begins with other bytes.
const ARROW_FILE: &[u8] = b"ARROW1";
/// Largest record batch or block, in bytes.
const MAX_PIECE_BYTES: u64 = 256_000_000;

/// Stages an Arrow IPC file or stream.
pub(super) fn stage_arrow(input: Input<'_>, to: &File) -> Result<StagedNote, StageError> {
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

/// Stages an Avro object container file.
pub(super) fn stage_avro(input: Input<'_>, to: &File) -> Result<StagedNote, StageError> {
    let (bounded, allowance) = BoundedReader::new(input.bytes()?, MAX_PIECE_BYTES);
    let rows =
        arrow_avro::reader::ReaderBuilder::new().build(BufReader::new(bounded)).map_err(damaged("Avro"))?;
    let schema = rows.schema();
    write(schema, rows, &allowance, to).map_err(|error| wrapped(error, "Avro"))
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
    let mut file = ParquetFile::new(to.try_clone()?, schema)?;
    for rows in rows {
        file.write(&rows?)?;
        allowance.renew();
    }
    let note = StagedNote::default();
    file.finish_with(&note)?;
    Ok(note)
}
