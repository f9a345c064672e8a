//! The figures of a forecast.

use serde::Serialize;

use crate::ident::AppId;
use crate::run::Pilot;
use crate::sink::OlderAnswers;

/// What a run would take.
#[derive(Debug, Serialize)]
pub struct Forecast {
    /// Name of the job.
    pub app_id: AppId,
    /// Number of rows that are not in the target.
    pub rows: u64,
    /// Bytes of their columns.
    pub bytes: u64,
    /// Number of batches that they make.
    pub batches: u64,
    /// Number of rows whose prompts were counted.
    pub sampled: u64,
    /// What each step takes of each provider.
    pub parts: Vec<PartForecast>,
    /// Total cost in US dollars, or `None` if a price is not known.
    pub cost_usd: Option<Estimate>,
    /// What goes through Batch APIs, by provider.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batch: Vec<BatchForecast>,
    /// Seconds at the job's limits, or `None` if no limit is known.
    pub seconds: Option<Estimate>,
    /// The limit that decides the duration, in words.
    pub bound_by: Option<String>,
    /// Notes on these figures, and on what is wrong with the job.
    pub notes: Vec<String>,
    /// Steps with outdated answers in the target: their prompt, model or parameters were others than the job has now.
    pub older: Vec<OlderAnswers>,
    /// Examples of prompts, as they are sent.
    pub prompts: Vec<ShownPrompt>,
    /// Result of the pilot, or `None` if no row was sent.
    pub pilot: Option<Pilot>,
}

/// What a step takes of a provider.
#[derive(Debug, Serialize)]
pub struct PartForecast {
    /// Output of the step.
    pub step: String,
    /// Name of the provider.
    pub provider: String,
    /// Name of its model.
    pub model: String,
    /// Rows that are sent.
    pub rows: Estimate,
    /// Tokens of prompts.
    pub input_tokens: Estimate,
    /// Tokens of answers.
    pub output_tokens: Estimate,
    /// US dollars, or `None` if the price is not known.
    pub cost_usd: Option<Estimate>,
    /// Seconds at the provider's limits, as if the step were alone there, or `None` if no limit is known.
    pub seconds: Option<Estimate>,
}

/// What goes through the Batch API of a provider.
#[derive(Debug, Serialize)]
pub struct BatchForecast {
    /// Name of the provider.
    pub provider: String,
    /// US dollars at the price of the Batch API, or `None` if it is not known.
    pub cost_usd: Option<Estimate>,
    /// US dollars of the same requests, each sent by itself, or `None` if the price is not known.
    pub online_cost_usd: Option<Estimate>,
    /// Number of files of requests.
    pub files: Estimate,
    /// Number of steps whose rows go there, one after the other.
    pub steps: u64,
    /// Time in which the provider is to answer each file.
    pub window: String,
}

/// A figure with bounds that hold the truth nine times in ten.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The lower bound.
    pub low: f64,
    /// The expected value, or `None` if nothing indicates it.
    pub expected: Option<f64>,
    /// The upper bound, or `None` if there is none.
    pub high: Option<f64>,
}

/// A prompt as it is sent.
#[derive(Debug, Serialize)]
pub struct ShownPrompt {
    /// Output of the step.
    pub step: String,
    /// Path of the source file.
    pub file: String,
    /// Index of the row in the file.
    pub row: u64,
    /// Text of the messages.
    pub text: String,
    /// Number of its tokens, as counted here.
    pub tokens: u64,
}
