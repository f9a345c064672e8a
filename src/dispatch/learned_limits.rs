//! What dispatchers learned about their providers, kept from run to run. Nothing depends on it: it may be lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::admission::ProviderLimits;
use crate::config::SchemaForm;
use crate::tokens::{Meter, StepTokens};

/// What was learned about one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnedProvider {
    /// The provider's limits.
    #[serde(flatten)]
    pub limits: ProviderLimits,
    /// Tokens that requests of each step take, by the step's output.
    #[serde(default)]
    pub steps: BTreeMap<String, StepTokens>,
    /// The form in which the provider takes schemas, or `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_form: Option<SchemaForm>,
}

/// What was learned about each provider, by its name. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LearnedLimits(Arc<Mutex<BTreeMap<String, LearnedProvider>>>);

impl LearnedLimits {
    /// Creates it from what a former run learned.
    #[must_use]
    pub fn new(learned_limits: BTreeMap<String, LearnedProvider>) -> Self {
        LearnedLimits(Arc::new(Mutex::new(learned_limits)))
    }

    /// Returns a copy of all of it.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, LearnedProvider> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn recall(&self, provider: &str) -> (ProviderLimits, Meter, Option<SchemaForm>) {
        let learned_provider = self.all().remove(provider).unwrap_or_default();
        let mut meter = Meter::default();
        for (step, tokens) in learned_provider.steps {
            meter.remember(&step.into(), tokens);
        }
        (learned_provider.limits, meter, learned_provider.schema_form)
    }

    pub(super) fn keep(
        &self,
        provider: &str,
        limits: ProviderLimits,
        meter: &Meter,
        schema_form: Option<SchemaForm>,
    ) {
        let mut learned_limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = learned_limits.get(provider).and_then(|learned_provider| learned_provider.schema_form);
        let learned_provider =
            LearnedProvider { limits, steps: meter.learned(), schema_form: schema_form.or(before) };
        learned_limits.insert(provider.to_owned(), learned_provider);
    }
}
