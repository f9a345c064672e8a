//! Counters of requests, throttling and waiting per provider, in a file that is written while a run goes on, so that
//! they survive `kill -9`.
//!
//! ```text
//! header    "enrich counters" and the version, 1, then a random number     24 bytes
//! provider  fingerprint of its name, requests u64, throttled u64, waiting
//!           time in milliseconds u64 for each of `WAITS`, CRC-32 of these   84 bytes
//! ```
//! All numbers are little-endian, and counts only grow. The file counts requests several at a time and ahead of their
//! sending: after a kill it may count a few requests that were not sent.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::row::{Load, WAITS};
use crate::clock::{self, Instant};
use crate::event::{Event, Listener, Waiting};
use crate::fault::Scarce;
use crate::ident::Fingerprint;
use crate::store::{self, StoreError};

const NAME: &str = "counters";
const HEADER: &[u8; 16] = b"enrich counters\x01";
const HEADER_BYTES: usize = 24;
const RECORD_BYTES: usize = 84;
/// Number of requests that are added to the file's count at a time.
const REQUESTS_PER_WRITE: u64 = 8;

/// Counts the requests, refusals and waiting times of providers. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Counters(Arc<Mutex<CountersState>>);

#[derive(Debug)]
struct CountersState {
    path: PathBuf,
    file: File,
    id: u64,
    rows: Vec<CountersRow>,
    /// Whether a write has failed, which is reported once. Later counts may be in memory only.
    write_failed: bool,
    /// Whether the counts began with this process.
    is_new: bool,
}

#[derive(Debug)]
struct CountersRow {
    name: String,
    name_fingerprint: [u8; 16],
    load: Load,
    /// Number of requests that the file counts: at least those that were sent.
    written: u64,
    /// What the provider waits for, and the time up to which the wait is counted.
    waiting: Option<(Waiting, Instant)>,
    /// Fraction of a millisecond that is not counted yet.
    rest: Duration,
}

impl Counters {
    /// Opens the counters in a folder, which is created if it is missing. One process at a time may have them open.
    /// Damaged counters start again from 0, under a new id.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(folder: &Path, providers: impl IntoIterator<Item = String>) -> Result<Self, StoreError> {
        store::create_folder(folder)?;
        let path = folder.join(NAME);
        let bytes = store::read(&path)?.unwrap_or_default();
        let known = parse(&bytes);
        let is_new = known.is_none();
        let id = known.as_ref().map_or_else(|| fastrand::u64(1..), |(id, _)| *id);
        let known = known.map(|(_, known)| known).unwrap_or_default();
        let rows: Vec<CountersRow> = providers
            .into_iter()
            .map(|name| {
                let name_fingerprint = name_fingerprint(&name);
                let load = known.get(&name_fingerprint).copied().unwrap_or_default();
                CountersRow {
                    name,
                    name_fingerprint,
                    load,
                    written: load.requests,
                    waiting: None,
                    rest: Duration::ZERO,
                }
            })
            .collect();
        let mut image = HEADER.to_vec();
        image.extend(id.to_le_bytes());
        rows.iter().for_each(|row| image.extend(record(row)));
        // Providers that were removed from the job may be added again: their counts are kept.
        let is_known =
            |name_fingerprint: &[u8; 16]| rows.iter().any(|row| row.name_fingerprint == *name_fingerprint);
        let others = known.iter().filter(|(name_fingerprint, _)| !is_known(name_fingerprint));
        others.for_each(|(name_fingerprint, load)| image.extend(encode(*name_fingerprint, load)));
        // The file is replaced if it is new or damaged, or if the list of providers has changed.
        if image != bytes {
            store::replace(&path, &image)?;
        }
        let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::of("open", &path))?;
        Ok(Counters(Arc::new(Mutex::new(CountersState {
            path,
            file,
            id,
            rows,
            write_failed: false,
            is_new,
        }))))
    }

    fn with<T>(&self, look: impl FnOnce(&mut CountersState) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the id of these counters, which changes when they start again from 0.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.with(|state| state.id)
    }

    /// Returns whether the counts began with this process.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.with(|state| state.is_new)
    }

    /// Returns the load of each provider since the counts began.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<String, Load> {
        self.with(|state| state.rows.iter().map(|row| (row.name.clone(), row.load)).collect())
    }
}

impl Listener for Counters {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Sent { provider } => {
                self.with(|state| state.sent(provider));
            }
            Event::Throttled { provider, .. } => {
                self.with(|state| state.note(provider, |row, _| row.load.throttled += 1));
            }
            Event::Waiting { provider, waiting, .. } => self.with(|state| {
                state.note(provider, |row, now| {
                    row.wait(now);
                    row.waiting = waiting.map(|waiting| (waiting, now));
                });
            }),
            Event::Gauged { provider, gauge } => self.with(|state| {
                state.note(provider, |row, now| {
                    row.wait(now);
                    let used = |tokens: bool| {
                        let of = |scarce: Scarce| (scarce == Scarce::Tokens) == tokens;
                        gauge.shares.iter().find(|share| of(share.of)).map(|share| share.used)
                    };
                    (row.load.requests_share, row.load.tokens_share) = (used(false), used(true));
                });
            }),
            _ => {}
        }
    }
}

impl CountersState {
    fn sent(&mut self, provider: &str) {
        let Some(at) = self.rows.iter().position(|row| row.name == provider) else { return };
        let row = &mut self.rows[at];
        row.load.requests += 1;
        if row.load.requests > row.written {
            row.written = row.load.requests - 1 + REQUESTS_PER_WRITE;
            self.write(at);
        }
    }

    fn note(&mut self, provider: &str, change: impl FnOnce(&mut CountersRow, Instant)) {
        let Some(at) = self.rows.iter().position(|row| row.name == provider) else { return };
        change(&mut self.rows[at], clock::now());
        self.write(at);
    }

    fn write(&mut self, at: usize) {
        let row = &self.rows[at];
        let written = self.file.write_all_at(&record(row), (HEADER_BYTES + at * RECORD_BYTES) as u64);
        if let Err(error) = written
            && !self.write_failed
        {
            // The journal on the same disk fails too, and that ends the run.
            self.write_failed = true;
            tracing::warn!(path = %self.path.display(), %error, "figures of providers are not kept");
        }
    }
}

impl Drop for CountersState {
    fn drop(&mut self) {
        for at in 0..self.rows.len() {
            let row = &mut self.rows[at];
            if row.written != row.load.requests {
                row.written = row.load.requests;
                self.write(at);
            }
        }
    }
}

impl CountersRow {
    /// Adds the time since the last call to the count of the current reason for waiting.
    fn wait(&mut self, now: Instant) {
        let Some((waiting, since)) = &mut self.waiting else { return };
        let waited = now.saturating_duration_since(*since) + self.rest;
        *since = now;
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.rest = waited.saturating_sub(Duration::from_millis(ms));
        if let Some(at) = WAITS.iter().position(|(what, _)| what == waiting) {
            self.load.waited_ms[at] = self.load.waited_ms[at].saturating_add(ms);
        }
    }
}

fn name_fingerprint(name: &str) -> [u8; 16] {
    Fingerprint::of([name.as_bytes()]).to_bytes()
}

fn record(row: &CountersRow) -> [u8; RECORD_BYTES] {
    encode(row.name_fingerprint, &Load { requests: row.written, ..row.load })
}

fn encode(name_fingerprint: [u8; 16], load: &Load) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..16].copy_from_slice(&name_fingerprint);
    let Load { requests, throttled, waited_ms, .. } = load;
    let numbers = [requests, throttled].into_iter().chain(waited_ms);
    for (place, number) in bytes[16..RECORD_BYTES - 4].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes[..RECORD_BYTES - 4]);
    bytes[RECORD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u64, BTreeMap<[u8; 16], Load>)> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let (header, rest) = bytes.split_at_checked(HEADER.len())?;
    let (id, records) = rest.split_at_checked(HEADER_BYTES - HEADER.len())?;
    if header != HEADER || !records.len().is_multiple_of(RECORD_BYTES) {
        return None;
    }
    let mut known = BTreeMap::new();
    for record in records.chunks_exact(RECORD_BYTES) {
        let (content, sum) = record.split_at(RECORD_BYTES - 4);
        if crc32fast::hash(content).to_le_bytes() != sum {
            return None;
        }
        let (name, numbers) = content.split_at(16);
        let mut numbers = numbers.chunks_exact(8).map_while(number);
        let (requests, throttled) = (numbers.next()?, numbers.next()?);
        let mut waited_ms = [0; WAITS.len()];
        waited_ms.iter_mut().zip(numbers).for_each(|(place, waited)| *place = waited);
        let load = Load { requests, throttled, waited_ms, ..Load::default() };
        known.insert(name.try_into().ok()?, load);
    }
    Some((number(id)?, known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Class, Failure};

    fn names() -> [String; 2] {
        ["fast".to_owned(), "cheap".to_owned()]
    }

    #[test]
    fn counts_go_on_where_another_process_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let counters = Counters::open(folder.path(), names()).unwrap();
        let id = counters.id();
        let failure = Failure::new(Class::RateLimited, "slow down");
        counters.on(&Event::Sent { provider: "fast" });
        counters.on(&Event::Sent { provider: "fast" });
        counters.on(&Event::Throttled { provider: "fast", failure: &failure });
        counters.on(&Event::Sent { provider: "unknown" });
        let before = counters.loads();
        // Nothing was flushed or closed: the file is as a kill leaves it.
        let again = Counters::open(folder.path(), ["new".to_owned()].into_iter().chain(names())).unwrap();
        assert_eq!(again.id(), id);
        assert_eq!((before["fast"].requests, before["fast"].throttled), (2, 1));
        let read = again.loads()["fast"];
        assert_eq!((read.requests, read.throttled), (REQUESTS_PER_WRITE, 1), "it may have sent as many");
        assert!(again.loads()["new"].is_idle() && again.loads()["cheap"].is_idle());
        // A provider that is removed from the job and added again keeps its counts.
        Counters::open(folder.path(), ["cheap".to_owned()]).unwrap();
        let back = Counters::open(folder.path(), names()).unwrap();
        assert_eq!(back.loads()["fast"], read);
        // Counters that are closed in order have the exact number of requests.
        back.on(&Event::Sent { provider: "fast" });
        drop(back);
        let ended = Counters::open(folder.path(), names()).unwrap();
        assert_eq!(ended.loads()["fast"].requests, REQUESTS_PER_WRITE + 1);
    }

    #[test]
    fn damaged_counts_begin_anew_under_another_number() {
        let folder = tempfile::tempdir().unwrap();
        let counters = Counters::open(folder.path(), names()).unwrap();
        counters.on(&Event::Sent { provider: "cheap" });
        let path = folder.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_BYTES + RECORD_BYTES + 20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let again = Counters::open(folder.path(), names()).unwrap();
        assert_ne!(again.id(), counters.id());
        assert!(again.loads()["cheap"].is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_counted_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        let counters = Counters::open(folder.path(), names()).unwrap();
        let wait = |waiting| {
            counters.on(&Event::Waiting { provider: "fast", waiting, left: Duration::ZERO });
        };
        wait(Some(Waiting::Pause));
        tokio::time::advance(Duration::from_micros(1_500)).await;
        wait(Some(Waiting::Breaker));
        tokio::time::advance(Duration::from_micros(2_500)).await;
        wait(None);
        tokio::time::advance(Duration::from_secs(9)).await;
        wait(None);
        let waited = counters.loads()["fast"].waited_ms;
        assert_eq!(waited, [0, 0, 1, 3, 0, 0], "what is left of a millisecond counts later");
    }
}
