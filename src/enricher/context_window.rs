//! The context window of a provider's model: how long a prompt may be.

use crate::config::Params;
use crate::prompt::Question;
use crate::tokens::tokenizer::Encoding;

/// Share of the tokens that is left free if a model's encoding is not known: models differ by about that.
const MARGIN: f64 = 0.1;

/// Number of tokens that a model takes, prompt and answer together.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContextWindow {
    tokens: usize,
    encoding: Encoding,
}

impl ContextWindow {
    pub(super) fn new(tokens: u32, model: &str) -> Self {
        let tokens = tokens as usize;
        match Encoding::of(model) {
            Some(encoding) => ContextWindow { tokens, encoding },
            None => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a share of a number of tokens"
                )]
                let tokens = (tokens as f64 * (1.0 - MARGIN)) as usize;
                ContextWindow { tokens, encoding: Encoding::usual() }
            }
        }
    }

    /// Returns the number of tokens by which a question is too long, or 0 if it fits.
    pub(super) fn excess(&self, question: &Question, params: &Params) -> usize {
        let texts = question.messages().iter().map(|message| message.content.as_str());
        let texts = texts.chain(params.shape.as_ref().map(crate::config::Shape::text));
        let answer = params.max_tokens.unwrap_or_default() as usize;
        let capacity = self.tokens.saturating_sub(answer);
        // A token is at least one byte, so that a text has no more tokens than bytes.
        if texts.clone().map(str::len).sum::<usize>() + AROUND <= capacity {
            return 0;
        }
        let tokens = self.encoding.count_conversation(texts.clone());
        let is_near = tokens.abs_diff(capacity) <= capacity / 10;
        let tokens = if is_near { self.encoding.count_whole_conversation(texts) } else { tokens };
        tokens.saturating_sub(capacity)
    }
}

/// Upper bound on the tokens around the messages.
const AROUND: usize = 64;
