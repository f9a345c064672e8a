//! Splits text into tokens, as OpenAI's models do.
//!
//! Only pieces of a few kilobytes are passed to tiktoken-rs. It panics on a million white-space characters in a row,
//! because its regular expression exceeds its backtracking limit, and takes seconds for a long text without a space.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::get_tokenizer;

/// Tokens added for each message, and once before the answer, as OpenAI's cookbook counts them ("How to count tokens
/// with tiktoken").
const TOKENS_PER_MESSAGE: usize = 4;
const TOKENS_BEFORE_ANSWER: usize = 3;
/// Maximum prompt size in bytes for counting before a request: larger prompts would delay the requests behind them
/// (counting runs at some 5 MB/s).
const MOST_BYTES: usize = 32 << 10;
/// Maximum size of a piece for tiktoken, in bytes.
const PIECE_BYTES: usize = 4 << 10;
/// Text size in bytes above which only samples are counted.
const MOST_COUNTED_BYTES: usize = 128 << 10;
/// Number of samples of a text, and the bytes of one sample.
const SAMPLES: usize = 64;
const SAMPLE_BYTES: usize = 1 << 10;

/// Encoding of text into tokens.
#[derive(Clone, Copy)]
pub struct Encoding(&'static CoreBPE);

impl std::fmt::Debug for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encoding").finish_non_exhaustive()
    }
}

impl Encoding {
    /// Returns the encoding of a model, named with or without its maker ("openai/gpt-4o-mini"), or `None` if it is
    /// unknown.
    #[must_use]
    pub fn of(model: &str) -> Option<Self> {
        let name = model.rsplit('/').next().unwrap_or(model);
        let tokenizer = get_tokenizer(name)?;
        Some(Encoding(tiktoken_rs::bpe_for_tokenizer(tokenizer).ok()?))
    }

    /// Returns the encoding of OpenAI's newer models (`o200k_base`), for models whose own encoding is unknown.
    #[must_use]
    pub fn usual() -> Self {
        Encoding(tiktoken_rs::o200k_base_singleton())
    }

    /// Counts the tokens of a conversation, or returns `None` if it is longer than 32 KiB.
    #[must_use]
    pub fn count_short<'a>(self, texts: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
        let bytes: usize = texts.clone().map(str::len).sum();
        (bytes <= MOST_BYTES).then(|| self.count_conversation(texts))
    }

    /// Counts the tokens of a conversation, with long texts estimated as in [`Encoding::count`].
    #[must_use]
    pub fn count_conversation<'a>(self, texts: impl Iterator<Item = &'a str>) -> usize {
        texts.map(|text| self.count(text) + TOKENS_PER_MESSAGE).sum::<usize>() + TOKENS_BEFORE_ANSWER
    }

    /// Counts the tokens of a conversation exactly, at some 5 MB/s.
    #[must_use]
    pub fn count_whole_conversation<'a>(self, texts: impl Iterator<Item = &'a str>) -> usize {
        texts.map(|text| self.count_whole(text) + TOKENS_PER_MESSAGE).sum::<usize>() + TOKENS_BEFORE_ANSWER
    }

    /// Counts the tokens of a text exactly, at some 5 MB/s. For a text that has no space for some kilobytes the number is
    /// too high by about one in a thousand.
    #[must_use]
    pub fn count_whole(self, text: &str) -> usize {
        pieces(text).map(|piece| self.0.count_ordinary(piece)).sum()
    }

    /// Counts the tokens of a text. For a text longer than 128 KiB the number is estimated from samples. For a text
    /// that has no space for some kilobytes the number is too high by about one in a thousand.
    #[must_use]
    pub fn count(self, text: &str) -> usize {
        if text.len() <= MOST_COUNTED_BYTES {
            return self.count_whole(text);
        }
        let (mut bytes, mut tokens) = (0, 0);
        for sample in 0..SAMPLES {
            let from = text.floor_char_boundary(text.len() / SAMPLES * sample);
            let (_, rest) = text.split_at(from);
            let (piece, _) = rest.split_at(rest.floor_char_boundary(SAMPLE_BYTES.min(rest.len())));
            bytes += piece.len();
            tokens += self.0.count_ordinary(piece);
        }
        let ratio = u128::try_from(tokens * text.len()).unwrap_or(u128::MAX) / bytes.max(1) as u128;
        usize::try_from(ratio).unwrap_or(usize::MAX)
    }

    /// Returns the positions in bytes at which the tokens of a text end. Some may lie within a character.
    ///
    /// # Errors
    /// When tokens cannot be decoded.
    pub fn token_ends(self, text: &str) -> Result<Vec<usize>, String> {
        let mut ends = Vec::new();
        let mut end = 0;
        for token in pieces(text).flat_map(|piece| self.0.encode_ordinary(piece)) {
            end += self.0.decode_bytes(&[token]).map_err(|error| error.to_string())?.len();
            ends.push(end);
        }
        Ok(ends)
    }

    /// Returns the beginning of a text with at most `most` tokens. It does not end within a character.
    ///
    /// # Errors
    /// When tokens cannot be decoded.
    pub fn cut(self, text: &str, most: usize) -> Result<&str, String> {
        let mut end = 0;
        let mut left = most;
        for piece in pieces(text) {
            let tokens = self.0.encode_ordinary(piece);
            if let Some(kept) = tokens.get(..left).filter(|_| tokens.len() > left) {
                let kept = self.0.decode_bytes(kept).map_err(|error| error.to_string())?;
                // A token may end within a character.
                end += piece.floor_char_boundary(kept.len());
                break;
            }
            left -= tokens.len();
            end += piece.len();
        }
        Ok(text.split_at(end).0)
    }
}

/// Splits a text into pieces. A piece ends before a space that stands between a letter or digit and a letter, because
/// a token ends there in all encodings. If there is no such space in the second half of a piece of maximum size, it
/// ends between any two characters.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let (piece, rest) = text.split_at(end_of_piece(text));
        text = rest;
        Some(piece)
    })
}

fn end_of_piece(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let bytes = text.as_bytes();
    let is_between = |at: &usize| {
        bytes.get(at - 1..=at + 1).is_some_and(|around| {
            around[0].is_ascii_alphanumeric() && around[1] == b' ' && around[2].is_ascii_alphabetic()
        })
    };
    (PIECE_BYTES / 2..PIECE_BYTES)
        .rev()
        .find(is_between)
        .unwrap_or_else(|| text.floor_char_boundary(PIECE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_where_the_encoding_is_known() {
        for model in ["gpt-4o-mini", "openai/gpt-4o-mini", "gpt-4", "o3-mini", "text-embedding-3-small"] {
            let encoding = Encoding::of(model).unwrap_or_else(|| panic!("{model}"));
            // The example of OpenAI's cookbook.
            assert_eq!(encoding.count_short(["tiktoken is great!"].into_iter()), Some(6 + 4 + 3), "{model}");
            let long = "a b ".repeat(MOST_BYTES);
            assert_eq!(encoding.count_short([long.as_str()].into_iter()), None);
        }
        for model in
            ["ministral-3b-2512", "meta-llama/llama-3.1-8b-instruct", "claude-sonnet-4-5", "simulated", ""]
        {
            assert!(Encoding::of(model).is_none(), "{model}");
        }
    }

    /// Prose, code, numbers, other scripts, long words, and white space.
    fn texts() -> Vec<String> {
        let mut random = fastrand::Rng::with_seed(7);
        let word = |random: &mut fastrand::Rng| {
            let letters = random.usize(1..12);
            (0..letters).map(|_| random.alphabetic()).collect::<String>()
        };
        let prose: Vec<String> = (0..8_000).map(|_| word(&mut random)).collect();
        vec![
            prose.join(" "),
            "fn main() {\n    println!(\"{}\", 12345 + 67);\n}\n\n".repeat(400),
            "Le crabe 🦀 a dit : « ünïcödé ». 数千年来，人们 一直 在这里。 ".repeat(500),
            "3.14159, 2.71828;\t1,000,000 - 42%\r\n".repeat(800),
        ]
    }

    #[test]
    fn a_text_in_pieces_has_the_tokens_of_the_whole() {
        for model in ["gpt-4o", "gpt-4", "text-davinci-003"] {
            let encoding = Encoding::of(model).unwrap();
            for text in texts() {
                assert_eq!(pieces(&text).collect::<String>(), text);
                let whole = encoding.0.count_ordinary(&text);
                assert!(text.len() <= MOST_COUNTED_BYTES);
                let counted = encoding.count(&text);
                assert!(counted >= whole && counted - whole <= whole / 500, "{counted} of {whole}");
            }
            let prose = &texts()[0];
            assert_eq!(encoding.count(prose), encoding.0.count_ordinary(prose), "{model}");
        }
    }

    #[test]
    fn samples_of_a_long_text_come_close() {
        let encoding = Encoding::usual();
        for text in texts() {
            let text = text.repeat(20);
            let whole = encoding.count_whole(&text);
            let estimate = encoding.count(&text);
            assert!(whole.abs_diff(estimate) < whole / 25, "{estimate} of {whole}");
        }
    }

    #[test]
    fn no_text_is_too_long_or_too_odd_to_be_counted_and_cut() {
        let encoding = Encoding::usual();
        let million = 1 << 20;
        for text in [
            " ".repeat(million),
            "\n".repeat(million),
            "\t \r\n".repeat(million / 4),
            "a".repeat(million),
            "é".repeat(million / 2),
            format!("x{}x", " ".repeat(3 * million)),
        ] {
            assert!(encoding.count(&text) > 0);
            let cut = encoding.cut(&text, 1_000).unwrap();
            assert!(encoding.count(cut) <= 1_000 && text.starts_with(cut) && !cut.is_empty());
        }
    }

    #[test]
    fn a_text_is_cut_at_so_many_tokens_and_never_within_a_letter() {
        let text = "The crab 🦀 said: „ünïcödé“. ".repeat(3_000);
        let encoding = Encoding::usual();
        for most in [0, 1, 2, 3, 4, 5, 17, 400, 40_000] {
            let cut = encoding.cut(&text, most).unwrap();
            assert!(text.starts_with(cut) && encoding.0.count_ordinary(cut) <= most, "{most}: {cut}");
        }
        assert_eq!(encoding.cut(&text, 1_000_000), Ok(text.as_str()));
    }
}
