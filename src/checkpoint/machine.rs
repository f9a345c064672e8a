//! Which machine this is, as far as a job is concerned: the one that has this journal.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{self, StoreError};

const NAME: &str = "machine";

/// Made with the folder of a journal and lost with it: who has it has the answers in that journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(Uuid);

impl MachineId {
    /// The id in a folder, which is made if there is none. Only one process may do so at a time.
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

    /// The id in a folder, if there is one.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn found(folder: &Path) -> Result<Option<Self>, StoreError> {
        let found = store::read(&folder.join(NAME))?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(found.and_then(|text| text.trim().parse().ok()).map(MachineId))
    }

    /// Forgets the id in a folder, whose journals are not any more what was copied of them: from then on the copies
    /// are another machine's.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(folder: &Path) -> Result<(), StoreError> {
        store::remove(&folder.join(NAME))
    }
}

impl fmt::Display for MachineId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}
