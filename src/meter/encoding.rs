//! The tokens of a prompt, counted as the model counts them, where its encoding is known.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::get_tokenizer;

/// Tokens around each message, and before the answer, as OpenAI's cookbook counts them ("How to count tokens with
/// tiktoken").
const TOKENS_PER_MESSAGE: usize = 4;
const TOKENS_BEFORE_ANSWER: usize = 3;
/// Longer prompts are estimated: counting them would hold back the requests behind them (some 5 MB/s).
const MOST_BYTES: usize = 32 << 10;

/// How a model cuts text into tokens.
#[derive(Clone, Copy)]
pub struct Encoding(&'static CoreBPE);

impl std::fmt::Debug for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encoding").finish_non_exhaustive()
    }
}

impl Encoding {
    /// The encoding of a model, by its name with or without that of its maker ("openai/gpt-4o-mini"); none where it
    /// is not known.
    #[must_use]
    pub fn of(model: &str) -> Option<Self> {
        let name = model.rsplit('/').next().unwrap_or(model);
        let tokenizer = get_tokenizer(name)?;
        Some(Encoding(tiktoken_rs::bpe_for_tokenizer(tokenizer).ok()?))
    }

    /// The tokens of a conversation of these texts; none where it is too long to be counted in passing.
    #[must_use]
    pub fn count<'a>(self, texts: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
        if texts.clone().map(str::len).sum::<usize>() > MOST_BYTES {
            return None;
        }
        Some(self.count_all(texts))
    }

    /// The tokens of a conversation of these texts, however long.
    #[must_use]
    pub fn count_all<'a>(self, texts: impl Iterator<Item = &'a str>) -> usize {
        let count = |text| self.0.count_ordinary(text) + TOKENS_PER_MESSAGE;
        texts.map(count).sum::<usize>() + TOKENS_BEFORE_ANSWER
    }

    /// The encoding of OpenAI's newer models, for want of a model's own.
    #[must_use]
    pub fn usual() -> Self {
        Encoding(tiktoken_rs::o200k_base_singleton())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_where_the_encoding_is_known() {
        for model in ["gpt-4o-mini", "openai/gpt-4o-mini", "gpt-4", "o3-mini", "text-embedding-3-small"] {
            let encoding = Encoding::of(model).unwrap_or_else(|| panic!("{model}"));
            // The example of OpenAI's cookbook.
            assert_eq!(encoding.count(["tiktoken is great!"].into_iter()), Some(6 + 4 + 3), "{model}");
            let long = "a b ".repeat(MOST_BYTES);
            assert_eq!(encoding.count([long.as_str()].into_iter()), None);
        }
        for model in
            ["ministral-3b-2512", "meta-llama/llama-3.1-8b-instruct", "claude-sonnet-4-5", "simulated", ""]
        {
            assert!(Encoding::of(model).is_none(), "{model}");
        }
    }
}
