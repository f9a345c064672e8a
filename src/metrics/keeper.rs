//! Brings figures into their table, exactly once: written down before the batch's commit, appended after it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};

use super::columns;
use super::counters::Counters;
use super::pending::{PendingFigures, newest};
use super::row::{AskedKind, BatchKey, MetricsRow, of_batch};
use crate::clock::{self, Instant};
use crate::faultpoint::{self, Side};
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::rows::FilledBatch;
use crate::store::{Folder, Location, StoreError};
use crate::table::{Table, TableError, Txn, delta_schema, is_delta_table, is_vacant};

/// Batches whose figures are held back for one commit, and for how long.
const MOST_BATCHES: usize = 100;
const LONGEST: Duration = Duration::from_secs(10);
/// Rows that wait for a table that cannot be written.
const MOST_PENDING: usize = 20_000;
/// Tries of a commit that others got ahead of.
const TRIES: u32 = 5;
/// Properties of the table. Each run opens it and commits to it at least once: a checkpoint is made that often, or reading
/// the log costs more than the figures; and what files hold is told of the first columns, up to the moments.
const PROPERTIES: [(&str, &str); 2] =
    [("delta.checkpointInterval", "10"), ("delta.dataSkippingNumIndexedCols", "9")];
/// Bytes of a data file: they are all small.
const FILE_BYTES: u64 = 50_000_000;

/// Figures that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Their table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What is not in the table yet cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in their place is something else.
    #[error("the table of figures would be {at}, which {what}: name another place with metrics.path")]
    Mismatch {
        /// The place.
        at: Location,
        /// What it is, or lacks.
        what: String,
    },
}

/// Whose figures are kept.
#[derive(Clone, Debug)]
pub struct FiguresOwner {
    /// The job.
    pub app_id: AppId,
    /// Whether rows are asked for the first time or again.
    pub kind: AskedKind,
    /// The run.
    pub run_id: RunId,
    /// The checkpoint under which its batches have their numbers.
    pub lineage: Lineage,
    /// Outputs of the steps.
    pub steps: Vec<Arc<str>>,
    /// The providers.
    pub providers: Vec<ProviderOfStep>,
}

/// A provider, and the first step that may ask it: what it did by itself stands there where no row of it is.
#[derive(Clone, Debug)]
pub struct ProviderOfStep {
    /// Its name.
    pub provider: String,
    /// The step's output.
    pub step: String,
}

/// Brings figures into their table.
#[derive(Debug)]
pub struct Keeper {
    at: Location,
    table: Option<Table>,
    home: Folder,
    owner: FiguresOwner,
    counters: Counters,
    pending: PendingFigures,
    /// Rows at the front whose batches are committed, and since when there are any.
    ready: usize,
    since: Option<Instant>,
}

impl Keeper {
    /// Opens the table, which is made with its first rows.
    ///
    /// # Errors
    /// When something else is in its place, and when it cannot be read.
    pub async fn open(
        at: &Location,
        home: Folder,
        owner: FiguresOwner,
        counters: Counters,
    ) -> Result<Self, MetricsError> {
        let table = open(at).await?;
        let mut pending = PendingFigures::read(&home).await?.unwrap_or_default();
        if let Entry::Vacant(told) = pending.told.entry(counters.id()) {
            // Of counts that were told already, and nobody knows how far, those from now on are told.
            told.insert(if counters.is_new() { BTreeMap::new() } else { counters.loads() });
            pending.save(&home).await?;
        }
        Ok(Keeper { at: at.clone(), table, home, owner, counters, pending, ready: 0, since: None })
    }

    /// The checkpoints of whose batches an earlier run left figures behind.
    #[must_use]
    pub fn left_behind(&self) -> Vec<Lineage> {
        newest(&self.pending.rows).into_keys().collect()
    }

    /// Brings in what an earlier run left behind, of each checkpoint up to the last batch that is committed.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn bring_in(
        &mut self,
        committed: &BTreeMap<Lineage, Option<BatchId>>,
    ) -> Result<(), MetricsError> {
        for lineage in self.left_behind() {
            self.pending.drop_beyond(lineage, committed.get(&lineage).copied().flatten());
        }
        self.ready = self.pending.rows.len();
        self.flush().await
    }

    /// Writes the figures of a batch down that is about to be committed.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn note(&mut self, filled: &FilledBatch) -> Result<(), MetricsError> {
        // What a commit that failed had left here: the batch comes again.
        self.pending.truncate(self.ready);
        let FiguresOwner { app_id, lineage, kind, run_id, steps, providers } = &self.owner;
        let batch =
            BatchKey { app_id, lineage: *lineage, kind: *kind, run_id: *run_id, committed_at: clock::wall() };
        let mut rows = of_batch(&batch, filled, steps);
        let counters = self.counters.id();
        let told_of = self.pending.told.entry(counters).or_default();
        for (provider, load) in self.counters.loads() {
            let told = told_of.entry(provider.clone()).or_default();
            let since = load.since(told);
            *told = load;
            let own = rows.iter_mut().find(|row| row.provider.as_ref() == Some(&provider));
            match own {
                Some(row) => (row.load, row.counters) = (since, counters),
                None if since.is_idle() => {}
                None => {
                    let step = providers.iter().find(|entry| entry.provider == provider);
                    let step = step.map(|entry| entry.step.as_str()).unwrap_or_default();
                    rows.push(MetricsRow {
                        load: since,
                        counters,
                        ..batch.empty((filled.plan.id, filled.opened_at), step, Some(&provider))
                    });
                }
            }
        }
        self.pending.rows.extend(rows);
        // As many as a table that cannot be written may miss.
        self.ready = self.ready.saturating_sub(self.pending.shed(MOST_PENDING));
        faultpoint::pass("metrics", Side::Before).map_err(|error| self.failed(error))?;
        self.pending.save(&self.home).await?;
        faultpoint::pass("metrics", Side::After).map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// The batch that was noted last is in the target: its figures go into the table, together with those of others.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn committed(&mut self) -> Result<(), MetricsError> {
        self.ready = self.pending.rows.len();
        let since = *self.since.get_or_insert_with(clock::now);
        let batches = self.pending.rows.chunk_by(|a, b| a.batch_id == b.batch_id).count();
        if batches >= MOST_BATCHES || clock::now().saturating_duration_since(since) >= LONGEST {
            self.flush().await?;
        }
        Ok(())
    }

    /// Brings what is held back into the table.
    ///
    /// # Errors
    /// When the table cannot be written; what is held back stays written down.
    pub async fn flush(&mut self) -> Result<(), MetricsError> {
        self.since = None;
        if self.ready == 0 {
            return Ok(());
        }
        let mut table = match self.table.take() {
            Some(mut table) => {
                table.refresh().await?;
                table
            }
            None => self.make().await?,
        };
        let mut tries = 0;
        loop {
            // What an attempt brought in whose answer was lost.
            for lineage in newest(&self.pending.rows).into_keys() {
                let told = table.txn_version(&self.txn(lineage)).await?;
                if let Some(told) = told.and_then(BatchId::from_txn_version) {
                    let before = self.pending.rows.len();
                    self.pending.drop_up_to(lineage, told);
                    self.ready -= before - self.pending.rows.len();
                }
            }
            if self.ready == 0 {
                break;
            }
            let Err(error) = self.append(&mut table).await else { continue };
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            table = Table::open(&self.at).await?;
        }
        self.table = Some(table);
        self.pending.save(&self.home).await?;
        Ok(())
    }

    async fn append(&self, table: &mut Table) -> Result<(), MetricsError> {
        let rows = columns::to_rows(&self.pending.rows[..self.ready], &table.schema()?);
        let mut staging = table.stage(FILE_BYTES).await?;
        staging.write(rows.map_err(|error| self.failed(error))?).await?;
        let staged = staging.finish().await?;
        let newest = newest(&self.pending.rows[..self.ready]);
        let txn = |(lineage, batch): (Lineage, BatchId)| Txn {
            app_id: self.txn(lineage),
            version: batch.txn_version(),
        };
        let txns: Vec<Txn> = newest.into_iter().map(txn).collect();
        let info = json!({ "app_id": self.owner.app_id, "run_id": self.owner.run_id });
        let info = Map::from_iter([("enrich_metrics".to_owned(), info)]);
        faultpoint::pass("metrics-commit", Side::Before).map_err(|error| self.failed(error))?;
        let appended = table.append(&staged, &txns, info).await;
        faultpoint::pass("metrics-commit", Side::After).map_err(|error| self.failed(error))?;
        appended?;
        Ok(())
    }

    fn txn(&self, lineage: Lineage) -> String {
        self.owner.app_id.lineage(lineage).to_string()
    }

    async fn make(&self) -> Result<Table, MetricsError> {
        let columns =
            delta_schema(&columns::schema()).map_err(|error| self.failed(io::Error::other(error)))?;
        let properties = PROPERTIES.map(|(key, value)| (key, value.to_owned()));
        match Table::create(self.at.clone(), &columns, &[], &properties).await {
            Ok(table) => Ok(table),
            // Another job may have been quicker.
            Err(error) => Ok(open(&self.at).await?.ok_or(error)?),
        }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> TableError {
        TableError { action: "write figures to", at: self.at.clone(), source: Box::new(source) }
    }
}

/// Looks whether figures can go to a place, as far as what is there tells.
///
/// # Errors
/// As [`Keeper::open`].
pub async fn look(at: &Location) -> Result<(), MetricsError> {
    open(at).await.map(|_| ())
}

/// The table, if there is one, after its columns were looked at.
async fn open(at: &Location) -> Result<Option<Table>, MetricsError> {
    let mismatch = |what: String| MetricsError::Mismatch { at: at.clone(), what };
    if !is_delta_table(at).await? {
        return match is_vacant(at).await? {
            true => Ok(None),
            false => Err(mismatch("is no Delta table".to_owned())),
        };
    }
    let table = Table::open(at.clone()).await?;
    let has = table.schema()?;
    let wanted = delta_schema(&columns::schema()).map_err(mismatch)?;
    for field in wanted.fields() {
        match has.field_with_name(field.name()) {
            Ok(found) if found.data_type() == field.data_type() => {}
            Ok(found) => {
                let (name, found) = (field.name(), found.data_type());
                return Err(mismatch(format!("is no table of figures: its column {name:?} is {found}")));
            }
            Err(_) => {
                let name = field.name();
                return Err(mismatch(format!("is no table of figures: it has no column {name:?}")));
            }
        }
    }
    Ok(Some(table))
}
