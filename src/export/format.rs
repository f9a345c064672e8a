//! The formats of exported files.

use std::fmt;

use self::TextCompression::{Gzip, Plain};

/// The format of an exported file. Its name is also the ending of a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Parquet.
    Parquet,
    /// Lines of cells with commas between them, as in RFC 4180.
    Csv(TextCompression),
    /// As CSV, with tabs in place of commas.
    Tsv(TextCompression),
    /// One JSON object per line.
    JsonLines(TextCompression),
}

/// How a file of text is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextCompression {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
}

impl ExportFormat {
    /// All formats.
    pub const ALL: [ExportFormat; 7] = [
        ExportFormat::Parquet,
        ExportFormat::Csv(Plain),
        ExportFormat::Tsv(Plain),
        ExportFormat::JsonLines(Plain),
        ExportFormat::Csv(Gzip),
        ExportFormat::Tsv(Gzip),
        ExportFormat::JsonLines(Gzip),
    ];

    /// Returns the name of the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Parquet => "parquet",
            ExportFormat::Csv(Plain) => "csv",
            ExportFormat::Csv(Gzip) => "csv.gz",
            ExportFormat::Tsv(Plain) => "tsv",
            ExportFormat::Tsv(Gzip) => "tsv.gz",
            ExportFormat::JsonLines(Plain) => "jsonl",
            ExportFormat::JsonLines(Gzip) => "jsonl.gz",
        }
    }

    /// Returns the format with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ExportFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns the format that the ending of a file's name states.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let is_ending =
            |format: &ExportFormat| name.strip_suffix(format.name()).is_some_and(|stem| stem.ends_with('.'));
        ExportFormat::ALL.into_iter().find(is_ending)
    }

    /// Whether a terminal can show it.
    #[must_use]
    pub fn is_plain_text(self) -> bool {
        matches!(self, ExportFormat::Csv(Plain) | ExportFormat::Tsv(Plain) | ExportFormat::JsonLines(Plain))
    }

    /// Whether it consists of cells.
    #[must_use]
    pub fn has_cells(self) -> bool {
        matches!(self, ExportFormat::Csv(_) | ExportFormat::Tsv(_))
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_name_states_the_format() {
        for format in ExportFormat::ALL {
            assert_eq!(ExportFormat::of_file(&format!("a.b.{format}")), Some(format));
            assert_eq!(ExportFormat::named(format.name()), Some(format));
        }
        assert_eq!(ExportFormat::of_file("A.CSV"), Some(ExportFormat::Csv(Plain)));
        for other in ["csv", "a.xlsx", "a.gz", "acsv", "a.parquet.gz", "a.csv.zip", ""] {
            assert_eq!(ExportFormat::of_file(other), None, "{other}");
        }
    }
}
