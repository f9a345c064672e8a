//! The forms in which a request carries a schema, and which of them an endpoint accepts.
//!
//! Sources: the OpenAI API reference (`response_format`, `tools`), vLLM's and llama.cpp's pages on structured
//! outputs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::MutexGuard as Turn;

use crate::config::{SchemaForm, Shape};
use crate::wire::{Message, Role, SCHEMA_WORDS};

/// Forms in the order in which they are tried.
const TRIED: [SchemaForm; 4] =
    [SchemaForm::JsonSchema, SchemaForm::Tool, SchemaForm::JsonObject, SchemaForm::Words];
/// Number of answers without JSON after which the endpoint is taken to ignore the form.
const IGNORED_AFTER: u32 = 3;
/// How long a request waits for another one that finds out the form.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Name of the schema and of the tool.
const NAME: &str = "answer";

/// The schema form of an endpoint: set by the job, or found out from answers.
#[derive(Debug)]
pub(super) struct SchemaFormProbe {
    configured: SchemaForm,
    state: Mutex<FormState>,
    /// Held by the request that finds out the form, while the others wait.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct FormState {
    form: SchemaForm,
    /// Whether an answer in this form held JSON.
    is_proven: bool,
    /// Whether a request in this form was answered, even if the text was cut off. Other requests no longer wait then.
    is_taken: bool,
    /// Whether every form is ignored. Requests no longer wait for one to be found.
    is_given_up: bool,
    ignored: u32,
}

impl FormState {
    /// The state for a form of which nothing is known yet.
    fn of(form: SchemaForm) -> Self {
        FormState { form, is_proven: false, is_taken: false, is_given_up: false, ignored: 0 }
    }
}

impl SchemaFormProbe {
    pub(super) fn new(configured: SchemaForm) -> Self {
        SchemaFormProbe {
            configured,
            state: Mutex::new(FormState::of(TRIED[0])),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, FormState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The form to use, if it is settled.
    pub(super) fn settled(&self) -> Option<SchemaForm> {
        if self.configured != SchemaForm::Auto {
            return Some(self.configured);
        }
        let state = self.lock();
        (state.is_proven || state.is_taken || state.is_given_up).then_some(state.form)
    }

    /// Whether further answers can still show something about the form.
    pub(super) fn is_open(&self) -> bool {
        let state = self.lock();
        self.configured == SchemaForm::Auto && !state.is_proven && !state.is_given_up
    }

    /// Notes an answer that was cut off. The form is accepted, but nothing shows whether the schema is obeyed.
    pub(super) fn taken(&self, form: SchemaForm) {
        let mut state = self.lock();
        if self.configured == SchemaForm::Auto && !state.is_proven {
            if state.form != form {
                *state = FormState::of(form);
            }
            state.is_taken = true;
        }
    }

    /// The form that was found out, for the next run.
    pub(super) fn proven(&self) -> Option<SchemaForm> {
        let state = self.lock();
        (self.configured == SchemaForm::Auto && state.is_proven).then_some(state.form)
    }

    /// Starts with the form that a former run found out.
    pub(super) fn begin_with(&self, form: SchemaForm) {
        if TRIED.contains(&form) {
            self.lock().form = form;
        }
    }

    /// Waits until no other request is finding out the form, at most [`LONGEST_WAIT`]. `None` if the time is over.
    pub(super) async fn turn(&self) -> Option<Turn<'_, ()>> {
        tokio::time::timeout(LONGEST_WAIT, self.turn.lock()).await.ok()
    }

    /// The forms to try, the likeliest first.
    pub(super) fn to_try(&self) -> Vec<SchemaForm> {
        let first = self.lock().form;
        std::iter::once(first).chain(TRIED.into_iter().filter(|form| *form != first)).collect()
    }

    /// Notes a whole answer. JSON proves the form; [`IGNORED_AFTER`] answers without it lead to the next form.
    pub(super) fn answered(&self, form: SchemaForm, has_json: bool) {
        let mut state = self.lock();
        if self.configured != SchemaForm::Auto || state.is_proven {
            return;
        }
        if state.form != form {
            *state = FormState::of(form);
        }
        if has_json {
            state.is_proven = true;
            return;
        }
        state.ignored += 1;
        if state.ignored >= IGNORED_AFTER {
            match TRIED.iter().skip_while(|tried| **tried != form).nth(1) {
                Some(next) => *state = FormState::of(*next),
                None => state.is_given_up = true,
            }
        }
    }
}

/// Adds a schema to the body or the messages of a request.
pub(super) fn put(shape: &Shape, form: SchemaForm, body: &mut Map<String, Value>, messages: &mut [Message]) {
    let schema = shape.schema();
    let format = "response_format";
    match form {
        SchemaForm::Auto | SchemaForm::JsonSchema => {
            let named = json!({ "name": NAME, "strict": shape.is_strict(), "schema": schema });
            body.insert(format.into(), json!({ "type": "json_schema", "json_schema": named }));
        }
        SchemaForm::Tool => {
            let function = json!({ "name": NAME, "description": "Gives the answer.", "parameters": schema });
            body.insert("tools".into(), json!([{ "type": "function", "function": function }]));
            body.insert("tool_choice".into(), json!({ "type": "function", "function": { "name": NAME } }));
        }
        SchemaForm::LlamaCpp => {
            body.insert(format.into(), json!({ "type": "json_object", "schema": schema }));
        }
        SchemaForm::Vllm => {
            body.insert("structured_outputs".into(), json!({ "json": schema }));
        }
        SchemaForm::JsonObject => {
            body.insert(format.into(), json!({ "type": "json_object" }));
            append_schema_in_words(shape, messages);
        }
        SchemaForm::Words if shape.is_in_prompt() => {}
        SchemaForm::Words => append_schema_in_words(shape, messages),
    }
}

/// Appends what the answer must hold to the user's last message.
fn append_schema_in_words(shape: &Shape, messages: &mut [Message]) {
    if let Some(last) = messages.iter_mut().rfind(|message| message.role == Role::User) {
        last.content.push_str(&format!("\n\n{SCHEMA_WORDS}\n{}", shape.text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_proven_by_json_and_given_up_when_it_is_ignored() {
        let forms = SchemaFormProbe::new(SchemaForm::Auto);
        assert_eq!(forms.settled(), None);
        for _ in 0..IGNORED_AFTER {
            assert_eq!(forms.to_try()[0], SchemaForm::JsonSchema);
            forms.answered(SchemaForm::JsonSchema, false);
        }
        assert_eq!(forms.to_try()[0], SchemaForm::Tool);
        // An answer with JSON proves its form, even if another form is being tried.
        forms.answered(SchemaForm::JsonObject, true);
        assert_eq!(forms.settled(), Some(SchemaForm::JsonObject));
        forms.answered(SchemaForm::JsonObject, false);
        assert_eq!(forms.settled(), Some(SchemaForm::JsonObject), "what it could once it can");
        let probe = SchemaFormProbe::new(SchemaForm::Vllm);
        probe.answered(SchemaForm::Vllm, false);
        assert_eq!(probe.settled(), Some(SchemaForm::Vllm));
    }
}
