//! The checks of which rows go through Batch APIs, and which by single requests.

use url::Url;

use super::batch_api::Repairs;
use super::budget::BATCH_TIER;
use super::check::Checker;
use super::error::ConfigError;
use super::job::Provider;
use super::raw::RawProvider;
use super::step::{Form, StepSpec};
use super::units::{Span, duration};

/// The host of Anthropic's interface, whose batches carry no name by which one could be found again.
const ANTHROPIC: &str = "api.anthropic.com";
/// The ends of the names of Azure's hosts.
const AZURE: [&str; 2] = [".openai.azure.com", ".cognitiveservices.azure.com"];

impl Checker<'_> {
    /// Refuses a section for a Batch API that the provider's host does not have, and a price for one without a section.
    pub(super) fn check_batch_provider(
        &self,
        name: &str,
        raw: &RawProvider,
        endpoint: Option<&Url>,
    ) -> Result<(), ConfigError> {
        if raw.batch.is_none() && raw.tier_prices.contains_key(BATCH_TIER) {
            return Err(self.wrong(
                format!("provider.{name}.tier_prices.{BATCH_TIER}"),
                format!(
                    "is the price of a Batch API, and requests are sent by themselves; add a section \
                     [provider.{name}.batch], or take it out"
                ),
            ));
        }
        if raw.batch.is_some() && host(endpoint) == Some(ANTHROPIC) {
            return Err(self.wrong(
                format!("provider.{name}.batch"),
                format!(
                    "does not go with {ANTHROPIC}: its batches have an interface of their own, in which a batch could \
                     not be found again if the answer to its creation were lost; take the section out"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses what does not go with a step's providers that are asked through Batch APIs. `row_deadline` is what the job
    /// states.
    pub(super) fn check_batch_step(
        &self,
        position: usize,
        step: &StepSpec,
        row_deadline: Option<Span>,
        providers: &[Provider],
    ) -> Result<(), ConfigError> {
        let key = |field: &str| format!("step[{position}].{field}");
        if step.urgent_when.is_some() {
            self.check_urgent(&key("urgent_when"), step, providers)?;
        }
        let has_repairs = matches!(step.form, Form::Classes(_) | Form::Typed(_)) && step.max_repairs > 0;
        for list in step.provider_lists() {
            let has_online = list.iter().any(|provider| providers[*provider].batch.is_none());
            for provider in list.iter().map(|provider| &providers[*provider]) {
                let Some(batch) = &provider.batch else { continue };
                let name = &provider.name;
                if step.balance && list.len() > 1 {
                    return Err(self.wrong(
                        key("balance"),
                        format!(
                            "is set, and provider {name:?} is asked through its Batch API: rows would be split between \
                             now and tomorrow; take one of the two out"
                        ),
                    ));
                }
                if let (Some(Span(deadline)), Ok(window)) = (row_deadline, duration(&batch.window))
                    && deadline < window
                {
                    return Err(self.wrong(
                        key("row_deadline"),
                        format!(
                            "is shorter than {}, which provider {name:?} has for a batch; take it out, or set the \
                             provider's batch.deadline",
                            batch.window
                        ),
                    ));
                }
                let is_azure = host(provider.endpoint.as_ref())
                    .is_some_and(|host| AZURE.iter().any(|ending| host.ends_with(ending)));
                if is_azure && step.params.vectors.is_some() {
                    return Err(self.wrong(
                        key("kind"),
                        format!(
                            "is \"embedding\", and provider {name:?} is asked through Azure's Batch API, which takes no \
                             requests for embeddings; name a provider without a section `batch`"
                        ),
                    ));
                }
                if batch.repairs == Repairs::Online && has_repairs && !has_online {
                    return Err(self.wrong(
                        format!("provider.{name}.batch.repairs"),
                        format!(
                            "is \"online\", and step[{position}] has a list of providers with {name:?} in which each has \
                             a section `batch`; add one without, or take it out"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_urgent(&self, key: &str, step: &StepSpec, providers: &[Provider]) -> Result<(), ConfigError> {
        let Some((first, others)) = step.providers.split_first() else { return Ok(()) };
        let name = &providers[*first].name;
        if providers[*first].batch.is_none() {
            return Err(self.wrong(
                key,
                format!(
                    "is set, and the step's first provider, {name:?}, has no section `batch`: its rows do not wait for a \
                     batch; take it out"
                ),
            ));
        }
        if others.iter().all(|provider| providers[*provider].batch.is_some()) {
            return Err(self.wrong(
                key,
                format!(
                    "is set, and no provider behind {name:?} in the step's list is without a section `batch`: add one, to \
                     which urgent rows go"
                ),
            ));
        }
        Ok(())
    }
}

fn host(endpoint: Option<&Url>) -> Option<&str> {
    endpoint.and_then(Url::host_str)
}
