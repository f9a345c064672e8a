//! The file of a cache: how it is created, recognized and opened.
//!
//! ```text
//! application_id  "enrc"
//! user_version    1
//! answers         key 16 bytes, the fingerprint of the request; created and used, Unix seconds; body
//! ```
//! The body is the last column, so that the times can be read without it. The table keeps its rowid, so that bodies
//! lie in the order in which they arrived and the tree of the keys stays small. Damage to the pages that are read on
//! opening is found then; other damage is found when its page is read.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::CacheError;
use super::error::is_busy;
use crate::clock;
use crate::store;

/// "enrc" in ASCII.
const APPLICATION_ID: i32 = 0x656e_7263;
const FORMAT: i32 = 1;
/// How long one connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// Length of the write-ahead log, in pages of 4 KiB, beyond which it is copied into the file.
const LOG_PAGES: i32 = 1000;
/// Size in bytes to which the log is cut back after it was copied.
const LOG_BYTES: i32 = LOG_PAGES * 4096;

const TABLES: &str = "
    CREATE TABLE answers (
        key BLOB PRIMARY KEY NOT NULL,
        created INTEGER NOT NULL,
        used INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX answers_by_created ON answers (created);
    CREATE INDEX answers_by_used ON answers (used);
";

/// Who a file belongs to. An empty or new database belongs to nobody.
enum FileOwner {
    Nobody,
    Cache { format: i32 },
    Other,
}

/// Opens the connection that writes, and creates the file if it is missing or empty.
pub(super) fn open_to_write(path: &Path) -> Result<Connection, CacheError> {
    let failed = || CacheError::of("open", path);
    // SQLite would create a file that everyone may read. If this fails, so does opening, which reports why.
    let _ = store::private_file().open(path);
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(failed())?;
    let mut owner = owner(&connection).map_err(failed())?;
    if matches!(owner, FileOwner::Nobody) {
        owner = create(&mut connection).map_err(failed())?;
    }
    match owner {
        FileOwner::Cache { format: FORMAT } => {}
        FileOwner::Cache { format } => {
            return Err(CacheError::Version { path: path.to_owned(), found: format, known: FORMAT });
        }
        FileOwner::Nobody | FileOwner::Other => return Err(CacheError::Foreign { path: path.to_owned() }),
    }
    set_up(&connection).map_err(failed())?;
    Ok(connection)
}

/// Opens the connection that reads. The file must exist.
///
/// The connection is opened for writing, since the connection that is closed last removes the write-ahead log. It runs
/// no statement that writes.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, CacheError> {
    let opened = connect(path, OpenFlags::empty()).and_then(|connection| {
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    });
    opened.map_err(CacheError::of("open", path))
}

/// Returns the number of bytes of the file that are in use. Freed pages are used again and do not count.
pub(super) fn filled_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (page_count - freelist_count) * page_size
               FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    let bytes: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Determines who a file belongs to, without changing it.
fn owner(connection: &Connection) -> rusqlite::Result<FileOwner> {
    let sql = "SELECT application_id, user_version, (SELECT COUNT(*) FROM sqlite_schema)
               FROM pragma_application_id, pragma_user_version";
    let (id, format, objects): (i32, i32, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(match id {
        APPLICATION_ID => FileOwner::Cache { format },
        0 if format == 0 && objects == 0 => FileOwner::Nobody,
        _ => FileOwner::Other,
    })
}

/// Creates the tables, unless another process has done so meanwhile, and returns who the file then belongs to.
fn create(connection: &mut Connection) -> rusqlite::Result<FileOwner> {
    use_log(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if matches!(owner(&transaction)?, FileOwner::Nobody) {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    let owner = owner(&transaction)?;
    transaction.commit()?;
    Ok(owner)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    use_log(connection)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)
}

/// Turns on the write-ahead log. SQLite does not wait for other connections here, so this function does.
fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = clock::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && clock::now() < deadline => std::thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
}
