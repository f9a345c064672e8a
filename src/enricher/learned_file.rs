//! The file of what was learned about providers. If it is lost or damaged, that is learned again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dispatch::{LearnedLimits, LearnedProvider};
use crate::store;

const NAME: &str = "learned.json";

/// What was learned about providers, and the file that holds it.
#[derive(Debug)]
pub struct LearnedFile {
    path: PathBuf,
    learned_limits: LearnedLimits,
    saved: BTreeMap<String, LearnedProvider>,
}

impl LearnedFile {
    /// Loads the file in a checkpoint's folder; empty if it is missing or damaged.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let found = store::read(&path).ok().flatten();
        let saved: BTreeMap<String, LearnedProvider> =
            found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        LearnedFile { path, learned_limits: LearnedLimits::new(saved.clone()), saved }
    }

    /// Returns a handle on what was learned, whose changes are saved with this file.
    pub(crate) fn learned_limits(&self) -> LearnedLimits {
        self.learned_limits.clone()
    }

    /// Writes the file if something changed. An error is ignored: it can be learned again.
    pub(super) fn save(&mut self) {
        let learned_limits = self.learned_limits.all();
        if learned_limits != self.saved
            && let Ok(bytes) = serde_json::to_vec_pretty(&learned_limits)
            && store::replace(&self.path, &bytes).is_ok()
        {
            self.saved = learned_limits;
        }
    }
}
