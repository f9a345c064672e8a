//! The byte layout of a journal.
//!
//! ```text
//! file   = header frame*
//! header = "ENRICHJ" 0x00, format u16, lineage [16], batch u64, digest [16], crc32 of all before it
//! frame  = length u32, crc32 of length, crc32 of payload, payload
//! payload = length of head u32, head (JSON), body (the response as the server sent it)
//! ```
//! All numbers are little-endian; crc32 is the one of IEEE 802.3. The length has a checksum of its own,
//! so that a damaged length is not taken for a torn tail that hides the records after it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fault::{Class, Failure};
use crate::ident::{BatchId, Fingerprint, Lineage, RowKey};

pub(super) const ENDING: &str = "journal";
/// Format number of the files that are written and read.
pub(super) const FORMAT: u16 = 1;
pub(super) const HEADER_LEN: usize = 54;
pub(super) const FRAME_LEN: usize = 12;
const MAGIC: &[u8; 8] = b"ENRICHJ\0";

/// Largest payload of a frame, in bytes.
///
/// A response is bounded at the transport; this bounds what a damaged file can make the reader allocate.
pub(super) const MAX_PAYLOAD: usize = 1 << 30;

/// The header of a journal file: which batch the file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// Lineage of the checkpoint that planned the batch.
    pub lineage: Lineage,
    /// Number of the batch.
    pub batch: BatchId,
    /// Digest of the batch's content.
    pub digest: Fingerprint,
}

/// A paid response or a terminal outcome of one row of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key of the row.
    pub key: RowKey,
    /// The step's output column.
    pub step: Arc<str>,
    /// Fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// Name of the provider that the request was sent to.
    pub provider: Arc<str>,
    /// The model that the request named.
    pub model: Arc<str>,
    /// Number of attempts that the row took.
    pub attempts: u32,
    /// Time from the first byte sent to the last one received, of the attempt that succeeded, in milliseconds.
    pub latency_ms: u64,
    /// Whether another request was answered first and its answer shared, so that nothing was paid for it here.
    pub shared: bool,
    /// Outcome of the request.
    pub outcome: RecordedOutcome,
}

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// The body of a successful response, as the server sent it, decompressed.
    Response(Bytes),
    /// A failure that another attempt would repeat.
    Failure(Failure),
}

#[derive(Serialize, Deserialize)]
struct RecordHead<'a> {
    kind: RecordKind,
    #[serde(borrow)]
    file: Cow<'a, str>,
    row: u64,
    #[serde(borrow)]
    step: Cow<'a, str>,
    fingerprint: String,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    model: Cow<'a, str>,
    attempts: u32,
    latency_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The kind of a record. `Submitted` is reserved for requests that a provider's batch interface holds.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordKind {
    Response,
    Failure,
    Submitted,
}

pub(super) fn encode_header(header: &JournalHeader) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[10..26].copy_from_slice(&header.lineage.to_bytes());
    bytes[26..34].copy_from_slice(&header.batch.get().to_le_bytes());
    bytes[34..50].copy_from_slice(&header.digest.to_bytes());
    let crc = crc32fast::hash(&bytes[..50]);
    bytes[50..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Why bytes are not a header.
pub(super) enum BadHeader {
    Damaged,
    Version(u16),
}

pub(super) fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<JournalHeader, BadHeader> {
    let crc = u32::from_le_bytes(array(&bytes[50..]));
    if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..50]) != crc {
        return Err(BadHeader::Damaged);
    }
    let format = u16::from_le_bytes(array(&bytes[8..10]));
    if format != FORMAT {
        return Err(BadHeader::Version(format));
    }
    Ok(JournalHeader {
        lineage: Lineage::from_bytes(array(&bytes[10..26])),
        batch: BatchId::new(u64::from_le_bytes(array(&bytes[26..34]))),
        digest: Fingerprint::from_bytes(array(&bytes[34..50])),
    })
}

/// Converts a slice to an array of the same length, which the caller ensures.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller slices N bytes")
}

/// Appends a record's frame to a buffer.
pub(super) fn encode(record: &Record, buffer: &mut Vec<u8>) {
    let (kind, class, detail, body) = match &record.outcome {
        RecordedOutcome::Response(body) => (RecordKind::Response, None, None, body.as_ref()),
        RecordedOutcome::Failure(failure) => (
            RecordKind::Failure,
            Some(failure.class.name().to_owned()),
            Some(failure.detail.clone()),
            [].as_slice(),
        ),
    };
    let head = RecordHead {
        kind,
        file: Cow::Borrowed(&*record.key.file),
        row: record.key.row,
        step: Cow::Borrowed(&*record.step),
        fingerprint: record.fingerprint.to_string(),
        provider: Cow::Borrowed(&*record.provider),
        model: Cow::Borrowed(&*record.model),
        attempts: record.attempts,
        latency_ms: record.latency_ms,
        shared: record.shared,
        class,
        detail,
    };
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_LEN + 4]);
    serde_json::to_writer(&mut *buffer, &head).expect("writing JSON to memory does not fail");
    let head_len = u32_of(buffer.len() - start - FRAME_LEN - 4);
    buffer.extend_from_slice(body);
    let payload_len = u32_of(buffer.len() - start - FRAME_LEN).to_le_bytes();
    buffer[start + FRAME_LEN..start + FRAME_LEN + 4].copy_from_slice(&head_len.to_le_bytes());
    let payload_crc = crc32fast::hash(&buffer[start + FRAME_LEN..]).to_le_bytes();
    buffer[start..start + 4].copy_from_slice(&payload_len);
    buffer[start + 4..start + 8].copy_from_slice(&crc32fast::hash(&payload_len).to_le_bytes());
    buffer[start + 8..start + 12].copy_from_slice(&payload_crc);
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("responses are bounded far below 4 GiB")
}

/// Decodes a payload whose checksum is right; `None` if it is not one that this program writes.
pub(super) fn decode(payload: &Bytes) -> Option<Record> {
    let head_len = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let head_end = head_len.checked_add(4)?;
    let head: RecordHead<'_> = serde_json::from_slice(payload.get(4..head_end)?).ok()?;
    let outcome = match head.kind {
        RecordKind::Response => RecordedOutcome::Response(payload.slice(head_end..)),
        RecordKind::Failure => {
            let class: Class = head.class?.parse().ok()?;
            RecordedOutcome::Failure(Failure::new(class, head.detail.unwrap_or_default()))
        }
        RecordKind::Submitted => return None,
    };
    Some(Record {
        key: RowKey { file: head.file.into(), row: head.row },
        step: head.step.into(),
        fingerprint: parse_fingerprint(&head.fingerprint)?,
        provider: head.provider.into(),
        model: head.model.into(),
        attempts: head.attempts,
        latency_ms: head.latency_ms,
        shared: head.shared,
        outcome,
    })
}

fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Fingerprint::from_bytes(number.to_be_bytes()))
}

/// Returns the path of a batch's journal in a folder of journals.
pub(super) fn path_of(folder: &Path, batch: BatchId) -> PathBuf {
    folder.join(format!("{:010}.{ENDING}", batch.get()))
}
