//! Removes answers that are too old and, when the file is full, those used longest ago. It works in small steps, so
//! that other users of the file never wait long.

use rusqlite::{Connection, Params, Transaction, TransactionBehavior};

use super::CacheLimits;
use super::file::filled_bytes;

/// Maximum number of answers that one step removes.
const STEP_ANSWERS: usize = 500;
/// Number of bytes after which a step ends, counting bodies and [`ANSWER_BYTES`].
const STEP_BYTES: u64 = 2 << 20;
/// Approximate number of bytes that an answer takes in addition to its body.
const ANSWER_BYTES: u64 = 100;

/// Removes answers, step by step.
#[derive(Debug)]
pub(super) struct Removal {
    limits: CacheLimits,
    /// Whether the file was over its limit and is not yet down to nine tenths of it.
    is_shrinking: bool,
}

impl Removal {
    pub(super) fn new(limits: CacheLimits) -> Self {
        Removal { limits, is_shrinking: false }
    }

    /// Removes some answers in one commit and returns the number of bytes that the file then uses; `None` if there
    /// was nothing to remove. `now` is in Unix seconds.
    pub(super) fn step(&mut self, connection: &mut Connection, now: i64) -> rusqlite::Result<Option<u64>> {
        self.measure(connection)?;
        let oldest = self.limits.oldest_kept(now);
        if !self.is_shrinking && !has_older(connection, oldest)? {
            return Ok(None);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut doomed = first(&transaction, "created < ?1 ORDER BY created", [oldest], u64::MAX)?;
        if doomed.is_empty() {
            // Another process may have removed some answers meanwhile.
            let excess = self.measure(&transaction)?;
            doomed = first(&transaction, "true ORDER BY used", [], excess)?;
        }
        if doomed.is_empty() {
            return Ok(None);
        }
        remove(&transaction, &doomed)?;
        let left = filled_bytes(&transaction)?;
        transaction.commit()?;
        Ok(Some(left))
    }

    /// Returns the number of bytes to be removed because the file is full.
    fn measure(&mut self, connection: &Connection) -> rusqlite::Result<u64> {
        let goal = self.limits.max_bytes / 10 * 9;
        let filled = filled_bytes(connection)?;
        self.is_shrinking = filled > self.limits.max_bytes || (self.is_shrinking && filled > goal);
        Ok(if self.is_shrinking { filled - goal } else { 0 })
    }
}

fn has_older(connection: &Connection, oldest: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM answers WHERE created < ?1)";
    connection.query_row(sql, [oldest], |row| row.get(0))
}

/// Returns the rowids of the first answers of `which`, an SQL condition with an order: as many as take `bytes`
/// bytes together, or as one step removes.
fn first(
    transaction: &Transaction<'_>,
    which: &str,
    parameters: impl Params,
    bytes: u64,
) -> rusqlite::Result<Vec<i64>> {
    let sql = format!("SELECT rowid, length(body) FROM answers WHERE {which} LIMIT {STEP_ANSWERS}");
    let mut statement = transaction.prepare(&sql)?;
    let mut rows = statement.query(parameters)?;
    let (mut found, mut sum) = (Vec::new(), 0);
    while sum < bytes.min(STEP_BYTES) {
        let Some(row) = rows.next()? else { break };
        let body: i64 = row.get(1)?;
        sum += u64::try_from(body).unwrap_or(0) + ANSWER_BYTES;
        found.push(row.get(0)?);
    }
    Ok(found)
}

fn remove(transaction: &Transaction<'_>, rowids: &[i64]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare("DELETE FROM answers WHERE rowid = ?1")?;
    rowids.iter().try_for_each(|rowid| delete.execute([rowid]).map(drop))
}
