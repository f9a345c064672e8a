//! Appends records to a journal.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{
    FORMAT, HEADER_LEN, JournalEntry, JournalHeader, Record, SubmittedRows, encode, encode_header,
    encode_submitted,
};
use super::{JournalError, JournalReader};
use crate::faultpoint::{self, Side};
use crate::store;

/// A journal that is open for writing. The job's lock ensures that only one process writes it at a time.
#[derive(Debug)]
pub struct JournalWriter {
    path: PathBuf,
    file: File,
    header: JournalHeader,
    /// Format of the file, which is older than what is written now if an earlier version began it.
    format: u16,
    len: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl JournalWriter {
    /// Opens a batch's journal, creating it if it is missing, and passes its entries to `take`, oldest first. Cuts
    /// off a torn tail.
    ///
    /// # Errors
    /// When the file cannot be created, read or cut, is damaged, or belongs to another batch.
    pub fn open(
        path: &Path,
        header: &JournalHeader,
        mut take: impl FnMut(JournalEntry),
    ) -> Result<Self, JournalError> {
        let io = |action| move |source| JournalError::Io { action, path: path.to_owned(), source };
        let mut file = store::private_file().open(path).map_err(io("open"))?;
        let mut reader = JournalReader::open(path)?;
        if reader.header().is_some_and(|found| found != header) {
            return Err(JournalError::Damaged {
                path: path.to_owned(),
                offset: 0,
                what: "it belongs to another batch",
                intact: 0,
            });
        }
        while let Some(entry) = reader.next_entry()? {
            take(entry);
        }
        let (mut len, mut format) = (reader.intact_len(), reader.format());
        file.set_len(len).map_err(io("cut"))?;
        file.seek(SeekFrom::Start(len)).map_err(io("open"))?;
        if len == 0 {
            file.write_all(&encode_header(header)).map_err(io("begin"))?;
            (len, format) = (HEADER_LEN as u64, FORMAT);
        }
        let (path, header) = (path.to_owned(), *header);
        Ok(JournalWriter { path, file, header, format, len, buffer: Vec::new(), poisoned: false })
    }

    /// Appends records with one write. When this returns, they survive the death of this process.
    ///
    /// # Errors
    /// When the write fails. The file is cut back to its former length; if that fails too, so do all later appends.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), JournalError> {
        self.write(1, |buffer| records.into_iter().for_each(|record| encode(record, buffer)))
    }

    /// Appends the records of several answers with one write.
    ///
    /// # Errors
    /// As [`JournalWriter::append`]; then none of them is written.
    pub fn append_all(&mut self, answers: &[&[Record]]) -> Result<(), JournalError> {
        self.write(answers.len(), |buffer| {
            answers.iter().copied().flatten().for_each(|record| encode(record, buffer));
        })
    }

    /// Appends submitted rows with one write. A file of an older format gets the header of the present one first.
    ///
    /// # Errors
    /// As [`JournalWriter::append`].
    pub fn append_submitted(&mut self, submitted: &SubmittedRows) -> Result<(), JournalError> {
        if self.format != FORMAT {
            let renewed = self.file.write_all_at(&encode_header(&self.header), 0);
            renewed.and_then(|()| self.file.sync_data()).map_err(|source| JournalError::Io {
                action: "renew the header of",
                path: self.path.clone(),
                source,
            })?;
            self.format = FORMAT;
        }
        self.write(1, |buffer| encode_submitted(submitted, buffer))
    }

    /// Writes what `encode` adds to the buffer; the fault point counts each of the answers.
    fn write(&mut self, answers: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), JournalError> {
        let pass = |side| (0..answers).try_for_each(|_| faultpoint::pass("journal-append", side));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { action, path, source }
        };
        if self.poisoned {
            let source = std::io::Error::other("an earlier write left it in an unknown state");
            return Err(io("append to", &self.path)(source));
        }
        self.buffer.clear();
        encode(&mut self.buffer);
        let written = pass(Side::Before).and_then(|()| self.file.write_all(&self.buffer));
        if let Err(source) = written {
            // A partial record must not remain before the next record.
            let undone = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            self.poisoned = undone.is_err();
            return Err(io("append to", &self.path)(source));
        }
        self.len += self.buffer.len() as u64;
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        pass(Side::After).map_err(io("append to", &self.path))
    }

    /// Length of the file in bytes, which is where the next record begins.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Flushes the records to the disk, so that they survive a power failure too.
    ///
    /// # Errors
    /// When the flush fails.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| JournalError::Io {
            action: "flush",
            path: self.path.clone(),
            source,
        })
    }
}
