//! The file of what was learned about providers. It may be lost or damaged: then it is learned again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dispatch::{LearnedLimit, LearnedLimits};
use crate::store;

const NAME: &str = "learned.json";

/// What was learned, and where it is kept.
#[derive(Debug)]
pub struct LearnedFile {
    path: PathBuf,
    lessons: LearnedLimits,
    saved: BTreeMap<String, LearnedLimit>,
}

impl LearnedFile {
    /// The file in a checkpoint's folder.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let found = store::read(&path).ok().flatten();
        let saved: BTreeMap<String, LearnedLimit> =
            found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        LearnedFile { path, lessons: LearnedLimits::new(saved.clone()), saved }
    }

    /// What was learned; changes are seen here.
    pub(super) fn lessons(&self) -> LearnedLimits {
        self.lessons.clone()
    }

    /// Writes it down if there is news. That it cannot be written harms nobody.
    pub(super) fn save(&mut self) {
        let lessons = self.lessons.all();
        if lessons != self.saved
            && let Ok(bytes) = serde_json::to_vec_pretty(&lessons)
            && store::replace(&self.path, &bytes).is_ok()
        {
            self.saved = lessons;
        }
    }
}
