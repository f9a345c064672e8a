//! What dispatchers learned about their providers, kept from run to run. It may be lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::admission::Learned;
use crate::meter::{Meter, StepTokens};

/// What was learned about one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    /// Its limits.
    #[serde(flatten)]
    pub limits: Learned,
    /// Tokens of its answers, by step.
    #[serde(default)]
    pub steps: BTreeMap<String, StepTokens>,
}

/// What was learned, by the name of the provider. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lessons(Arc<Mutex<BTreeMap<String, Lesson>>>);

impl Lessons {
    /// Begins with what a former run learned.
    #[must_use]
    pub fn new(lessons: BTreeMap<String, Lesson>) -> Self {
        Lessons(Arc::new(Mutex::new(lessons)))
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Lesson> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn recall(&self, provider: &str) -> (Learned, Meter) {
        let lesson = self.all().remove(provider).unwrap_or_default();
        let mut meter = Meter::default();
        for (step, tokens) in lesson.steps {
            meter.remember(&step.into(), tokens);
        }
        (lesson.limits, meter)
    }

    pub(super) fn keep(&self, provider: &str, limits: Learned, meter: &Meter) {
        let lesson = Lesson { limits, steps: meter.learned() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(provider.to_owned(), lesson);
    }
}
