//! Embeddings: splits the response to several texts into one response for each, and reads the numbers of a vector.
//!
//! Source: the OpenAI API reference, "Embeddings": `data[].index` is the position of the text, and base64 holds
//! 32-bit floats, little-endian.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use crate::fault::{Class, Failure};
use crate::wire::{ChatResponse, Vector};

/// Splits the response to several texts into one response for each, as if each text had been sent alone. Usage is
/// divided in proportion to `bytes`, the sizes of the texts. The entry of a text without a vector is `None`.
///
/// # Errors
/// When it is unclear which vector belongs to which text, with class `invalid_response`.
pub fn share(response: &ChatResponse, bytes: &[usize]) -> Result<Vec<Option<Bytes>>, Failure> {
    let wrong = |what: String| Failure::new(Class::InvalidResponse, what);
    let mut vectors: Vec<Option<&Vector>> = vec![None; bytes.len()];
    // Some servers send index 0 for every vector. The vectors are in order then.
    let says_nothing = response.data.len() == bytes.len()
        && response.data.len() > 1
        && response.data.iter().all(|item| item.index == Some(0));
    for (at, item) in response.data.iter().enumerate() {
        let index =
            item.index.filter(|_| !says_nothing).map_or(Some(at), |index| usize::try_from(index).ok());
        let place = index.and_then(|index| vectors.get_mut(index));
        let place = place.ok_or_else(|| {
            let index = item.index.map_or_else(|| "none".to_owned(), |index| index.to_string());
            wrong(format!("the index of a vector is {index}, and {} texts were sent", bytes.len()))
        })?;
        if place.is_some() {
            return Err(wrong(format!("two vectors have the index {}", index.unwrap_or_default())));
        }
        *place = item.embedding.as_ref();
    }
    if vectors.iter().all(Option::is_none) {
        return Err(wrong("the answer has no vectors".to_owned()));
    }
    let facts = super::facts(response);
    let weights: Vec<u64> = bytes
        .iter()
        .zip(&vectors)
        .map(|(bytes, vector)| if vector.is_some() { *bytes as u64 + 1 } else { 0 })
        .collect();
    let tokens = facts.tokens.map(|tokens| portions(tokens.prompt, &weights));
    let cost = facts.cost.map(|cost| portions(cost.get(), &weights));
    let model = json!(response.model);
    let tier = response.service_tier.as_ref();
    let tier = tier.map_or_else(String::new, |tier| format!(",\"service_tier\":{}", json!(tier)));
    let own = |(at, vector): (usize, Option<&Vector>)| {
        let vector = match vector? {
            Vector::Base64(text) => json!(text).to_string(),
            // A third of the bytes.
            Vector::Numbers(numbers) => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                format!("\"{}\"", STANDARD.encode(bytes))
            }
            Vector::Other => "false".to_owned(),
        };
        let mut usage = serde_json::Map::new();
        if let Some(tokens) = &tokens {
            usage.insert("prompt_tokens".into(), tokens[at].into());
            usage.insert("total_tokens".into(), tokens[at].into());
        }
        if let Some(cost) = &cost {
            usage.insert("cost".into(), crate::ident::Money::picodollars(cost[at]).dollars().into());
        }
        let usage = json!(usage);
        let body = format!(
            r#"{{"model":{model},"data":[{{"index":0,"embedding":{vector}}}],"usage":{usage}{tier}}}"#
        );
        Some(Bytes::from(body))
    };
    Ok(vectors.into_iter().enumerate().map(own).collect())
}

/// Divides a sum into whole portions in proportion to the weights. They add up to the sum.
fn portions(sum: u64, weights: &[u64]) -> Vec<u64> {
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut before: u128 = 0;
    let upto = |weight: u128| (u128::from(sum) * weight).checked_div(all).unwrap_or_default();
    let portion = weights.iter().map(|weight| {
        let from = upto(before);
        before += u128::from(*weight);
        u64::try_from(upto(before) - from).unwrap_or(u64::MAX)
    });
    portion.collect()
}

/// The numbers of the vector in a response.
///
/// # Errors
/// When there is no vector, or it does not consist of finite numbers.
pub(super) fn vector(response: &ChatResponse) -> Result<Vec<f32>, Failure> {
    let wrong = |what: &str| Failure::new(Class::InvalidResponse, what);
    let vector = response.data.first().and_then(|item| item.embedding.as_ref());
    let numbers = match vector.ok_or_else(|| wrong("the answer has no vector"))? {
        Vector::Base64(text) => {
            let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len().is_multiple_of(4));
            let of_four = |bytes: Vec<u8>| {
                let (fours, _) = bytes.as_chunks::<4>();
                fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
            };
            bytes.map(of_four)
        }
        Vector::Numbers(numbers) => Some(numbers.clone()),
        Vector::Other => None,
    };
    numbers
        .filter(|numbers| !numbers.is_empty() && numbers.iter().all(|number| number.is_finite()))
        .ok_or_else(|| wrong("the vector is neither a list of numbers nor such a list in base64"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{facts, parse};

    #[test]
    fn each_text_gets_its_vector_and_its_share_of_what_was_used() {
        let body = br#"{"model":"m","data":[{"index":2,"embedding":[0.5,-1]},{"index":0,"embedding":"AACAPwAAAEA="}],
            "usage":{"prompt_tokens":10,"total_tokens":10,"cost":0.00001}}"#;
        let shares = share(&parse(body).unwrap(), &[10, 500, 30]).unwrap();
        assert!(shares[1].is_none(), "the second text has no vector, and nothing was used for it");
        let read = |at: usize| parse(shares[at].as_ref().unwrap()).unwrap();
        assert_eq!(vector(&read(0)).unwrap(), [1.0, 2.0]);
        assert_eq!(vector(&read(2)).unwrap(), [0.5, -1.0]);
        let used = [0, 2].map(|at| facts(&read(at)));
        assert_eq!(used.iter().map(|facts| facts.tokens.unwrap().total()).sum::<u64>(), 10);
        assert_eq!(used.iter().map(|facts| facts.cost.unwrap().get()).sum::<u64>(), 10_000_000);
        assert_eq!(used[0].tokens.unwrap().prompt, 2);
    }

    #[test]
    fn vectors_that_nobody_can_assign_are_no_answer() {
        let of = |data: &str| share(&parse(format!("{{\"data\":{data}}}").as_bytes()).unwrap(), &[1, 1]);
        let failure = |data: &str| of(data).unwrap_err().detail;
        assert_eq!(
            failure(r#"[{"index":1,"embedding":[1]},{"index":1,"embedding":[2]}]"#),
            "two vectors have the index 1"
        );
        assert!(failure(r#"[{"index":2,"embedding":[1]}]"#).contains("is 2, and 2 texts"));
        assert_eq!(failure("[]"), "the answer has no vectors");
        assert!(
            of(r#"[{"embedding":[1]},{"embedding":[2]}]"#).unwrap().iter().all(Option::is_some),
            "by their order"
        );
        let nested = br#"{"data":[{"index":0,"embedding":[[0.5,-1]]}]}"#;
        assert_eq!(vector(&parse(nested).unwrap()).unwrap(), [0.5, -1.0]);
        for bad in ["[[1],[2]]", "[]", "\"AAA\"", "[\"a\"]", "{}", "\"AADAfw==\"", "null"] {
            let body = format!("{{\"data\":[{{\"embedding\":{bad}}}]}}");
            assert!(vector(&parse(body.as_bytes()).unwrap()).is_err(), "{bad}");
        }
    }
}
