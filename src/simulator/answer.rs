//! The simulator's answers, and the reproducible draws behind its answers and faults.

use crate::ident::Fingerprint;

const WORDS: usize = 12;

/// The default answer to a prompt: the first words of its last non-empty line, and its unique mark.
#[must_use]
pub fn answer_to(prompt: &str) -> String {
    let last = prompt.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let words: Vec<&str> = last.split_whitespace().take(WORDS).collect();
    format!("In short: {} [{}]", words.join(" "), mark_of(prompt))
}

/// Eight hexadecimal digits that no other prompt shares.
pub(super) fn mark_of(prompt: &str) -> String {
    Fingerprint::of([prompt.as_bytes()]).to_string().chars().take(8).collect()
}

/// Chooses one of `answers`, always the same for a seed and a prompt. Returns an empty text if there are none.
#[must_use]
pub fn choose(answers: &[String], seed: u64, prompt: &str) -> String {
    let at = draw(answers.len(), chance(seed, "answer", prompt, 0));
    answers.get(at).cloned().unwrap_or_default()
}

/// An index below `count`, in proportion to `chance` (0 to less than 1).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few of them"
)]
pub(super) fn draw(count: usize, chance: f64) -> usize {
    (chance * count as f64) as usize
}

/// Bytes of text that count as one token.
pub(super) const BYTES_OF_TOKEN: u64 = 4;

/// Number of tokens of a text, estimated from its length.
pub(super) fn tokens_of(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_OF_TOKEN)
}

/// A number from 0 to less than 1 that depends on the arguments alone.
pub(super) fn chance(seed: u64, purpose: &str, prompt: &str, nth: u64) -> f64 {
    let print = Fingerprint::of([
        seed.to_le_bytes().as_slice(),
        purpose.as_bytes(),
        prompt.as_bytes(),
        nth.to_le_bytes().as_slice(),
    ]);
    let bytes: [u8; 8] = print.to_bytes()[..8].try_into().expect("a fingerprint has sixteen bytes");
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a chance")]
    let number = (u64::from_le_bytes(bytes) >> 11) as f64;
    number / (1_u64 << 53) as f64
}
