//! Patterns of files: a folder or prefix, and below it names with wildcards.

use globset::{GlobBuilder, GlobMatcher};

use super::error::DocumentError;

/// Characters that make a part of a path a pattern. A backslash makes the next character a plain one.
const WILDCARDS: [char; 5] = ['*', '?', '[', '{', '\\'];

/// A pattern such as `docs/**/*.pdf`.
#[derive(Clone, Debug)]
pub(super) struct FileGlob {
    /// The pattern as written.
    pub(super) written: String,
    /// The parts before the first one with a wildcard, as written, with a slash at the end unless it is empty.
    pub(super) base: String,
    /// The parts from the first one with a wildcard on.
    pub(super) below: String,
    matcher: GlobMatcher,
    /// How many folders deep a match may lie below `base`.
    depth: usize,
}

impl FileGlob {
    /// # Errors
    /// When the pattern cannot be read.
    pub(super) fn parse(written: &str) -> Result<Self, DocumentError> {
        let wrong = |message: String| DocumentError::Glob { glob: written.to_owned(), message };
        let parts: Vec<&str> = written.split('/').collect();
        // A path without wildcards is a pattern of its last part.
        let first = parts.iter().position(|part| part.contains(WILDCARDS)).unwrap_or(parts.len() - 1);
        let (base, below) = parts.split_at(first);
        let below = below.join("/");
        if below.is_empty() {
            return Err(wrong("it names no file".to_owned()));
        }
        let matcher = GlobBuilder::new(&below)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| wrong(error.kind().to_string()))?
            .compile_matcher();
        let depth = if below.contains("**") { usize::MAX } else { below.matches('/').count() };
        let base = base.iter().map(|part| format!("{part}/")).collect();
        Ok(FileGlob { written: written.to_owned(), base, below, matcher, depth })
    }

    /// Whether a path below `base` matches. Files and folders whose names begin with a dot are passed over, as by a
    /// shell, unless the pattern has one, too.
    pub(super) fn matches(&self, path: &str) -> bool {
        (!is_hidden(path) || is_hidden(&self.below)) && self.matcher.is_match(path)
    }

    /// Whether files in a folder below `base` may match.
    pub(super) fn may_match_below(&self, folder: &str) -> bool {
        folder.matches('/').count() < self.depth && (!is_hidden(folder) || is_hidden(&self.below))
    }
}

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_folder_and_names_below_it() {
        for (written, base, below) in [
            ("docs/**/*.pdf", "docs/", "**/*.pdf"),
            ("*.pdf", "", "*.pdf"),
            ("/data/2020/a?.pdf", "/data/2020/", "a?.pdf"),
            ("../a/b.pdf", "../a/", "b.pdf"),
            ("s3://bucket/docs/{a,b/c}/*.pdf", "s3://bucket/docs/", "{a,b/c}/*.pdf"),
        ] {
            let glob = FileGlob::parse(written).unwrap();
            assert_eq!((glob.base.as_str(), glob.below.as_str()), (base, below));
        }
        for (written, expected) in
            [("", "names no file"), ("docs/", "names no file"), ("docs/[a", "unclosed")]
        {
            let error = FileGlob::parse(written).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn paths_match_as_in_a_shell() {
        let matches = |written: &str, path: &str| FileGlob::parse(written).unwrap().matches(path);
        assert!(matches("d/**/*.pdf", "a.pdf") && matches("d/**/*.pdf", "x/y/a.pdf"));
        assert!(!matches("d/*.pdf", "x/a.pdf") && !matches("d/*.pdf", "a.PDF"));
        assert!(!matches("d/**/*.pdf", ".git/a.pdf") && !matches("d/*.pdf", ".a.pdf"));
        assert!(matches("d/.*.pdf", ".a.pdf"));
        assert!(matches(r"d/\[1\].pdf", "[1].pdf"));
        let glob = FileGlob::parse("d/*/*.pdf").unwrap();
        assert!(glob.may_match_below("x") && !glob.may_match_below("x/y") && !glob.may_match_below(".x"));
    }
}
