//! Journals cut and flipped at any byte: never a panic, never an outcome that was not written.

use std::fs;

use bytes::Bytes;
use enrich::fault::{Class, Failure};
use enrich::ident::{BatchId, Fingerprint, Lineage, RowKey};
use enrich::journal::{JournalError, JournalHeader, JournalWriter, Record, RecordedOutcome, read_all};
use proptest::prelude::*;

use crate::support::World;

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
        outcome,
    }
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
        place in any::<prop::sample::Index>(),
        mask in 1_u8..,
        cut in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.journal");
        let written = records(&answers);
        JournalWriter::open(&path, &header(), |_| {}).unwrap().append(&written).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = place.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= mask;
        }
        fs::write(&path, &bytes).unwrap();
        match read_all(&path) {
            Ok(read) => {
                prop_assert_eq!(&written[..read.len()], &read[..]);
                if cut {
                    // A torn tail is cut, and what is appended then is read behind it.
                    let mut kept = Vec::new();
                    let more = record(99, "more");
                    JournalWriter::open(&path, &header(), |record| kept.push(record)).unwrap().append([&more]).unwrap();
                    prop_assert_eq!(&kept, &read);
                    kept.push(more);
                    prop_assert_eq!(read_all(&path).unwrap(), kept);
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
