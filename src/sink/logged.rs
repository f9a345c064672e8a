//! What a table's log says about the batches of an application.

use std::io;

use crate::checkpoint::CommittedUpTo;
use crate::ident::{BatchId, Lineage};
use crate::table::{Table, TableError};

/// The newest batches committed under an application id, and under a lineage of it, as of the version that
/// the table is at.
///
/// # Errors
/// When the log cannot be read.
pub async fn committed(table: &Table, app_id: &str, lineage: Lineage) -> Result<CommittedUpTo, TableError> {
    let app = table.txn_version(app_id).await?;
    let own = table.txn_version(&lineage.app_id(app_id)).await?;
    Ok(CommittedUpTo {
        app: app.and_then(BatchId::from_txn_version),
        lineage: own.and_then(BatchId::from_txn_version),
    })
}

/// Whether the log has a batch of a lineage.
///
/// # Errors
/// When another lineage has come that far.
pub(super) async fn has(
    table: &Table,
    app_id: &str,
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
