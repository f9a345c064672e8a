//! Embeddings: vectors that depend on the text alone.

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::tokens_of;
use super::api_kind::ApiKind;
use super::gate::{GateRequest, bill, known, pass, read};
use super::malformed::spoil_embeddings;
use super::reply::{ErrorReply, add, invalid, success, usage};
use super::state::ServerShared;
use super::tiers::AnsweringTier;
use crate::config::{MOST_DIMENSIONS, SimulatorSpec, WrongForm};
use crate::ident::Fingerprint;

const DIMENSIONS: u32 = 8;
const MAX_INPUTS: u32 = 2_048;
const MAX_INPUT_TOKENS: u32 = 8_192;

#[derive(Debug, Deserialize)]
struct ReceivedTexts {
    model: String,
    input: EmbeddingInput,
    encoding_format: Option<VectorFormat>,
    dimensions: Option<u32>,
    service_tier: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum EmbeddingInput {
    One(String),
    Many(Vec<String>),
    /// A text as a list of token ids.
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VectorFormat {
    #[default]
    Float,
    /// 32-bit floats, little-endian, in base64.
    Base64,
}

impl EmbeddingInput {
    /// The texts to embed. Token ids become a text of numbers.
    fn into_texts(self) -> Vec<String> {
        let words = |tokens: Vec<u32>| -> String {
            tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        match self {
            EmbeddingInput::One(text) => vec![text],
            EmbeddingInput::Many(texts) => texts,
            EmbeddingInput::Tokens(tokens) => vec![words(tokens)],
            EmbeddingInput::ManyTokens(all) => all.into_iter().map(words).collect(),
        }
    }
}

/// The embedding of a text: a vector of length 1.
#[must_use]
pub fn embedding_of(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = seed(text);
    let drawn: Vec<f64> = (0..dimensions).map(|_| next(&mut state)).collect();
    let length = drawn.iter().map(|number| number * number).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "embeddings have so many digits")]
    let narrow = |number: f64| (number / length) as f32;
    drawn.into_iter().map(narrow).collect()
}

fn seed(text: &str) -> u64 {
    let bytes = Fingerprint::of([text.as_bytes()]).to_bytes();
    u64::from_le_bytes(bytes[..8].try_into().expect("a fingerprint has sixteen bytes"))
}

/// Advances the state and returns a number from -1 to less than 1 (SplitMix64: Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014).
fn next(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    #[expect(clippy::cast_precision_loss, reason = "52 bits and a sign are enough")]
    let number = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 52) as f64;
    number - 1.0
}

/// Answers an embeddings request, or refuses it.
pub(super) async fn answer(
    shared: &ServerShared,
    api: ApiKind<'_>,
    body: &[u8],
) -> Result<Response, ErrorReply> {
    let spec = &shared.spec;
    let request: ReceivedTexts = read(shared, body)?;
    let inputs = request.input.into_texts();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let prompt = inputs.join("\n");
    let (number, nth) = shared.lock().counts.count_request(&prompt, api);
    let question = GateRequest {
        number,
        prompt: &prompt,
        texts: &inputs,
        nth,
        prompt_tokens: inputs.iter().map(|input| tokens_of(input)).sum(),
        max_tokens: None,
    };
    known(shared, api, &request.model)?;
    check_inputs(spec, &inputs)?;
    let dimensions = dimensions(spec, request.dimensions)?;
    let tier =
        AnsweringTier::of(shared, api, question.prompt, question.nth, request.service_tier.as_deref())?;
    let wrong = pass(shared, api, &question).await?.and_then(|fault| fault.wrong);
    let encoding = request.encoding_format.unwrap_or_default();
    let mut data =
        embed(&inputs, dimensions + usize::from(wrong == Some(WrongForm::OtherDimension)), encoding);
    if let Some(wrong) = wrong {
        spoil_embeddings(&mut data, wrong);
    }
    let bill = bill(shared, &question, 0, &inputs, tier);
    let mut body = json!({
        "object": "list",
        "model": request.model,
        "data": data,
        "usage": usage(question.prompt_tokens, None, bill.cost),
    });
    if let Some(tier) = tier.stated {
        body["service_tier"] = tier.into();
    }
    let mut response = success(body.to_string());
    add(&mut response, bill.headers);
    Ok(response)
}

fn check_inputs(spec: &SimulatorSpec, inputs: &[&str]) -> Result<(), ErrorReply> {
    let wrong = |code: &str, message: &str| Err(invalid(code, message, Some("input")));
    let most = spec.max_inputs.unwrap_or(MAX_INPUTS) as usize;
    if inputs.is_empty() {
        return wrong("invalid_request_error", "Invalid value: 'input' is an empty list.");
    }
    if inputs.len() > most {
        let message = format!("Invalid value: 'input' has {} entries; {most} is the most.", inputs.len());
        return wrong("invalid_request_error", &message);
    }
    if let Some(at) = inputs.iter().position(|input| input.is_empty()) {
        return wrong("invalid_request_error", &format!("Invalid value: 'input[{at}]' is empty."));
    }
    let most = spec.max_input_tokens.unwrap_or(MAX_INPUT_TOKENS).into();
    match inputs.iter().map(|input| tokens_of(input)).enumerate().find(|(_, tokens)| *tokens > most) {
        Some((at, tokens)) => wrong(
            "context_length_exceeded",
            &format!(
                "This model's maximum context length is {most} tokens. However, 'input[{at}]' has {tokens}. \
                 Please reduce its length."
            ),
        ),
        None => Ok(()),
    }
}

/// Numbers per vector: the request's `dimensions`, else the job's, else the default.
fn dimensions(spec: &SimulatorSpec, requested: Option<u32>) -> Result<usize, ErrorReply> {
    match requested.or(spec.dimensions).unwrap_or(DIMENSIONS) {
        known @ 1..=MOST_DIMENSIONS => Ok(known as usize),
        other => {
            let message = format!("Invalid value: 'dimensions' is {other}.");
            Err(invalid("invalid_request_error", &message, Some("dimensions")))
        }
    }
}

fn embed(inputs: &[&str], dimensions: usize, encoding: VectorFormat) -> Vec<Value> {
    let item = |(index, input): (usize, &&str)| {
        let vector = embedding_of(input, dimensions);
        let embedding = match encoding {
            VectorFormat::Float => json!(vector),
            VectorFormat::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                STANDARD.encode(bytes).into()
            }
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    inputs.iter().enumerate().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_depend_on_the_text_alone() {
        for dimensions in [1, 2, 8, 1_536] {
            let vector = embedding_of("Row 1", dimensions);
            assert_eq!(vector.len(), dimensions);
            assert_eq!(vector, embedding_of("Row 1", dimensions));
            let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
            assert!((length - 1.0).abs() < 1e-6, "{length}");
        }
        assert_ne!(embedding_of("Row 1", 8), embedding_of("Row 2", 8));
        let mean = embedding_of("Row 1", 10_000).iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.001, "numbers lean to one side: {mean}");
    }

    #[test]
    fn both_encodings_hold_the_same_numbers() {
        let expected = embedding_of("Row 1", 16);
        let as_json = embed(&["Row 1"], 16, VectorFormat::Float).remove(0).to_string();
        let read: Value = serde_json::from_str(&as_json).unwrap();
        let floats: Vec<f32> = serde_json::from_value(read["embedding"].clone()).unwrap();
        assert_eq!(floats, expected);
        let encoded = embed(&["Row 1"], 16, VectorFormat::Base64).remove(0);
        let bytes = STANDARD.decode(encoded["embedding"].as_str().unwrap()).unwrap();
        let numbers: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(numbers, expected);
    }
}
