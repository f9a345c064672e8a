//! Reads metrics back, for a report.

use super::columns;
use super::pending::PendingMetrics;
use super::row::MetricsRow;
use super::writer::MetricsError;
use crate::store::{Folder, Location};
use crate::table::{Table, TableError, is_delta_table};

/// Returns the metrics of a job, oldest first: the rows in the table and the pending ones, which are beside the
/// checkpoints in `homes`. A pending row may belong to a batch whose commit failed.
///
/// # Errors
/// When the table or a file cannot be read, or the table is no metrics table.
pub async fn read(at: &Location, app_id: &str, homes: &[Folder]) -> Result<Vec<MetricsRow>, MetricsError> {
    let mut all: Vec<MetricsRow> = Vec::new();
    if is_delta_table(at).await? {
        let table = Table::open(at.clone()).await?;
        let sql = format!("SELECT * FROM target WHERE app_id = '{}'", app_id.replace('\'', "''"));
        let mut is_foreign = false;
        table
            .query(&sql, |rows| {
                match columns::from_rows(&rows) {
                    Some(rows) => all.extend(rows),
                    None => is_foreign = true,
                }
                Ok::<(), TableError>(())
            })
            .await?;
        if is_foreign {
            let what = "is no table of figures".to_owned();
            return Err(MetricsError::Mismatch { at: at.clone(), what });
        }
    }
    for home in homes {
        let pending = PendingMetrics::read(home).await?.unwrap_or_default();
        let is_there = |row: &MetricsRow| {
            all.iter().rev().any(|known| (known.lineage, known.batch_id) == (row.lineage, row.batch_id))
        };
        let news: Vec<MetricsRow> =
            pending.rows.into_iter().filter(|row| *row.app_id == *app_id && !is_there(row)).collect();
        all.extend(news);
    }
    all.sort_by_key(|row| (row.committed_at, row.batch_id));
    Ok(all)
}
