//! Counters of what the simulator received and answered.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::api_kind::ApiKind;
use crate::ident::{Fingerprint, Money, Tokens};

/// What the simulator has received and answered so far; served as JSON at `/simulator/counts`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Requests for chat completions and for embeddings, also refused ones.
    pub requests: u64,
    /// Responses by HTTP status. A connection that is closed in the middle of an answer counts as 0.
    pub statuses: BTreeMap<u16, u64>,
    /// Largest number of requests in flight at once.
    pub most_in_flight: u64,
    /// Answers that were sent, which a provider would bill.
    pub answered: u64,
    /// Tokens of prompts and answers that were billed.
    pub billed_tokens: u64,
    /// Billed amount, in picodollars.
    pub billed_picodollars: u64,
    /// Answers by the service tier that they state.
    pub tiers: BTreeMap<String, u64>,
    /// Different prompts that were answered. The inputs of one embeddings request are one prompt.
    pub answered_prompts: u64,
    /// Inputs that were embedded in answered requests.
    pub embedded: u64,
    /// Inputs that were embedded again after the first time for the same text.
    pub embedded_again: u64,
    /// Method and path of each request to an unknown route.
    pub unknown_routes: Vec<String>,
    /// Requests that arrived after the last entry of the script.
    pub script_exhausted: u64,
    /// Requests that are in flight now.
    pub in_flight: u64,
    /// Connections that are open now.
    pub connections: u64,
    /// Files and batches.
    pub batches: BatchCounts,
    #[serde(skip)]
    ids: u64,
    #[serde(skip)]
    answers: HashMap<Fingerprint, u32>,
    #[serde(skip)]
    embeddings: HashMap<Fingerprint, u32>,
    #[serde(skip)]
    prompts: HashMap<Fingerprint, u32>,
}

/// What the simulator has received about files and batches.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BatchCounts {
    /// Files that were uploaded.
    pub uploads: u64,
    /// Files that were not deleted.
    pub files: u64,
    /// Downloads that were begun.
    pub downloads: u64,
    /// Batches that were made.
    pub created: u64,
    /// Batches by the value `enrich` of their metadata.
    pub by_id: BTreeMap<String, u64>,
    /// Batches by their file.
    pub by_file: BTreeMap<String, u64>,
    /// Requests for one batch.
    pub polls: u64,
    /// Requests for a list of batches.
    pub lists: u64,
    /// Requests to cancel a batch.
    pub cancellations: u64,
    /// Lines that were worked on, also those that were refused.
    pub lines: u64,
}

impl Counts {
    /// How often a prompt was answered.
    #[must_use]
    pub fn answers_to(&self, prompt: &str) -> u32 {
        self.answers.get(&Fingerprint::of([prompt.as_bytes()])).copied().unwrap_or_default()
    }

    /// How often a text was embedded.
    #[must_use]
    pub fn embeddings_of(&self, text: &str) -> u32 {
        self.embeddings.get(&Fingerprint::of([text.as_bytes()])).copied().unwrap_or_default()
    }

    /// Answers beyond the first to each prompt: what was paid for again.
    #[must_use]
    pub fn paid_again(&self) -> u64 {
        self.answered - self.answered_prompts
    }

    /// Counts a request for a prompt. Returns its number among all requests, and the number of earlier ones for the
    /// prompt.
    pub(super) fn count_request(&mut self, prompt: &str, api: ApiKind<'_>) -> (u64, u32) {
        match api {
            ApiKind::Synchronous(_) => self.requests += 1,
            ApiKind::InBatch => self.batches.lines += 1,
        }
        let times = self.prompts.entry(Fingerprint::of([prompt.as_bytes()])).or_default();
        *times += 1;
        (self.requests + self.batches.lines, *times - 1)
    }

    /// A number that no other response has.
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn began(&mut self) {
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    pub(super) fn answered(&mut self, prompt: &str, tokens: Tokens, cost: Money) {
        self.answered += 1;
        self.billed_tokens += tokens.total();
        self.billed_picodollars += cost.get();
        let times = self.answers.entry(Fingerprint::of([prompt.as_bytes()])).or_default();
        *times += 1;
        self.answered_prompts += u64::from(*times == 1);
    }

    pub(super) fn answered_by(&mut self, tier: Option<&str>) {
        if let Some(tier) = tier {
            *self.tiers.entry(tier.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn embedded(&mut self, inputs: &[&str]) {
        for input in inputs {
            let times = self.embeddings.entry(Fingerprint::of([input.as_bytes()])).or_default();
            *times += 1;
            self.embedded += 1;
            self.embedded_again += u64::from(*times > 1);
        }
    }
}
