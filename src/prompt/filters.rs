//! Template filters beyond Jinja's: JSON, dates, and texts cut to a number of characters or tokens.

use std::fmt::Write;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::config::nearest;
use crate::tokens::tokenizer::Encoding;

/// Adds the filters to an environment.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", to_json);
    environment.add_filter("date", date);
    environment.add_filter("truncate", truncate);
    environment.add_filter("truncate_tokens", truncate_tokens);
}

/// Names of all filters: those added here and those of minijinja.
const KNOWN: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "date",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
];
const KNOWN_TOO: [&str; 5] = ["truncate_tokens", "unique", "upper", "urlencode", "zip"];

/// Returns the filter that was probably meant, if the error is about an unknown filter.
pub(super) fn meant(error: &Error) -> Option<&'static str> {
    if error.kind() != ErrorKind::UnknownFilter {
        return None;
    }
    let named = error.detail()?.strip_prefix("filter ")?.split_whitespace().next()?;
    nearest(named, KNOWN.into_iter().chain(KNOWN_TOO))
}

/// Cuts a text to at most `length` characters as Jinja does: at the end of a word, unless `killwords` is true, with
/// `end` (`...`) behind it. A text that is at most `leeway` characters longer stays whole. Null stays null.
fn truncate(
    value: &Value,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<&str>,
    leeway: Option<usize>,
) -> Result<Value, Error> {
    if value.is_none() {
        return Ok(value.clone());
    }
    let text = value.as_str().ok_or_else(|| wrong(format!("truncate: {value} is no text")))?;
    let (length, end) = (length.unwrap_or(255), end.unwrap_or("..."));
    if text.chars().count() <= length.saturating_add(leeway.unwrap_or(5)) {
        return Ok(value.clone());
    }
    let cut: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let whole = match killwords {
        Some(true) => cut.as_str(),
        _ => cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before),
    };
    Ok(Value::from(format!("{whole}{end}")))
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Returns a value as one line of JSON. Letters of all languages are written as they are, not as escapes.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| wrong(format!("tojson: {error}")))
}

/// Formats a date or a time with strftime: `date("%d %B %Y")`. The value is a text in the notation of a date or time
/// column, or of RFC 3339. Null stays null.
fn date(value: &Value, format: &str) -> Result<Value, Error> {
    if value.is_none() {
        return Ok(value.clone());
    }
    let text = value.as_str().ok_or_else(|| wrong(format!("date: {value} is no day and no time")))?;
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(wrong(format!("date: {format:?} is no format of dates")));
    }
    let time = moment(text).ok_or_else(|| wrong(format!("date: {text:?} is no day and no time")))?;
    let mut formatted = String::new();
    write!(formatted, "{}", time.format_with_items(items.iter()))
        .map_err(|_| wrong(format!("date: {format:?} asks for what {text:?} does not have")))?;
    Ok(Value::from(formatted))
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let time = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    time.or_else(day).map(|time| time.and_utc())
}

/// Cuts a text to at most `most` tokens of OpenAI's encoding `o200k_base`; other models count slightly differently.
/// Null stays null.
fn truncate_tokens(value: &Value, most: usize) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        let is_null = value.is_none();
        return if is_null {
            Ok(value.clone())
        } else {
            Err(wrong(format!("truncate_tokens: {value} is no text")))
        };
    };
    Encoding::usual()
        .cut(text, most)
        .map(Value::from)
        .map_err(|message| wrong(format!("truncate_tokens: {message}")))
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let mut environment = Environment::new();
        add(&mut environment);
        let row = context! {
            tags => vec!["ä \"b\"", "<c>"], day => "2026-02-03", time => "2026-02-03T04:05:06.123456",
            zoned => "2026-02-03T23:30:00-02:00", none => (), text => "tiktoken is great! ünïcödé 🦀🦀",
        };
        environment.render_str(template, row).map_err(|error| error.detail().unwrap_or_default().to_owned())
    }

    #[test]
    fn values_become_json_other_dates_and_shorter_texts() {
        for (template, rendered) in [
            ("{{ tags | tojson }}", r#"["ä \"b\"","<c>"]"#),
            ("{{ none | tojson }}", "null"),
            (r#"{{ day | date("%d.%m.%Y") }}"#, "03.02.2026"),
            (r#"{{ time | date("%-d %B, %H:%M") }}"#, "3 February, 04:05"),
            (r#"{{ zoned | date("%F %R") }}"#, "2026-02-04 01:30"),
            (r#"{{ none | date("%F") | tojson }}"#, "null"),
            ("{{ text | truncate(12) }}", "tiktoken..."),
            ("{{ text | truncate(12, true, '…') }}", "tiktoken is…"),
            ("{{ text | truncate(25) }}", "tiktoken is great! ünïcödé 🦀🦀"),
            ("{{ text | truncate_tokens(6) }}", "tiktoken is great!"),
            ("{{ text | truncate_tokens(0) }}", ""),
            ("{{ text | truncate_tokens(1000) }}", "tiktoken is great! ünïcödé 🦀🦀"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(rendered), "{template}");
        }
        for (template, expected) in [
            (r#"{{ text | date("%F") }}"#, "is no day and no time"),
            (r#"{{ day | date("%Q") }}"#, "\"%Q\" is no format of dates"),
            ("{{ tags | truncate_tokens(1) }}", "is no text"),
        ] {
            let error = render(template).unwrap_err();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
