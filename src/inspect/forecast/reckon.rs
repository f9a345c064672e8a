//! Totals with intervals, from counted prompts and the answers of a pilot or of earlier batches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::figures::{Estimate, PartForecast};
use super::interval::{Interval, SampledRow, counted_total, estimate_total};
use super::sample::{Looked, SampleRequest};
use crate::budget::{Listed, listed};
use crate::config::{BATCH_TIER, Job, Prices, Provider, TokenCharge};
use crate::dispatch::LearnedProvider;
use crate::ident::{Money, Tokens};
use crate::metrics::{MetricsRow, RunKind};
use crate::rows::{Outcome, RowResult};
use crate::run::Answered;
use crate::run::Spent;
use crate::tokens::tokenizer::Encoding;
use crate::wording::counted;

/// Largest pilot that is recommended, in rows.
const MAX_PILOT_ROWS: u64 = 10_000;

/// Half of an interval's width that is narrow enough to decide by, as a share of the expected value.
const WIDTH: f64 = 0.15;

/// Number of pilot rows below which little is known about long tails.
const FEW: usize = 100;

/// What is known of the outstanding rows, from a sample of them and from former runs.
#[derive(Debug)]
pub(super) struct Reckoning<'a> {
    pub(super) job: &'a Job,
    pub(super) rows: u64,
    pub(super) looked: &'a [Looked],
    pub(super) pilot: Option<&'a Answered>,
    /// Figures of the job's earlier batches; empty after a pilot.
    pub(super) before: &'a Before,
    pub(super) spent: Option<&'a Spent>,
    /// What former runs learned about the providers, by their names.
    pub(super) learned: &'a BTreeMap<String, LearnedProvider>,
}

/// Figures of the earlier batches of a job, by step and provider.
#[derive(Debug)]
pub(super) struct Before {
    /// Number of rows in all of these batches.
    rows: u64,
    sent: BTreeMap<(String, String), SentRows>,
}

/// Rows that were sent to one provider for one step.
#[derive(Clone, Copy, Debug, Default)]
struct SentRows {
    rows: u64,
    tokens: Tokens,
}

impl Before {
    pub(super) fn of(job: &Job, figures: &[MetricsRow]) -> Self {
        let mut before = Before { rows: 0, sent: BTreeMap::new() };
        for row in figures.iter().filter(|row| row.kind == RunKind::Run) {
            if job.steps.first().is_some_and(|step| step.output == row.step) {
                before.rows += row.rows;
            }
            let Some(provider) = &row.provider else { continue };
            let of = before.sent.entry((row.step.clone(), provider.clone())).or_default();
            of.rows += row.rows - row.shared.min(row.rows);
            of.tokens += row.tokens;
        }
        before
    }

    /// Returns the share of all rows that a provider was sent for a step, and the input and output tokens of each.
    fn look(&self, step: &str, provider: &str) -> Option<(f64, f64, f64)> {
        let of = self.sent.get(&(step.to_owned(), provider.to_owned())).filter(|of| of.rows > 0)?;
        let each = |tokens: u64| float(tokens) / float(of.rows);
        Some((float(of.rows) / float(self.rows.max(1)), each(of.tokens.prompt), each(of.tokens.completion)))
    }
}

impl From<Interval> for Estimate {
    fn from(Interval { low, expected, high }: Interval) -> Self {
        Estimate { low, expected: Some(expected), high: Some(high) }
    }
}

impl Estimate {
    pub(super) const NOTHING: Estimate = Estimate { low: 0.0, expected: Some(0.0), high: Some(0.0) };

    /// An estimate between 0 and `high`.
    fn up_to(high: Option<f64>) -> Self {
        Estimate { low: 0.0, expected: None, high }
    }

    /// The value by which estimates are compared.
    fn size(&self) -> f64 {
        self.expected.unwrap_or(self.low)
    }

    fn at_most(self, most: f64) -> Self {
        let bounded = |value: Option<f64>| value.map(|value| value.min(most));
        Estimate { low: self.low.min(most), expected: bounded(self.expected), high: bounded(self.high) }
    }

    pub(super) fn times(self, factor: f64) -> Self {
        let scaled = |value: Option<f64>| value.map(|value| value * factor);
        Estimate { low: self.low * factor, expected: scaled(self.expected), high: scaled(self.high) }
    }

    pub(super) fn plus(self, other: Estimate) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        Estimate {
            low: self.low + other.low,
            expected: sum(self.expected, other.expected),
            high: sum(self.high, other.high),
        }
    }
}

/// Measures the result of a row for a step at a provider.
type OfRow<'a> = dyn Fn(&RowResult) -> f64 + 'a;

impl Reckoning<'_> {
    /// Forecasts for each step and each provider that it may use what the step takes there.
    pub(super) fn parts(&self) -> Vec<PartForecast> {
        let mut parts = Vec::new();
        for (step, spec) in self.job.steps.iter().enumerate() {
            let mut own: Vec<usize> = spec.all_providers().collect();
            own.sort_unstable();
            own.dedup();
            for provider in own {
                let mut part = self.part(step, provider);
                part.seconds =
                    self.slowest(&self.job.providers[provider], Some(step)).map(|(lasts, _)| lasts);
                // A fallback provider that gets no rows is left out.
                if part.rows.high != Some(0.0) {
                    parts.push(part);
                }
            }
        }
        parts
    }

    fn part(&self, step: usize, provider: usize) -> PartForecast {
        let (spec, of) = (&self.job.steps[step], &self.job.providers[provider]);
        let (rows, input_tokens, output_tokens, cost) = match self.pilot {
            Some(_) => {
                let tokens = |settled: &RowResult| settled.tokens.unwrap_or_default();
                let sum = |get: &OfRow<'_>| {
                    self.measured(&|nth, settled| {
                        if nth == step && is_of(settled, of) { get(settled) } else { 0.0 }
                    })
                };
                let cost = sum(&|settled| dollars(settled, of).unwrap_or_default());
                let rows = sum(&|_| 1.0).at_most(float(self.rows));
                let input = sum(&|settled| float(tokens(settled).prompt));
                (
                    rows,
                    input,
                    sum(&|settled| float(tokens(settled).completion)),
                    self.is_priced(of).then_some(cost),
                )
            }
            None => self.counted(step, provider),
        };
        PartForecast {
            step: spec.output.clone(),
            provider: of.name.clone(),
            model: of.model.clone(),
            rows,
            input_tokens,
            output_tokens,
            cost_usd: cost,
            seconds: None,
        }
    }

    /// Estimates rows, input tokens, output tokens and cost without a pilot: prompts are counted, and answers are
    /// bounded by `max_tokens`.
    fn counted(&self, step: usize, provider: usize) -> (Estimate, Estimate, Estimate, Option<Estimate>) {
        let (spec, of) = (&self.job.steps[step], &self.job.providers[provider]);
        let is_unknown = self.looked.iter().any(|row| matches!(row.requests[step], SampleRequest::Unknown));
        let most_output = spec.params.max_tokens.map(f64::from);
        let before = self.before.look(&spec.output, &of.name);
        let (rows, input) = if is_unknown {
            let mut rows = Estimate::up_to(Some(float(self.rows)));
            let mut input = Estimate::up_to(None);
            if let Some((share, each, _)) = before {
                let expected = float(self.rows) * share.min(1.0);
                (rows.expected, input.expected) = (Some(expected), Some(expected * each));
            }
            (rows, input)
        } else {
            let own = |row: &Looked| match &row.requests[step] {
                SampleRequest::Of { provider: chosen, tokens, .. } if *chosen == provider => Some(*tokens),
                _ => None,
            };
            let sum = |get: &dyn Fn(usize) -> f64| {
                let values: Vec<f64> = self.looked.iter().map(|row| own(row).map_or(0.0, get)).collect();
                counted_total(self.rows, &values).map_or_else(|| Estimate::up_to(None), Estimate::from)
            };
            (sum(&|_| 1.0), sum(&|tokens| float(tokens as u64)))
        };
        let mut output = match spec.params.vectors {
            Some(_) => Estimate::NOTHING,
            None => Estimate::up_to(rows.high.zip(most_output).map(|(rows, most)| rows * most)),
        };
        if let (None, Some((_, _, each)), Some(rows)) = (output.expected, before, rows.expected) {
            output.expected = Some(rows * each);
        }
        let cost = prices(of).map(|prices| {
            let price = |money: Money| money.dollars();
            input.times(price(prices.input)).plus(output.times(price(prices.output)))
        });
        (rows, input, output, cost)
    }

    /// Estimates the total, over all rows and steps, of what `of` measures on the rows of the pilot.
    pub(super) fn measured(&self, of: &dyn Fn(usize, &RowResult) -> f64) -> Estimate {
        let Some(pilot) = self.pilot else { return Estimate::up_to(None) };
        let counts: Vec<f64> = self.looked.iter().map(counted_tokens).collect();
        let rows: Vec<SampledRow> = pilot
            .places
            .iter()
            .enumerate()
            .map(|(at, place)| {
                let steps = pilot.outcomes.iter().enumerate();
                let measured = steps.filter_map(|(nth, rows)| Some(of(nth, rows.get(at)?))).sum();
                SampledRow { counted: counts.get(*place).copied().unwrap_or_default(), measured }
            })
            .collect();
        estimate_total(self.rows, &counts, &rows).map_or_else(|| Estimate::up_to(None), Estimate::from)
    }

    /// Returns the total cost in US dollars, or `None` if a price is not known.
    pub(super) fn cost(&self) -> Option<Estimate> {
        if self.pilot.is_none() {
            let parts = self.parts();
            return parts.into_iter().try_fold(Estimate::NOTHING, |sum, part| Some(sum.plus(part.cost_usd?)));
        }
        let is_known = self.used().all(|provider| self.is_priced(provider));
        is_known.then(|| {
            self.measured(&|_, settled| {
                let of = self.job.providers.iter().find(|provider| is_of(settled, provider));
                of.and_then(|of| dollars(settled, of)).unwrap_or_default()
            })
        })
    }

    /// Returns the providers that steps may use.
    fn used(&self) -> impl Iterator<Item = &Provider> {
        let steps = &self.job.steps;
        let is_used = |at: &usize| steps.iter().any(|step| step.all_providers().any(|own| own == *at));
        (0..self.job.providers.len()).filter(is_used).map(|at| &self.job.providers[at])
    }

    /// Whether the cost of a provider's answers is known: by a price, or because each answer states it.
    fn is_priced(&self, of: &Provider) -> bool {
        let says = |settled: &RowResult| settled.cost.is_some() || settled.tokens.is_none();
        let is_stated = || {
            let all = self.pilot.iter().flat_map(|pilot| pilot.outcomes.iter().flatten());
            all.filter(|settled| is_of(settled, of)).all(says)
        };
        prices(of).is_some() || (self.pilot.is_some() && is_stated())
    }

    /// Returns the longest duration that follows from any limit, in seconds, and that limit.
    pub(super) fn time(&self) -> Option<(Estimate, String)> {
        let each = self.used().filter_map(|provider| {
            let (lasts, what) = self.slowest(provider, None)?;
            Some((lasts, format!("{what} of {}", provider.name)))
        });
        each.max_by(|(a, _), (b, _)| a.size().total_cmp(&b.size()))
    }

    /// Returns the longest duration that follows from a limit of a provider, and that limit; for all steps, or for
    /// `only` one as if it were alone.
    fn slowest(&self, of: &Provider, only: Option<usize>) -> Option<(Estimate, &'static str)> {
        let times = self.times(of, only).into_iter().filter(|(lasts, _)| lasts.high != Some(0.0));
        times.max_by(|(a, _), (b, _)| a.size().total_cmp(&b.size()))
    }

    /// Number of rows of a step that go into one request: as many of one batch as the provider takes.
    fn together(&self, step: usize, of: &Provider) -> f64 {
        match self.job.steps[step].params.vectors {
            Some(_) => f64::from(of.inputs_per_request.min(self.job.batch.max_rows).max(1)),
            None => 1.0,
        }
    }

    /// Returns the durations that follow from each limit of a provider.
    fn times(&self, of: &Provider, only: Option<usize>) -> Vec<(Estimate, &'static str)> {
        // These limits are about requests that are sent by themselves.
        if of.batch.is_some() {
            return Vec::new();
        }
        let is_meant = |step: usize| only.is_none_or(|only| only == step);
        let minute = 60.0;
        let at = self.job.providers.iter().position(|known| known.name == of.name).unwrap_or_default();
        let parts: Vec<PartForecast> = (0..self.job.steps.len())
            .filter(|step| is_meant(*step) && self.job.steps[*step].all_providers().any(|own| own == at))
            .map(|step| self.part(step, at))
            .collect();
        let sum = |get: fn(&PartForecast) -> Estimate| {
            parts.iter().map(get).fold(Estimate::NOTHING, Estimate::plus)
        };
        let requests = match self.pilot {
            // Failed attempts count, and rows that went together are one request.
            Some(_) => self.measured(&|step, settled| {
                let requests = f64::from(settled.attempts) / self.together(step, of);
                if is_meant(step) && is_of(settled, of) { requests } else { 0.0 }
            }),
            None => parts.iter().fold(Estimate::NOTHING, |sum, part| {
                let step = self.job.steps.iter().position(|step| step.output == part.step);
                sum.plus(part.rows.times(1.0 / step.map_or(1.0, |step| self.together(step, of))))
            }),
        };
        let input = sum(|part| part.input_tokens);
        let mut output = sum(|part| part.output_tokens);
        if of.token_charge == Some(TokenCharge::Max) {
            // The provider counts `max_tokens`, not what the answer used.
            output = parts.iter().fold(Estimate::NOTHING, |sum, part| {
                let step = self.job.steps.iter().find(|step| step.output == part.step);
                let most = step.and_then(|step| step.params.max_tokens).map_or(0.0, f64::from);
                sum.plus(part.rows.times(most))
            });
        }
        let mut times = Vec::new();
        let per_minute =
            |limit: Option<f64>, amount: Estimate| limit.map(|limit| amount.times(minute / limit));
        let limits = &of.token_limits;
        let tokens = |limit: Option<u64>| limit.map(float);
        let learned = self.learned.get(&of.name).map(|lesson| &lesson.limits);
        let learned_requests = learned.and_then(|limits| limits.requests_per_minute);
        let learned_tokens = learned.and_then(|limits| limits.tokens_per_minute);
        let says_tokens = [limits.total, limits.input, limits.output].iter().any(Option::is_some);
        for (limit, amount, what) in [
            (
                learned_requests.filter(|_| of.requests_per_minute.is_none()),
                requests,
                "the requests a minute that former runs learned",
            ),
            (
                learned_tokens.filter(|_| !says_tokens),
                input.plus(output),
                "the tokens a minute that former runs learned",
            ),
            (of.requests_per_minute.map(f64::from), requests, "requests_per_minute"),
            (tokens(limits.total), input.plus(output), "tokens_per_minute"),
            (tokens(limits.input), input, "input_tokens_per_minute"),
            (tokens(limits.output), output, "output_tokens_per_minute"),
        ] {
            times.extend(per_minute(limit, amount).map(|lasts| (lasts, what)));
        }
        // After refused requests a run takes longer than its answers do, by an unknown time.
        if self.pilot.is_some_and(|pilot| pilot.throttled == 0) {
            let waited = self.measured(&|step, settled| {
                let latency =
                    settled.latency_ms.filter(|_| is_meant(step) && is_of(settled, of) && !settled.shared);
                latency.map_or(0.0, |ms| float(ms) / 1_000.0 / self.together(step, of))
            });
            let at_once = f64::from(of.max_concurrency.max(1));
            times.push((waited.times(1.0 / at_once), "latency, at max_concurrency"));
        }
        times
    }

    /// Returns notes on the figures, and on what is wrong with the job.
    pub(super) fn notes(&self, seconds: Option<Estimate>, retention: Option<Duration>) -> Vec<String> {
        let mut notes = Vec::new();
        let is_long = |kept: &Duration| {
            seconds.is_some_and(|seconds| seconds.expected.unwrap_or(seconds.low) > kept.as_secs_f64())
        };
        if let Some(kept) = retention.filter(is_long) {
            notes.push(format!(
                "this takes longer than the source keeps files that were removed from it ({}, \
                 delta.deletedFileRetentionDuration): a VACUUM could take files that are not read yet",
                humantime::format_duration(kept)
            ));
        }
        for provider in self.used() {
            if provider.prices.is_none() {
                notes.extend(self.price_note(provider));
            }
            notes.extend(batch_price_note(provider));
            if provider.hedge_share > 0.0 && provider.batch.is_none() {
                notes.push(format!(
                    "second requests beside those that take far longer than others may add up to {} % to what {} bills \
                     (hedge = \"off\" sends none)",
                    (provider.hedge_share * 1_000.0).round() / 10.0,
                    provider.name
                ));
            }
            let is_counted = Encoding::of(&provider.model).is_some();
            if self.pilot.is_none() && !is_counted {
                notes.push(format!(
                    "the tokens of {} are counted as OpenAI's newer models count them: its own may be a third more or \
                     less; --pilot measures them",
                    provider.model
                ));
            }
        }
        let spent = self.spent.map_or(0.0, |spent| spent.cost_usd);
        // The pilot's answers are part of the cost, and not to be paid again.
        let known = self.pilot.iter().flat_map(|pilot| pilot.outcomes.iter().flatten());
        let paid: f64 = known.filter_map(|settled| settled.cost).map(Money::dollars).sum();
        let of_job = self.job.budget.job.money.map(|most| (most, (most.dollars() - spent).max(0.0)));
        let of_run = self.job.budget.run.money.map(|most| (most, most.dollars()));
        let budgets = of_job.into_iter().chain(of_run);
        if let (Some((most, left)), Some(cost)) =
            (budgets.min_by(|(_, a), (_, b)| a.total_cmp(b)), self.cost())
            && cost.high.is_none_or(|high| high - paid > left)
        {
            notes.push(format!("${left:.4} is left of the budget of {most}: it may not be enough"));
        }
        notes.extend(self.urgent_note());
        notes.extend(self.alike_note());
        if self.job.cache.is_some() {
            notes
                .push("answers in the cache are not looked up here: with them the run costs less".to_owned());
        }
        let has_windows = self.used().any(|provider| provider.context_window.is_some());
        if self.pilot.is_none() && has_windows {
            let text = "a context_window is not reckoned with: prompts beyond it go elsewhere, are cut, or cost nothing";
            notes.push(text.to_owned());
        }
        if self.pilot.is_some_and(|pilot| pilot.throttled > 0) {
            let text = "a provider has limits that the job does not name and refused some requests for being too many: it \
                        takes longer than its answers do; set requests_per_minute or tokens_per_minute";
            notes.push(text.to_owned());
        }
        match self.pilot {
            None => self.note_unknown(&mut notes),
            Some(pilot) => {
                Self::note_pilot(pilot, &mut notes);
                notes.extend(self.cost().and_then(|cost| self.wider(pilot.places.len(), cost)));
            }
        }
        notes
    }

    /// Returns how many pilot rows give an interval that is narrow enough, if it is not and they can be sent.
    fn wider(&self, pilot_rows: usize, cost: Estimate) -> Option<String> {
        let width = (cost.high? - cost.low) / 2.0 / cost.expected.filter(|expected| *expected > 0.0)?;
        let factor = (width / WIDTH).powi(2);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
        let rows = (float(pilot_rows as u64) * factor / 100.0).ceil() as u64 * 100;
        (width > WIDTH && rows < self.rows.min(MAX_PILOT_ROWS))
            .then(|| format!("--pilot {rows} would tell the cost to ±{:.0} %, about", WIDTH * 100.0))
    }

    /// Returns a note on sampled rows that share an answer, if there are any.
    fn alike_note(&self) -> Option<String> {
        let mut prompts = 0_u64;
        let mut distinct = BTreeSet::new();
        for row in self.looked {
            for (nth, request) in row.requests.iter().enumerate() {
                if let SampleRequest::Of { question, .. } = request
                    && self.job.steps[nth].shares
                {
                    prompts += 1;
                    distinct.insert((nth, question.fingerprint()));
                }
            }
        }
        let distinct = distinct.len() as u64;
        (distinct < prompts).then(|| {
            format!(
                "of {} that were counted {} are alike: rows with the same prompt share one answer, and the run costs less \
                 than this, the less the more of them there are",
                counted(prompts, "prompt"),
                prompts - distinct
            )
        })
    }

    fn price_note(&self, provider: &Provider) -> Option<String> {
        let name = &provider.name;
        match list_price(provider) {
            Some(Listed { as_of, .. }) => Some(format!(
                "the price of {} is the one listed at its maker's in {as_of}; set price_per_million_input and \
                 price_per_million_output of provider {name:?} to yours",
                provider.model
            )),
            None if self.is_priced(provider) => None,
            None => Some(format!(
                "the price of {} is not known: set price_per_million_input and price_per_million_output of provider {name:?}",
                provider.model
            )),
        }
    }

    fn note_unknown(&self, notes: &mut Vec<String>) {
        if self.before.rows > 0 {
            notes.push(format!(
                "expected are answers as they were in earlier batches, of {}: --pilot shows bounds",
                counted(self.before.rows, "row")
            ));
        }
        for (nth, step) in self.job.steps.iter().enumerate() {
            if self.looked.iter().any(|row| matches!(row.requests[nth], SampleRequest::Unknown)) {
                notes.push(format!(
                    "the requests of step {:?} depend on answers of other steps: --pilot shows how often and how long",
                    step.output
                ));
            } else if step.params.vectors.is_none() {
                notes.push(match step.params.max_tokens {
                    Some(most) => format!(
                        "answers of step {:?} may have up to {most} tokens each: --pilot shows how long they are",
                        step.output
                    ),
                    None => format!(
                        "nothing bounds the answers of step {:?}: set max_tokens, and --pilot shows how long they are",
                        step.output
                    ),
                });
            }
        }
    }

    fn note_pilot(pilot: &Answered, notes: &mut Vec<String>) {
        if pilot.places.len() < FEW {
            notes.push(format!(
                "where lengths differ much, so few rows ({}) hold the truth within these bounds some 85 times in 100",
                pilot.places.len()
            ));
        }
        let failed = |settled: &&RowResult| matches!(settled.outcome, Outcome::Failed(_));
        let all = || pilot.outcomes.iter().flatten();
        if all().count() > 0 && all().filter(failed).count() * 2 > all().count() {
            notes.push("more than half of what was sent failed: these figures are about that".to_owned());
        }
    }
}

/// Returns the tokens of a row's prompts that are known without an answer.
fn counted_tokens(row: &Looked) -> f64 {
    let tokens = row.requests.iter().map(|request| match request {
        SampleRequest::Of { tokens, .. } => *tokens as u64,
        SampleRequest::Nothing | SampleRequest::Unknown => 0,
    });
    float(tokens.sum())
}

pub(super) fn is_of(settled: &RowResult, provider: &Provider) -> bool {
    settled.provider.as_deref() == Some(provider.name.as_str())
}

/// Returns what an answer costs: as the provider states it, else its tokens at the known prices. A pilot's answer, which
/// came by itself, does not state what it costs in a batch.
pub(super) fn dollars(settled: &RowResult, of: &Provider) -> Option<f64> {
    let reckoned = || Some(prices(of)?.cost(settled.tokens.unwrap_or_default()));
    let stated = settled.cost.filter(|_| of.batch.is_none());
    stated.or_else(reckoned).or(settled.cost).map(Money::dollars)
}

/// Returns the known prices of a provider: those of its Batch API, if it is asked through that.
pub(super) fn prices(of: &Provider) -> Option<Prices> {
    let stated = of.prices.as_ref().map(|prices| match of.batch {
        Some(_) => prices.in_batch(),
        None => prices.expected(),
    });
    stated.or_else(|| list_price(of).map(|listed| listed.prices))
}

fn list_price(of: &Provider) -> Option<Listed> {
    let tier = if of.batch.is_some() { Some(BATCH_TIER) } else { of.service_tier.as_deref() };
    listed(of.endpoint.as_ref()?.host_str()?, &of.model, tier)
}

fn batch_price_note(of: &Provider) -> Option<String> {
    let lacks = of.batch.is_some() && of.prices.as_ref().is_some_and(|prices| !prices.states_batch_prices());
    lacks.then(|| {
        format!(
            "what {0} costs in a batch is not stated: it is reckoned at the standard price; set \
             [provider.{0}.tier_prices.batch]",
            of.name
        )
    })
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
