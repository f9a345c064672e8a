//! Batches that failed in the provider's validation: nothing of them was answered or billed. Their requests go again, in
//! smaller files or without the lines that were refused, unless the refusal is about all of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use super::error::SubmitterError;
use super::line_id::LineId;
use super::spool::{BYTES_PER_TOKEN, Spool, SpooledRow, path_of};
use super::task::{Submitter, SubmitterEnd};
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::event::Event;
use crate::fault::{Class, Failure};
use crate::ident::{BatchId, RowKey, Spend};
use crate::journal::{Journal, JournalEntry, Record, RecordedOutcome};
use crate::wire::{BatchError, RemoteBatch, is_about_enqueued_tokens};
use crate::wording::counted;

/// Number of failed validations in a row after which the run stops: a bad line would have been found.
const MOST_FAILURES: u32 = 6;
/// Largest share of a file's lines, one in so many, that can be refused by themselves.
const FEWEST_GOOD: u64 = 10;

/// What is done about a failed validation.
enum ValidationRemedy {
    /// The requests are submitted again once more of the limit is free.
    Later,
    /// The lines with these numbers, from 1, fail their rows; the others are submitted again.
    WithoutLines(Vec<(u64, Failure)>),
    /// The file is submitted again in two halves.
    InHalves,
    /// The run stops.
    Stop(Failure),
}

impl Submitter {
    /// Handles a batch of a submission that has failed in the validation.
    pub(super) async fn handle_invalid(
        &mut self,
        submission: &Submission,
        batch: &RemoteBatch,
    ) -> Result<(), SubmitterEnd> {
        let is_here = path_of(&self.context.folder, submission.id).exists();
        let before = self
            .context
            .submissions
            .read(|list| list.limits.get(&submission.provider).map_or(0, |known| known.failures));
        let remedy = remedy(submission, batch);
        let is_outdated =
            *submission.model != **self.endpoint.model() || submission.address != self.endpoint.address();
        if is_outdated && !matches!(remedy, ValidationRemedy::Later) {
            // It says nothing about what the job asks by now.
            let text = format!(
                "{}; {} is another model by now, or has another address: the rows go out again",
                failure_of(batch).detail,
                self.name
            );
            self.io.voice.say(&Event::Notice(&text));
            return Ok(());
        }
        let remedy = match remedy {
            ValidationRemedy::WithoutLines(_) | ValidationRemedy::InHalves
                if before >= MOST_FAILURES || !is_here =>
            {
                ValidationRemedy::Stop(failure_of(batch))
            }
            remedy => remedy,
        };
        match remedy {
            ValidationRemedy::Stop(failure) => self.refused(failure),
            ValidationRemedy::Later => {
                self.learn_refused_tokens(submission).await?;
                self.report_refused_tokens(submission);
                Ok(())
            }
            ValidationRemedy::WithoutLines(lines) => {
                self.learn(|known| known.failures += 1).await?;
                let text = format!(
                    "{} refuses {} of {}; the others go out again",
                    self.name,
                    counted(lines.len() as u64, "row"),
                    batch.id
                );
                self.io.voice.say(&Event::Notice(&text));
                Ok(self.fail_lines(submission, &lines)?)
            }
            ValidationRemedy::InHalves => {
                self.learn(|known| known.failures += 1).await?;
                self.split(submission, batch).await
            }
        }
    }

    /// Takes the rows of a submission back of which no batch is made because too many tokens wait in others: they go out
    /// again in smaller files, or later.
    pub(super) async fn take_back(&mut self, submission: &Submission) -> Result<(), SubmitterEnd> {
        self.learn_refused_tokens(submission).await?;
        let saved = self.context.submissions.change(|list| {
            if let Some(own) = list.get_mut(submission.id) {
                (own.state, own.since) = (SubmissionState::Dropped, clock::wall());
            }
        });
        saved.await?;
        self.drivers.remove(&submission.id);
        self.lead_instead(submission.id, &[]);
        let _ = std::fs::remove_file(path_of(&self.context.folder, submission.id));
        self.report_refused_tokens(submission);
        self.tell_returned(submission);
        Ok(())
    }

    fn report_refused_tokens(&self, submission: &Submission) {
        let text = format!(
            "{} has too many tokens in its batches: {} of submission {} go out again when others are back",
            self.name,
            counted(submission.lines, "row"),
            submission.number
        );
        self.io.voice.say(&Event::Notice(&text));
    }

    /// Writes the failures of single lines into the journals of their rows' batches.
    fn fail_lines(&self, submission: &Submission, lines: &[(u64, Failure)]) -> Result<(), SubmitterError> {
        let rows = self.rows_of(submission)?;
        let mut failures = HashMap::new();
        for (number, line) in self.lines_of(submission)?.iter().enumerate() {
            let number = number as u64 + 1;
            let failure = lines.iter().find(|(refused, _)| *refused == number).map(|(_, failure)| failure);
            if let (Some(failure), Some(row)) = (failure, id_of(line).and_then(|id| rows.get(&id))) {
                let outcome = RecordedOutcome::Failure(failure.clone());
                row.journal.append(&[self.record_of(submission, row, outcome)])?;
                row.journal.sync()?;
                failures.insert((Arc::clone(&row.step), row.fingerprint), failure.clone());
            }
        }
        self.fail_followers(submission, &failures)
    }

    pub(super) fn record_of(
        &self,
        submission: &Submission,
        row: &SpooledRow,
        outcome: RecordedOutcome,
    ) -> Record {
        Record {
            key: row.key.clone(),
            step: Arc::clone(&row.step),
            fingerprint: row.fingerprint,
            provider: Arc::clone(&self.name),
            model: submission.model.as_str().into(),
            attempts: 1,
            latency_ms: 0,
            shared: false,
            submission: Some(submission.id),
            outcome,
        }
    }

    /// Submits the requests of a file again in two halves, or fails the row of its only one.
    async fn split(&mut self, submission: &Submission, batch: &RemoteBatch) -> Result<(), SubmitterEnd> {
        if submission.lines <= 1 {
            return Ok(self.fail_lines(submission, &[(1, failure_of(batch))])?);
        }
        let rows = self.rows_of(submission)?;
        let lines = self.lines_of(submission)?;
        let mut halves = Vec::new();
        for half in lines.chunks(lines.len().div_ceil(2)) {
            let created = Spool::create(
                &self.context.folder,
                self.endpoint_of(submission),
                self.context.submissions.spooled().clone(),
            );
            let mut spool = created.map_err(|source| self.spool_error("begin", source))?;
            spool.steps = submission.steps.iter().map(|step| step.as_str().into()).collect();
            for line in half {
                let Some(row) = id_of(line).and_then(|id| rows.get(&id)) else { continue };
                let added = spool.add_line(row, line.as_bytes(), submission.worst_request);
                added.map_err(|source| self.spool_error("write", source))?;
            }
            spool.worst = least(spool.worst, submission.worst);
            spool.prompt_bytes = submission.prompt_tokens * BYTES_PER_TOKEN * spool.lines / submission.lines;
            spool.finish().map_err(|source| self.spool_error("flush", source))?;
            spool.record(&self.name, self.endpoint.model())?;
            halves.push(spool);
        }
        let made: Vec<Submission> = halves.iter().map(|spool| self.submission_of(spool)).collect();
        let saved = self.context.submissions.change(|list| {
            if let Some(whole) = list.get_mut(submission.id) {
                (whole.state, whole.since) = (SubmissionState::Dropped, clock::wall());
            }
            for half in made {
                let number = list.next_number();
                list.open.push(Submission { number, ..half });
            }
        });
        saved.await?;
        self.drivers.remove(&submission.id);
        // Rows that follow its requests are handed out anew, and follow those of the halves.
        self.lead_instead(submission.id, &halves);
        self.tell_returned(submission);
        for spool in halves {
            self.drive(spool.id);
        }
        let _ = std::fs::remove_file(path_of(&self.context.folder, submission.id));
        let errors = batch.errors.iter().flat_map(|errors| &errors.data);
        let why = match errors.filter_map(|error| error.message.as_deref()).next() {
            Some(message) => format!(" ({message})"),
            None => format!(", and {} does not say why", self.name),
        };
        let text = format!(
            "{} failed in its validation{why}: its {} go out again in two files",
            batch.id,
            counted(submission.lines, "row")
        );
        self.io.voice.say(&Event::Notice(&text));
        Ok(())
    }

    /// The lines of a submission's file.
    fn lines_of(&self, submission: &Submission) -> Result<Vec<String>, SubmitterError> {
        let path = path_of(&self.context.folder, submission.id);
        let read = File::open(path).and_then(|file| BufReader::new(file).lines().collect());
        read.map_err(|source| self.spool_error("read", source))
    }

    /// The rows of a submission, by the id of their line.
    fn rows_of(&self, submission: &Submission) -> Result<HashMap<LineId, SpooledRow>, SubmitterError> {
        let mut rows = HashMap::new();
        for batch in submission.batches.keys() {
            let Some((journal, entries)) = self.context.journals.reopen(*batch)? else { continue };
            rows.extend(entries.into_iter().flat_map(|entry| rows_in(submission, *batch, &journal, entry)));
        }
        Ok(rows)
    }
}

/// The rows of a submission that an entry of a journal names.
fn rows_in(
    submission: &Submission,
    batch: BatchId,
    journal: &Journal,
    entry: JournalEntry,
) -> Vec<(LineId, SpooledRow)> {
    let JournalEntry::Submitted(submitted) = entry else { return Vec::new() };
    if submitted.submission != submission.id || submitted.follows {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for group in submitted.groups {
        let Some(step) = submission.steps.iter().position(|known| **known == *group.step) else { continue };
        for (row, fingerprint) in group.rows {
            let id = LineId {
                file: LineId::file_number(&group.file),
                row,
                step: u16::try_from(step).unwrap_or(u16::MAX),
                fingerprint,
            };
            let key = RowKey { file: Arc::clone(&group.file), row };
            let step = Arc::clone(&group.step);
            rows.push((id, SpooledRow { batch, journal: journal.clone(), key, step, fingerprint }));
        }
    }
    rows
}

/// The smaller of two worst cases, separately for money, tokens and requests.
fn least(a: Spend, b: Spend) -> Spend {
    Spend {
        money: a.money.min(b.money),
        tokens: a.tokens.min(b.tokens),
        requests: a.requests.min(b.requests),
    }
}

/// The id of a line of a file of requests.
fn id_of(line: &str) -> Option<LineId> {
    #[derive(serde::Deserialize)]
    struct WithId<'a> {
        custom_id: &'a str,
    }
    serde_json::from_str::<WithId<'_>>(line).ok()?.custom_id.parse().ok()
}

/// What to do about a batch that failed in its validation, by the codes that providers use.
fn remedy(submission: &Submission, batch: &RemoteBatch) -> ValidationRemedy {
    let errors = batch.errors.as_ref().map(|errors| errors.data.as_slice()).unwrap_or_default();
    let has_code = |error: &BatchError, code: &str| error.code.as_deref() == Some(code);
    if errors.iter().any(|error| is_about_enqueued_tokens(error.code.as_deref(), error.message.as_deref())) {
        return ValidationRemedy::Later;
    }
    let is_silent = |error: &BatchError| error.code.is_none() && error.line.is_none();
    if errors.iter().all(is_silent) {
        return ValidationRemedy::InHalves;
    }
    // These are about every line, whichever one is named.
    let is_about_all = |error: &BatchError| {
        let codes =
            ["model_not_found", "model_mismatch", "mismatched_model", "url_mismatch", "mismatched_url"];
        error.line.is_none() || codes.iter().any(|code| has_code(error, code))
    };
    if errors.iter().any(is_about_all) {
        return ValidationRemedy::Stop(failure_of(batch));
    }
    let line = |error: &BatchError| Some((error.line?, failure(batch, error)));
    let lines: Vec<(u64, Failure)> = errors.iter().filter_map(line).collect();
    if lines.len() as u64 * FEWEST_GOOD > submission.lines.max(FEWEST_GOOD) {
        return ValidationRemedy::Stop(failure_of(batch));
    }
    ValidationRemedy::WithoutLines(lines)
}

/// Why a batch failed in its validation.
fn failure_of(batch: &RemoteBatch) -> Failure {
    let error = batch.errors.as_ref().and_then(|errors| errors.data.first()).cloned().unwrap_or_default();
    failure(batch, &error)
}

fn failure(batch: &RemoteBatch, error: &BatchError) -> Failure {
    let class = match error.code.as_deref() {
        Some("model_not_found") => Class::UnknownModel,
        _ => Class::BadRequest,
    };
    let reason = match (&error.code, &error.message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(reason), None) | (None, Some(reason)) => reason.clone(),
        (None, None) => "no reason".to_owned(),
    };
    let mut detail = format!("{} failed in its validation: {reason}", batch.id);
    if let Some(line) = error.line {
        detail.push_str(&format!(" (line {line})"));
    }
    Failure::new(class, detail)
}
