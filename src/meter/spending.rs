//! What all runs of a job spent, in a file: kept like the journal, so that it survives `kill -9`.
//!
//! ```text
//! header  "enrich spending" and the version, 1                                  16 bytes
//! record  kind u8, number u64, picodollars u64, tokens u64, requests u64,
//!         CRC-32 of what is before it u32                                       37 bytes
//! ```
//! All numbers are little-endian. A record of kind 1 is a sum of what was before it, of kind 2 a request that is
//! sent, at its worst, and of kind 3 what the request of that number took. A request of which only the sending is
//! written may have been billed: it counts at its worst. What a request took is written together with the next that
//! is sent, or when none is under way: after a kill no more of them count at their worst than were ever under way at once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ident::{Money, Spend};
use crate::store::{self, StoreError};

const NAME: &str = "spending";
const HEADER: &[u8; 16] = b"enrich spending\x01";
const RECORD: usize = 37;
/// The file is written anew when it is longer.
const MOST_BYTES: u64 = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum = 1,
    Sent = 2,
    Took = 3,
}

/// What all runs of a job spent.
#[derive(Debug)]
pub struct Spending {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Records of what requests took that are not in the file yet.
    unwritten: Vec<u8>,
    /// A failed write could not be undone.
    is_torn: bool,
    settled: Spend,
    /// What other machines spent.
    others: Spend,
    /// Requests that are sent and not settled, at their worst.
    open: BTreeMap<u64, Spend>,
    next: u64,
}

/// A file of spending that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpendingError {
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It holds something else than it should.
    #[error("{} is damaged at byte {offset}: what the job has spent cannot be told", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
}

impl Spending {
    /// Reads what was spent so far; a request that was under way when its run died counts at its worst. None if
    /// nothing was counted yet.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Spend>, SpendingError> {
        let path = folder.join(NAME);
        let Some(bytes) = store::read(&path)? else { return Ok(None) };
        replay(&path, &bytes).map(Some)
    }

    /// Opens the file in a folder, which is created if it is missing. One process does so at a time.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged.
    pub fn open(folder: &Path) -> Result<Self, SpendingError> {
        store::create_folder(folder)?;
        let settled = Self::read(folder)?.unwrap_or_default();
        let path = folder.join(NAME);
        let (file, len) = write_anew(&path, settled, &BTreeMap::new())?;
        let (others, open) = (Spend::default(), BTreeMap::new());
        let unwritten = Vec::new();
        Ok(Spending { path, file, len, unwritten, is_torn: false, settled, others, open, next: 0 })
    }

    /// What was spent, without requests that are under way, and with what other machines spent.
    #[must_use]
    pub fn settled(&self) -> Spend {
        self.settled + self.others
    }

    /// What was spent on this machine, with requests that are under way at their worst.
    pub(super) fn here(&self) -> Spend {
        self.open.values().fold(self.settled, |sum, worst| sum + *worst)
    }

    /// Counts what other machines spent; it is not written down here.
    pub fn add_others(&mut self, spent: Spend) {
        self.others = self.others + spent;
    }

    /// Writes down that a request is sent, and its worst; the number stands for it.
    pub(super) fn begin(&mut self, worst: Spend) -> Result<u64, StoreError> {
        if self.len > MOST_BYTES {
            (self.file, self.len) = write_anew(&self.path, self.settled, &self.open)?;
            self.unwritten.clear();
        }
        let number = self.next;
        self.append(&encode(Kind::Sent, number, worst))?;
        self.next += 1;
        self.open.insert(number, worst);
        Ok(number)
    }

    /// Notes what a request took. Where that cannot be written later, its worst stands in the file.
    pub(super) fn settle(&mut self, number: u64, took: Spend) {
        if self.open.remove(&number).is_none() {
            return;
        }
        self.settled = self.settled + took;
        self.unwritten.extend(encode(Kind::Took, number, took));
        if self.open.is_empty() {
            // The next request or flush tells where it fails.
            let _ = self.append(&[]);
        }
    }

    /// Flushes it to the disk, when it is called: that takes a while, and others go on writing meanwhile.
    pub(super) fn flusher(&mut self) -> impl FnOnce() -> Result<(), StoreError> + use<> {
        let written = self.append(&[]);
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        move || written.and_then(|()| file.sync_data().map_err(StoreError::of("flush", &path)))
    }

    /// Writes what is not written yet, and then this.
    fn append(&mut self, record: &[u8]) -> Result<(), StoreError> {
        if self.is_torn {
            let source = std::io::Error::other("an earlier write left it in an unknown state");
            return Err(StoreError::of("append to", &self.path)(source));
        }
        let kept = self.unwritten.len();
        self.unwritten.extend_from_slice(record);
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&self.unwritten) {
            self.unwritten.truncate(kept);
            // What was written of it must not stand before the next record.
            let undone = file.set_len(self.len).and_then(|()| file.seek(SeekFrom::Start(self.len)));
            self.is_torn = undone.is_err();
            return Err(StoreError::of("append to", &self.path)(error));
        }
        self.len += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        // What is not written counts at its worst.
        let _ = self.append(&[]);
    }
}

/// Replaces the file by a short one that says the same, and opens that at its end.
fn write_anew(
    path: &Path,
    settled: Spend,
    open: &BTreeMap<u64, Spend>,
) -> Result<(Arc<File>, u64), StoreError> {
    let mut bytes = HEADER.to_vec();
    bytes.extend(encode(Kind::Sum, 0, settled));
    for (number, worst) in open {
        bytes.extend(encode(Kind::Sent, *number, *worst));
    }
    store::replace(path, &bytes)?;
    let file = OpenOptions::new().append(true).open(path).map_err(StoreError::of("open", path))?;
    Ok((Arc::new(file), bytes.len() as u64))
}

fn encode(kind: Kind, number: u64, spend: Spend) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0] = kind as u8;
    let fields = [number, spend.money.get(), spend.tokens, spend.requests];
    for (place, field) in record[1..33].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    let checksum = crc32fast::hash(&record[..33]);
    record[33..].copy_from_slice(&checksum.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(Kind, u64, Spend)> {
    let (fields, checksum) = record.split_at_checked(33)?;
    if checksum != crc32fast::hash(fields).to_le_bytes() {
        return None;
    }
    let kind = [Kind::Sum, Kind::Sent, Kind::Took].into_iter().find(|kind| *kind as u8 == fields[0])?;
    let field = |at: usize| fields[1..].chunks_exact(8).nth(at).and_then(|bytes| bytes.try_into().ok());
    let number = |at| field(at).map(u64::from_le_bytes);
    let money = Money::picodollars(number(1)?);
    Some((kind, number(0)?, Spend { money, tokens: number(2)?, requests: number(3)? }))
}

fn replay(path: &Path, bytes: &[u8]) -> Result<Spend, SpendingError> {
    let damaged = |offset| SpendingError::Damaged { path: path.to_owned(), offset };
    let records = bytes.strip_prefix(HEADER).ok_or_else(|| damaged(0))?;
    let mut settled = Spend::default();
    let mut open: BTreeMap<u64, Spend> = BTreeMap::new();
    // What is left over is a record that was being written: its request was never sent, or counts at its worst.
    for (at, record) in records.chunks_exact(RECORD).enumerate() {
        let Some((kind, number, spend)) = decode(record) else {
            // After a power failure a file system may show a tail that was never written, or not to its end.
            let rest = &records[at * RECORD..];
            if rest.len() < 2 * RECORD || rest.iter().all(|byte| *byte == 0) {
                break;
            }
            return Err(damaged(HEADER.len() + at * RECORD));
        };
        match kind {
            Kind::Sum => settled = spend,
            Kind::Sent => {
                open.insert(number, spend);
            }
            Kind::Took => {
                open.remove(&number);
                settled = settled + spend;
            }
        }
    }
    Ok(open.into_values().fold(settled, |sum, worst| sum + worst))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(tokens: u64) -> Spend {
        Spend { money: Money::picodollars(tokens * 150_000), tokens, requests: 1 }
    }

    #[test]
    fn what_was_spent_is_read_back_with_requests_under_way_at_their_worst() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Spending::read(folder.path()).unwrap().map(|spend| spend.tokens);
        assert_eq!(read(), None);
        let mut spending = Spending::open(folder.path()).unwrap();
        let (first, _lost) = (spending.begin(spend(100)).unwrap(), spending.begin(spend(7)).unwrap());
        spending.settle(first, spend(40));
        assert_eq!(spending.settled().tokens, 40);
        assert_eq!(read(), Some(107), "what it took is written with the next");
        let _lost = spending.begin(spend(3)).unwrap();
        assert_eq!(read(), Some(50));
        let mut next = Spending::open(folder.path()).unwrap();
        assert_eq!(next.settled(), spend(40) + spend(7) + spend(3));
        for _ in 0..120_000 {
            let number = next.begin(spend(2)).unwrap();
            next.settle(number, spend(1));
        }
        assert_eq!(read(), Some(120_050), "after it was written anew");
        assert!(next.len < MOST_BYTES);
    }

    #[test]
    fn a_torn_end_is_cut_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut spending = Spending::open(folder.path()).unwrap();
        let number = spending.begin(spend(100)).unwrap();
        spending.settle(number, spend(40));
        let path = folder.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(Spending::read(folder.path()).unwrap(), Some(spend(100)));
        let mut damaged = whole;
        damaged[HEADER.len() + RECORD + 9] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = Spending::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("damaged at byte 53"), "{error}");
    }
}
