//! Mistakes in a job file, and their messages.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// serde's path when it is at no key.
pub(super) const NO_KEY: &str = ".";

/// A mistake in a job file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the job file {}: {source}", path.display())]
    Unreadable {
        /// The job file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file is not valid TOML, or has an unknown key or a value of a wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The job file.
        path: PathBuf,
        /// Line of the mistake, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key cannot be set on the command line.
    #[error("{message}")]
    Set {
        /// What is wrong.
        message: String,
    },
    /// With the keys set on the command line, the file has an unknown key or a value of a wrong type.
    #[error("{} with what --set says: {message}", path.display())]
    Merged {
        /// The job file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A value parses and is not allowed.
    #[error("{}: `{key}` {message}", path.display())]
    Value {
        /// The job file.
        path: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ConfigError {
    /// Creates a syntax error. `key` is the dotted path of the mistake, as far as it is known.
    pub(super) fn from_toml(path: &Path, text: &str, key: &str, error: &toml::de::Error) -> Self {
        let span = error.span();
        let line = span.as_ref().map_or(1, |span| line_of(text, span));
        let twice =
            span.filter(|_| error.message().trim() == "duplicate key").and_then(|span| text.get(span));
        let message = match twice {
            Some(name) => {
                let name = name.trim_matches(['[', ']', ' ']);
                format!("`{name}` stands there twice; put what belongs to it together")
            }
            None => explain(key, error.message()),
        };
        ConfigError::Syntax { path: path.to_owned(), line, message }
    }

    pub(super) fn merged(path: &Path, key: &str, error: &toml::de::Error) -> Self {
        ConfigError::Merged { path: path.to_owned(), message: explain(key, error.message()) }
    }

    pub(super) fn value(path: &Path, key: impl Into<String>, message: impl Into<String>) -> Self {
        ConfigError::Value { path: path.to_owned(), key: key.into(), message: message.into() }
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
}

/// Adds the key to serde's message, and replaces its list of all known keys by the nearest one.
fn explain(key: &str, message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else {
        let message = plain(&message.trim().replace('\n', " "));
        return if key == NO_KEY { message } else { format!("`{key}`: {message}") };
    };
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => format!("unknown key `{key}`; the keys here are {}", known.join(", ")),
    }
}

/// Replaces the names of Rust types in serde's message by plain words.
fn plain(message: &str) -> String {
    let Some((before, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let kind = match expected {
        "f64" | "f32" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a boolean" => "true or false",
        "a sequence" => "a list in [ ]",
        "a map" => "a section or { key = value }",
        structure if structure.starts_with("struct ") => "a section or { key = value }",
        other => other,
    };
    format!("{before}expected {kind}")
}

/// Returns the candidate that is most similar to a misspelt name, or `None` if none is similar enough.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (likeness(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Returns the larger of two similarities: one rewards common beginnings, the other tolerates swapped and mistyped
/// letters.
fn likeness(a: &str, b: &str) -> f64 {
    let beginning = strsim::jaro_winkler(a, b) - 0.15;
    beginning.max(strsim::normalized_damerau_levenshtein(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_in_plain_words() {
        for (message, expected) in [
            ("invalid type: string \"x\", expected f64", "invalid type: string \"x\", expected a number"),
            (
                "invalid type: integer `3`, expected struct RawRunBudget",
                "invalid type: integer `3`, expected a section or { key = value }",
            ),
            ("invalid type: map, expected a string", "invalid type: map, expected a string"),
            ("missing field `path`", "missing field `path`"),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
