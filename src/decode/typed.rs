//! Turns the text of a typed answer into the JSON of its columns: validated, the fields in their order, every value
//! in the notation that its column reads.

use arrow::datatypes::{DataType, Fields};
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
use serde_json::{Map, Number, Value};

use crate::config::Shape;

/// Number of mistakes that are reported for one answer.
const MISTAKES: usize = 5;
/// Largest length of a reported mistake, in characters.
const MISTAKE_CHARS: usize = 300;

/// Reads an answer: a JSON object, reduced to the fields of the shape.
///
/// # Errors
/// When the answer is invalid: what is wrong with it, in words that a model can follow.
pub(super) fn read(text: &str, shape: &Shape) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON ({error})"))?;
    let mistakes: Vec<String> = shape
        .validator()
        .iter_errors(&value)
        .take(MISTAKES)
        .map(|error| {
            let mistake: String = error.to_string().chars().take(MISTAKE_CHARS).collect();
            match error.instance_path().as_str() {
                "" => mistake,
                path => format!("{path}: {mistake}"),
            }
        })
        .collect();
    if !mistakes.is_empty() {
        return Err(mistakes.join("; "));
    }
    let object = value.as_object().ok_or("it is no object")?;
    Ok(Value::Object(fields(object, shape.fields(), "")?).to_string())
}

fn fields(object: &Map<String, Value>, fields: &Fields, at: &str) -> Result<Map<String, Value>, String> {
    let named = fields.iter().map(|field| {
        let value = object.get(field.name()).unwrap_or(&Value::Null);
        let read = conform(value, field.data_type(), &format!("{at}/{}", field.name()))?;
        Ok((field.name().clone(), read))
    });
    named.collect()
}

/// A value in the notation in which a column of the type is read.
fn conform(value: &Value, data_type: &DataType, at: &str) -> Result<Value, String> {
    let wrong = |what: &str| format!("{at}: {value} {what}");
    Ok(match (data_type, value) {
        (_, Value::Null) => Value::Null,
        (DataType::Int64, Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| number.as_f64().and_then(whole));
            Value::from(whole.ok_or_else(|| wrong("is larger than an integer of 64 bits"))?)
        }
        (DataType::Float64, Value::Number(number)) => {
            let number = number.as_f64().and_then(Number::from_f64);
            Value::Number(number.ok_or_else(|| wrong("is larger than a number can be"))?)
        }
        (DataType::Date32, Value::String(text)) => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| wrong("is no date"))?;
            if !(1..=9_999).contains(&date.year()) {
                return Err(wrong("lies outside the years 1 to 9999"));
            }
            Value::from(date.to_string())
        }
        (DataType::Timestamp(..), Value::String(text)) => {
            let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong("is no moment"))?;
            // The offset may move the time outside the years of four digits.
            let is_far = !(1..=9_999).contains(&time.to_utc().year());
            if is_far {
                return Err(wrong("lies outside the years 1 to 9999 of UTC"));
            }
            Value::from(time.to_utc().to_rfc3339_opts(SecondsFormat::Micros, true))
        }
        (DataType::List(item), Value::Array(items)) => {
            let read = items.iter().enumerate();
            let read = read.map(|(nth, value)| conform(value, item.data_type(), &format!("{at}/{nth}")));
            Value::Array(read.collect::<Result<_, _>>()?)
        }
        (DataType::Struct(inner), Value::Object(object)) => Value::Object(fields(object, inner, at)?),
        (DataType::Utf8, Value::String(_)) | (DataType::Boolean, Value::Bool(_)) => value.clone(),
        (data_type, _) => return Err(wrong(&format!("is no {data_type}"))),
    })
}

/// A number without a fraction, as an integer.
fn whole(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Job;

    fn shape(step: &str) -> Shape {
        let text = format!(
            "app_id = \"a\"\nsource.path = \"s\"\ntarget.path = \"t\"\n[provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n\
             [[step]]\noutput = \"o\"\nprompt = \"p\"\n{step}"
        );
        let job = Job::parse(std::path::Path::new("job.toml"), &text, |_| None).unwrap();
        job.steps[0].params.shape.clone().unwrap()
    }

    #[test]
    fn an_answer_is_read_in_the_order_and_the_types_of_its_fields() {
        let shape = shape(
            "fields = { count = \"int\", share = \"float\", at = \"timestamp\", day = \"date?\", tags = \"[string]\", \
             who = { name = \"string\" } }",
        );
        let read = |text: &str| super::read(text, &shape);
        let answer = r#"{"who":{"name":"ü"},"tags":["a"],"day":null,"share":1,"at":"2026-01-01T01:00:00+01:00","count":3.0}"#;
        let expected = r#"{"count":3,"share":1.0,"at":"2026-01-01T00:00:00.000000Z","day":null,"tags":["a"],"who":{"name":"ü"}}"#;
        assert_eq!(read(answer).unwrap(), expected);
        assert_eq!(read(expected).unwrap(), expected, "what was read once is read the same again");
        let wrong = |from: &str, to: &str| read(&answer.replace(from, to)).unwrap_err();
        assert_eq!(wrong("3.0", "3.5"), "/count: 3.5 is not of type \"integer\"");
        assert_eq!(
            wrong("3.0", "9223372036854775808"),
            "/count: 9223372036854775808 is larger than an integer of 64 bits"
        );
        assert_eq!(wrong("[\"a\"]", "[1]"), "/tags/0: 1 is not of type \"string\"");
        assert!(wrong("\"count\"", "\"counts\"").contains("\"count\" is a required property"));
        assert!(wrong("2026-01-01T01", "2026-13-01T01").contains("is not a \"date-time\""));
        assert!(wrong("}", "").starts_with("it is no JSON (EOF"));
        // In UTC the year has five digits, which no reader of the column accepts.
        assert!(
            wrong("2026-01-01T01:00:00+01:00", "9999-12-31T23:59:59-05:00").contains("outside the years")
        );
        assert!(
            wrong("2026-01-01T01:00:00+01:00", "0001-01-01T00:00:00+01:00").contains("outside the years")
        );
        assert!(read("[1]").unwrap_err().contains("is not of type \"object\""));
    }

    #[test]
    fn what_a_schema_allows_and_no_column_holds_is_left_out() {
        let shape = shape("schema = { type = \"object\", properties = { a = { type = \"string\" } } }");
        assert_eq!(read(r#"{"b": 1}"#, &shape).unwrap(), r#"{"a":null}"#);
    }
}
