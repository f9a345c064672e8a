//! What all runs of a job have spent, in a file that survives `kill -9` as the journal does.
//!
//! ```text
//! header  "enrich spending" and the version, 2                          16 bytes
//! total   picodollars u64, tokens u64, requests u64, CRC-32 of these    28 bytes
//! ```
//! All numbers are little-endian. The total is what requests took, plus the worst case of those that were sent and
//! have not returned, because they may have been billed. It is overwritten before a request is sent, once for all
//! that are sent together. It is a single write, which a kill does not cut short and which needs no room on most
//! disks. If a request took less than its worst case, that is written with the next request that is sent, or when
//! none is in flight. So after a kill no more requests count at their worst case than were ever in flight at once.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ident::{Money, Spend};
use crate::store::{self, StoreError};

const NAME: &str = "spending";
const HEADER: &[u8; 15] = b"enrich spending";
const VERSION: u8 = 2;
/// Position of the total in the file, and its length, in bytes.
const HEAD: usize = 16;
const TOTAL: usize = 28;
/// Maximum number of times that a file is read, since another process may be overwriting it.
const LOOKS: u32 = 5;

/// What all runs of a job have spent, and the file that holds it.
#[derive(Debug)]
pub struct Spending {
    path: PathBuf,
    file: Arc<File>,
    settled: Spend,
    /// Worst cases of the requests that have begun and are not settled.
    under_way: Spend,
    /// Number of requests that have begun.
    begun: u64,
    /// The total in the file, and the number of begun requests that it covers. `None` after a write that failed.
    written: Option<(Spend, u64)>,
    /// Spent by other machines.
    others: Spend,
}

/// Why a spending file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpendingError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content of the file is invalid.
    #[error("{} is damaged at byte {offset}: what the job has spent is unknown", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Position of the damage, in bytes.
        offset: usize,
    },
    /// The file was written by another version of this program.
    #[error("{} has format {found}, and this version reads {VERSION}: what the job has spent is unknown", path.display())]
    Version {
        /// Path of the file.
        path: PathBuf,
        /// Format number in the file.
        found: u8,
    },
}

impl Spending {
    /// Reads what was spent so far, or `None` if nothing was counted yet. A request that was in flight when its run
    /// died counts at its worst case.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or has another format.
    pub fn read(folder: &Path) -> Result<Option<Spend>, SpendingError> {
        let path = folder.join(NAME);
        let mut looks = 1;
        loop {
            let Some(bytes) = store::read(&path)? else { return Ok(None) };
            match decode(&bytes) {
                Ok(total) => return Ok(Some(total)),
                Err(_) if looks < LOOKS => looks += 1,
                Err(Bad::At(offset)) => return Err(SpendingError::Damaged { path, offset }),
                Err(Bad::Version(found)) => return Err(SpendingError::Version { path, found }),
            }
        }
    }

    /// Opens the file in a folder, which is created if it is missing. Only one process may have it open at a time.
    ///
    /// # Errors
    /// When the file cannot be read or written, is damaged or has another format.
    pub fn open(folder: &Path) -> Result<Self, SpendingError> {
        store::create_folder(folder)?;
        let settled = Self::read(folder)?.unwrap_or_default();
        let path = folder.join(NAME);
        store::replace(&path, &[HEADER.as_slice(), &[VERSION], &encode(settled)].concat())?;
        let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::of("open", &path))?;
        let (under_way, others) = (Spend::default(), Spend::default());
        let (file, written) = (Arc::new(file), Some((settled, 0)));
        Ok(Spending { path, file, settled, under_way, begun: 0, written, others })
    }

    /// Returns what was spent here and on other machines, without requests in flight.
    #[must_use]
    pub fn settled(&self) -> Spend {
        self.settled + self.others
    }

    /// Returns what was spent on this machine, with requests in flight at their worst case.
    pub(super) fn here(&self) -> Spend {
        self.settled + self.under_way
    }

    /// Adds what other machines spent. It is not written to this file.
    pub fn add_others(&mut self, spent: Spend) {
        self.others = self.others + spent;
    }

    /// Counts a request as begun, at its worst case, and returns its number. It must be [recorded](Self::record)
    /// before it is sent.
    pub(super) fn begin(&mut self, worst: Spend) -> u64 {
        self.under_way = self.under_way + worst;
        self.begun += 1;
        self.begun
    }

    /// Writes the total before request `nth` is sent, unless a written total covers the request already. The write
    /// covers all requests that have begun.
    pub(super) fn record(&mut self, nth: u64) -> Result<(), StoreError> {
        let is_recorded = self.written.is_some_and(|(_, begun)| nth <= begun);
        if is_recorded { Ok(()) } else { self.write() }
    }

    /// Replaces the worst case of a request by what it took. If that cannot be written later, its worst case stays in
    /// the file.
    pub(super) fn settle(&mut self, worst: Spend, took: Spend) {
        self.under_way = self.under_way - worst;
        self.settled = self.settled + took;
        let is_more =
            took.money > worst.money || took.tokens > worst.tokens || took.requests > worst.requests;
        if is_more || self.under_way == Spend::default() {
            // If this fails, the next request or flush reports it.
            let _ = self.write();
        }
    }

    /// Writes the total, and returns a function that flushes the file to the disk. Flushing takes a while, and others
    /// can write meanwhile.
    pub(super) fn flusher(&mut self) -> impl FnOnce() -> Result<(), StoreError> + use<> {
        let written = self.write();
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        move || written.and_then(|()| file.sync_data().map_err(StoreError::of("flush", &path)))
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let total = self.here();
        // The content of the file is unknown after a write that failed.
        if self.written.take().is_none_or(|(written, _)| written != total) {
            let written = self.file.write_all_at(&encode(total), HEAD as u64);
            written.map_err(StoreError::of("write", &self.path))?;
        }
        self.written = Some((total, self.begun));
        Ok(())
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        // If this fails, settled requests whose result is not written still count at their worst case.
        let _ = self.write();
    }
}

fn encode(total: Spend) -> [u8; TOTAL] {
    let mut bytes = [0; TOTAL];
    let numbers = [total.money.get(), total.tokens, total.requests];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes[..TOTAL - 4]);
    bytes[TOTAL - 4..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Why the content of a file is invalid.
enum Bad {
    At(usize),
    Version(u8),
}

/// Returns the total in a file.
fn decode(bytes: &[u8]) -> Result<Spend, Bad> {
    let rest = bytes.strip_prefix(HEADER).ok_or(Bad::At(0))?;
    let (version, total) = rest.split_first().ok_or(Bad::At(0))?;
    if *version != VERSION {
        return Err(Bad::Version(*version));
    }
    let numbers = || -> Option<Spend> {
        let (numbers, checksum) = total.split_at_checked(TOTAL - 4)?;
        let number = |at: usize| Some(u64::from_le_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
        let is_whole = checksum == crc32fast::hash(numbers).to_le_bytes();
        let money = Money::picodollars(number(0)?);
        is_whole.then_some(Spend { money, tokens: number(8)?, requests: number(16)? })
    };
    numbers().ok_or(Bad::At(HEAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(tokens: u64) -> Spend {
        Spend { money: Money::picodollars(tokens * 150_000), tokens, requests: 1 }
    }

    fn send(spending: &mut Spending, tokens: u64) {
        let nth = spending.begin(spend(tokens));
        spending.record(nth).unwrap();
    }

    #[test]
    fn what_was_spent_is_read_back_with_requests_under_way_at_their_worst() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Spending::read(folder.path()).unwrap().map(|spend| spend.tokens);
        assert_eq!(read(), None);
        let mut spending = Spending::open(folder.path()).unwrap();
        let first = spending.begin(spend(100));
        assert_eq!(read(), Some(0), "it is not sent yet");
        let second = spending.begin(spend(7));
        spending.record(first).unwrap();
        assert_eq!(read(), Some(107), "one write is for all that are begun");
        spending.settle(spend(100), spend(40));
        spending.record(second).unwrap();
        assert_eq!(spending.settled().tokens, 40);
        assert_eq!(read(), Some(107), "what it took is written with the next");
        send(&mut spending, 3);
        assert_eq!(read(), Some(50));
        assert_eq!(spending.here(), spend(40) + spend(7) + spend(3));
        // Nothing is flushed or closed: the file is as a kill leaves it.
        let mut next = Spending::open(folder.path()).unwrap();
        assert_eq!(next.settled(), spend(40) + spend(7) + spend(3));
        for _ in 0..1_000 {
            send(&mut next, 2);
            next.settle(spend(2), spend(1));
        }
        assert_eq!(read(), Some(1_050), "with none under way it is exact");
        send(&mut next, 2);
        send(&mut next, 2);
        next.settle(spend(2), spend(1));
        next.settle(spend(2), spend(9));
        assert_eq!(read(), Some(1_060), "more than its worst");
        drop(next);
        assert_eq!(read(), Some(1_060));
    }

    #[test]
    fn after_a_write_that_failed_none_is_sent_before_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let mut spending = Spending::open(folder.path()).unwrap();
        let [first, second] = [spending.begin(spend(100)), spending.begin(spend(7))];
        spending.record(first).unwrap();
        let whole = Arc::clone(&spending.file);
        spending.file = Arc::new(File::open(folder.path().join(NAME)).unwrap());
        let third = spending.begin(spend(3));
        spending.record(third).unwrap_err();
        spending.record(second).unwrap_err();
        spending.file = whole;
        spending.record(second).unwrap();
        assert_eq!(Spending::read(folder.path()).unwrap().unwrap().tokens, 110);
    }

    #[test]
    fn damage_is_reported_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut spending = Spending::open(folder.path()).unwrap();
        send(&mut spending, 100);
        spending.settle(spend(100), spend(40));
        let path = folder.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), HEAD + TOTAL);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let error = Spending::read(folder.path()).unwrap_err().to_string();
            let expected = match at {
                0..15 => " is damaged at byte 0:",
                15 => " has format 3, and this version reads 2:",
                _ => " is damaged at byte 16:",
            };
            assert!(error.contains(expected), "{error}");
            std::fs::write(&path, &whole[..at]).unwrap();
            Spending::read(folder.path()).unwrap_err();
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Spending::read(folder.path()).unwrap(), Some(spend(40)));
    }
}
