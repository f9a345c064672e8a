//! Judges a response, or its record in a journal: it gives the row its outcome, or the row is sent again. Nothing here
//! sends, journals or settles.

use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use super::compiled_step::CompiledStep;
use crate::config::{Form, Params, PriceTable};
use crate::decode::{self, Answer, Content, Reasoning};
use crate::event;
use crate::executor::{Earlier, Request};
use crate::fault::{Class, Failure, Policy};
use crate::ident::{Fingerprint, Money, Tokens};
use crate::journal::{self, JournalError, Record};
use crate::panics;
use crate::prompt::Question;
use crate::rows::{Outcome, RowResult};
use crate::wire::ChatResponse;
use crate::wording::counted;

/// What is known about a row before a request is sent.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub(super) enum PriorState {
    /// Nothing, or only answers that were not what the step asks for: a request is sent.
    Nothing(Request),
    /// Its outcome, and where that came from.
    Settled(Box<RowResult>, event::Origin),
    /// An answer that could not be read from a journal or written to one.
    Lost(JournalError),
    /// It waits for a row with the same question.
    Waits,
    /// Its request is in a submission that has not come back.
    Submitted,
}

impl PriorState {
    pub(super) fn without_request(outcome: Outcome) -> Self {
        PriorState::Settled(Box::new(RowResult::without_request(outcome)), event::Origin::NoRequest)
    }
}

/// What a response means for its row.
pub(super) enum Judged {
    /// The outcome of the row.
    Settled(Box<RowResult>),
    /// The row is sent again.
    Again(Again),
    /// Nothing: it cannot be read, and another answer is needed.
    Unread,
}

/// An answer that is not what the step asks for, and how the row is sent again.
pub(super) struct Again {
    how: How,
    /// The paid answers for the row so far, this one included.
    pub(super) earlier: Earlier,
}

enum How {
    /// With the answer and what is wrong with it.
    Repaired { answer: String, complaint: String },
    /// With this larger `max_tokens`.
    Longer(u32),
}

impl Again {
    /// Returns the question to send and its parameters.
    pub(super) fn question(&self, before: &Question, params: &Arc<Params>) -> (Question, Arc<Params>) {
        match &self.how {
            How::Repaired { answer, complaint } => (before.repaired(answer, complaint), Arc::clone(params)),
            How::Longer(max_tokens) => {
                let longer = Params { max_tokens: Some(*max_tokens), ..(**params).clone() };
                (before.longer(*max_tokens), Arc::new(longer))
            }
        }
    }
}

/// Whether another run would meet the same failure.
pub(super) fn is_terminal(class: Class) -> bool {
    class.policy() == Policy::Reject && class != Class::Deadline
}

/// Where an outcome came from.
pub(super) struct ResultOrigin<'a> {
    pub(super) provider: &'a Arc<str>,
    pub(super) model: &'a Arc<str>,
    pub(super) attempts: u32,
    pub(super) latency: Option<Duration>,
    pub(super) fingerprint: Fingerprint,
    /// Prices of its tokens, used if the response states no cost.
    pub(super) prices: Option<&'a PriceTable>,
    /// The paid answers for the row before this one.
    pub(super) earlier: Earlier,
    /// Whether the answer was another row's first.
    pub(super) shared: bool,
    /// Whether it came with a submission: at a price of its own, and without a latency.
    pub(super) submitted: bool,
}

impl<'a> ResultOrigin<'a> {
    pub(super) fn of_record(record: &'a Record, prices: Option<&'a PriceTable>, earlier: Earlier) -> Self {
        let is_answer = matches!(record.outcome, journal::RecordedOutcome::Response(_));
        ResultOrigin {
            provider: &record.provider,
            model: &record.model,
            attempts: record.attempts,
            latency: (is_answer && record.submission.is_none())
                .then(|| Duration::from_millis(record.latency_ms)),
            fingerprint: record.fingerprint,
            prices,
            earlier,
            shared: record.shared,
            submitted: record.submission.is_some(),
        }
    }

    pub(super) fn judged_record(self, outcome: &journal::RecordedOutcome, step: &CompiledStep) -> Judged {
        match outcome {
            journal::RecordedOutcome::Response(body) => match decode::parse(body) {
                Ok(response) if !response.choices.is_empty() || !response.data.is_empty() => {
                    self.judged(response, step)
                }
                _ => Judged::Unread,
            },
            journal::RecordedOutcome::Failure(failure) => Judged::Settled(Box::new(
                self.settled(decode::ResponseMetadata::default(), Err(failure.clone())),
            )),
        }
    }

    /// Checks a response against what the step asks for.
    pub(super) fn judged(self, response: ChatResponse, step: &CompiledStep) -> Judged {
        let reasoning = if step.spec.strips_reasoning { Reasoning::Strip } else { Reasoning::Keep };
        let facts = decode::facts(&response);
        let answer = panics::catch(|| decode::answer(response, &step.spec.form, reasoning)).unwrap_or_else(
            |message| {
                let detail = format!("the answer is more than its decoder can take: {message}");
                Err(Failure::new(Class::InvalidOutput, detail))
            },
        );
        let mut raw_text = None;
        let is_cut = facts.finish_reason.as_deref().is_some_and(decode::is_cut);
        // A cut answer may still hold a whole object; whether a text is whole cannot be known.
        let is_whole = !matches!(step.spec.form, Form::Text) && matches!(answer, Ok(Answer::Good { .. }));
        if is_cut
            && !is_whole
            && !self.earlier.had_longer_retry
            // An answer that another row accepted is not requested anew.
            && !self.shared
            && let Some(max_tokens) = step.spec.max_tokens_retry
        {
            let earlier = Earlier { had_longer_retry: true, ..self.with_this(&facts) };
            return Judged::Again(Again { how: How::Longer(max_tokens), earlier });
        }
        let text = match answer {
            Ok(Answer::Good { content, raw_text: kept }) => {
                raw_text = kept;
                step.fits(content)
            }
            Ok(Answer::Invalid { text, mistake, .. }) if is_cut => {
                let detail = format!("the token limit cut the answer off: {mistake}: {text:?}");
                raw_text = step.spec.form.keeps_raw().then_some(text);
                Err(Failure::new(Class::Length, detail))
            }
            Ok(Answer::Invalid { text, complaint, .. }) if self.earlier.repairs < step.spec.max_repairs => {
                let earlier = self.with_this(&facts);
                let earlier = Earlier { repairs: earlier.repairs + 1, ..earlier };
                return Judged::Again(Again { how: How::Repaired { answer: text, complaint }, earlier });
            }
            Ok(Answer::Invalid { text, mistake, .. }) => {
                let detail = invalid_answer_detail(&step.spec.form, self.earlier.repairs, &mistake, &text);
                raw_text = step.spec.form.keeps_raw().then_some(text);
                Err(Failure::new(Class::InvalidOutput, detail))
            }
            Err(failure) => Err(failure),
        };
        let mut settled = self.settled(facts, text);
        settled.raw_text = raw_text.map(Content::Text);
        Judged::Settled(Box::new(settled))
    }

    /// Returns the earlier answers with this one added.
    fn with_this(&self, facts: &decode::ResponseMetadata) -> Earlier {
        Earlier {
            answers: self.earlier.answers + 1,
            repairs: self.earlier.repairs,
            had_longer_retry: self.earlier.had_longer_retry,
            first: self.earlier.first.or(Some(self.fingerprint)),
            attempts: self.attempts + self.earlier.attempts,
            lines: u32::from(self.submitted) + self.earlier.lines,
            tokens: sum(self.earlier.tokens, facts.tokens),
            cost: total(self.earlier.cost, self.cost(facts)),
            latency: total(self.earlier.latency, self.latency),
        }
    }

    fn cost(&self, facts: &decode::ResponseMetadata) -> Option<Money> {
        if self.submitted { facts.cost_in_batch(self.prices) } else { facts.cost_at(self.prices) }
    }

    pub(super) fn settled(
        self,
        facts: decode::ResponseMetadata,
        answer: Result<Content, Failure>,
    ) -> RowResult {
        let earlier = &self.earlier;
        let own = match self.shared {
            true => (Some(Money::ZERO), Some(Tokens::default())),
            false => (self.cost(&facts), facts.tokens),
        };
        let cost = total(earlier.cost, own.0);
        let latency = total(earlier.latency, self.latency);
        let model = facts.model.filter(|named| **named != **self.model);
        RowResult {
            outcome: match answer {
                Ok(content) => Outcome::Answer(content),
                Err(failure) => Outcome::Failed(failure),
            },
            provider: Some(Arc::clone(self.provider)),
            model: Some(model.map_or_else(|| Arc::clone(self.model), Into::into)),
            attempts: self.attempts + earlier.attempts,
            lines: u32::from(self.submitted) + earlier.lines,
            finish_reason: facts.finish_reason.map(Into::into),
            tokens: sum(earlier.tokens, own.1),
            cost,
            shared: self.shared,
            latency_ms: latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            fingerprint: Some(earlier.first.unwrap_or(self.fingerprint)),
            template: None,
            raw_text: None,
        }
    }
}

/// Returns the error of a row whose last answer is invalid.
fn invalid_answer_detail(form: &Form, repairs: u32, mistake: &str, text: &str) -> String {
    let what = match form {
        Form::Text | Form::Typed(_) | Form::Embedding(_) => "in the requested form",
        Form::Classes(_) => "one of the classes",
    };
    let after = match repairs {
        0 => String::new(),
        _ => format!(", after {}", counted(repairs.into(), "repair")),
    };
    match form {
        Form::Typed(_) => format!("the answer is not {what}{after}: {mistake}: {text:?}"),
        Form::Text | Form::Classes(_) | Form::Embedding(_) => {
            format!("the answer is not {what}{after}: {text:?}")
        }
    }
}

fn sum(before: Option<Tokens>, tokens: Option<Tokens>) -> Option<Tokens> {
    match (before, tokens) {
        (Some(mut before), Some(tokens)) => {
            before += tokens;
            Some(before)
        }
        (before, tokens) => before.or(tokens),
    }
}

fn total<T: Add<Output = T>>(before: Option<T>, own: Option<T>) -> Option<T> {
    match (before, own) {
        (Some(before), Some(own)) => Some(before + own),
        (before, own) => before.or(own),
    }
}
