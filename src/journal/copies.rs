//! Copies of journals in an object store, in case the machine is lost.
//!
//! A segment is a journal of its own, with a header and some frames: the records appended to a batch's journal
//! between two rounds of copying. Its name states the batch, the machine, and the byte range in that machine's
//! file:
//! `<lineage>/<batch>/<machine>-<start>-<end>-<round>`. It is removed after the batch's commit.
//!
//! Answers are restored from the segments of other machines, and from those of this machine if its file is not the
//! one that was copied. Records that the journal already has are left out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::format::{
    FRAME_LEN, HEADER_LEN, JournalEntry, JournalHeader, Record, SubmittedGroup, array, encode_header, path_of,
};
use super::pending_copies::PendingCopies;
use super::{Journal, JournalError, JournalReader};
use crate::faultpoint::{self, Side};
use crate::ident::{BatchId, Fingerprint, Lineage, RowKey, SubmissionId};
use crate::store::{Objects, StoreError};

/// Number of segments that are removed concurrently.
const AT_ONCE: usize = 8;
/// Maximum size of a segment in bytes, unless one record is larger.
const MAX_SEGMENT_BYTES: u64 = 32 << 20;

/// Copies the journals of a job to an object store. Clones share their state.
#[derive(Clone, Debug)]
pub struct Copies {
    objects: Objects,
    machine: String,
    pending: PendingCopies,
    state: Arc<Mutex<CopyState>>,
    /// Lets one round go on at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct CopyState {
    open: BTreeMap<BatchId, Followed>,
    /// Number of bytes of each batch's file that were copied before this run opened the file.
    copied: BTreeMap<BatchId, u64>,
    /// Batches whose segments are no longer needed.
    removable_batches: Vec<(Lineage, BatchId)>,
    /// Names of single segments that are no longer needed.
    removable_segments: Vec<String>,
    /// Names of segments that belong to no planned batch.
    stray_answers: Vec<String>,
}

/// An open journal that is copied.
#[derive(Clone, Debug)]
struct Followed {
    header: JournalHeader,
    path: PathBuf,
    journal: Journal,
    /// Number of bytes of the file that are copied.
    copied: u64,
}

/// What a run found in the object store when it began.
#[derive(Debug, Default)]
pub struct Restored {
    /// Number of records that were added to journals of planned batches.
    pub records: u64,
    /// Records that belong to no planned batch.
    pub stray_answers: Vec<Record>,
    /// Locations of segments that could not be read to their end.
    pub damaged: Vec<String>,
}

/// The parsed name of a segment.
struct SegmentName {
    lineage: String,
    batch: BatchId,
    machine: String,
    end: u64,
}

impl SegmentName {
    fn parse(name: &str) -> Option<SegmentName> {
        let mut parts = name.split('/');
        let (lineage, batch, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let mut rest = rest.split('-');
        let (machine, _start, end) = (rest.next()?, rest.next()?, rest.next()?);
        Some(SegmentName {
            lineage: lineage.to_owned(),
            batch: BatchId::new(batch.parse().ok()?),
            machine: machine.to_owned(),
            end: end.parse().ok()?,
        })
    }
}

impl Copies {
    /// Creates the copying of journals to a folder in an object store. `machine` is the id in the names of the
    /// segments. A round of copying starts early once `most_bytes` bytes wait to be copied.
    #[must_use]
    pub fn new(objects: Objects, machine: &impl ToString, most_bytes: u64) -> Self {
        let pending = PendingCopies { bytes: Arc::default(), most: most_bytes, urgent: Arc::default() };
        Copies { objects, machine: machine.to_string(), pending, state: Arc::default(), turn: Arc::default() }
    }

    pub(super) fn pending(&self) -> PendingCopies {
        self.pending.clone()
    }

    fn state(&self) -> MutexGuard<'_, CopyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until enough bytes wait to be copied for a round to start at once.
    pub async fn urgent(&self) {
        self.pending.urgent.notified().await;
    }

    pub(super) fn follow(&self, header: &JournalHeader, path: PathBuf, journal: &Journal) {
        let mut state = self.state();
        let before = state.open.get(&header.batch).map(|followed| followed.copied);
        let copied = before.or_else(|| state.copied.remove(&header.batch)).unwrap_or_default();
        let followed = Followed { header: *header, path, journal: journal.clone(), copied };
        state.open.insert(header.batch, followed);
    }

    pub(super) fn forget(&self, batch: BatchId) {
        let mut state = self.state();
        if let Some(followed) = state.open.remove(&batch) {
            state.removable_batches.push((followed.header.lineage, batch));
        }
    }

    /// Returns the batches of a lineage that have segments in the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn batches(&self, lineage: Lineage) -> Result<BTreeSet<BatchId>, JournalError> {
        let own = lineage.to_string();
        let names = self.objects.list().await?;
        let parsed = names.iter().filter_map(|name| SegmentName::parse(name));
        Ok(parsed.filter(|name| name.lineage == own).map(|name| name.batch).collect())
    }

    /// Marks the segments that belong to no planned batch for removal. To be called when every row that could use
    /// their answers is in the target.
    pub fn discard_stray_answers(&self) {
        let mut state = self.state();
        let stray_answers = std::mem::take(&mut state.stray_answers);
        state.removable_segments.extend(stray_answers);
    }

    /// Copies new records, and removes segments that are no longer needed.
    ///
    /// # Errors
    /// When a journal cannot be read, or the store rejects an operation; the next round tries again.
    pub async fn round(&self) -> Result<(), JournalError> {
        // Two rounds at once could put segments of the same name and other ends.
        let _turn = self.turn.lock().await;
        self.pending.bytes.store(0, Ordering::Relaxed);
        let open: Vec<Followed> = self.state().open.values().cloned().collect();
        for mut followed in open {
            let len = followed.journal.len();
            while followed.copied.max(HEADER_LEN as u64) < len {
                let end = self.copy(&followed, len).await?;
                followed.copied = end;
                if let Some(open) = self.state().open.get_mut(&followed.header.batch) {
                    open.copied = end;
                }
            }
        }
        self.remove().await.map_err(JournalError::from)
    }

    /// Puts one segment, and returns the offset in the file at which it ends.
    async fn copy(&self, followed: &Followed, len: u64) -> Result<u64, JournalError> {
        let Followed { header, path, .. } = followed;
        let start = followed.copied.max(HEADER_LEN as u64);
        let (reading, header_bytes) = (path.clone(), encode_header(header));
        let task = tokio::task::spawn_blocking(move || frames(&reading, start, len, &header_bytes));
        let read = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string())));
        let bytes = match read {
            Ok(bytes) => bytes,
            // The batch was committed meanwhile, and its journal removed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(len),
            Err(source) => return Err(JournalError::Io { action: "copy", path: path.clone(), source }),
        };
        let end = start + (bytes.len() - HEADER_LEN) as u64;
        if end == start {
            let source = std::io::Error::other(format!("no record begins at byte {start}"));
            return Err(JournalError::Io { action: "copy", path: path.clone(), source });
        }
        let round = Uuid::now_v7().simple();
        let name = format!("{}-{start:012}-{end:012}-{round}", self.machine);
        let pass = |side| {
            let failed = |source| JournalError::Io { action: "copy", path: path.clone(), source };
            faultpoint::pass("journal-copy", side).map_err(failed)
        };
        pass(Side::Before)?;
        self.objects.put(&format!("{}/{name}", folder(header.lineage, header.batch)), bytes).await?;
        pass(Side::After)?;
        Ok(end)
    }

    async fn remove(&self) -> Result<(), StoreError> {
        loop {
            let Some((lineage, batch)) = self.state().removable_batches.last().copied() else { break };
            let folder = self.objects.join(&folder(lineage, batch));
            let names = folder.list().await?;
            let deleted = stream::iter(names).map(|name| {
                let folder = folder.clone();
                async move { folder.delete(&name).await }
            });
            deleted.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
            self.state()
                .removable_batches
                .retain(|removable_segments| *removable_segments != (lineage, batch));
        }
        loop {
            let Some(name) = self.state().removable_segments.last().cloned() else { return Ok(()) };
            self.objects.delete(&name).await?;
            // Other names may have been added meanwhile, so that this one need not be the last.
            self.state().removable_segments.retain(|removable_segments| *removable_segments != name);
        }
    }

    /// Adds answers from the store to the journals of planned batches. `first` is the first batch that is not
    /// committed. Journals in the folder that belong to no planned batch must have been put aside before.
    ///
    /// # Errors
    /// When the store cannot be read, or a journal cannot be written.
    pub async fn restore(
        &self,
        folder: &Path,
        lineage: Lineage,
        first: BatchId,
        planned: &[JournalHeader],
    ) -> Result<Restored, JournalError> {
        let mut restored = Restored::default();
        let mut of_batches: BTreeMap<BatchId, Vec<(String, SegmentName)>> = BTreeMap::new();
        let own = lineage.to_string();
        for name in self.objects.list().await? {
            let Some(parsed) = SegmentName::parse(&name) else { continue };
            if parsed.lineage == own && planned.iter().any(|header| header.batch == parsed.batch) {
                of_batches.entry(parsed.batch).or_default().push((name, parsed));
            } else if parsed.lineage == own && parsed.batch < first {
                self.state().removable_segments.push(name);
            } else {
                // This machine's own journals were put aside and still hold their records.
                if parsed.machine != self.machine {
                    let entries = self.read(&name, |_| true, &mut restored.damaged).await?;
                    restored.stray_answers.extend(entries.into_iter().filter_map(record));
                }
                self.state().stray_answers.push(name);
            }
        }
        for header in planned {
            let segments = of_batches.remove(&header.batch).unwrap_or_default();
            if !segments.is_empty() {
                self.restore_batch(folder, header, segments, &mut restored).await?;
            }
        }
        Ok(restored)
    }

    async fn restore_batch(
        &self,
        folder: &Path,
        header: &JournalHeader,
        segments: Vec<(String, SegmentName)>,
        restored: &mut Restored,
    ) -> Result<(), JournalError> {
        let path = path_of(folder, header.batch);
        let own = segments.iter().filter(|(_, name)| name.machine == self.machine);
        let copied = own.map(|(_, name)| name.end).max().unwrap_or_default();
        // A file that is shorter, or whose records end at other offsets, is not the file that was copied.
        let is_other = copied > 0 && !(path.exists() && has_record_end(&path, copied)?);
        self.state().copied.insert(header.batch, if is_other { 0 } else { copied });
        let mut entries = Vec::new();
        for (name, parsed) in segments {
            if parsed.machine != self.machine || is_other {
                entries.extend(self.read(&name, |found| found == header, &mut restored.damaged).await?);
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut known = HashSet::new();
        let mut writer = super::JournalWriter::open(&path, header, |entry| {
            known.insert(EntryIdentity::of(&entry));
        })?;
        entries.retain(|entry| known.insert(EntryIdentity::of(entry)));
        for entry in &entries {
            if let JournalEntry::Submitted(submitted) = entry {
                writer.append_submitted(submitted)?;
            }
        }
        let records: Vec<Record> = entries.into_iter().filter_map(record).collect();
        writer.append(&records)?;
        restored.records += records.len() as u64;
        Ok(())
    }

    /// Returns the records of a batch's journal that were copied to a folder in a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read_of(objects: &Objects, header: &JournalHeader) -> Result<Vec<Record>, JournalError> {
        let copies = Copies::new(objects.join(&folder(header.lineage, header.batch)), &"", u64::MAX);
        let mut records = Vec::new();
        for name in copies.objects.list().await? {
            let entries = copies.read(&name, |found| found == header, &mut Vec::new()).await?;
            records.extend(entries.into_iter().filter_map(record));
        }
        Ok(records)
    }

    /// Reads the intact entries of a segment whose header `fits`. Adds a damaged segment to `damaged`.
    async fn read(
        &self,
        name: &str,
        fits: impl Fn(&JournalHeader) -> bool,
        damaged: &mut Vec<String>,
    ) -> Result<Vec<JournalEntry>, JournalError> {
        let Some(object) = self.objects.get(name).await? else { return Ok(Vec::new()) };
        let place = PathBuf::from(self.objects.place(name).to_string());
        let mut entries = Vec::new();
        let read = || -> Result<(), JournalError> {
            let mut reader = JournalReader::of_bytes(&place, object.bytes)?;
            if reader.header().is_some_and(fits) {
                while let Some(entry) = reader.next_entry()? {
                    entries.push(entry);
                }
            }
            Ok(())
        };
        match read() {
            Ok(()) => {}
            Err(JournalError::Damaged { .. }) => damaged.push(place.display().to_string()),
            Err(error) => return Err(error),
        }
        Ok(entries)
    }
}

fn record(entry: JournalEntry) -> Option<Record> {
    match entry {
        JournalEntry::Record(record) => Some(record),
        JournalEntry::Submitted(_) => None,
    }
}

/// Identity of an entry: those with equal values hold the same answer, or the same rows.
#[derive(PartialEq, Eq, Hash)]
enum EntryIdentity {
    Record(RowKey, Arc<str>, Fingerprint, Arc<str>, Arc<str>),
    /// A submission has an entry in a journal for its own rows, and some for those that follow them: submission, whether
    /// they follow, and the first row of each group.
    Submitted(SubmissionId, bool, Vec<(Arc<str>, Arc<str>, Option<u64>)>),
}

impl EntryIdentity {
    fn of(entry: &JournalEntry) -> EntryIdentity {
        match entry {
            JournalEntry::Record(Record { key, step, fingerprint, provider, model, .. }) => {
                let (step, provider, model) = (Arc::clone(step), Arc::clone(provider), Arc::clone(model));
                EntryIdentity::Record(key.clone(), step, *fingerprint, provider, model)
            }
            JournalEntry::Submitted(submitted) => {
                let first = |group: &SubmittedGroup| {
                    let row = group.rows.first().map(|(row, _)| *row);
                    (Arc::clone(&group.file), Arc::clone(&group.step), row)
                };
                let groups = submitted.groups.iter().map(first).collect();
                EntryIdentity::Submitted(submitted.submission, submitted.follows, groups)
            }
        }
    }
}

fn folder(lineage: Lineage, batch: BatchId) -> String {
    format!("{lineage}/{:010}", batch.get())
}

/// Whether a record ends at this byte offset of a journal.
fn has_record_end(path: &Path, at: u64) -> Result<bool, JournalError> {
    let mut reader = JournalReader::open(path)?;
    while reader.intact_len() < at && reader.next_entry()?.is_some() {}
    Ok(reader.intact_len() == at)
}

/// Reads whole frames of a journal's file from `start` and puts a header before them: all frames up to `end`, or as
/// many as one segment holds.
fn frames(path: &Path, start: u64, end: u64, header: &[u8; HEADER_LEN]) -> std::io::Result<Bytes> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = header.to_vec();
    let mut at = start;
    while at < end {
        let mut frame = [0; FRAME_LEN];
        file.read_exact(&mut frame)?;
        let length = u64::from(u32::from_le_bytes(array(&frame[..4])));
        let next = at + FRAME_LEN as u64 + length;
        if next > end || (at > start && next - start > MAX_SEGMENT_BYTES) {
            break;
        }
        bytes.extend_from_slice(&frame);
        if (&mut file).take(length).read_to_end(&mut bytes)? as u64 != length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        at = next;
    }
    Ok(bytes.into())
}
