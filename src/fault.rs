//! Classes of failure, and what each means for the row and for the run.
//!
//! A failure is classified once, where it occurs; what follows is decided by its class, never by its message. The
//! names of the classes are part of the data: they are stored in the target table and in the journal.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Maximum length of an `ERROR:` string in a table, in characters.
pub const MAX_ERROR_CHARS: usize = 1_000;

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $policy:ident,)+) => {
        /// Class of failure of a request or a row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class { $($(#[doc = $doc])+ $variant,)+ }

        impl Class {
            /// Every class, in the order of declaration.
            pub const ALL: &'static [Class] = &[$(Class::$variant),+];

            /// Returns the name that is stored in the table, in lower case with underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Class::$variant => $name,)+ }
            }

            /// Returns what a failure of this class leads to.
            #[must_use]
            pub const fn policy(self) -> Policy {
                match self { $(Class::$variant => Policy::$policy,)+ }
            }
        }
    };
}

classes! {
    /// No connection, or it broke before the whole answer had arrived.
    Connection = "connection" => Retry,
    /// No whole answer within the request's timeout.
    Timeout = "timeout" => Retry,
    /// A failure of the server: 500, 502, 503, 504, 408, 409, 425, 529.
    ServerError = "server_error" => Retry,
    /// A response that breaks the interface: no JSON, no choices, too large.
    InvalidResponse = "invalid_response" => Retry,
    /// Too many requests or tokens (429, or 503 with a delay), or no room in the service tier (498).
    RateLimited = "rate_limited" => Wait,
    /// The row's time over all its attempts is used up.
    Deadline = "deadline" => Reject,
    /// The server refuses this request (400, 422 and other statuses of that kind).
    BadRequest = "bad_request" => Reject,
    /// The prompt is longer than the model's context.
    TooLong = "too_long" => Reject,
    /// The request body is larger than the server accepts (413).
    TooLarge = "too_large" => Reject,
    /// 404 for something other than the model.
    NotFound = "not_found" => Reject,
    /// The provider's filter blocked the prompt or the answer.
    ContentFilter = "content_filter" => Reject,
    /// The model declined to answer.
    Refusal = "refusal" => Reject,
    /// The token limit cut the answer off, before any text or so that the answer is not valid for the step.
    Length = "length" => Reject,
    /// The answer has no text.
    EmptyAnswer = "empty_answer" => Reject,
    /// The answer is not valid for the step, even after repairs.
    InvalidOutput = "invalid_output" => Reject,
    /// The row would break a constraint of the target.
    Constraint = "constraint" => Reject,
    /// The row's prompt could not be rendered from the template, or a condition could not be evaluated for it.
    Template = "template" => Reject,
    /// An earlier step failed whose output this one needs.
    Upstream = "upstream" => Reject,
    /// The key is missing, wrong or lacks a permission (401, 403).
    Auth = "auth" => Stop,
    /// Payment is due (402).
    Billing = "billing" => Stop,
    /// The quota or the spending limit is used up.
    Quota = "quota" => Stop,
    /// The provider does not know the model.
    UnknownModel = "unknown_model" => Stop,
    /// The provider refuses the service tier that requests ask for.
    ServiceTier = "service_tier" => Stop,
    /// The endpoint answers with a redirect, which could send the key elsewhere.
    Redirect = "redirect" => Stop,
    /// The provider could not be reached or answered nothing, or kept failing until its `outage_deadline`.
    Unavailable = "unavailable" => Stop,
    /// The job's own budget is spent.
    Budget = "budget" => Stop,
    /// The first rows of a run were all refused in the same way.
    SameRefusal = "same_refusal" => Stop,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The request is retried; each attempt counts.
    Retry,
    /// The requests to this provider wait. The attempt does not count against the row.
    Wait,
    /// The row ends with this error; a retry would end the same way.
    Reject,
    /// The run stops; the row stays without an outcome.
    Stop,
}

impl Class {
    /// Returns what a person can do about a provider that stopped a run with this class of failure.
    #[must_use]
    pub fn advice_for_run(self) -> &'static str {
        match self {
            Class::Auth => "check the key and what it may do",
            Class::Billing | Class::Quota => "raise the quota or the budget at the provider",
            Class::UnknownModel => "check the model's name in the job file",
            Class::ServiceTier => "change service_tier of this provider in the job file, or take it out",
            Class::Redirect => "check base_url: the endpoint wants another address",
            Class::NotFound => {
                "check base_url, whose path ends in /v1 with most providers, and the model's name"
            }
            Class::SameRefusal => "change the prompt, the model, or what the step asks for",
            Class::RateLimited => "come back at that time",
            Class::Connection
            | Class::Timeout
            | Class::ServerError
            | Class::InvalidResponse
            | Class::Unavailable
            | Class::Deadline => "check base_url and the network, or wait for the provider",
            Class::Template => "mend the template",
            Class::Budget => "raise the budget",
            Class::BadRequest => "mend what the provider refuses: the model, the step's keys or the prompt",
            Class::TooLong
            | Class::TooLarge
            | Class::ContentFilter
            | Class::Refusal
            | Class::Length
            | Class::EmptyAnswer
            | Class::InvalidOutput
            | Class::Constraint
            | Class::Upstream => "change the prompt",
        }
    }

    /// As [`Class::advice_for_run`], about a provider that is asked through its Batch API.
    #[must_use]
    pub fn advice_for_batches(self) -> &'static str {
        match self {
            Class::NotFound => {
                "check base_url, and whether the provider has a Batch API of this shape: without one, take its section batch out"
            }
            Class::TooLarge => "lower max_bytes of its section batch",
            Class::UnknownModel => {
                "check the model's name in the job file, and whether the provider takes it in batches"
            }
            Class::BadRequest => {
                "mend what the provider refuses: the model, which may not go in batches, the step's keys or the prompt"
            }
            other => other.advice_for_run(),
        }
    }

    /// Returns what a person can do about rows that failed with this class.
    #[must_use]
    pub fn advice_for_rows(self) -> &'static str {
        match self {
            Class::Connection
            | Class::Timeout
            | Class::ServerError
            | Class::RateLimited
            | Class::Unavailable => "passing trouble: enrich retry",
            Class::Deadline => "raise row_deadline, then enrich retry",
            Class::InvalidResponse => "look at the endpoint; enrich retry, or --provider another",
            Class::TooLong | Class::TooLarge => {
                "shorten the prompt, or enrich retry --provider with a longer context"
            }
            Class::ContentFilter | Class::Refusal => "change the prompt, or enrich retry --provider another",
            Class::Length => "set max_tokens_retry, or raise max_tokens, then enrich retry",
            Class::Constraint => "enrich retry; if it stays, change the prompt or the target's constraint",
            Class::InvalidOutput => {
                "enrich retry, or --provider another; if it stays, change the prompt or what the step asks for"
            }
            Class::Upstream => "see to the step that failed: enrich retry sends both again",
            Class::EmptyAnswer => "enrich retry; if it stays, change the prompt",
            Class::Template => "mend the template, then enrich retry",
            Class::BadRequest | Class::NotFound => "mend what the provider refuses, then enrich retry",
            Class::Auth
            | Class::Billing
            | Class::Quota
            | Class::UnknownModel
            | Class::ServiceTier
            | Class::Redirect => "see to key, account and model, then enrich retry",
            Class::Budget => "raise the budget, then enrich run",
            Class::SameRefusal => "mend what the provider refuses, then enrich retry",
        }
    }

    /// Returns in what way an answer of this class is unusual, or `None` for failures that are not about an answer.
    #[must_use]
    pub fn unusual(self) -> Option<Unusual> {
        match self {
            Class::EmptyAnswer => Some(Unusual::Empty),
            Class::Length => Some(Unusual::Cut),
            Class::Refusal | Class::ContentFilter => Some(Unusual::Refused),
            Class::InvalidOutput => Some(Unusual::Invalid),
            Class::Connection
            | Class::Timeout
            | Class::ServerError
            | Class::InvalidResponse
            | Class::RateLimited
            | Class::Deadline
            | Class::BadRequest
            | Class::TooLong
            | Class::TooLarge
            | Class::NotFound
            | Class::Constraint
            | Class::Template
            | Class::Upstream
            | Class::Auth
            | Class::Billing
            | Class::Quota
            | Class::UnknownModel
            | Class::ServiceTier
            | Class::Redirect
            | Class::Unavailable
            | Class::Budget
            | Class::SameRefusal => None,
        }
    }
}

/// In what way an answer is unusual. Many such answers show that something is wrong with the prompt or the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusual {
    /// It has no text.
    Empty,
    /// The model, or a filter, declined.
    Refused,
    /// It is not what the step asks for.
    Invalid,
    /// It was cut off.
    Cut,
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

/// Error for a name that is not a class of failure.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no class of failure")]
pub struct UnknownClass(String);

/// A classified failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Class of the failure.
    pub class: Class,
    /// Description in one line, in the provider's words if it has any; without secrets.
    pub detail: String,
    /// Delay that the server asks for before a retry.
    pub delay: Option<Duration>,
    /// The scarce quantity, if a rate-limit refusal states it.
    pub scarce: Option<Scarce>,
}

/// Quantity that a provider limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// The number of requests.
    Requests,
    /// The tokens of prompts, answers, or both.
    Tokens,
    /// The server's capacity: it is busy for every client.
    Capacity,
    /// Room in the service tier that was requested; other tiers may have some.
    TierRoom,
}

impl Failure {
    /// Creates a failure. The detail is folded into one line without control characters.
    #[must_use]
    pub fn new(class: Class, detail: impl AsRef<str>) -> Self {
        Failure { class, detail: one_line(detail.as_ref()), delay: None, scarce: None }
    }

    /// Sets the delay that the server asked for.
    #[must_use]
    pub fn with_delay(mut self, delay: Option<Duration>) -> Self {
        self.delay = delay;
        self
    }

    /// Sets the quantity that the server named as scarce.
    #[must_use]
    pub fn with_scarce(mut self, scarce: Option<Scarce>) -> Self {
        self.scarce = scarce;
        self
    }

    /// Returns the string for the output column: `ERROR: <class>: <detail>`, one line of at most [`MAX_ERROR_CHARS`]
    /// characters.
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

/// Whether a character is an invisible one, such as a bidirectional override, that could change how a line reads.
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
