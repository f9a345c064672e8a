//! Checks how a job reads files that are no tables.

use super::check::Checker;
use super::error::ConfigError;
use super::raw_source::RawSource;
use super::source_files::FilesSpec;

impl Checker<'_> {
    /// Checks the keys that say how files are read. `section` is the one in which they stand, such as `source`.
    pub(super) fn files(&self, section: &str, raw: &RawSource) -> Result<FilesSpec, ConfigError> {
        let character = |key: &str, text: &str| match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
            _ => {
                let key = format!("{section}.{key}");
                Err(self.wrong(&key, format!("is {text:?}; it must be one ASCII character")))
            }
        };
        let delimiter = raw.delimiter.as_deref().map(|text| character("delimiter", text)).transpose()?;
        let quote = match raw.quote.as_deref() {
            None => Some(b'"'),
            Some("") => None,
            Some(text) => Some(character("quote", text)?),
        };
        if quote.is_some() && quote == delimiter {
            return Err(self.wrong(format!("{section}.quote"), "is the delimiter, too"));
        }
        Ok(FilesSpec {
            section: section.to_owned(),
            format: raw.format,
            schema: raw.schema.clone(),
            has_header: raw.header.unwrap_or(true),
            delimiter,
            quote,
            encoding: raw.encoding,
            null_values: raw.null_values.clone(),
            on_bad_row: raw.on_bad_row,
        })
    }
}
