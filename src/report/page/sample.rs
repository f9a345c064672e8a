//! Rows shown beside what was answered to them.

use serde::Serialize;

use super::data::Sample;
use super::money;
use super::number;
use super::span;
use super::text::{self, PageText};

/// Bytes of the page for the texts of all samples.
const ALL_BYTES: usize = 420_000;
const TEXT_BYTES: usize = 6_000;
const MOST_SAMPLES: usize = 25;
const MOST_INPUTS: usize = 12;

/// A section of samples.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Section {
    id: &'static str,
    heading: &'static str,
    note: String,
    cards: Vec<Card>,
}

/// One row with what a step made of it.
#[derive(Clone, Debug, Serialize)]
struct Card {
    step: String,
    place: String,
    /// Figures with their names, what the section is ordered by first.
    facts: Vec<(&'static str, String)>,
    inputs: Vec<(String, PageText)>,
    inputs_left_out: usize,
    answer: Option<PageText>,
    error: Option<PageText>,
}

/// What a section is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleOrder {
    /// The longest latency first.
    Slowest,
    /// The highest cost first.
    Dearest,
    /// None: a sample.
    Sampled,
}

impl Section {
    /// Shows these samples; `bytes` is the room for one text.
    pub(super) fn new(order: SampleOrder, samples: &[Sample], bytes: usize) -> Section {
        let (id, heading, empty) = match order {
            SampleOrder::Slowest => ("slowest", "Slowest rows", "No latency is known of any row."),
            SampleOrder::Dearest => ("dearest", "Dearest rows", "No cost is known of any row."),
            SampleOrder::Sampled => ("samples", "A sample of answers", "There is no answer yet."),
        };
        let cards = samples.iter().take(MOST_SAMPLES).map(|sample| card(order, sample, bytes)).collect();
        let note = if samples.is_empty() { empty.to_owned() } else { String::new() };
        Section { id, heading, note, cards }
    }
}

/// The room for one text, in bytes, when all of these are on the page.
pub(super) fn text_bytes(sections: [&[Sample]; 3]) -> usize {
    let samples = sections.into_iter().flat_map(|samples| samples.iter().take(MOST_SAMPLES));
    let texts = samples.map(|sample| sample.inputs.len().min(MOST_INPUTS) + 2).sum::<usize>();
    (ALL_BYTES / texts.max(1)).min(TEXT_BYTES)
}

fn card(order: SampleOrder, sample: &Sample, bytes: usize) -> Card {
    let latency = sample.latency_ms.map(|latency| ("took", span::whole_millis(latency)));
    let cost = sample.cost_microdollars.map(|cost| ("cost", money::money(cost)));
    let tokens = sample.tokens.map(|tokens| ("tokens", number::count(tokens)));
    let facts = match order {
        SampleOrder::Slowest => [latency, tokens, cost],
        SampleOrder::Dearest => [cost, tokens, latency],
        SampleOrder::Sampled => [latency, tokens, cost],
    };
    let inputs = sample.inputs.iter().take(MOST_INPUTS);
    Card {
        step: text::in_line(&sample.step, 48),
        place: format!("row {} of {}", sample.source_row, text::in_line(&sample.source_file, 120)),
        facts: facts.into_iter().flatten().collect(),
        inputs: inputs
            .map(|(column, value)| (text::in_line(column, 48), PageText::new(value, bytes)))
            .collect(),
        inputs_left_out: sample.inputs.len().saturating_sub(MOST_INPUTS),
        answer: sample.answer.as_ref().map(|answer| PageText::new(answer, bytes)),
        error: sample.error.as_ref().map(|error| PageText::new(error, bytes)),
    }
}
