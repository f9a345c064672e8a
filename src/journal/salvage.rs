//! Takes the intact records out of a damaged journal.

use std::fs;
use std::path::{Path, PathBuf};

use super::JournalError;
use super::format::{FRAME_LEN, HEADER_LEN, MAX_PAYLOAD, array, decode_header};
use crate::store;

/// Result of salvaging a damaged journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Path at which the damaged file is kept.
    pub damaged: PathBuf,
    /// Number of records in the new journal.
    pub kept: u64,
    /// Number of bytes in which no record could be read.
    pub lost_bytes: u64,
}

/// Rewrites a journal with its intact records and keeps the damaged file beside it. The length of a record has a
/// checksum of its own, so that a damaged record can be skipped; where a length is damaged, the rest is lost. Where
/// the header is damaged, everything is lost and the journal removed.
///
/// # Errors
/// When a file cannot be read or written.
pub fn salvage(path: &Path) -> Result<Salvaged, JournalError> {
    let io = |action| move |source| JournalError::Io { action, path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(io("read"))?;
    let mut intact: Vec<u8> = Vec::new();
    let mut kept = 0;
    let header = bytes.first_chunk::<HEADER_LEN>().filter(|header| decode_header(header).is_ok());
    if let Some(header) = header {
        intact.extend_from_slice(header);
        let mut rest = bytes.get(HEADER_LEN..).unwrap_or_default();
        while let Some((frame, left)) = next_frame(rest) {
            rest = left;
            if is_intact(frame) {
                intact.extend_from_slice(frame);
                kept += 1;
            }
        }
    }
    let damaged = path.with_extension(format!("damaged-{}", uuid::Uuid::now_v7()));
    fs::copy(path, &damaged).map_err(io("keep a copy of"))?;
    let salvaged = if header.is_some() { store::replace(path, &intact) } else { store::remove(path) };
    salvaged.map_err(|error| io("salvage")(error.source))?;
    Ok(Salvaged { damaged, kept, lost_bytes: (bytes.len() - intact.len()) as u64 })
}

/// Returns the next frame with its payload, and the bytes after it; `None` at the end or where a length is damaged.
fn next_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(..4)?;
    if crc32fast::hash(length) != u32::from_le_bytes(array(bytes.get(4..8)?)) {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(array(length))).ok()?;
    (length <= MAX_PAYLOAD && bytes.len() >= FRAME_LEN + length).then(|| bytes.split_at(FRAME_LEN + length))
}

fn is_intact(frame: &[u8]) -> bool {
    let (head, payload) = frame.split_at(FRAME_LEN);
    crc32fast::hash(payload) == u32::from_le_bytes(array(&head[8..]))
}
