//! The footers that earlier runs read, in a file of the job's local state, so that the footer of each file is read
//! once: a run that finds nothing new opens no file of its source. If the file is lost or damaged, or is that of
//! another folder, footers are read again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ::arrow::datatypes::Fields;
use serde::{Deserialize, Serialize};

use super::listing::FoundFile;
use super::shape::Footer;
use super::staging::Kinds;
use crate::store::{self, Location, StoreError};

const NAME: &str = "footers.json";

/// Footers of the files of a folder.
#[derive(Debug)]
pub(super) struct KnownFooters {
    path: PathBuf,
    stored: FootersFile,
    /// Places of columns in `stored.columns`.
    places: HashMap<Fields, usize>,
    /// Whether a footer was added that the file on disk lacks.
    has_changed: bool,
}

/// The contents of the file on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct FootersFile {
    /// The folder of the files.
    root: String,
    /// How the files were read.
    format: String,
    /// The different columns that files have.
    columns: Vec<Fields>,
    /// Kinds of the columns of text files, to which later files are held; `None` if none were inferred yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kinds: Option<Kinds>,
    files: BTreeMap<String, KnownFooter>,
}

/// A whole file, as it was when its footer was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFooter {
    size: u64,
    modified_ms: u64,
    rows: u64,
    /// Place of its columns.
    columns: usize,
    /// Number of rows that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    skipped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl KnownFooters {
    /// Loads the file in a local folder. `format` says how files are read.
    pub(super) fn load(state: &Path, root: &Location, format: String) -> Self {
        let path = state.join(NAME);
        let root = root.to_string();
        let found = store::read(&path).ok().flatten();
        let found = found.and_then(|bytes| serde_json::from_slice::<FootersFile>(&bytes).ok());
        let found = found.filter(|stored| (&stored.root, &stored.format) == (&root, &format));
        let stored = found.unwrap_or_else(|| FootersFile { root, format, ..FootersFile::default() });
        let places = stored.columns.iter().cloned().zip(0..).collect();
        KnownFooters { path, stored, places, has_changed: false }
    }

    /// Returns the footer of a file that has not changed since it was read; `None` if the footer has to be read.
    pub(super) fn of(&self, file: &FoundFile) -> Option<Footer> {
        let known = self.stored.files.get(&file.path)?;
        let is_same = (known.size, known.modified_ms) == (file.size, file.modified_ms);
        let columns = self.stored.columns.get(known.columns).filter(|_| is_same)?;
        Some(Footer::Whole { rows: known.rows, columns: columns.clone(), skipped: known.skipped })
    }

    /// Returns the kinds of columns to which files are held.
    pub(super) fn kinds(&self) -> Kinds {
        self.stored.kinds.clone().unwrap_or_default()
    }

    /// Sets the kinds of columns to which later files are held.
    pub(super) fn set_kinds(&mut self, kinds: Kinds) {
        self.has_changed |= self.stored.kinds.as_ref() != Some(&kinds);
        self.stored.kinds = Some(kinds);
    }

    /// Adds the footer of a file, if it is whole. Equal columns of files are made to share memory.
    pub(super) fn add(&mut self, file: &mut FoundFile) {
        let Footer::Whole { rows, columns, skipped } = &mut file.footer else { return };
        let all = &mut self.stored.columns;
        let place = *self.places.entry(columns.clone()).or_insert_with(|| {
            all.push(columns.clone());
            all.len() - 1
        });
        *columns = all[place].clone();
        let (size, modified_ms) = (file.size, file.modified_ms);
        let known = KnownFooter { size, modified_ms, rows: *rows, columns: place, skipped: *skipped };
        self.has_changed |= self.stored.files.insert(file.path.clone(), known) != Some(known);
    }

    /// Writes the file if a footer was added.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.has_changed) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&self.stored).map_err(std::io::Error::from);
        let bytes = bytes.map_err(StoreError::of("write", self.path.as_path()))?;
        store::replace(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use ::arrow::datatypes::{DataType, Field};

    use super::*;

    fn found(size: u64, modified_ms: u64) -> FoundFile {
        let columns = Fields::from(vec![Field::new("id", DataType::Int64, true)]);
        let footer = Footer::Whole { rows: 3, columns, skipped: 0 };
        FoundFile { modified_ms, path: "a.parquet".into(), size, partition: BTreeMap::new(), footer }
    }

    #[test]
    fn only_the_footer_of_an_unchanged_file_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (root, other) = (Location::local("/source"), Location::local("/other"));
        let load = |root, format: &str| KnownFooters::load(folder.path(), root, format.to_owned());
        let format = "one";
        let mut footers = load(&root, format);
        assert!(footers.of(&found(10, 20)).is_none());
        footers.add(&mut found(10, 20));
        footers.save().unwrap();
        let footers = load(&root, format);
        assert!(
            matches!(footers.of(&found(10, 20)), Some(Footer::Whole { rows: 3, columns, .. }) if columns.len() == 1)
        );
        assert!(footers.of(&found(11, 20)).is_none(), "another size");
        assert!(footers.of(&found(10, 21)).is_none(), "another time");
        assert!(load(&other, format).of(&found(10, 20)).is_none(), "another folder");
        assert!(load(&root, "other").of(&found(10, 20)).is_none(), "read in another way");
    }
}
