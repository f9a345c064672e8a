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
        let path = folder.join(NAME);
        let found = store::read(&path)?.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(id) = found.and_then(|text| text.trim().parse().ok()) {
            return Ok(MachineId(id));
        }
        let id = Uuid::new_v4();
        store::replace(&path, id.to_string().as_bytes())?;
        Ok(MachineId(id))
    }
}

impl fmt::Display for MachineId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}
