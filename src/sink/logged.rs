//! Reads the batches of an application, and restores of the table, from the table's log.

use std::io;

use crate::checkpoint::NewestCommitted;
use crate::ident::{AppId, BatchId, Lineage};
use crate::table::{Table, TableError};

/// Key in the commit info of a commit that emptied the table for a restart.
pub(super) const RESTART: &str = "enrich_restart";

/// Returns the newest batches committed under an application id and under a lineage of it, as of the version that the
/// table is at.
///
/// # Errors
/// When the log cannot be read.
pub async fn committed(
    table: &Table,
    app_id: &AppId,
    lineage: Lineage,
) -> Result<NewestCommitted, TableError> {
    let app = table.txn_version(app_id).await?;
    let own = table.txn_version(&app_id.lineage(lineage)).await?;
    Ok(NewestCommitted {
        app: app.and_then(BatchId::from_txn_version),
        lineage: own.and_then(BatchId::from_txn_version),
    })
}

/// Returns the newest commit that restored the table to an earlier version, if it came after the second newest commit
/// of an application: rows of the application's newest batches may then be missing from the table. (A restore may
/// come between the staging of a batch's files and its commit.) Commits up to the version `seen` are not searched.
///
/// # Errors
/// When the log cannot be read.
pub async fn restored(table: &Table, app_id: &AppId, seen: Option<u64>) -> Result<Option<u64>, TableError> {
    if table.txn_version(app_id).await?.is_none() {
        return Ok(None);
    }
    let mut own = 0;
    let first = seen.map_or(0, |seen| seen + 1);
    for version in (first..=table.version()).rev() {
        let Some(entry) = table.log_entry(version, None).await? else { break };
        if entry.is_restore() {
            return Ok(Some(version));
        }
        let by =
            |key: &str| entry.info.get(key).and_then(|info| info.get("app_id")?.as_str()) == Some(app_id);
        own += u32::from(by("enrich"));
        if own == 2 || by(RESTART) {
            break;
        }
    }
    Ok(None)
}

/// Whether the log has a batch of a lineage.
///
/// # Errors
/// When another lineage has committed this batch number or a later one.
pub(super) async fn has(
    table: &Table,
    app_id: &AppId,
    id: BatchId,
    lineage: Lineage,
) -> Result<bool, TableError> {
    let committed = committed(table, app_id, lineage).await?;
    if committed.app.is_some_and(|app| app >= id) && committed.lineage.is_none_or(|own| own < id) {
        let what = format!("batch {id} of app_id {app_id:?} was committed by another checkpoint meanwhile");
        let at = table.at().clone();
        return Err(TableError { action: "commit to", at, source: Box::new(io::Error::other(what)) });
    }
    Ok(committed.lineage.is_some_and(|own| own >= id))
}
