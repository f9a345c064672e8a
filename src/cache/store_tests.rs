//! Tests of what a cache keeps, refuses and removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::limits::unix_seconds;
use super::{CacheError, CacheLimits, Store};
use crate::clock;
use crate::ident::Fingerprint;

const DAY: i64 = 24 * 60 * 60;
const LIMITS: CacheLimits = CacheLimits {
    max_bytes: 64 << 20,
    max_age: Duration::from_secs(30 * DAY.unsigned_abs()),
    not_before: i64::MIN,
};

fn place() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a/b/answers.cache");
    (folder, path)
}

fn open(path: &Path) -> Store {
    Store::open(path, LIMITS).unwrap()
}

fn key(number: u64) -> Fingerprint {
    Fingerprint::of([&number.to_le_bytes()[..]])
}

fn keep(store: &Store, number: u64, body: &[u8]) {
    store.put(key(number), body);
    store.flush().unwrap();
}

fn found(store: &Store, number: u64) -> Option<Vec<u8>> {
    store.get(key(number)).unwrap().map(|body| body.to_vec())
}

/// Changes the file through a connection of its own.
fn change(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn number(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Returns bytes that cannot be compressed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// Waits until a condition holds that the writer thread brings about on its own.
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = clock::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(clock::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens a file that must be refused, and checks that removing it helps.
fn refused(path: &Path) -> CacheError {
    let bytes = fs::read(path).unwrap();
    let error = Store::open(path, LIMITS).unwrap_err();
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    assert!(error.hint().unwrap().contains("set another path for the cache, or remove that file"));
    assert!(fs::read(path).unwrap() == bytes, "a refused file was changed");
    fs::remove_file(path).unwrap();
    keep(&open(path), 1, b"anew");
    error
}

#[test]
fn what_was_put_is_there_after_it_is_opened_again() {
    let (_folder, path) = place();
    let body = noise(1, 10_000);
    let store = open(&path);
    assert_eq!(found(&store, 1), None);
    keep(&store, 1, &body);
    assert_eq!(found(&store, 1), Some(body.clone()));
    // Only dropping the store writes this one.
    store.put(key(2), b"");
    drop(store);
    assert!(!beside(&path, "-wal").exists(), "the log is cleared away");
    let store = open(&path);
    assert_eq!(found(&store, 1), Some(body));
    assert_eq!(found(&store, 2), Some(Vec::new()));
    assert_eq!(store.stats().unwrap().entries, 2);
}

#[test]
fn what_is_flushed_is_in_the_files_whatever_becomes_of_the_process() {
    let (folder, path) = place();
    let store = open(&path);
    keep(&store, 1, b"yes");
    // The files as they are after `kill -9`: no connection has closed them.
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
    assert_eq!(found(&open(&copy), 1), Some(b"yes".to_vec()));
}

#[test]
fn the_first_answer_stays() {
    let (_folder, path) = place();
    let store = open(&path);
    store.put(key(1), b"first");
    store.put(key(1), b"second");
    keep(&store, 1, b"third");
    assert_eq!(found(&store, 1), Some(b"first".to_vec()));
    assert_eq!(store.stats().unwrap().entries, 1);
}

#[test]
fn stores_on_one_file_see_each_others_answers_and_all_write() {
    let (_folder, path) = place();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            // All threads also create the file at the same time.
            scope.spawn(move || {
                let store = open(path);
                for round in 0..50 {
                    keep(&store, writer * 1000 + round, &noise(round, 500));
                }
            });
        }
    });
    let (one, other) = (open(&path), open(&path));
    assert_eq!(one.stats().unwrap().entries, 200);
    keep(&one, 1, b"ignored");
    keep(&one, 9001, b"of one");
    keep(&other, 9002, b"of the other");
    assert_eq!(found(&one, 1), Some(noise(1, 500)));
    assert_eq!(found(&one, 9002), Some(b"of the other".to_vec()));
    assert_eq!(found(&other, 9001), Some(b"of one".to_vec()));
}

#[test]
fn an_answer_that_is_too_old_is_not_given_and_gives_way_to_a_new_one() {
    let (_folder, path) = place();
    let store = open(&path);
    keep(&store, 1, b"old");
    change(&path, &format!("UPDATE answers SET created = created - {}", 29 * DAY));
    assert_eq!(found(&store, 1), Some(b"old".to_vec()));
    change(&path, &format!("UPDATE answers SET created = created - {}", 2 * DAY));
    assert_eq!(found(&store, 1), None);
    keep(&store, 1, b"new");
    assert_eq!(found(&store, 1), Some(b"new".to_vec()));
}

#[test]
fn answers_that_are_too_old_are_removed_on_opening() {
    let (_folder, path) = place();
    let store = open(&path);
    (0..1200).for_each(|number| store.put(key(number), b"x"));
    store.flush().unwrap();
    change(&path, &format!("UPDATE answers SET created = created - {} WHERE rowid <= 1100", 31 * DAY));
    drop(store);
    let store = open(&path);
    wait_until(|| store.stats().unwrap().entries == 100);
    assert_eq!(found(&store, 1199), Some(b"x".to_vec()));
}

#[test]
fn the_file_stays_within_its_limit_under_ten_times_as_much() {
    let (_folder, path) = place();
    let limits = CacheLimits { max_bytes: 5_000_000, ..LIMITS };
    let store = Store::open(&path, limits).unwrap();
    let (mut put, mut most_file, mut most_log, mut most_filled) = (0, 0, 0, 0);
    for number in 0.. {
        let body = noise(number, 200 + usize::try_from(number).unwrap() * 7919 % 20_000);
        put += body.len();
        store.put(key(number), &body);
        most_file = most_file.max(file_bytes(&path));
        most_log = most_log.max(file_bytes(&beside(&path, "-wal")));
        if number % 500 == 0 {
            store.flush().unwrap();
            most_filled = most_filled.max(store.stats().unwrap().bytes);
            assert_eq!(found(&store, number), Some(body), "the newest is there");
        }
        if put > 50_000_000 {
            break;
        }
    }
    store.flush().unwrap();
    assert!(most_file < 6_500_000, "the file had {most_file} bytes");
    assert!(most_log < 8_000_000, "the log had {most_log} bytes");
    assert!(most_filled < 6_500_000, "{most_filled} bytes were filled");
    wait_until(|| store.stats().unwrap().bytes <= 4_500_000);
    drop(store);
    assert!(file_bytes(&path) < 6_500_000);
    assert_eq!(number(&path, "SELECT COUNT(*) FROM pragma_integrity_check WHERE integrity_check != 'ok'"), 0);
    let store = Store::open(&path, limits).unwrap();
    assert!(store.stats().unwrap().bytes > 3_500_000, "it keeps what it may");
}

#[test]
fn a_limit_that_was_lowered_is_kept_to_and_what_was_used_last_stays() {
    let (_folder, path) = place();
    let store = open(&path);
    (0..4000).for_each(|number| store.put(key(number), &noise(number, 2000)));
    store.flush().unwrap();
    let week_ago = unix_seconds() - 7 * DAY;
    change(&path, &format!("UPDATE answers SET used = {week_ago}"));
    assert!(found(&store, 7).is_some());
    store.flush().unwrap();
    drop(store);
    let store = Store::open(&path, CacheLimits { max_bytes: 2_000_000, ..LIMITS }).unwrap();
    wait_until(|| store.stats().unwrap().bytes <= 1_800_000);
    assert_eq!(found(&store, 7), Some(noise(7, 2000)));
    assert_eq!(found(&store, 8), None);
    assert_eq!(found(&store, 3999), Some(noise(3999, 2000)));
}

#[test]
fn an_answer_is_marked_as_used_once_a_day() {
    let (_folder, path) = place();
    let store = open(&path);
    keep(&store, 1, b"x");
    let used_before = |seconds: i64| {
        let used = unix_seconds() - seconds;
        change(&path, &format!("UPDATE answers SET used = {used}"));
        assert!(found(&store, 1).is_some());
        store.flush().unwrap();
        number(&path, "SELECT used FROM answers") - used
    };
    assert_eq!(used_before(DAY - 60), 0);
    assert!(used_before(DAY + 60) >= DAY);
}

#[test]
fn a_body_of_more_than_a_tenth_of_the_cache_is_not_kept() {
    let (_folder, path) = place();
    let store = Store::open(&path, CacheLimits { max_bytes: 1_000_000, ..LIMITS }).unwrap();
    keep(&store, 1, &noise(1, 100_001));
    keep(&store, 2, &noise(2, 100_000));
    assert_eq!(found(&store, 1), None);
    assert!(found(&store, 2).is_some());
}

#[test]
fn a_cache_too_small_for_anything_still_works() {
    let (_folder, path) = place();
    let store =
        Store::open(&path, CacheLimits { max_bytes: 1000, max_age: Duration::MAX, not_before: i64::MIN })
            .unwrap();
    (0..100).for_each(|number| keep(&store, number, b"x"));
    assert!(store.stats().unwrap().entries <= 1);
}

#[test]
fn a_failed_write_is_reported_once_and_later_answers_are_kept() {
    let (_folder, path) = place();
    let store = open(&path);
    keep(&store, 1, b"before");
    change(&path, "ALTER TABLE answers RENAME TO hidden");
    store.put(key(2), b"lost");
    store.put(key(3), b"lost");
    let error = store.flush().unwrap_err();
    assert!(matches!(error, CacheError::Write { lost: 2, .. }), "{error}");
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    store.put(key(4), b"lost");
    assert!(store.flush().is_err(), "the next one fails, too");
    change(&path, "ALTER TABLE hidden RENAME TO answers");
    keep(&store, 5, b"after");
    assert_eq!([found(&store, 1), found(&store, 5)], [Some(b"before".to_vec()), Some(b"after".to_vec())]);
    assert_eq!(found(&store, 2), None);
}

#[test]
fn a_foreign_database_is_refused() {
    let (folder, _) = place();
    for (name, sql) in [
        ("tables", "CREATE TABLE answers (key)"),
        ("id", "PRAGMA application_id = 7"),
        ("version", "PRAGMA user_version = 1"),
    ] {
        let path = folder.path().join(name);
        change(&path, sql);
        assert!(matches!(refused(&path), CacheError::Foreign { .. }));
    }
}

#[test]
fn a_cache_of_a_later_version_is_refused() {
    let (_folder, path) = place();
    drop(open(&path));
    change(&path, "PRAGMA user_version = 2");
    let error = refused(&path);
    assert!(matches!(error, CacheError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_damaged_file_is_refused() {
    let (_folder, path) = place();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.fill(b'x'),
        |bytes| bytes.iter_mut().take(16).for_each(|byte| *byte ^= 1),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.iter_mut().skip(100).take(4000).for_each(|byte| *byte = 0xff),
    ];
    for damage in damages {
        let store = open(&path);
        (0..100).for_each(|number| store.put(key(number), &noise(number, 3000)));
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = refused(&path);
        assert!(matches!(error, CacheError::Damaged { .. }), "{error}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn damage_further_in_is_reported_when_it_is_read() {
    let (_folder, path) = place();
    let store = open(&path);
    (0..100).for_each(|number| store.put(key(number), &noise(number, 3000)));
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0xff);
    fs::write(&path, bytes).unwrap();
    let store = open(&path);
    let error = store.get(key(1)).unwrap_err();
    assert!(matches!(error, CacheError::Damaged { .. }), "{error}");
    store.put(key(1), b"x");
    assert!(matches!(store.flush().unwrap_err(), CacheError::Damaged { .. }));
}

#[test]
fn a_place_that_cannot_be_written_is_named_in_the_error() {
    let (folder, path) = place();
    fs::write(folder.path().join("a"), b"a file, where a folder is needed").unwrap();
    assert!(matches!(Store::open(&path, LIMITS).unwrap_err(), CacheError::Store(_)));
    let error = Store::open(folder.path(), LIMITS).unwrap_err();
    assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
}

#[test]
#[expect(clippy::print_stdout, reason = "it measures; nothing is asserted of the figure")]
fn gets_by_the_second() {
    let (_folder, path) = place();
    let store = open(&path);
    (0..1000).for_each(|number| store.put(key(number), &noise(number, 1500)));
    store.flush().unwrap();
    for kept in [true, false] {
        let first = if kept { 0 } else { 1_000_000 };
        let keys: Vec<_> = (0..1000).map(|number| key(first + number * 7919 % 1000)).collect();
        let begin = clock::now();
        for _ in 0..20 {
            assert!(keys.iter().all(|key| store.get(*key).unwrap().is_some() == kept));
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{:.0} gets a second of answers that are {}",
            20_000.0 / seconds,
            if kept { "there" } else { "not there" }
        );
    }
}

#[test]
fn who_asks_all_anew_is_given_nothing_older_and_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let key = Fingerprint::of([b"question".as_slice()]);
    let old = Store::open(&path, LIMITS).unwrap();
    old.put(key, b"old");
    old.flush().unwrap();
    change(&path, &format!("UPDATE answers SET created = created - {DAY}"));
    let anew = Store::open(&path, CacheLimits { not_before: unix_seconds() - 60, ..LIMITS }).unwrap();
    assert_eq!(anew.get(key).unwrap(), None);
    anew.put(key, b"new");
    anew.flush().unwrap();
    assert_eq!(anew.get(key).unwrap().as_deref(), Some(b"new".as_slice()));
    assert_eq!(old.get(key).unwrap().as_deref(), Some(b"new".as_slice()));
}
