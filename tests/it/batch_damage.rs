//! The list of submissions and a journal that names submitted rows, flipped and cut at any byte: row A15 of the plan of
//! tests of submissions, in a short form. A run refuses and says what to do, or goes on as before; it never asks again for
//! rows that are at a provider.

use std::fs;
use std::path::Path;

use enrich::checkpoint::SubmissionsFile;
use enrich::config::{BatchesSpec, StuckIn};
use enrich::journal::{JournalEntry, JournalError, JournalReader};
use enrich::store::Folder;

use crate::support::batches::{BATCH, end_of, with_batches};
use crate::support::{Setup, World, everything_below};

/// A job whose rows are at a provider that does not answer them all, with a journal and submission for each batch.
async fn submitted() -> World {
    let batches = BatchesSpec { stuck: Some(StuckIn::InProgress), ..BatchesSpec::default() };
    let section = format!("{BATCH}\nmax_requests = 10");
    let setup = Setup { simulator: with_batches(batches), rows: 25, provider: &section, ..Setup::default() };
    let world = World::of(setup).await;
    assert_eq!(end_of(&world.run(&["--summary", "json"]).await), "waiting");
    world
}

/// Puts the state of the job back as it was.
fn restore(folder: &Path, state: &[(std::path::PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(folder).unwrap();
    for (path, bytes) in state {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// How many batches and files there have been, and how many single requests.
fn asked(world: &World) -> (u64, u64, u64) {
    let counts = world.simulator.counts();
    (counts.batches.created, counts.batches.uploads, counts.requests)
}

/// Damages a file of the job's state in many ways, and runs after each.
async fn damage(world: &World, name: &str, seed: u64) {
    let folder = world.path("target/_checkpoints/test");
    let state = everything_below(&folder);
    let path = folder.join(name);
    let whole = fs::read(&path).unwrap();
    let before = asked(world);
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..36 {
        restore(&folder, &state);
        let mut bytes = whole.clone();
        let what = if number % 2 == 0 {
            let (at, bit) = (random.usize(..bytes.len()), random.u32(..8));
            bytes[at] ^= 1 << bit;
            format!("{name}, bit {bit} of byte {at}")
        } else {
            // Also all of it, and all but the last byte.
            let len = match number {
                1 => 0,
                3 => whole.len() - 1,
                _ => random.usize(..whole.len()),
            };
            bytes.truncate(len);
            format!("{name}, cut to {len} of {} bytes", whole.len())
        };
        fs::write(&path, bytes).unwrap();
        let run = world.run(&["--summary", "json"]).await;
        assert_eq!(asked(world), before, "{what}: {}", run.stderr);
        if run.status == Some(0) {
            assert_eq!(end_of(&run), "waiting", "{what}: {}", run.stderr);
        } else {
            run.assert_says("hint: ").assert_says(path.file_name().unwrap().to_str().unwrap());
        }
    }
    restore(&folder, &state);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_submissions_is_refused_with_what_to_do() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    damage(&submitted().await, "submissions.json", seed).await;
}

/// What damage makes of a file, at each byte and at each length.
fn damaged(whole: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let flipped = (0..whole.len()).map(|at| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (at % 8);
        (format!("byte {at} flipped"), bytes)
    });
    flipped.chain((0..whole.len()).map(|length| (format!("cut to {length} bytes"), whole[..length].to_vec())))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_byte_and_no_cut_makes_another_list_or_another_journal() {
    let world = submitted().await;
    let folder = tempfile::tempdir().unwrap();
    let home = world.path("target/_checkpoints/test");
    let file = SubmissionsFile::in_folder(&Folder::Local(folder.path().to_owned()));
    let whole = fs::read(home.join("submissions.json")).unwrap();
    let path = folder.path().join("submissions.json");
    fs::write(&path, &whole).unwrap();
    let list = file.load().await.unwrap();
    for (what, bytes) in damaged(&whole) {
        fs::write(&path, bytes).unwrap();
        if let Ok(found) = file.load().await {
            assert_eq!(found, list, "{what}");
        }
    }
    let whole = fs::read(home.join("journal/0000000001.journal")).unwrap();
    let path = folder.path().join("1.journal");
    let read = |bytes: &[u8]| -> Result<Vec<JournalEntry>, JournalError> {
        fs::write(&path, bytes).unwrap();
        let (mut reader, mut entries) = (JournalReader::open(&path)?, Vec::new());
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    };
    let entries = read(&whole).unwrap();
    for (what, bytes) in damaged(&whole) {
        // A torn tail is cut off.
        if let Ok(found) = read(&bytes) {
            assert_eq!(found, entries[..found.len()], "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_damaged_journal_names_are_not_asked_again() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    damage(&submitted().await, "journal/0000000001.journal", seed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_asked_again_after_a_repair_or_when_a_file_is_gone() {
    for name in ["journal/0000000001.journal", "submissions.json"] {
        let world = submitted().await;
        let before = asked(&world);
        let path = world.path("target/_checkpoints/test").join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[80] ^= 1;
        fs::write(&path, bytes).unwrap();
        world.on_job("check", &["--repair"]).await;
        for _ in 0..2 {
            let run = world.run(&["--summary", "json"]).await;
            assert_eq!(end_of(&run), "waiting", "{name}: {}", run.stderr);
            assert_eq!(asked(&world), before, "{name}: {}", run.stderr);
            let _ = fs::remove_file(&path);
        }
    }
}
