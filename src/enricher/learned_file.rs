//! The file of what was learned about providers. It may be lost or damaged: then it is learned again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dispatch::{LearnedLimits, LearnedProvider};
use crate::store;

const NAME: &str = "learned.json";

/// What was learned, and where it is kept.
#[derive(Debug)]
pub struct LearnedFile {
    path: PathBuf,
    learned_limits: LearnedLimits,
    saved: BTreeMap<String, LearnedProvider>,
}

impl LearnedFile {
    /// The file in a checkpoint's folder.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let found = store::read(&path).ok().flatten();
        let saved: BTreeMap<String, LearnedProvider> =
            found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        LearnedFile { path, learned_limits: LearnedLimits::new(saved.clone()), saved }
    }

    /// What was learned; changes are seen here.
    pub(crate) fn learned_limits(&self) -> LearnedLimits {
        self.learned_limits.clone()
    }

    /// Writes it down if there is news. That it cannot be written harms nobody.
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
