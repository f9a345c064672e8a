//! The footers that earlier runs read, in a file of the job's local state, so that the footer of each file is read
//! once: a run that finds nothing new opens no file of its source. If the file is lost or damaged, or is that of
//! another folder, footers are read again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ::arrow::datatypes::Fields;
use serde::{Deserialize, Serialize};

use super::listing::FoundFile;
use super::shape::Footer;
use super::staging::ColumnKinds;
use crate::store::{self, Location, StoreError};

const NAME: &str = "footers.json";

/// Footers of the files of a folder.
#[derive(Debug)]
pub(super) struct KnownFooters {
    path: PathBuf,
    stored: FootersFile,
    /// Commit of the repository that the files are in; `None` for files elsewhere.
    revision: Option<String>,
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
    /// ColumnKinds of the columns of text files, to which later files are held; `None` if none were inferred yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kinds: Option<ColumnKinds>,
    files: BTreeMap<String, KnownFooter>,
}

/// A whole file, as it was when its footer was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFooter {
    size: u64,
    modified_ms: u64,
    rows: u64,
    /// Place of its columns.
    columns: usize,
    /// Number of rows that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    skipped: u64,
    /// Identifies the content; `None` if an earlier version of this program read the footer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Newest commit that is known to have this content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl KnownFooters {
    /// Loads the file in a local folder. `format` says how files are read.
    pub(super) fn load(state: &Path, root: &Location, format: String) -> Self {
        let path = state.join(NAME);
        let revision = root.dataset().and_then(|dataset| dataset.revision().map(ToOwned::to_owned));
        let root = root.at_revision(None).to_string();
        let found = store::read(&path).ok().flatten();
        let found = found.and_then(|bytes| serde_json::from_slice::<FootersFile>(&bytes).ok());
        let found = found.filter(|stored| (&stored.root, &stored.format) == (&root, &format));
        let stored = found.unwrap_or_else(|| FootersFile { root, format, ..FootersFile::default() });
        let places = stored.columns.iter().cloned().zip(0..).collect();
        KnownFooters { path, stored, revision, places, has_changed: false }
    }

    /// Returns the footer of a file that has not changed since it was read; `None` if the footer has to be read.
    pub(super) fn of(&self, file: &FoundFile) -> Option<Footer> {
        let known = self.stored.files.get(&file.path)?;
        let is_same = (known.size, known.modified_ms) == (file.size, file.modified_ms)
            && !is_other(known.content.as_ref(), file.content.as_ref());
        let columns = self.stored.columns.get(known.columns).filter(|_| is_same)?;
        Some(Footer::Whole { rows: known.rows, columns: columns.clone(), skipped: known.skipped })
    }

    /// Returns the kinds of columns to which files are held.
    pub(super) fn kinds(&self) -> ColumnKinds {
        self.stored.kinds.clone().unwrap_or_default()
    }

    /// Sets the kinds of columns to which later files are held.
    pub(super) fn set_kinds(&mut self, kinds: ColumnKinds) {
        self.has_changed |= self.stored.kinds.as_ref() != Some(&kinds);
        self.stored.kinds = Some(kinds);
    }

    /// Returns the size that a file had, if its content is another one now.
    pub(super) fn size_of_other_content(&self, file: &FoundFile) -> Option<u64> {
        let known = self.stored.files.get(&file.path)?;
        is_other(known.content.as_ref(), file.content.as_ref()).then_some(known.size)
    }

    /// Returns the paths of files in a repository whose footers are known, each with the newest commit that is known to
    /// have its content.
    pub(super) fn revisions(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.stored.files.iter();
        files.filter_map(|(path, known)| Some((path.as_str(), known.revision.as_deref()?)))
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
        let before = self.stored.files.remove(&file.path);
        let content = file.content.clone().or_else(|| before.as_ref()?.content.clone());
        let (rows, skipped, revision) = (*rows, *skipped, self.revision.clone());
        let known = KnownFooter { size, modified_ms, rows, columns: place, skipped, content, revision };
        self.has_changed |= before.as_ref() != Some(&known);
        self.stored.files.insert(file.path.clone(), known);
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

/// Whether two ids are of different contents; not if one is unknown.
fn is_other(known: Option<&String>, found: Option<&String>) -> bool {
    known.zip(found).is_some_and(|(known, found)| known != found)
}

#[cfg(test)]
mod tests {
    use ::arrow::datatypes::{DataType, Field};

    use super::*;

    fn found(size: u64, modified_ms: u64) -> FoundFile {
        let columns = Fields::from(vec![Field::new("id", DataType::Int64, true)]);
        let footer = Footer::Whole { rows: 3, columns, skipped: 0 };
        let (path, partition) = ("a.parquet".to_owned(), BTreeMap::new());
        FoundFile { modified_ms, path, size, content: Some("c".into()), partition, footer }
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
        let other_content = FoundFile { content: Some("d".into()), ..found(10, 20) };
        assert!(footers.of(&other_content).is_none());
        assert_eq!(footers.size_of_other_content(&other_content), Some(10));
        let unknown = FoundFile { content: None, ..found(10, 21) };
        assert_eq!(footers.size_of_other_content(&unknown), None);
        assert_eq!(
            footers.size_of_other_content(&found(10, 21)),
            None,
            "written again, with the same content"
        );
        assert!(load(&other, format).of(&found(10, 20)).is_none(), "another folder");
        assert!(load(&root, "other").of(&found(10, 20)).is_none(), "read in another way");
    }
}
