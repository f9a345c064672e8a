//! A path in a dataset repository of Hugging Face: `hf://datasets/<owner>/<name>[@<revision>]/<path>`.

use percent_encoding::percent_decode_str;
use url::Url;

/// Scheme of such URLs.
pub(super) const SCHEME: &str = "hf";
const KIND: &str = "datasets";
/// Folders of the references whose names contain slashes, which may be written as they are.
const REFERENCES: [&str; 2] = ["convert", "pr"];

/// A file or folder of a dataset repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetPath {
    pub(super) owner: String,
    pub(super) name: String,
    /// A branch, tag or commit; `None` for the branch `main`.
    pub(super) revision: Option<String>,
    /// Names of folders and file from the root of the repository on.
    pub(super) parts: Vec<String>,
}

impl DatasetPath {
    /// Reads a URL. An error is the fault, in words.
    pub(super) fn of(url: &Url) -> Result<Self, &'static str> {
        if url.host_str() != Some(KIND) {
            return Err("only datasets are read, as hf://datasets/<owner>/<name>/<path>");
        }
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let mut parts: Vec<String> = url.path_segments().into_iter().flatten().map(decoded).collect();
        parts.retain(|part| !part.is_empty());
        if parts.len() < 2 {
            return Err("it names no repository: hf://datasets/<owner>/<name>/<path>");
        }
        let mut rest = parts.split_off(2).into_iter().peekable();
        let (name, mut revision) = match parts[1].split_once('@') {
            Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
            None => (parts[1].clone(), None),
        };
        if revision.as_deref() == Some("refs")
            && rest.peek().is_some_and(|part| REFERENCES.contains(&part.as_str()))
        {
            let name: Vec<String> = rest.by_ref().take(2).collect();
            revision = Some(format!("refs/{}", name.join("/")));
        }
        if name.is_empty() || revision.as_deref() == Some("") {
            return Err("the name of the repository or its revision is empty");
        }
        Ok(DatasetPath { owner: parts[0].clone(), name, revision, parts: rest.collect() })
    }

    /// Returns the revision; `None` for the branch `main`.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Returns the URL of the path at a revision, or without one.
    pub(super) fn url(&self, revision: Option<&str>) -> Option<Url> {
        let mut url = Url::parse(&format!("{SCHEME}://{KIND}")).ok()?;
        let name = match revision {
            Some(revision) => format!("{}@{revision}", self.name),
            None => self.name.clone(),
        };
        let mut parts = url.path_segments_mut().ok()?;
        parts.clear().push(&self.owner).push(&name).extend(&self.parts);
        drop(parts);
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_name_revision_and_path_are_told_apart() {
        let of = |text: &str| DatasetPath::of(&Url::parse(text).unwrap());
        for (text, revision, parts, again) in [
            ("hf://datasets/a/b", None, &[][..], "hf://datasets/a/b"),
            ("hf://datasets/a/b/c d/e.csv", None, &["c d", "e.csv"], "hf://datasets/a/b/c%20d/e.csv"),
            ("hf://datasets/a/b@v1.0/x", Some("v1.0"), &["x"], "hf://datasets/a/b@v1.0/x"),
            (
                "hf://datasets/a/b@refs/convert/parquet/x/y",
                Some("refs/convert/parquet"),
                &["x", "y"],
                "hf://datasets/a/b@refs%2Fconvert%2Fparquet/x/y",
            ),
            ("hf://datasets/a/b@refs%2Fpr%2F1", Some("refs/pr/1"), &[], "hf://datasets/a/b@refs%2Fpr%2F1"),
        ] {
            let found = of(text).unwrap();
            assert_eq!((found.owner.as_str(), found.name.as_str()), ("a", "b"), "{text}");
            assert_eq!(found.revision.as_deref(), revision, "{text}");
            assert_eq!(found.parts, parts, "{text}");
            let url = found.url(revision).unwrap();
            assert_eq!((url.as_str(), of(url.as_str()).unwrap()), (again, found), "{text}");
        }
        for text in ["hf://models/a/b", "hf://datasets/a", "hf://datasets/a/b@/x", "hf://datasets/a/@v"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
