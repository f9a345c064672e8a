//! A step with its compiled templates: what its requests hold, and which of its providers takes a row.

use std::sync::{Arc, OnceLock};

use super::condition::When;
use super::step_provider::{StepProvider, bit};
use crate::config::{Params, StepSpec};
use crate::decode::Content;
use crate::executor::Request;
use crate::fault::{Class, Failure};
use crate::ident::Fingerprint;
use crate::ledger::Urgency;
use crate::prompt::Prompt;
use crate::rows::OutputColumns;

/// Returns the fingerprint of what steps ask.
pub(crate) fn asked_by(steps: &[CompiledStep]) -> Fingerprint {
    Fingerprint::of(steps.iter().flat_map(|step| [step.output.as_bytes(), step.template.as_bytes()]))
}

/// A step whose templates and conditions are compiled.
#[derive(Debug)]
pub struct CompiledStep {
    /// The step as the job states it.
    pub(crate) spec: Arc<StepSpec>,
    pub(crate) output: Arc<str>,
    /// Fingerprint of templates and parameters, as text.
    pub(crate) template: Arc<str>,
    pub(crate) params: Arc<Params>,
    pub(crate) prompt: Prompt,
    /// The condition that a row must meet to be sent.
    pub(crate) when: Option<When>,
    /// The conditions of [`StepSpec::routes`], in their order.
    pub(crate) routes: Vec<When>,
    /// The condition of rows that are asked before the others, and through no Batch API.
    pub(crate) urgent: Option<When>,
    /// Indices of the earlier steps whose outputs it needs.
    pub(crate) needs: Vec<usize>,
    /// Its columns in the target.
    pub(crate) columns: OutputColumns,
    /// Length of its vectors, once that is known.
    pub(crate) dimensions: OnceLock<usize>,
    /// Whether one of its providers limits the length of prompts.
    pub(crate) has_windows: bool,
}

/// Why a row is handed to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To get its answer.
    Answer,
    /// To find out whether a provider that failed answers again.
    Probe,
}

impl CompiledStep {
    /// Whether the provider depends on the row.
    pub(super) fn is_routed(&self) -> bool {
        !self.routes.is_empty() || self.has_windows
    }

    /// Returns a list of providers, in the order in which they are tried: the step's own for 0, that of its nth route
    /// for n.
    pub(super) fn providers_of(&self, route: usize) -> &[usize] {
        let routed = route.checked_sub(1).and_then(|route| self.spec.routes.get(route));
        routed.map_or(&self.spec.providers, |route| &route.providers)
    }

    /// How urgent its rows may be, the most urgent first.
    pub(super) fn urgencies(&self) -> &'static [Urgency] {
        if self.urgent.is_some() { &[Urgency::Urgent, Urgency::Usual] } else { &[Urgency::Usual] }
    }

    /// Returns the providers of a list that are asked through their Batch APIs, for rows that cannot wait for one; none
    /// if no other provider outside `without` is left for such rows.
    pub(super) fn submitters(&self, providers: &[StepProvider], route: usize, without: u64) -> u64 {
        let open = || self.providers_of(route).iter().filter(|provider| without & bit(**provider) == 0);
        let submitters = open().filter(|provider| providers[**provider].is_submitter());
        let submitters = submitters.fold(0, |all, provider| all | bit(*provider));
        if open().all(|provider| submitters & bit(*provider) != 0) { 0 } else { submitters }
    }

    /// Returns the providers of the step's own list that get no rows of this urgency.
    pub(super) fn closed_to(&self, urgency: Urgency, providers: &[StepProvider]) -> u64 {
        match urgency {
            Urgency::Urgent => self.submitters(providers, 0, 0),
            Urgency::Usual => 0,
        }
    }

    /// Whether rows of a provider may go to another one.
    pub(super) fn has_fallback(&self, provider: usize) -> bool {
        let mut lists = self.spec.routes.iter().map(|route| &route.providers).chain([&self.spec.providers]);
        lists.any(|providers| providers.len() > 1 && providers.contains(&provider))
    }

    /// Chooses the provider of the next row, outside `without`. A provider that failed and wants a probe comes first;
    /// else it is the first provider that takes rows, or with `balance` the one with the most room. Returns `None`
    /// while all of them fail.
    pub(super) fn route(
        &self,
        providers: &[StepProvider],
        route: usize,
        without: u64,
    ) -> Option<(usize, Purpose)> {
        let own = self.providers_of(route);
        if let [only] = own
            && !providers[*only].has_fallback
        {
            return Some((*only, Purpose::Answer));
        }
        let open = || own.iter().copied().filter(|provider| without & bit(*provider) == 0);
        if let Some(probe) = open().find(|provider| providers[*provider].health.reserve_probe()) {
            return Some((probe, Purpose::Probe));
        }
        let mut up = open().filter(|provider| providers[*provider].health.is_up());
        let provider = if self.spec.balance {
            up.max_by_key(|provider| providers[*provider].capacity())
        } else {
            up.next()
        };
        provider.map(|provider| (provider, Purpose::Answer))
    }

    /// Returns a provider of a request's list that has tried it, or `None` if none has.
    pub(super) fn provider_tried(&self, request: &Request) -> Option<usize> {
        let mut own = self.providers_of(request.route).iter().copied();
        own.find(|provider| request.tried & bit(*provider) != 0)
    }

    /// Returns the first provider of a list, outside `without`, that takes rows.
    pub(super) fn first_up<'a>(
        &self,
        providers: &'a [StepProvider],
        route: usize,
        without: u64,
    ) -> Option<&'a StepProvider> {
        let open = self.providers_of(route).iter().filter(|provider| without & bit(**provider) == 0);
        open.map(|provider| &providers[*provider]).find(|provider| provider.health.is_up())
    }

    /// Whether a provider outside `without` takes rows.
    pub(super) fn has_other(&self, providers: &[StepProvider], route: usize, without: u64) -> bool {
        self.first_up(providers, route, without).is_some()
    }

    /// Checks the length of a vector against that of the vectors before it: all in a column have the same.
    pub(super) fn fits(&self, content: Content) -> Result<Content, Failure> {
        let Content::Vector(numbers) = &content else { return Ok(content) };
        let expected = *self.dimensions.get_or_init(|| numbers.len());
        if numbers.len() == expected {
            return Ok(content);
        }
        let detail = format!("the vector has {} numbers, and {expected} are expected", numbers.len());
        Err(Failure::new(Class::InvalidOutput, detail))
    }

    /// Whether an answer of this provider and model counts for this step.
    pub(super) fn takes(&self, providers: &[StepProvider], provider: &str, model: &str) -> bool {
        (0..=self.routes.len()).any(|route| self.takes_by(route, providers, provider, model))
    }

    /// Whether an answer of this provider and model counts for one of the step's provider lists.
    pub(super) fn takes_by(
        &self,
        route: usize,
        providers: &[StepProvider],
        provider: &str,
        model: &str,
    ) -> bool {
        let mut own = self.providers_of(route).iter().map(|provider| &providers[*provider]);
        own.any(|own| *own.name == *provider && *own.model == *model)
    }
}
