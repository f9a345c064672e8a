//! The paces of requests and of tokens of one provider. A request takes from all of them or from none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::learned::ProviderLimits;
use super::learned_rate::LimitKnowledge;
use super::pace::Pace;
use crate::clock::Instant;
use crate::config::{Provider, TokenCharge};
use crate::event::{LimitShare, Waiting};
use crate::fault::Scarce;
use crate::ident::Tokens;
use crate::wire::Limits;

const KINDS: usize = 4;
const REQUESTS: usize = 0;
const TOKENS: usize = 1;
const INPUT: usize = 2;
const OUTPUT: usize = 3;

/// What a request is expected to take from the limits on tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Tokens of the prompt.
    pub input: f64,
    /// Expected tokens of the answer.
    pub output: f64,
    /// The most tokens that the answer may have, or `None` if the request sets no bound.
    pub most_output: Option<f64>,
}

/// What was taken from each limit for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    amounts: [f64; KINDS],
    /// Totals taken by then, this request included.
    marks: [f64; KINDS],
    pub(super) at: Instant,
    /// Whether it was sent while no other request was in flight.
    is_alone: bool,
    cost: Cost,
}

/// The limits of a provider.
#[derive(Debug)]
pub(super) struct Quotas {
    paces: [Pace; KINDS],
    charge: Option<TokenCharge>,
    is_charge_known: bool,
    used: [f64; KINDS],
    since: Option<Instant>,
    last: Option<Instant>,
}

/// The limits of a provider, or of several that have one key. Clones share them; each provider is asked on a thread of
/// its own.
#[derive(Clone, Debug)]
pub struct SharedQuotas(Arc<Mutex<Quotas>>);

impl SharedQuotas {
    /// Creates the limits of a provider from what a former run learned.
    #[must_use]
    pub fn new(provider: &Provider, learned: &ProviderLimits, now: Instant) -> Self {
        let mut quotas = Quotas::new(provider, now);
        let a_second = |per_minute: Option<f64>| per_minute.map(|limit| limit / 60.0);
        let (requests, tokens) = (learned.requests_per_minute, learned.tokens_per_minute);
        quotas.remember(a_second(requests), a_second(tokens), learned.token_charge, now);
        SharedQuotas(Arc::new(Mutex::new(quotas)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Quotas> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of the providers of a run: those whose sections name the same `limits` share them.
#[derive(Debug, Default)]
pub struct QuotaGroups(Mutex<HashMap<String, SharedQuotas>>);

impl QuotaGroups {
    /// Returns the limits of a provider. `learned` is what a former run learned about it.
    pub fn of(&self, provider: &Provider, learned: &ProviderLimits, now: Instant) -> SharedQuotas {
        let new = || SharedQuotas::new(provider, learned, now);
        let Some(group) = &provider.limits else { return new() };
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.entry(group.clone()).or_insert_with(new).clone()
    }
}

impl Quotas {
    pub(super) fn new(provider: &Provider, now: Instant) -> Self {
        let limits = provider.token_limits;
        Quotas {
            paces: [
                Pace::of_requests(provider.requests_per_minute, now),
                Pace::of_tokens(limits.total, now),
                Pace::of_tokens(limits.input, now),
                Pace::of_tokens(limits.output, now),
            ],
            charge: provider.token_charge,
            is_charge_known: provider.token_charge.is_some(),
            used: [0.0; KINDS],
            since: None,
            last: None,
        }
    }

    /// What was learned: requests and tokens per second, and what an answer counts for.
    pub(super) fn learned(&self) -> (Option<f64>, Option<f64>, Option<TokenCharge>) {
        let charge = self.charge.filter(|_| !self.is_charge_known);
        (self.paces[REQUESTS].ceiling(), self.paces[TOKENS].ceiling(), charge)
    }

    /// Takes over what a former run learned.
    pub(super) fn remember(
        &mut self,
        requests: Option<f64>,
        tokens: Option<f64>,
        charge: Option<TokenCharge>,
        now: Instant,
    ) {
        for (kind, rate) in [(REQUESTS, requests), (TOKENS, tokens)] {
            if let Some(rate) = rate {
                self.paces[kind].remember(rate, now);
            }
        }
        self.charge = self.charge.or(charge);
    }

    /// Whether there is a limit on tokens.
    pub(super) fn counts_tokens(&self) -> bool {
        self.paces.iter().skip(TOKENS).any(Pace::is_limited)
    }

    /// Whether there is any limit, so that requests are sent at a limited rate.
    pub(super) fn limits_requests(&self) -> bool {
        self.paces.iter().any(Pace::is_limited)
    }

    /// Takes what a request needs, or returns how long until all of it is there and what is short. With `holds_rate`
    /// the learned rates do not grow now.
    pub(super) fn take(
        &mut self,
        cost: Cost,
        is_alone: bool,
        holds_rate: bool,
        now: Instant,
    ) -> Result<Taken, (Duration, Waiting)> {
        let amounts = self.amounts(cost);
        let waits = self.paces.iter_mut().zip(amounts).enumerate().filter_map(|(kind, (pace, amount))| {
            let what = if kind == REQUESTS { Waiting::RequestsPerMinute } else { Waiting::TokensPerMinute };
            pace.wait(amount, holds_rate, now).map(|wait| (wait, what))
        });
        if let Some(longest) = waits.max_by_key(|(wait, _)| *wait) {
            return Err(longest);
        }
        // governor comes last, since it cannot be checked without taking from it.
        self.paces[REQUESTS].govern(now).map_err(|wait| (wait, Waiting::RequestsPerMinute))?;
        let mut marks = [0.0; KINDS];
        for ((pace, amount), mark) in self.paces.iter_mut().zip(amounts).zip(&mut marks) {
            *mark = pace.take(amount, now);
        }
        for (used, amount) in self.used.iter_mut().zip(amounts) {
            *used += amount;
        }
        self.since.get_or_insert(now);
        self.last = Some(now);
        Ok(Taken { amounts, marks, at: now, is_alone, cost })
    }

    /// Counts an answered request. `tokens` is what it used, if known, and `limits` what the response stated.
    pub(super) fn answered(&mut self, taken: &Taken, tokens: Option<Tokens>, limits: &Limits, now: Instant) {
        if let Some(tokens) = tokens {
            self.correct(taken, tokens, now);
            self.learn_charge(taken, tokens, limits);
        }
        self.take_up_headers(taken, limits, now);
    }

    /// Counts a failed request, and gives back what was taken for its answer.
    pub(super) fn failed(&mut self, taken: &Taken, limits: &Limits, now: Instant) {
        self.correct_to(taken, [1.0, taken.cost.input, taken.cost.input, 0.0], now);
        self.take_up_headers(taken, limits, now);
    }

    /// Counts a request that a limit refused, and gives back all that was taken for it.
    pub(super) fn refused(&mut self, taken: &Taken, limits: &Limits, now: Instant) {
        self.correct_to(taken, [0.0; KINDS], now);
        // Headers of a refusal count only if other responses stated a limit, too: some servers send arbitrary numbers
        // with refusals.
        if self.paces.iter().any(Pace::is_stated) {
            self.take_up_headers(taken, limits, now);
        }
    }

    /// Lowers a limit after the first refusal since the last pause. Returns whether the allowed rate is known.
    pub(super) fn lower_limit(
        &mut self,
        taken: &Taken,
        scarce: Option<Scarce>,
        delay: Duration,
        now: Instant,
    ) -> LimitKnowledge {
        let kind = match scarce {
            Some(Scarce::Capacity | Scarce::TierRoom) => return LimitKnowledge::Nothing,
            Some(Scarce::Tokens) => {
                if !self.is_charge_known
                    && self.charge.is_none()
                    && self.counts_tokens()
                    && taken.cost.most_output.is_some_and(|most| most > 1.5 * taken.cost.output)
                {
                    // By the tokens that answers use, the request should have passed: so the provider counts
                    // `max_tokens`.
                    self.charge = Some(TokenCharge::Max);
                    return LimitKnowledge::Ceiling;
                }
                let kind = self.scarcest_tokens();
                if self.charge != Some(TokenCharge::Max) && self.paces[kind].explains(now) {
                    return LimitKnowledge::Ceiling;
                }
                kind
            }
            Some(Scarce::Requests) | None => REQUESTS,
        };
        self.paces[kind].refused(taken.at, delay, now)
    }

    /// Requests per second to which refusals lowered sending, or `None` if they did not.
    pub(super) fn rate(&self) -> Option<f64> {
        self.paces[REQUESTS].learned_rate()
    }

    /// Distrusts what refusals taught about the rate of requests.
    pub(super) fn distrust_learned(&mut self) {
        self.paces[REQUESTS].distrust_learned();
    }

    /// Limits sending to this many requests per second until the trial ends.
    pub(super) fn begin_trial(&mut self, per_second: f64, now: Instant) {
        self.paces[REQUESTS].begin_trial(per_second, now);
    }

    /// Ends the trial. `None` means that refusals come at any rate, `Some` that they are about a limit on requests:
    /// `allowed` is what was answered per second before the trial.
    pub(super) fn end_trial(&mut self, allowed: Option<f64>, now: Instant) {
        self.paces[REQUESTS].end_trial(allowed, now);
    }

    /// Notes that a request sent after the last pause was answered.
    pub(super) fn answered_after_pause(&mut self, taken: &Taken, now: Instant) {
        self.paces.iter_mut().for_each(|pace| pace.answered_after_pause(taken.at, now));
    }

    /// Notes that a pause is over.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.paces.iter_mut().for_each(|pace| pace.resumed(now));
    }

    /// The used share of each known limit.
    pub(super) fn shares(&self) -> Vec<LimitShare> {
        let elapsed = self.since.zip(self.last).map_or(0.0, |(since, last)| (last - since).as_secs_f64());
        let kinds = [Scarce::Requests, Scarce::Tokens, Scarce::Tokens, Scarce::Tokens];
        let shares = self.paces.iter().zip(self.used).zip(kinds);
        shares
            .filter_map(|((pace, used), of)| {
                let limit = pace.limit()?;
                let used = if elapsed < 1.0 { 0.0 } else { used / (limit * elapsed) };
                Some(LimitShare { of, per_minute: limit * 60.0, used })
            })
            .collect()
    }

    fn amounts(&self, cost: Cost) -> [f64; KINDS] {
        let output = match self.charge {
            Some(TokenCharge::Max) => cost.most_output.unwrap_or(cost.output),
            _ => cost.output,
        };
        [1.0, cost.input + output, cost.input, output]
    }

    fn take_up_headers(&mut self, taken: &Taken, limits: &Limits, now: Instant) {
        let quotas = [&limits.requests, &limits.tokens, &limits.input_tokens, &limits.output_tokens];
        for (kind, quota) in quotas.into_iter().enumerate() {
            self.paces[kind].take_up_headers(quota, taken.at, taken.marks[kind], now);
        }
    }

    fn correct(&mut self, taken: &Taken, tokens: Tokens, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let (input, output) = (tokens.prompt as f64, tokens.completion as f64);
        let output = match self.charge {
            // The provider counts the requested maximum and gives nothing back.
            Some(TokenCharge::Max) => taken.amounts[OUTPUT].max(output),
            _ => output,
        };
        for (kind, amount) in [(TOKENS, input + output), (INPUT, input), (OUTPUT, output)] {
            self.paces[kind].used(amount, now);
        }
        self.correct_to(taken, [1.0, input + output, input, output], now);
    }

    fn correct_to(&mut self, taken: &Taken, amounts: [f64; KINDS], now: Instant) {
        let kinds = self.paces.iter_mut().zip(&mut self.used);
        for ((pace, used), (amount, before)) in kinds.zip(amounts.into_iter().zip(taken.amounts)) {
            let more = amount - before;
            if more != 0.0 {
                pace.correct(more, taken.at, now);
                *used += more;
            }
        }
    }

    /// Learns which tokens the provider counts for an answer. After a request that was sent alone, what is missing
    /// from the full limit is what the provider counted for it.
    fn learn_charge(&mut self, taken: &Taken, tokens: Tokens, limits: &Limits) {
        let (Some(limit), Some(remaining)) = (limits.tokens.limit, limits.tokens.remaining) else { return };
        if self.charge.is_some() || !taken.is_alone || limits.tokens.is_longer_than_minute() {
            return;
        }
        let Some(most) = taken.cost.most_output else { return };
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let (counted, input, used) =
            (limit.saturating_sub(remaining) as f64, tokens.prompt as f64, tokens.completion as f64);
        if most > 2.0 * used && counted > 0.0 && counted < 4.0 * (input + most) {
            let is_max = counted >= input + 0.9 * most;
            self.charge = Some(if is_max { TokenCharge::Max } else { TokenCharge::Actual });
        }
    }

    /// The kind of tokens that a refusal is about if it does not name one.
    fn scarcest_tokens(&self) -> usize {
        match (self.paces[INPUT].is_limited(), self.paces[OUTPUT].is_limited()) {
            _ if self.paces[TOKENS].is_limited() => TOKENS,
            (true, false) => INPUT,
            (false, true) => OUTPUT,
            _ => TOKENS,
        }
    }
}
