//! Sizes and times as people write them in a job file.
//!
//! Their schemas are looser than their parsers: an editor may accept a wrong value, but never marks a right one.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A number of bytes, written as `"50MB"`, `"64 MiB"` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(bytesize::ByteSize);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum WrittenAmount {
            Bytes(u64),
            Text(String),
            Number(f64),
            Other(de::IgnoredAny),
        }
        let wrong = |written: &str| {
            de::Error::custom(format!(
                "{written} is no size like \"50MB\", \"64 MiB\" or a whole number of bytes"
            ))
        };
        match WrittenAmount::deserialize(deserializer)? {
            WrittenAmount::Bytes(bytes) => Ok(ByteSize::bytes(bytes)),
            WrittenAmount::Text(text) => {
                text.trim().parse().map(ByteSize).map_err(|_| wrong(&format!("\"{text}\"")))
            }
            WrittenAmount::Number(number) => Err(wrong(&number.to_string())),
            WrittenAmount::Other(_) => Err(wrong("what stands there")),
        }
    }
}

impl ByteSize {
    /// Creates a size from a number of bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        ByteSize(bytesize::ByteSize(bytes))
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "size",
            "type": ["string", "integer"],
            "pattern": "^[0-9][0-9.]* *([KMGTPEkmgtpe][Ii]?)?[Bb]?$",
            "minimum": 1,
            "examples": ["50MB", "64 MiB"],
        })
    }
}

/// Parses a point in time, written as RFC 3339 or as a day, which begins at midnight UTC.
#[must_use]
pub fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let day = text.parse::<NaiveDate>().ok()?;
    Some(day.and_time(NaiveTime::MIN).and_utc())
}

/// A length of time, written as `"10s"`, `"250ms"` or `"1h 30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Creates a length of time from a number of seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text).map(Span).map_err(|error| {
            de::Error::custom(format!("`{text}` is no length of time like \"90s\": {error}"))
        })
    }
}

/// Maximum length of time: a hundred years.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3_600);

/// Parses a length of time.
///
/// # Errors
/// When the text is not a length of time, or one longer than a hundred years.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > MAX_DURATION => Err("it is longer than a hundred years".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "time",
            "type": "string",
            "pattern": "^([0-9][0-9.]* *[a-zA-Zµ]+ *)+$",
            "examples": ["90s", "250ms", "1h 30m"],
        })
    }
}
