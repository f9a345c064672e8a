//! ColumnKinds of values in text files: which kind a value is of, and which holds the values of two.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::config::ColumnType;

/// Largest whole number up to which a double holds every one exactly.
const MAX_EXACT: u64 = 1 << 53;
/// Most digits of a number that a double gives back as they were written.
const MAX_DIGITS: usize = 17;

/// What the values of a column are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::source) enum ColumnKind {
    /// No value yet.
    Null,
    Bool,
    /// A whole number that a double holds exactly.
    Int,
    /// A whole number of 64 bits.
    LongInt,
    Float,
    Date,
    Timestamp,
    TimestampNtz,
    Text,
    List(Box<ColumnKind>),
    /// Fields in the order in which they were met.
    Struct(Vec<(String, ColumnKind)>),
}

/// ColumnKinds of columns by name.
pub(in crate::source) type ColumnKinds = BTreeMap<String, ColumnKind>;

/// A value of a text cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CellValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970.
    Timestamp(i64),
    TimestampNtz(i64),
    Text,
}

/// Whether a column's kind comes from the job, from files read before, or from the file itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KindOrigin {
    Declared,
    Known,
    Inferred,
}

impl From<ColumnType> for ColumnKind {
    fn from(declared: ColumnType) -> Self {
        match declared {
            ColumnType::String => ColumnKind::Text,
            ColumnType::Int => ColumnKind::LongInt,
            ColumnType::Float => ColumnKind::Float,
            ColumnType::Bool => ColumnKind::Bool,
            ColumnType::Date => ColumnKind::Date,
            ColumnType::Timestamp => ColumnKind::Timestamp,
            ColumnType::TimestampNtz => ColumnKind::TimestampNtz,
        }
    }
}

impl ColumnKind {
    /// Returns the type of a column of this kind. A column without a value is text.
    pub(super) fn data_type(&self) -> DataType {
        match self {
            ColumnKind::Null | ColumnKind::Text => DataType::Utf8,
            ColumnKind::Bool => DataType::Boolean,
            ColumnKind::Int | ColumnKind::LongInt => DataType::Int64,
            ColumnKind::Float => DataType::Float64,
            ColumnKind::Date => DataType::Date32,
            ColumnKind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ColumnKind::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
            ColumnKind::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type(), true))),
            ColumnKind::Struct(fields) if is_text(fields) => DataType::Utf8,
            ColumnKind::Struct(fields) => DataType::Struct(
                fields
                    .iter()
                    .map(|(name, kind)| Field::new(name, kind.data_type(), true))
                    .collect::<Fields>(),
            ),
        }
    }

    /// Returns a description for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            ColumnKind::Null | ColumnKind::Text => "text",
            ColumnKind::Bool => "true or false",
            ColumnKind::Int | ColumnKind::LongInt => "a whole number of 64 bits",
            ColumnKind::Float => "a number that 64 bits hold",
            ColumnKind::Date => "a day like 2026-05-01",
            ColumnKind::Timestamp => "a time with its zone, like 2026-05-01T08:00:00Z",
            ColumnKind::TimestampNtz => "a time without a zone, like 2026-05-01T08:00:00",
            ColumnKind::List(_) => "a list of the values that it had",
            ColumnKind::Struct(_) => "an object of the fields that it had",
        }
    }

    /// Returns the kind that holds the values of both: text, if no narrower one does.
    #[must_use]
    pub(super) fn join(self, other: ColumnKind) -> ColumnKind {
        match (self, other) {
            (ColumnKind::Null, kind) | (kind, ColumnKind::Null) => kind,
            (ColumnKind::Int, ColumnKind::LongInt) | (ColumnKind::LongInt, ColumnKind::Int) => {
                ColumnKind::LongInt
            }
            (ColumnKind::Int, ColumnKind::Float) | (ColumnKind::Float, ColumnKind::Int) => ColumnKind::Float,
            (ColumnKind::List(a), ColumnKind::List(b)) => ColumnKind::List(Box::new(a.join(*b))),
            (ColumnKind::Struct(mut fields), ColumnKind::Struct(others)) => {
                for (name, kind) in others {
                    match fields.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = std::mem::replace(known, ColumnKind::Null).join(kind),
                        None => fields.push((name, kind)),
                    }
                }
                ColumnKind::Struct(fields)
            }
            (a, b) if a == b => a,
            _ => ColumnKind::Text,
        }
    }

    /// Reads a cell of a column of this kind; `None` if it is of another one. Blank cells are null.
    pub(super) fn read(&self, text: &str, origin: KindOrigin) -> Option<CellValue> {
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() {
            return Some(CellValue::Null);
        }
        if origin == KindOrigin::Declared
            && let Some(cell) = self.read_declared(trimmed)
        {
            return Some(cell);
        }
        match self {
            ColumnKind::Text => Some(CellValue::Text),
            ColumnKind::Int | ColumnKind::LongInt => int(trimmed).map(CellValue::Int),
            ColumnKind::Float => match int(trimmed) {
                #[expect(clippy::cast_precision_loss, reason = "a double holds it exactly")]
                Some(number) if number.unsigned_abs() <= MAX_EXACT => Some(CellValue::Float(number as f64)),
                Some(_) => None,
                None => float(trimmed).map(CellValue::Float),
            },
            ColumnKind::Bool => boolean(trimmed).map(CellValue::Bool),
            ColumnKind::Date => date(trimmed).map(CellValue::Date),
            ColumnKind::Timestamp | ColumnKind::TimestampNtz => match (time(trimmed)?, self) {
                (cell @ CellValue::Timestamp(_), ColumnKind::Timestamp)
                | (cell @ CellValue::TimestampNtz(_), ColumnKind::TimestampNtz) => Some(cell),
                _ => None,
            },
            ColumnKind::Null | ColumnKind::List(_) | ColumnKind::Struct(_) => None,
        }
    }

    /// Reads a cell of a column whose type the job states: also numbers that begin with zeros or a plus sign.
    fn read_declared(&self, text: &str) -> Option<CellValue> {
        match self {
            ColumnKind::LongInt => text.parse().ok().map(CellValue::Int),
            ColumnKind::Float => {
                text.parse().ok().filter(|number: &f64| number.is_finite()).map(CellValue::Float)
            }
            ColumnKind::Bool if text == "1" => Some(CellValue::Bool(true)),
            ColumnKind::Bool if text == "0" => Some(CellValue::Bool(false)),
            _ => None,
        }
    }

    /// Returns the narrowest kind of a cell's text.
    pub(super) fn of(text: &str) -> ColumnKind {
        let text = text.trim_ascii();
        match text.as_bytes().first() {
            None => ColumnKind::Null,
            Some(b'0'..=b'9' | b'-' | b'.') => match int(text) {
                Some(number) => ColumnKind::of_int(number),
                None if float(text).is_some() => ColumnKind::Float,
                None if date(text).is_some() => ColumnKind::Date,
                None => match time(text) {
                    Some(CellValue::Timestamp(_)) => ColumnKind::Timestamp,
                    Some(_) => ColumnKind::TimestampNtz,
                    None => ColumnKind::Text,
                },
            },
            Some(b't' | b'T' | b'f' | b'F') if boolean(text).is_some() => ColumnKind::Bool,
            Some(_) => ColumnKind::Text,
        }
    }

    /// Returns the kind of a whole number.
    pub(super) fn of_int(number: i64) -> ColumnKind {
        if number.unsigned_abs() <= MAX_EXACT { ColumnKind::Int } else { ColumnKind::LongInt }
    }
}

/// Whether an object of these fields is carried as text: Parquet has no structs without fields, and Delta none in which
/// names differ in nothing but capital letters.
pub(super) fn is_text(fields: &[(String, ColumnKind)]) -> bool {
    let names: HashSet<String> = fields.iter().map(|(name, _)| name.to_lowercase()).collect();
    fields.is_empty() || names.len() < fields.len()
}

/// Reads a whole number that is written as programs write it: no leading zeros, no plus sign.
fn int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let is_plain = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if is_plain { text.parse().ok() } else { None }
}

/// Reads a number with a fraction or an exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    let count = whole.trim_start_matches('0').len() + fraction.len();
    let has_digits = !(whole.is_empty() && fraction.is_empty()) && digits(whole) && digits(fraction);
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    let is_float = mantissa.len() > whole.len() || exponent.is_some();
    if !is_float || !has_digits || has_leading_zero || count > MAX_DIGITS {
        return None;
    }
    if exponent.is_some_and(|exponent| exponent.is_empty() || !digits(exponent)) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match () {
        () if text.eq_ignore_ascii_case("true") => Some(true),
        () if text.eq_ignore_ascii_case("false") => Some(false),
        () => None,
    }
}

/// Reads the number that some digits make.
fn number(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0_u32, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

/// Reads a day of the form 2026-05-01 as days since 1970.
fn date(text: &str) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text.as_bytes() else { return None };
    let year = i32::try_from(number(&[y1, y2, y3, y4])?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, number(&[m1, m2])?, number(&[d1, d2])?)?;
    Some(day.to_epoch_days())
}

/// Reads a day and time of the forms of ISO 8601, with `T` or a space between them, as microseconds since 1970.
fn time(text: &str) -> Option<CellValue> {
    let (day, rest) = text.split_at_checked(10)?;
    let day = i64::from(date(day)?);
    let rest = rest.strip_prefix(['T', ' '])?;
    let end = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at_checked(end)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let (hours, minutes, seconds) = match *clock.as_bytes() {
        [h1, h2, b':', m1, m2] if fraction.is_empty() => (number(&[h1, h2])?, number(&[m1, m2])?, 0),
        [h1, h2, b':', m1, m2, b':', s1, s2] => (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 || seconds > 59 || fraction.len() > 6 {
        return None;
    }
    let micros = i64::from(number(format!("{fraction:0<6}").as_bytes())?);
    let seconds = day * 86_400 + i64::from(hours * 3_600 + minutes * 60 + seconds);
    let micros_of = |seconds: i64| seconds * 1_000_000 + micros;
    let offset = |h: &[u8], m: &[u8]| Some(i64::from(number(h)? * 3_600 + number(m)? * 60));
    let offset = match *zone.as_bytes() {
        [] => return Some(CellValue::TimestampNtz(micros_of(seconds))),
        [b'Z'] => 0,
        [b'+', h1, h2, b':', m1, m2] | [b'+', h1, h2, m1, m2] => offset(&[h1, h2], &[m1, m2])?,
        [b'-', h1, h2, b':', m1, m2] | [b'-', h1, h2, m1, m2] => -offset(&[h1, h2], &[m1, m2])?,
        [b'+', h1, h2] => offset(&[h1, h2], b"0")?,
        [b'-', h1, h2] => -offset(&[h1, h2], b"0")?,
        _ => return None,
    };
    Some(CellValue::Timestamp(micros_of(seconds - offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_narrowest_kind_that_gives_it_back() {
        for (text, kind) in [
            ("", ColumnKind::Null),
            (" ", ColumnKind::Null),
            ("0", ColumnKind::Int),
            ("-12", ColumnKind::Int),
            (" 7", ColumnKind::Int),
            ("9007199254740993", ColumnKind::LongInt),
            ("9223372036854775808", ColumnKind::Text),
            ("007", ColumnKind::Text),
            ("-0", ColumnKind::Text),
            ("+1", ColumnKind::Text),
            ("1.50", ColumnKind::Float),
            (".5", ColumnKind::Float),
            ("1e3", ColumnKind::Float),
            ("00.5", ColumnKind::Text),
            ("0.12345678901234567890", ColumnKind::Text),
            ("1.2.3", ColumnKind::Text),
            ("e", ColumnKind::Text),
            ("1e", ColumnKind::Text),
            ("1e999", ColumnKind::Text),
            ("TRUE", ColumnKind::Bool),
            ("NaN", ColumnKind::Text),
            ("2026-05-01", ColumnKind::Date),
            ("2026-02-30", ColumnKind::Text),
            ("01.05.2026", ColumnKind::Text),
            ("2026-05-01 08:00", ColumnKind::TimestampNtz),
            ("2026-05-01T08:00:00.123456", ColumnKind::TimestampNtz),
            ("2026-05-01T08:00:00.1234567", ColumnKind::Text),
            ("2026-05-01T08:00:00+02:00", ColumnKind::Timestamp),
            ("2026-05-01T24:00:00Z", ColumnKind::Text),
            ("ünïcödé 1", ColumnKind::Text),
            ("2026-05-0é 08:00", ColumnKind::Text),
        ] {
            assert_eq!(ColumnKind::of(text), kind, "{text:?}");
            if kind != ColumnKind::Null {
                assert!(kind.read(text, KindOrigin::Known).is_some(), "{text:?} is read as what it is");
            }
        }
        let read = |kind: ColumnKind, text: &str| kind.read(text, KindOrigin::Known);
        assert_eq!(read(ColumnKind::Timestamp, "1970-01-01T01:00:00+01:00"), Some(CellValue::Timestamp(0)));
        assert_eq!(
            read(ColumnKind::TimestampNtz, "1970-01-02 00:00:00.5"),
            Some(CellValue::TimestampNtz(86_400_500_000))
        );
        assert_eq!(read(ColumnKind::Date, "1969-12-31"), Some(CellValue::Date(-1)));
        assert_eq!(read(ColumnKind::Int, "007"), None, "zeros are not dropped in silence");
        assert_eq!(ColumnKind::LongInt.read("007", KindOrigin::Declared), Some(CellValue::Int(7)));
    }

    #[test]
    fn two_kinds_have_the_narrowest_that_holds_both() {
        let (long, date) = (ColumnKind::LongInt, ColumnKind::Date);
        for (a, b, expected) in [
            (ColumnKind::Null, date.clone(), date.clone()),
            (ColumnKind::Int, ColumnKind::Float, ColumnKind::Float),
            (ColumnKind::Int, long.clone(), long.clone()),
            (long, ColumnKind::Float, ColumnKind::Text),
            (date, ColumnKind::TimestampNtz, ColumnKind::Text),
            (ColumnKind::Timestamp, ColumnKind::TimestampNtz, ColumnKind::Text),
            (
                ColumnKind::List(Box::new(ColumnKind::Int)),
                ColumnKind::List(Box::new(ColumnKind::Text)),
                ColumnKind::List(Box::new(ColumnKind::Text)),
            ),
        ] {
            assert_eq!(a.clone().join(b.clone()), expected);
            assert_eq!(b.join(a), expected);
        }
    }
}
