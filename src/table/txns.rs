//! Finds the newest `txn` action of an application, by which it knows which of its commits a table holds.

use deltalake::kernel::Action;
use deltalake::logstore::get_actions;

use super::known_txns::KnownTxn;
use super::store_access::error_of;
use super::{Table, TableError};

/// Maximum number of commits that are read one by one to bring a known `txn` action up to date. For more, the whole log
/// is searched.
const MAX_READ: u64 = 20;

impl Table {
    /// Returns the newest version of a `txn` action of this application; `None` if there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn txn_version(&self, app_id: &str) -> Result<Option<i64>, TableError> {
        let known = self.txns.lock().get(app_id).copied();
        let newest = match known {
            Some(known) => self.newest_after(known, app_id).await?,
            None => None,
        };
        let newest = match newest {
            Some(newest) => newest,
            None => self.search_txn(app_id).await?,
        };
        self.txns.lock().insert(app_id.to_owned(), KnownTxn { as_of: self.version(), newest });
        Ok(newest)
    }

    /// Returns the newest `txn` action of an application from a known one and the commits after it; no value if these
    /// are too many or not all in the log.
    async fn newest_after(&self, known: KnownTxn, app_id: &str) -> Result<Option<Option<i64>>, TableError> {
        let error = error_of("read the transactions of", self.at());
        if known.as_of > self.version() || self.version() - known.as_of > MAX_READ {
            return Ok(None);
        }
        let mut newest = known.newest;
        for version in known.as_of + 1..=self.version() {
            let Some(bytes) = self.store.read_commit_entry(version).await.map_err(&error)? else {
                return Ok(None);
            };
            for action in get_actions(version, &bytes).map_err(&error)? {
                if let Action::Txn(txn) = action
                    && txn.app_id == app_id
                {
                    newest = Some(txn.version);
                }
            }
        }
        Ok(Some(newest))
    }

    /// Searches the whole log for the newest `txn` action of an application.
    async fn search_txn(&self, app_id: &str) -> Result<Option<i64>, TableError> {
        let action = "read the transactions of";
        let error = error_of(action, self.at());
        let table = self.loaded(action).await?.snapshot().map_err(&error)?;
        table.transaction_version(self.store.as_ref(), app_id).await.map_err(&error)
    }
}
