//! A step with its compiled templates: what it asks for, and which of its providers takes a row.

use std::sync::{Arc, OnceLock};

use super::inputs::When;
use super::step_provider::{StepProvider, bit};
use crate::config::{Params, StepSpec};
use crate::decode::Content;
use crate::fault::{Class, Failure};
use crate::prompt::Prompt;
use crate::rows::OutputColumns;

/// A step that is ready for requests.
#[derive(Debug)]
pub struct CompiledStep {
    /// The step as the job states it.
    pub(crate) spec: Arc<StepSpec>,
    pub(crate) output: Arc<str>,
    /// Fingerprint of templates and parameters, as text.
    pub(crate) template: Arc<str>,
    pub(crate) params: Arc<Params>,
    pub(crate) prompt: Prompt,
    /// The condition that rows must meet for a request.
    pub(crate) when: Option<When>,
    /// The conditions of [`StepSpec::routes`], in their order.
    pub(crate) routes: Vec<When>,
    /// The earlier steps whose outputs it needs.
    pub(crate) needs: Vec<usize>,
    /// Its columns in the target.
    pub(crate) columns: OutputColumns,
    /// Numbers in each of its vectors, once that is known.
    pub(crate) dimensions: OnceLock<usize>,
    /// Whether one of its providers takes prompts up to a length only.
    pub(crate) has_windows: bool,
}

/// What a row is handed to a provider for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its answer.
    Answer,
    /// To find out whether a provider that failed answers again.
    Probe,
}

impl CompiledStep {
    /// Whether the provider depends on the row.
    pub(super) fn is_routed(&self) -> bool {
        !self.routes.is_empty() || self.has_windows
    }

    /// A list of providers, in the order in which they are tried.
    pub(super) fn providers_of(&self, route: usize) -> &[usize] {
        let routed = route.checked_sub(1).and_then(|route| self.spec.routes.get(route));
        routed.map_or(&self.spec.providers, |route| &route.providers)
    }

    /// Whether rows that go to a provider may go to another one.
    pub(super) fn has_fallback(&self, provider: usize) -> bool {
        let mut lists = self.spec.routes.iter().map(|route| &route.providers).chain([&self.spec.providers]);
        lists.any(|providers| providers.len() > 1 && providers.contains(&provider))
    }

    /// Where the next row is asked, and whether it is to find out how a provider that failed is now: the first provider that
    /// takes rows, or with balance the one with the most room; one that failed gets a row when it wants to be tried.
    /// None while all of them fail.
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

    /// Whether another provider than these could answer.
    pub(super) fn has_other(&self, providers: &[StepProvider], route: usize, without: u64) -> bool {
        self.providers_of(route)
            .iter()
            .any(|provider| without & bit(*provider) == 0 && providers[*provider].health.is_up())
    }

    /// Holds a vector against those before it: all of a column are of one length.
    pub(super) fn fits(&self, content: Content) -> Result<Content, Failure> {
        let Content::Vector(numbers) = &content else { return Ok(content) };
        let expected = *self.dimensions.get_or_init(|| numbers.len());
        if numbers.len() == expected {
            return Ok(content);
        }
        let detail = format!("the vector has {} numbers, and {expected} are expected", numbers.len());
        Err(Failure::new(Class::InvalidOutput, detail))
    }

    /// Whether an answer of this provider and model is one of this step's.
    pub(super) fn takes(&self, providers: &[StepProvider], provider: &str, model: &str) -> bool {
        (0..=self.routes.len()).any(|route| self.takes_by(route, providers, provider, model))
    }

    /// The same of one of its lists of providers.
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
