//! Reads one number from a file's statistics without building the rest, since tables have many files.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Returns the integer at a path of names in a JSON object; `None` if there is none.
pub(super) fn integer_at(json: &str, path: &[&str]) -> Option<i64> {
    At(path).deserialize(&mut serde_json::Deserializer::from_str(json)).ok().flatten()
}

struct At<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<i64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => Option::deserialize(deserializer),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Option<i64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(is_next) = map.next_key_seed(Named(self.0.first().copied().unwrap_or_default()))? {
            if is_next {
                found = map.next_value_seed(At(self.0.get(1..).unwrap_or_default()))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Determines whether a key has this name.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Named<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::integer_at;

    #[test]
    fn a_number_is_found_by_its_path_alone() {
        let path = ["maxValues", "_en\"rich", "error_count"];
        let stats = |most: &str| {
            format!(
                r#"{{"numRecords":3,"minValues":{{"error_count":7}},"maxValues":{most},"nullCount":{{}}}}"#
            )
        };
        let found = |most: &str| integer_at(&stats(most), &path);
        assert_eq!(found(r#"{"text":"a","_en\"rich":{"x":[1],"error_count":2}}"#), Some(2));
        assert_eq!(found(r#"{"_en\"rich":{"error_count":0}}"#), Some(0));
        for none in [
            r#"{"error_count":0}"#,
            r#"{"_en\"rich":{"error_count":null}}"#,
            r#"{"_en\"rich":{"error_count":"0"}}"#,
            r#"{"_en\"rich":0}"#,
            "null",
            "{",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
        assert_eq!(integer_at("", &path), None);
    }
}
