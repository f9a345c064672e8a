//! Rows whose answers are recorded: in a journal, or in the table.

use std::collections::BTreeSet;
use std::path::Path;

use enrich::journal::{RecordedOutcome, read_all};

use super::world::World;

impl World {
    /// Rows whose answers are in the table or in a journal.
    pub async fn recorded(&self) -> BTreeSet<i64> {
        let mut held = BTreeSet::new();
        if self.path("target/_delta_log").exists() {
            held.extend(self.target().await.iter().map(|row| row.id));
        }
        if let Ok(entries) = std::fs::read_dir(self.path("target/_checkpoints/test/journal")) {
            held.extend(entries.flatten().flat_map(|entry| ids_in(&entry.path())));
        }
        held
    }
}

/// Rows whose answers are in a journal.
pub fn ids_in(journal: &Path) -> Vec<i64> {
    let records = read_all(journal).unwrap().into_iter();
    let texts = records.filter_map(|record| match record.outcome {
        RecordedOutcome::Response(body) => Some(String::from_utf8_lossy(&body).into_owned()),
        RecordedOutcome::Failure(_) => None,
    });
    let id = |text: String| text.split("Row ").nth(1)?.split(' ').next()?.parse().ok();
    texts.map(|text| id(text).unwrap()).collect()
}
