//! Journals cut and flipped at any byte: never a panic, never an outcome that was not written.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use enrich::fault::{Class, Failure};
use enrich::ident::{BatchId, Fingerprint, Lineage, RowKey, SubmissionId};
use enrich::journal::{
    JournalEntry, JournalError, JournalHeader, JournalReader, JournalWriter, Record, RecordedOutcome,
    SubmittedGroup, SubmittedRows, read_all,
};
use proptest::prelude::*;

use crate::support::{World, project};

/// Every third row was refused, and every fourth came back with a submission.
fn record(row: u64, answer: &str) -> Record {
    let outcome = if row % 3 == 2 {
        RecordedOutcome::Failure(Failure::new(Class::ContentFilter, answer))
    } else {
        RecordedOutcome::Response(Bytes::from(format!(
            "{{\"choices\":[{{\"message\":{{\"content\":{answer:?}}}}}]}}"
        )))
    };
    Record {
        key: RowKey { file: "part-0.parquet".into(), row },
        step: "answer".into(),
        fingerprint: Fingerprint::of([answer.as_bytes()]),
        provider: "sim".into(),
        model: "m".into(),
        attempts: 1,
        latency_ms: 12,
        shared: false,
        submission: (row % 4 == 1).then(submission),
        outcome,
    }
}

fn submission() -> SubmissionId {
    "0199c0de-0000-7000-8000-000000000001".parse().unwrap()
}

/// So many rows of each of two files, in one submission.
fn submitted(rows: u64) -> SubmittedRows {
    let group = |file: &str, step: &str| SubmittedGroup {
        file: file.into(),
        step: step.into(),
        rows: (0..rows).map(|row| (row * 7, Fingerprint::of([&row.to_le_bytes()[..]]))).collect(),
    };
    SubmittedRows {
        submission: submission(),
        provider: "sim".into(),
        model: "m".into(),
        follows: rows % 2 == 1,
        groups: vec![group("part-0.parquet", "answer"), group("part-1.parquet", "kind")],
    }
}

fn entries(path: &Path) -> Result<Vec<JournalEntry>, JournalError> {
    let mut reader = JournalReader::open(path)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn header() -> JournalHeader {
    JournalHeader {
        lineage: Lineage::from_bytes([7; 16]),
        batch: BatchId::new(3),
        digest: Fingerprint::of([b"content".as_slice()]),
    }
}

fn records(answers: &[String]) -> Vec<Record> {
    answers.iter().enumerate().map(|(row, answer)| record(row as u64, answer)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_journal_gives_a_beginning_of_what_was_written_or_an_error(
        answers in prop::collection::vec("[a-zA-Z0-9 ü\"]{0,40}", 1..8),
        rows in prop::option::of(0_u64..5),
        place in any::<prop::sample::Index>(),
        mask in 1_u8..,
        cut in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.journal");
        let mut writer = JournalWriter::open(&path, &header(), |_| {}).unwrap();
        let mut written = Vec::new();
        if let Some(rows) = rows {
            writer.append_submitted(&submitted(rows)).unwrap();
            written.push(JournalEntry::Submitted(submitted(rows)));
        }
        writer.append(&records(&answers)).unwrap();
        written.extend(records(&answers).into_iter().map(JournalEntry::Record));
        let mut bytes = fs::read(&path).unwrap();
        let at = place.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= mask;
        }
        fs::write(&path, &bytes).unwrap();
        match entries(&path) {
            Ok(read) => {
                prop_assert_eq!(&written[..read.len()], &read[..]);
                if cut {
                    // A torn tail is cut, and what is appended then is read behind it.
                    let mut kept = Vec::new();
                    let more = record(99, "more");
                    JournalWriter::open(&path, &header(), |entry| kept.push(entry)).unwrap().append([&more]).unwrap();
                    prop_assert_eq!(&kept, &read);
                    kept.push(JournalEntry::Record(more));
                    prop_assert_eq!(entries(&path).unwrap(), kept);
                } else {
                    // Only the last record can be taken for a torn one.
                    prop_assert!(read.len() + 1 >= written.len());
                }
            }
            Err(JournalError::Damaged { intact, .. }) => {
                prop_assert!(!cut, "a cut journal is torn, not damaged");
                prop_assert!(intact < written.len() as u64);
            }
            Err(JournalError::Version { .. }) => prop_assert!(false, "the header has a checksum"),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

/// A journal in `tests/frozen/journals`, in a folder in which it may be changed.
fn frozen(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::copy(project().join("tests/frozen/journals").join(name), &path).unwrap();
    (folder, path)
}

#[test]
fn a_journal_of_the_first_format_is_read_and_written_on() {
    let (_folder, path) = frozen("format-1.journal");
    let before = fs::read(&path).unwrap();
    let found = entries(&path).unwrap();
    let is_failure = |entry: &JournalEntry| match entry {
        JournalEntry::Record(record) => matches!(record.outcome, RecordedOutcome::Failure(_)),
        JournalEntry::Submitted(_) => false,
    };
    assert_eq!((found.len(), found.iter().filter(|entry| is_failure(entry)).count()), (7, 1));
    let header = *JournalReader::open(&path).unwrap().header().unwrap();
    let mut writer = JournalWriter::open(&path, &header, |_| {}).unwrap();
    writer.append([&record(1, "more")]).unwrap();
    // Only what the first format lacks makes it a file of the second.
    assert_eq!(fs::read(&path).unwrap()[..before.len()], before);
    writer.append_submitted(&submitted(3)).unwrap();
    let more = [JournalEntry::Record(record(1, "more")), JournalEntry::Submitted(submitted(3))];
    assert_eq!(entries(&path).unwrap(), [found.as_slice(), &more].concat());
    let after = fs::read(&path).unwrap();
    assert_eq!((before[8], after[8]), (1, 2));
    assert_eq!(after[54..before.len()], before[54..]);
}

#[test]
fn a_journal_of_the_second_format_is_written_as_it_was() {
    let (_folder, path) = frozen("format-2.journal");
    let found = entries(&path).unwrap();
    let records = records(&["a".into(), "b".into(), "c".into()]);
    let expected: Vec<JournalEntry> =
        [JournalEntry::Submitted(submitted(2)), JournalEntry::Submitted(submitted(1))]
            .into_iter()
            .chain(records.iter().cloned().map(JournalEntry::Record))
            .collect();
    assert_eq!(found, expected);
    let again = path.with_extension("again");
    let mut writer = JournalWriter::open(&again, &header(), |_| {}).unwrap();
    writer.append_submitted(&submitted(2)).unwrap();
    writer.append_submitted(&submitted(1)).unwrap();
    writer.append(&records).unwrap();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&path).unwrap());
}

#[test]
fn a_tail_of_zeros_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.journal");
    let written = records(&["a".into(), "b".into()]);
    JournalWriter::open(&path, &header(), |_| {}).unwrap().append(&written).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 9_000]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(read_all(&path).unwrap(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_with_file_and_place_and_nothing_is_asked() {
    let world = World::with_rows(10, 1).await;
    let job = world.job().display().to_string();
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    let journal = world.path("target/_checkpoints/test/journal/0000000000.journal");
    let whole = fs::read(&journal).unwrap();
    let mut bytes = whole.clone();
    bytes[200] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let outcome = world.run(&[]).await;
    outcome
        .assert_status(1)
        .assert_says("0000000000.journal is damaged at byte 54: a record fails its checksum");
    outcome.assert_says(&format!("hint: enrich check {job} --repair"));
    assert_eq!(world.simulator.counts().requests, 10);
    let status = world.on_job("status", &[]).await;
    let shown = &status.assert_status(0).stdout;
    assert!(shown.contains("0000000000.journal is damaged at byte 54"), "{shown}");
    assert!(shown.contains(&format!("next:       enrich check {job} --repair keeps")), "{shown}");
    fs::write(&journal, whole).unwrap();

    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    let whole = fs::read(&checkpoint).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes).unwrap();
    let outcome = world.run(&[]).await;
    outcome
        .assert_status(1)
        .assert_says("checkpoint.json is damaged: ")
        .assert_says(&format!("hint: enrich check {job} --repair"));
    // As the hint says: the checkpoint goes, the paid answers stay.
    fs::rename(&checkpoint, world.path("damaged.json")).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..10).await;
    assert_eq!(world.simulator.counts().requests, 10);
}
