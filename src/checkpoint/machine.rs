//! The identity of a machine for a job: an id in the job's local folder of journals.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{self, StoreError};

const NAME: &str = "machine";

/// Id that is stored in a folder of journals and lost with it: a run that finds the id has the answers in those
/// journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(Uuid);

impl MachineId {
    /// Returns the id in a folder, and creates one if there is none. Only one process may do so at a time.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn of(folder: &Path) -> Result<Self, StoreError> {
        store::create_folder(folder)?;
        if let Some(found) = Self::found(folder)? {
            return Ok(found);
        }
        let id = Uuid::new_v4();
        store::replace(&folder.join(NAME), id.to_string().as_bytes())?;
        Ok(MachineId(id))
    }

    /// Returns the id in a folder; `None` if there is none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn found(folder: &Path) -> Result<Option<Self>, StoreError> {
        let found = store::read(&folder.join(NAME))?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(found.and_then(|text| text.trim().parse().ok()).map(MachineId))
    }

    /// Removes the id from a folder whose journals no longer match their copies: from then on the copies count as
    /// another machine's.
    ///
    /// # Errors
    /// When the id cannot be removed.
    pub fn forget(folder: &Path) -> Result<(), StoreError> {
        store::remove(&folder.join(NAME))
    }
}

impl fmt::Display for MachineId {
    /// Writes 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}
