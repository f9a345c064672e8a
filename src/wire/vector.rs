//! The vector of a text in an embeddings response, as it may be sent.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A vector as a server sends it.
#[derive(Clone, Debug, PartialEq)]
pub enum Vector {
    /// A text, which should hold 32-bit floats, little-endian, in base64.
    Base64(String),
    /// A list of numbers. Some servers wrap it in a list of one.
    Numbers(Vec<f32>),
    /// Something that is no vector.
    Other,
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(ValueVisitor)? {
            JsonItem::Text(text) => Vector::Base64(text),
            JsonItem::List(numbers) => Vector::Numbers(numbers),
            JsonItem::Number(_) | JsonItem::Other => Vector::Other,
        })
    }
}

/// A JSON value, as far as a vector may have it.
enum JsonItem {
    Text(String),
    Number(f32),
    List(Vec<f32>),
    Other,
}

impl<'de> Deserialize<'de> for JsonItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = JsonItem;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of numbers, or such a list in base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<JsonItem, E> {
        Ok(JsonItem::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<JsonItem, E> {
        Ok(JsonItem::Text(text))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a target's vectors have 32-bit floats")]
    fn visit_f64<E: Error>(self, number: f64) -> Result<JsonItem, E> {
        Ok(JsonItem::Number(number as f32))
    }

    #[expect(clippy::cast_precision_loss, reason = "as for any number of a vector")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<JsonItem, E> {
        Ok(JsonItem::Number(number as f32))
    }

    #[expect(clippy::cast_precision_loss, reason = "as for any number of a vector")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<JsonItem, E> {
        Ok(JsonItem::Number(number as f32))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<JsonItem, E> {
        Ok(JsonItem::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<JsonItem, E> {
        Ok(JsonItem::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonItem, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(JsonItem::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JsonItem, A::Error> {
        let (mut numbers, mut only, mut others) = (Vec::new(), None, 0_usize);
        while let Some(item) = list.next_element::<JsonItem>()? {
            match item {
                JsonItem::Number(number) => numbers.push(number),
                JsonItem::List(list) => {
                    others += 1;
                    only = Some(list);
                }
                JsonItem::Text(_) | JsonItem::Other => others += 2,
            }
        }
        Ok(match (only, others) {
            (None, 0) => JsonItem::List(numbers),
            (Some(list), 1) if numbers.is_empty() => JsonItem::List(list),
            _ => JsonItem::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_in_every_form_and_nothing_else_is_one() {
        let of = |text: &str| serde_json::from_str::<Vector>(text).unwrap();
        assert_eq!(of("[0.5, -1, 3]"), Vector::Numbers(vec![0.5, -1.0, 3.0]));
        assert_eq!(of("[[0.5, -1]]"), Vector::Numbers(vec![0.5, -1.0]));
        assert_eq!(of("[]"), Vector::Numbers(Vec::new()));
        assert_eq!(of("[0.1]"), Vector::Numbers(vec![0.1]), "as parsed to 32 bits");
        assert_eq!(of("\"AACAPw==\""), Vector::Base64("AACAPw==".to_owned()));
        for bad in
            ["[[1],[2]]", "[1,[2]]", "[\"a\"]", "[null]", "[true]", "{}", "{\"a\":[1]}", "7", "true", "null"]
        {
            assert_eq!(of(bad), Vector::Other, "{bad}");
        }
        assert!(serde_json::from_str::<Vector>("[1,").is_err());
    }
}
