//! Reads JSON objects from texts that are not quite JSON, as some servers send them.

use serde_json::Value;

/// The JSON object at the beginning of a text; what follows it is ignored.
pub(super) fn object(text: &str) -> Option<Value> {
    let first = |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok();
    first(text).or_else(|| first(&mended(text))).filter(Value::is_object)
}

/// Replaces in a text what JSON does not allow: lone halves of surrogate pairs by U+FFFD, raw control characters by
/// their escapes, unknown escapes by an escaped backslash, NaN and infinities by null.
fn mended(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text.chars();
    let mut in_string = false;
    while let Some(next) = rest.next() {
        match next {
            '"' => {
                in_string = !in_string;
                mended.push(next);
            }
            '\\' if in_string => escape(&mut rest, &mut mended),
            control if in_string && control < ' ' => {
                mended.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            'N' | 'I' if !in_string => {
                let name: String = std::iter::once(next).chain(rest.clone()).take(8).collect();
                let length =
                    [("NaN", 3), ("Infinity", 8)].into_iter().find(|(known, _)| name.starts_with(known));
                match length {
                    Some((_, length)) => {
                        if mended.ends_with('-') {
                            mended.pop();
                        }
                        mended.push_str("null");
                        rest.by_ref().take(length - 1).for_each(drop);
                    }
                    None => mended.push(next),
                }
            }
            other => mended.push(other),
        }
    }
    mended
}

/// Reads what follows a backslash in a string, and appends a valid escape.
fn escape(rest: &mut std::str::Chars<'_>, mended: &mut String) {
    let unit = |rest: &mut std::str::Chars<'_>| {
        let digits: String = rest.clone().take(4).collect();
        let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4)?;
        rest.by_ref().take(4).for_each(drop);
        Some(unit)
    };
    match rest.next() {
        Some('u') => {
            let Some(first) = unit(rest) else {
                mended.push_str("\\\\u");
                return;
            };
            let mut ahead = rest.clone();
            let second = (0xd800..0xdc00)
                .contains(&first)
                .then(|| (ahead.next(), ahead.next()) == (Some('\\'), Some('u')))
                .filter(|is_escape| *is_escape)
                .and_then(|_| unit(&mut ahead))
                .filter(|second| (0xdc00..0xe000).contains(second));
            match (first, second) {
                (_, Some(second)) => {
                    *rest = ahead;
                    mended.push_str(&format!("\\u{first:04x}\\u{second:04x}"));
                }
                (0xd800..0xe000, None) => mended.push_str("\\ufffd"),
                (first, None) => mended.push_str(&format!("\\u{first:04x}")),
            }
        }
        Some(known @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            mended.push('\\');
            mended.push(known);
        }
        Some(other) => {
            mended.push_str("\\\\");
            mended.push(other);
        }
        None => {}
    }
}
