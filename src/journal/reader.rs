//! Reads a journal, frame by frame.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::JournalError;
use super::format::{
    BadHeader, FORMAT, FRAME_LEN, HEADER_LEN, JournalEntry, JournalHeader, MAX_PAYLOAD, Record, array,
    decode, decode_header,
};

#[derive(Debug)]
enum JournalInput {
    File(BufReader<File>),
    Bytes(Cursor<Bytes>),
}

impl Read for JournalInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            JournalInput::File(file) => file.read(buffer),
            JournalInput::Bytes(bytes) => bytes.read(buffer),
        }
    }
}

/// A journal that is open for reading.
#[derive(Debug)]
pub struct JournalReader {
    path: PathBuf,
    input: JournalInput,
    header: Option<JournalHeader>,
    format: u16,
    len: u64,
    offset: u64,
    records: u64,
}

impl JournalReader {
    /// Opens a journal and reads its header. A file that ends within the header, or whose header is all zeros as after
    /// a power failure, holds no records.
    ///
    /// # Errors
    /// When the file cannot be read or is no journal.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { action: "read", path: path.to_owned(), source };
        // Opening a named pipe would block.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let source = std::io::Error::other("it is no file; move it away");
            return Err(JournalError::Io { action: "read", path: path.to_owned(), source });
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        JournalReader::begin(path, JournalInput::File(BufReader::with_capacity(1 << 16, file)), len)
    }

    /// Reads a journal from memory; `path` names it in messages.
    ///
    /// # Errors
    /// When the bytes are no journal.
    pub fn of_bytes(path: &Path, bytes: Bytes) -> Result<Self, JournalError> {
        let len = bytes.len() as u64;
        JournalReader::begin(path, JournalInput::Bytes(Cursor::new(bytes)), len)
    }

    fn begin(path: &Path, input: JournalInput, len: u64) -> Result<Self, JournalError> {
        let mut reader = JournalReader {
            path: path.to_owned(),
            input,
            header: None,
            format: FORMAT,
            len,
            offset: 0,
            records: 0,
        };
        let mut bytes = [0; HEADER_LEN];
        if reader.fill(&mut bytes)? && bytes.iter().any(|byte| *byte != 0) {
            let (header, format) = decode_header(&bytes).map_err(|bad| match bad {
                BadHeader::Damaged => reader.damaged("the header is not that of a journal"),
                BadHeader::Version(found) => {
                    JournalError::Version { path: path.to_owned(), found, known: FORMAT }
                }
            })?;
            (reader.header, reader.format) = (Some(header), format);
            reader.offset = HEADER_LEN as u64;
        }
        Ok(reader)
    }

    /// Returns the header; `None` for a file that was cut within its header or whose header is all zeros.
    #[must_use]
    pub fn header(&self) -> Option<&JournalHeader> {
        self.header.as_ref()
    }

    /// Returns the format of the file.
    pub(super) fn format(&self) -> u16 {
        self.format
    }

    /// Returns where the last record that was read ends, in bytes from the start of the file.
    #[must_use]
    pub fn intact_len(&self) -> u64 {
        self.offset
    }

    /// Reads up to the next record, past rows that were submitted; `None` at the end, or where a torn tail begins.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged before its tail.
    pub fn next_record(&mut self) -> Result<Option<Record>, JournalError> {
        loop {
            match self.next_entry()? {
                Some(JournalEntry::Record(record)) => return Ok(Some(record)),
                Some(JournalEntry::Submitted(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Reads the next entry; `None` at the end, or where a torn tail begins.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged before its tail.
    pub fn next_entry(&mut self) -> Result<Option<JournalEntry>, JournalError> {
        if self.header.is_none() {
            return Ok(None);
        }
        let left = self.len - self.offset;
        if left < FRAME_LEN as u64 {
            return Ok(None);
        }
        let mut frame = [0; FRAME_LEN];
        if !self.fill(&mut frame)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(array(&frame[..4]));
        if crc32fast::hash(&frame[..4]) != u32::from_le_bytes(array(&frame[4..8])) {
            // After a power failure a file system may show a tail of zeros that was never written.
            return if frame.iter().all(|byte| *byte == 0) && self.rest_is_zero()? {
                Ok(None)
            } else {
                Err(self.damaged("the length of a record fails its checksum"))
            };
        }
        let length = length as usize;
        if length > MAX_PAYLOAD {
            return Err(self.damaged("a record claims an impossible length"));
        }
        let end = self.offset + (FRAME_LEN + length) as u64;
        if end > self.len {
            return Ok(None);
        }
        let mut payload = vec![0; length];
        if !self.fill(&mut payload)? {
            return Ok(None);
        }
        if crc32fast::hash(&payload) != u32::from_le_bytes(array(&frame[8..])) {
            return if end == self.len { Ok(None) } else { Err(self.damaged("a record fails its checksum")) };
        }
        let entry = decode(&Bytes::from(payload))
            .ok_or_else(|| self.damaged("a record is not one that this version knows"))?;
        self.offset = end;
        self.records += 1;
        Ok(Some(entry))
    }

    fn damaged(&self, what: &'static str) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), offset: self.offset, what, intact: self.records }
    }

    /// Fills the buffer; `false` if the file ends first.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, JournalError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(JournalError::Io { action: "read", path: self.path.clone(), source }),
        }
    }

    fn rest_is_zero(&mut self) -> Result<bool, JournalError> {
        let mut buffer = [0; 4096];
        loop {
            let io = |source| JournalError::Io { action: "read", path: self.path.clone(), source };
            match self.input.read(&mut buffer).map_err(io)? {
                0 => return Ok(true),
                read if buffer[..read].iter().any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }
}

/// Reads all records of a journal, in the order in which they were written.
///
/// # Errors
/// When the file cannot be read, or is damaged before its tail.
pub fn read_all(path: &Path) -> Result<Vec<Record>, JournalError> {
    let mut reader = JournalReader::open(path)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(record);
    }
    Ok(records)
}
