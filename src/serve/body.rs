//! Arrow IPC streams in bodies.

use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::root_as_message;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;

use bytes::Bytes;

use crate::panics;

/// Media type of an Arrow IPC stream.
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";

/// What stands before the length of each message.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Reads the rows of a stream as one batch. Nothing is allocated for lengths that the stream only states.
pub(super) fn rows(body: Bytes) -> Result<RecordBatch, String> {
    // The decoder may panic on bytes that are no stream.
    let read = panics::catch(|| {
        check(&body)?;
        let mut decoder = StreamDecoder::new();
        let mut left = Buffer::from(body);
        let mut batches = Vec::new();
        while let Some(batch) = decoder.decode(&mut left).map_err(|error| error.to_string())? {
            batches.push(batch);
        }
        decoder.finish().map_err(|error| error.to_string())?;
        let schema = decoder.schema().ok_or("it has no schema")?;
        match batches.as_slice() {
            [only] => Ok(only.clone()),
            several => concat_batches(&schema, several).map_err(|error| error.to_string()),
        }
    });
    read.and_then(|read| read)
        .map_err(|error| format!("the body is no Arrow IPC stream that can be read: {error}"))
}

/// Reads the schema of a stream, or of its first message alone.
pub(super) fn schema(body: Bytes) -> Result<SchemaRef, String> {
    let read = panics::catch(|| {
        check(&body)?;
        let mut decoder = StreamDecoder::new();
        let decoded = decoder.decode(&mut Buffer::from(body));
        decoder
            .schema()
            .ok_or_else(|| decoded.err().map_or("it has none".to_owned(), |error| error.to_string()))
    });
    read.and_then(|read| read)
        .map_err(|error| format!("the body is no schema as an Arrow IPC stream: {error}"))
}

/// Checks that the messages of a stream are as long as they say, and not compressed: what they expand to is only stated.
fn check(body: &[u8]) -> Result<(), String> {
    let mut left = body;
    loop {
        left = left.strip_prefix(&CONTINUATION).unwrap_or(left);
        let Some((length, rest)) = left.split_first_chunk::<4>() else {
            return if left.is_empty() {
                Ok(())
            } else {
                Err("it is cut within the length of a message".to_owned())
            };
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            return Ok(());
        }
        let cut = || "it is cut within a message".to_owned();
        let message =
            root_as_message(rest.get(..length).ok_or_else(cut)?).map_err(|error| error.to_string())?;
        let batch = message.header_as_record_batch();
        let batch =
            batch.or_else(|| message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()));
        if batch.is_some_and(|batch| batch.compression().is_some()) {
            return Err("its buffers are compressed; send them as they are".to_owned());
        }
        let end = usize::try_from(message.bodyLength()).ok().and_then(|body| length.checked_add(body));
        left = end.and_then(|end| rest.get(end..)).ok_or_else(cut)?;
    }
}

/// Writes a stream of at most one batch.
pub(super) fn stream(schema: &Schema, batch: Option<&RecordBatch>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, schema).map_err(|error| error.to_string())?;
    batch.map_or(Ok(()), |batch| writer.write(batch)).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    drop(writer);
    Ok(bytes)
}
