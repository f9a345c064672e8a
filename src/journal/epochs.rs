//! Journals of epochs: paid answers to rows that other programs post, until those say that their table has them.
//!
//! All batches of an epoch write to one journal. What is in it is found by row, step and fingerprint, however the rows
//! are cut into batches; of each answer its place in the file is kept in memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{FRAME_LEN, HEADER_LEN, JournalEntry, JournalHeader, Record, encode_header, path_of};
use super::{Journal, JournalError, JournalFolder, JournalReader};
use crate::ident::{BatchId, Fingerprint, Lineage, RowKey};

/// Most bytes of a journal that are read in one go, unless one record is larger.
const READ_AT_ONCE: u64 = 4 << 20;

/// The journals of the epochs that are not committed. Clones share them.
#[derive(Clone, Debug)]
pub struct EpochJournals {
    folder: JournalFolder,
    lineage: Lineage,
    open: Arc<Mutex<HashMap<Arc<str>, EpochJournal>>>,
}

/// A step and a fingerprint, hashed.
type RequestHash = [u8; 16];

#[derive(Debug)]
struct EpochJournal {
    journal: Journal,
    path: PathBuf,
    header: JournalHeader,
    file: File,
    /// Up to where the records of the file are in `places`.
    indexed: u64,
    /// Offset and length of the frame of the newest record, by row and request.
    places: HashMap<(u64, RequestHash), (u64, u32)>,
}

/// Returns the file name that the keys of an epoch's rows carry.
#[must_use]
pub fn epoch_file(epoch: u64) -> Arc<str> {
    format!("epoch-{epoch}").into()
}

fn header_of(lineage: Lineage, epoch: u64) -> JournalHeader {
    JournalHeader { lineage, batch: BatchId::new(epoch), digest: Fingerprint::of([b"epoch".as_slice()]) }
}

fn hash(step: &str, fingerprint: Fingerprint) -> RequestHash {
    Fingerprint::of([step.as_bytes(), fingerprint.to_bytes().as_slice()]).to_bytes()
}

impl EpochJournals {
    /// Opens the journals that are in a folder, and reads what they hold.
    ///
    /// # Errors
    /// When a journal cannot be read.
    pub fn open(folder: JournalFolder, lineage: Lineage) -> Result<Self, JournalError> {
        let epochs: Vec<u64> = folder
            .list()?
            .into_iter()
            .filter_map(|found| found.header.filter(|header| header.lineage == lineage && !found.is_aside()))
            .map(|header| header.batch.get())
            .collect();
        let journals = EpochJournals { folder, lineage, open: Arc::default() };
        for epoch in epochs {
            journals.journal(epoch)?;
        }
        Ok(journals)
    }

    /// The lineage of the journals.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Headers of the journals of these epochs.
    pub fn headers(lineage: Lineage, epochs: impl IntoIterator<Item = BatchId>) -> Vec<JournalHeader> {
        epochs.into_iter().map(|epoch| header_of(lineage, epoch.get())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, EpochJournal>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the journal of an epoch, which is begun if there is none.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub fn journal(&self, epoch: u64) -> Result<Journal, JournalError> {
        let file = epoch_file(epoch);
        let mut open = self.lock();
        if let Some(found) = open.get(&file) {
            return Ok(found.journal.clone());
        }
        let header = header_of(self.lineage, epoch);
        let journal = self.folder.writer(&header, |_| {})?;
        let path = path_of(self.folder.path(), header.batch);
        let opened = File::open(&path);
        let read =
            opened.map_err(|source| JournalError::Io { action: "read", path: path.clone(), source })?;
        let indexed = HEADER_LEN as u64;
        let mut own = EpochJournal {
            journal: journal.clone(),
            path,
            header,
            file: read,
            indexed,
            places: HashMap::new(),
        };
        own.catch_up()?;
        open.insert(file, own);
        Ok(journal)
    }

    /// Returns the newest record of a row's request, or `None` if its epoch has none.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn find(
        &self,
        key: &RowKey,
        step: &str,
        fingerprint: Fingerprint,
    ) -> Result<Option<Record>, JournalError> {
        let mut open = self.lock();
        let Some(epoch) = open.get_mut(&key.file) else { return Ok(None) };
        let request = (key.row, hash(step, fingerprint));
        if !epoch.places.contains_key(&request) {
            epoch.catch_up()?;
        }
        let Some((offset, length)) = epoch.places.get(&request).copied() else { return Ok(None) };
        let mut reader = epoch.read(offset, u64::from(length))?;
        reader.next_record()
    }

    /// Removes the journal of an epoch: what it holds is in a table.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn committed(&self, epoch: u64) -> Result<(), JournalError> {
        self.lock().remove(&epoch_file(epoch));
        self.folder.forget(BatchId::new(epoch))
    }

    /// Number of other epochs that are not committed, or 0 if this one has a journal.
    #[must_use]
    pub fn len_beside(&self, epoch: u64) -> usize {
        let open = self.lock();
        if open.contains_key(&epoch_file(epoch)) { 0 } else { open.len() }
    }

    /// Returns the epochs that are not committed, each with the number of its requests that have a record.
    ///
    /// # Errors
    /// When a journal cannot be read.
    pub fn list(&self) -> Result<Vec<(u64, u64)>, JournalError> {
        let mut open = self.lock();
        let mut epochs = Vec::with_capacity(open.len());
        for epoch in open.values_mut() {
            epoch.catch_up()?;
            epochs.push((epoch.header.batch.get(), epoch.places.len() as u64));
        }
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Flushes the journals to the disk.
    ///
    /// # Errors
    /// When a flush fails.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.lock().values().try_for_each(|epoch| epoch.journal.sync())
    }
}

impl EpochJournal {
    /// Takes in the records that were appended since the last time.
    fn catch_up(&mut self) -> Result<(), JournalError> {
        let end = self.journal.len();
        while self.indexed < end {
            let mut length = READ_AT_ONCE.min(end - self.indexed);
            loop {
                let mut reader = self.read(self.indexed, length)?;
                let base = self.indexed - HEADER_LEN as u64;
                let mut begin = self.indexed;
                while let Some(entry) = reader.next_entry()? {
                    let next = base + reader.intact_len();
                    if let JournalEntry::Record(record) = entry {
                        let request = (record.key.row, hash(&record.step, record.fingerprint));
                        let frame = u32::try_from(next - begin).expect("a frame is smaller than 4 GiB");
                        self.places.insert(request, (begin, frame));
                    }
                    begin = next;
                }
                if begin > self.indexed {
                    self.indexed = begin;
                    break;
                }
                // The next record is larger than what was read.
                length = (2 * length).max(FRAME_LEN as u64).min(end - self.indexed);
            }
        }
        Ok(())
    }

    /// Reads a part of the file, which begins at a record, as a journal.
    fn read(&self, offset: u64, length: u64) -> Result<JournalReader, JournalError> {
        let length = usize::try_from(length).expect("a part of a journal fits in memory");
        let mut bytes = vec![0; HEADER_LEN + length];
        bytes[..HEADER_LEN].copy_from_slice(&encode_header(&self.header));
        let filled = self.file.read_exact_at(&mut bytes[HEADER_LEN..], offset);
        filled.map_err(|source| JournalError::Io { action: "read", path: self.path.clone(), source })?;
        JournalReader::of_bytes(&self.path, Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::RecordedOutcome;

    fn record(epoch: u64, row: u64, body: &str) -> Record {
        Record {
            key: RowKey { file: epoch_file(epoch), row },
            step: "answer".into(),
            fingerprint: Fingerprint::of([row.to_le_bytes().as_slice()]),
            provider: "p".into(),
            model: "m".into(),
            attempts: 1,
            latency_ms: 1,
            shared: false,
            submission: None,
            outcome: RecordedOutcome::Response(Bytes::copy_from_slice(body.as_bytes())),
        }
    }

    #[test]
    fn what_is_appended_is_found_at_once_and_after_a_restart_until_its_epoch_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let lineage = Lineage::random();
        let open = || EpochJournals::open(JournalFolder::open(folder.path()).unwrap(), lineage).unwrap();
        let find = |journals: &EpochJournals, like: &Record| {
            journals.find(&like.key, &like.step, like.fingerprint).unwrap()
        };
        let large = "x".repeat(9 << 20);
        let journals = open();
        let bodies = ["a", large.as_str(), "c", ""];
        for epoch in [7, u64::MAX] {
            for (row, body) in (0..).zip(bodies) {
                let own = record(epoch, row, body);
                let journal = journals.journal(epoch).unwrap();
                assert_eq!(find(&journals, &own), None);
                journal.append([&own]).unwrap();
                assert_eq!(find(&journals, &own), Some(own));
            }
        }
        let newer = record(7, 2, "newer");
        journals.journal(7).unwrap().append([&newer]).unwrap();
        drop(journals);
        let journals = open();
        assert_eq!(journals.list().unwrap(), [(7, 4), (u64::MAX, 4)]);
        assert_eq!(find(&journals, &newer), Some(newer.clone()));
        journals.committed(7).unwrap();
        assert_eq!(find(&journals, &newer), None);
        drop(journals);
        let journals = open();
        assert_eq!(journals.list().unwrap(), [(u64::MAX, 4)]);
        let own = record(u64::MAX, 1, &large);
        assert_eq!(find(&journals, &own), Some(own));
    }
}
