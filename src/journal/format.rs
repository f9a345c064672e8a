//! The byte layout of a journal.
//!
//! ```text
//! file   = header frame*
//! header = "ENRICHJ" 0x00, format u16, lineage [16], batch u64, digest [16], crc32 of all before it
//! frame  = length u32, crc32 of length, crc32 of payload, payload
//! payload = length of head u32, head (JSON), body
//! ```
//! The body of a response is what the server sent, that of submitted rows 24 bytes a row: row u64, fingerprint [16]. All numbers are little-endian; crc32 is the one of IEEE 802.3. The length has a checksum of its own,
//! so that a damaged length is not taken for a torn tail that hides the records after it.
//!
//! Format 1 has no submitted rows.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fault::{Class, Failure};
use crate::ident::{BatchId, Fingerprint, Lineage, RowKey, SubmissionId};

pub(super) const ENDING: &str = "journal";
/// Format number of the files that are written. Those before it are read, too.
pub(super) const FORMAT: u16 = 2;
/// Oldest format that is read.
const FIRST_FORMAT: u16 = 1;
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

/// What a frame of a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalEntry {
    /// The outcome of a request.
    Record(Record),
    /// Rows whose requests were handed to a provider's Batch API.
    Submitted(SubmittedRows),
}

/// Rows of a batch whose requests are in one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmittedRows {
    /// The submission.
    pub submission: SubmissionId,
    /// Name of the provider that it goes to.
    pub provider: Arc<str>,
    /// The model that its requests name.
    pub model: Arc<str>,
    /// Whether the rows have no requests of their own: they wait for the answers to requests that ask the same.
    pub follows: bool,
    /// The rows, by file and step.
    pub groups: Vec<SubmittedGroup>,
}

/// Submitted rows of one file and step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmittedGroup {
    /// The file of the source.
    pub file: Arc<str>,
    /// The step's output column.
    pub step: Arc<str>,
    /// The physical rows in the file, each with the fingerprint of its request.
    pub rows: Vec<(u64, Fingerprint)>,
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
    /// The submission that it came back with; `None` for a request that was sent by itself.
    pub submission: Option<SubmissionId>,
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
    submission: Option<SubmissionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordKind {
    Response,
    Failure,
}

/// The head of submitted rows.
#[derive(Serialize, Deserialize)]
struct SubmittedHead<'a> {
    kind: SubmittedKind,
    submission: SubmissionId,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    follows: bool,
    #[serde(borrow)]
    groups: Vec<SubmittedGroupHead<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubmittedKind {
    Submitted,
}

#[derive(Serialize, Deserialize)]
struct SubmittedGroupHead<'a> {
    #[serde(borrow)]
    file: Cow<'a, str>,
    #[serde(borrow)]
    step: Cow<'a, str>,
    rows: usize,
}

/// Length of a submitted row in the body.
const SUBMITTED_LEN: usize = 24;

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

/// Decodes a header; also returns the format of its file.
pub(super) fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<(JournalHeader, u16), BadHeader> {
    let crc = u32::from_le_bytes(array(&bytes[50..]));
    if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..50]) != crc {
        return Err(BadHeader::Damaged);
    }
    let format = u16::from_le_bytes(array(&bytes[8..10]));
    if !(FIRST_FORMAT..=FORMAT).contains(&format) {
        return Err(BadHeader::Version(format));
    }
    let header = JournalHeader {
        lineage: Lineage::from_bytes(array(&bytes[10..26])),
        batch: BatchId::new(u64::from_le_bytes(array(&bytes[26..34]))),
        digest: Fingerprint::from_bytes(array(&bytes[34..50])),
    };
    Ok((header, format))
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
        submission: record.submission,
        class,
        detail,
    };
    encode_frame(&head, buffer, |buffer| buffer.extend_from_slice(body));
}

/// Appends the frame of submitted rows to a buffer.
pub(super) fn encode_submitted(submitted: &SubmittedRows, buffer: &mut Vec<u8>) {
    let SubmittedRows { submission, provider, model, follows, groups } = submitted;
    let group = |group: &'_ SubmittedGroup| SubmittedGroupHead {
        file: Cow::Owned(group.file.to_string()),
        step: Cow::Owned(group.step.to_string()),
        rows: group.rows.len(),
    };
    let head = SubmittedHead {
        kind: SubmittedKind::Submitted,
        submission: *submission,
        provider: Cow::Borrowed(provider),
        model: Cow::Borrowed(model),
        follows: *follows,
        groups: groups.iter().map(group).collect(),
    };
    encode_frame(&head, buffer, |buffer| {
        for (row, fingerprint) in groups.iter().flat_map(|group| &group.rows) {
            buffer.extend_from_slice(&row.to_le_bytes());
            buffer.extend_from_slice(&fingerprint.to_bytes());
        }
    });
}

/// Appends a frame with this head, and the body that `write_body` appends.
fn encode_frame(head: &impl Serialize, buffer: &mut Vec<u8>, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_LEN + 4]);
    serde_json::to_writer(&mut *buffer, head).expect("writing JSON to memory does not fail");
    let head_len = u32_of(buffer.len() - start - FRAME_LEN - 4);
    write_body(buffer);
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
pub(super) fn decode(payload: &Bytes) -> Option<JournalEntry> {
    let head_len = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let head_end = head_len.checked_add(4)?;
    let head = payload.get(4..head_end)?;
    match serde_json::from_slice(head) {
        Ok(head) => decode_record(payload, &head, head_end).map(JournalEntry::Record),
        Err(_) => decode_submitted(head, payload.get(head_end..)?).map(JournalEntry::Submitted),
    }
}

fn decode_submitted(head: &[u8], body: &[u8]) -> Option<SubmittedRows> {
    let head: SubmittedHead<'_> = serde_json::from_slice(head).ok()?;
    let (rows, rest) = body.as_chunks::<SUBMITTED_LEN>();
    let mut rows = rows.iter().map(|row| {
        let fingerprint = Fingerprint::from_bytes(array(&row[8..]));
        (u64::from_le_bytes(array(&row[..8])), fingerprint)
    });
    let group = |group: SubmittedGroupHead<'_>| {
        let rows: Vec<_> = rows.by_ref().take(group.rows).collect();
        let is_whole = rows.len() == group.rows;
        is_whole.then(|| SubmittedGroup { file: group.file.into(), step: group.step.into(), rows })
    };
    let groups = head.groups.into_iter().map(group).collect::<Option<Vec<_>>>()?;
    (rest.is_empty() && rows.next().is_none()).then(|| SubmittedRows {
        submission: head.submission,
        provider: head.provider.into(),
        model: head.model.into(),
        follows: head.follows,
        groups,
    })
}

fn decode_record(payload: &Bytes, head: &RecordHead<'_>, head_end: usize) -> Option<Record> {
    let outcome = match head.kind {
        RecordKind::Response => RecordedOutcome::Response(payload.slice(head_end..)),
        RecordKind::Failure => {
            let class: Class = head.class.as_ref()?.parse().ok()?;
            RecordedOutcome::Failure(Failure::new(class, head.detail.clone().unwrap_or_default()))
        }
    };
    Some(Record {
        key: RowKey { file: (&*head.file).into(), row: head.row },
        step: (&*head.step).into(),
        fingerprint: parse_fingerprint(&head.fingerprint)?,
        provider: (&*head.provider).into(),
        model: (&*head.model).into(),
        attempts: head.attempts,
        latency_ms: head.latency_ms,
        shared: head.shared,
        submission: head.submission,
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
