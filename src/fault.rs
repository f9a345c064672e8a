//! The classes of failure and what each of them means for the row and for the run.
//!
//! A failure is classified once, where it is met, and nobody reads a message to find out what to do.
//! The names of the classes are part of the data: they stand in the target table and in the journal.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest `ERROR:` string that is written to a table, in characters.
pub const MAX_ERROR_CHARS: usize = 1_000;

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $policy:ident,)+) => {
        /// Why a request, or a row, failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class { $($(#[doc = $doc])+ $variant,)+ }

        impl Class {
            /// Every class, in the order of this list.
            pub const ALL: &'static [Class] = &[$(Class::$variant),+];

            /// The name that stands in the table, in lower case with underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Class::$variant => $name,)+ }
            }

            /// What a failure of this class leads to.
            #[must_use]
            pub const fn policy(self) -> Policy {
                match self { $(Class::$variant => Policy::$policy,)+ }
            }
        }
    };
}

classes! {
    /// No connection, or it broke before the whole answer was there.
    Connection = "connection" => Retry,
    /// No whole answer within the request's time limit.
    Timeout = "timeout" => Retry,
    /// The server's own trouble: 500, 502, 503, 504, 408, 409, 425, 498, 529.
    ServerError = "server_error" => Retry,
    /// An answer that is not what the interface promises: no JSON, no choices, too large.
    InvalidResponse = "invalid_response" => Retry,
    /// Too many requests or tokens (429, or 503 with a delay).
    RateLimited = "rate_limited" => Wait,
    /// The row's time over all its attempts is used up.
    Deadline = "deadline" => Reject,
    /// The server refuses this request (400, 422 and other statuses of that kind).
    BadRequest = "bad_request" => Reject,
    /// The prompt is longer than the model's context.
    TooLong = "too_long" => Reject,
    /// The request body is larger than the server takes (413).
    TooLarge = "too_large" => Reject,
    /// 404 for something other than the model.
    NotFound = "not_found" => Reject,
    /// The provider's filter blocked the prompt or the answer.
    ContentFilter = "content_filter" => Reject,
    /// The model declined to answer.
    Refusal = "refusal" => Reject,
    /// The token limit was reached before any text.
    Length = "length" => Reject,
    /// The answer has no text.
    EmptyAnswer = "empty_answer" => Reject,
    /// The answer is not what the step asks for, also after repairs.
    InvalidOutput = "invalid_output" => Reject,
    /// The target's constraints do not allow what was to be written.
    Constraint = "constraint" => Reject,
    /// The row's prompt could not be made from the template, or a condition could not be asked of it.
    Template = "template" => Reject,
    /// An earlier step failed whose output this one needs.
    Upstream = "upstream" => Reject,
    /// The key is missing, wrong or lacks a right (401, 403).
    Auth = "auth" => Stop,
    /// Payment is due (402).
    Billing = "billing" => Stop,
    /// The quota or the spending limit is used up.
    Quota = "quota" => Stop,
    /// The provider does not know the model.
    UnknownModel = "unknown_model" => Stop,
    /// The endpoint answers with a redirect, which could take the key elsewhere.
    Redirect = "redirect" => Stop,
    /// The provider could not be reached, or failed without end.
    Unavailable = "unavailable" => Stop,
    /// The job's own budget is spent.
    Budget = "budget" => Stop,
    /// The first rows of a run were all refused in the same way.
    SameRefusal = "same_refusal" => Stop,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try again; every try counts against the row's attempts.
    Retry,
    /// The provider waits; the row loses nothing.
    Wait,
    /// The row ends with this error; another try would end the same way.
    Reject,
    /// The run stops; the row stays as it was.
    Stop,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Class::ALL
            .iter()
            .copied()
            .find(|class| class.name() == name)
            .ok_or_else(|| UnknownClass(name.to_owned()))
    }
}

/// A name that is no class of failure.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no class of failure")]
pub struct UnknownClass(String);

/// A failure, classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub class: Class,
    /// What happened, in one line, in the provider's words where it has any; without secrets.
    pub detail: String,
    /// How long the server asks to wait before another try.
    pub delay: Option<Duration>,
    /// What there is too little of, where a refusal for being asked too much says so.
    pub scarce: Option<Scarce>,
}

/// What a provider limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// The number of requests.
    Requests,
    /// The tokens of prompts, answers, or both.
    Tokens,
    /// The server is busy, whoever asks.
    Capacity,
}

impl Failure {
    /// Makes a failure whose detail is brought to one line without control characters.
    #[must_use]
    pub fn new(class: Class, detail: impl AsRef<str>) -> Self {
        Failure { class, detail: one_line(detail.as_ref()), delay: None, scarce: None }
    }

    /// The same failure with the delay that the server asked for.
    #[must_use]
    pub fn with_delay(mut self, delay: Option<Duration>) -> Self {
        self.delay = delay;
        self
    }

    /// The same failure with what the server said there is too little of.
    #[must_use]
    pub fn with_scarce(mut self, scarce: Option<Scarce>) -> Self {
        self.scarce = scarce;
        self
    }

    /// The string that stands in the output column: `ERROR: <class>: <detail>`, one line and at most
    /// [`MAX_ERROR_CHARS`] characters.
    #[must_use]
    pub fn to_error_string(&self) -> String {
        let mut text = format!("ERROR: {self}");
        if let Some((end, _)) = text.char_indices().nth(MAX_ERROR_CHARS) {
            let cut = text.char_indices().nth(MAX_ERROR_CHARS - 1).map_or(end, |(at, _)| at);
            text.truncate(cut);
            text.push('…');
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            write!(f, "{}", self.class)
        } else {
            write!(f, "{}: {}", self.class, self.detail)
        }
    }
}

/// Folds white space and control characters of every kind into single spaces.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(4 * MAX_ERROR_CHARS));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || is_format_control(c)) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > 4 * MAX_ERROR_CHARS {
            break;
        }
    }
    line
}

/// Bidirectional overrides and other invisible characters that could make a line read as another.
pub fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_string_is_one_line_of_bounded_length() {
        let failure = Failure::new(Class::BadRequest, format!("a\r\n\tb\u{202e}{}", "ü".repeat(5_000)));
        let text = failure.to_error_string();
        assert!(text.starts_with("ERROR: bad_request: a b ü"), "{text}");
        assert_eq!(text.chars().count(), MAX_ERROR_CHARS);
        assert!(text.ends_with('…'));
        assert!(!text.chars().any(char::is_control));
    }

    #[test]
    fn names_of_classes_are_unique_and_parse_back() {
        for class in Class::ALL {
            assert_eq!(class.name().parse::<Class>().unwrap(), *class);
        }
    }
}
