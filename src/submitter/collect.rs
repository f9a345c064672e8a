//! Answers of a submission, from its downloaded files into the journals of its batches. From there they are found like
//! those of a run that was killed: there is no second path from an answer to the table.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::line_id::LineId;
use crate::checkpoint::Submission;
use crate::decode;
use crate::executor::Billing;
use crate::fault::{Class, Failure, Policy};
use crate::ident::{BatchId, Fingerprint, Money, RowKey, Spend, Tokens};
use crate::journal::{
    JournalEntry, JournalError, JournalFolder, Record, RecordedOutcome, SubmittedGroup, SubmittedRows,
};
use crate::transport::{BatchApi, ResponseHeaders, classify, classify_line};
use crate::wire::{AnswerLine, ChatResponse};

/// Smallest number of lines of which it shows something that all are refused alike.
const FEWEST_ALIKE: usize = 20;
/// Longest line that is read, in bytes.
const LONGEST_LINE: u64 = 64 << 20;

/// What the answers of a submission were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionReport {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused, as they would be again.
    pub refused: u64,
    /// Requests without an answer: their rows are asked again.
    pub unanswered: u64,
    /// Lines that belong to no request of the submission.
    pub foreign: u64,
    /// Further answers to a request.
    pub repeated: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
    /// What the answers cost.
    pub took: Spend,
    /// Tokens of the answers, as far as they state them.
    pub tokens: Tokens,
    /// Cost of the answers, as far as it is known; `None` if that of none is.
    pub cost: Option<Money>,
    /// A failure that every further request would meet, if a line shows one.
    pub stop: Option<Failure>,
}

impl CollectionReport {
    /// Adds the costs of an answer that is not used.
    fn book_costs_of(&mut self, unused: &CollectionReport) {
        self.took = self.took + unused.took;
        self.tokens += unused.tokens;
        if let Some(cost) = unused.cost {
            self.cost = Some(self.cost.unwrap_or_default() + cost);
        }
    }
}

/// Why answers cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A downloaded file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Download {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

/// Where a line stands in the downloaded files.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineLocation {
    pub(super) file: usize,
    offset: u64,
    len: u64,
}

/// A downloaded file of a batch.
#[derive(Clone, Debug)]
pub(super) struct Download {
    pub(super) path: PathBuf,
    /// Index of the batch in those of the submission.
    pub(super) batch: usize,
}

/// What brings the answers of a submission into journals.
pub(super) struct AnswerCollector<'a> {
    pub(super) submission: &'a Submission,
    pub(super) journals: &'a JournalFolder,
    pub(super) api: &'a BatchApi,
    pub(super) billing: &'a Billing,
    /// The most that one request can have cost, for answers without a usage.
    pub(super) worst: Spend,
}

impl AnswerCollector<'_> {
    /// Reads the downloaded files and appends what they hold to the journals of the batches, as far as they lack it.
    pub(super) fn collect(&self, files: &[Download]) -> Result<CollectionReport, CollectError> {
        let mut collected = CollectionReport::default();
        let (opened, index) = self.index(files, &mut collected)?;
        if let Some(failure) = self.common_refusal(&opened, &index) {
            // It is about the run: every row would be refused again, and keeps its place.
            collected.stop = Some(failure);
            collected.unanswered = self.submission.lines;
            return Ok(collected);
        }
        let mut used = HashSet::new();
        for batch in self.submission.batches.keys() {
            self.fill(*batch, &opened, &index, &mut used, &mut collected)?;
        }
        self.fill_followers(&opened, &index)?;
        collected.foreign += index.keys().filter(|id| !used.contains(*id)).count() as u64;
        self.book_lost_answers(&mut collected);
        Ok(collected)
    }

    /// Finds where the first line for each request stands.
    pub(super) fn index(
        &self,
        files: &[Download],
        collected: &mut CollectionReport,
    ) -> Result<(Vec<File>, HashMap<LineId, LineLocation>), CollectError> {
        let mut opened = Vec::new();
        let mut index: HashMap<LineId, LineLocation> = HashMap::new();
        for (number, Download { path, batch }) in files.iter().enumerate() {
            let failed = |source| CollectError::Download { path: path.clone(), source };
            let file = File::open(path).map_err(failed)?;
            let mut reader = BufReader::with_capacity(1 << 20, file.try_clone().map_err(failed)?);
            let (mut offset, mut line) = (0, Vec::new());
            loop {
                line.clear();
                let read = reader.read_until(b'\n', &mut line).map_err(failed)? as u64;
                if read == 0 {
                    break;
                }
                let place = LineLocation { file: number, offset, len: read };
                offset += read;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let parsed = serde_json::from_slice::<AnswerLine<'_>>(&line).ok();
                let Some(parsed) = parsed.filter(|_| read <= LONGEST_LINE) else {
                    collected.unreadable += 1;
                    continue;
                };
                match parsed.custom_id.as_deref().and_then(|id| id.parse::<LineId>().ok()) {
                    None => collected.foreign += 1,
                    Some(id) => match index.entry(id) {
                        std::collections::hash_map::Entry::Occupied(mut first) => {
                            collected.repeated += 1;
                            let known = *first.get();
                            let known_file = opened.get(known.file).unwrap_or(&file);
                            let (own, brings) = self.weigh(&file, place);
                            let (other, brought) = self.weigh(known_file, known);
                            // One batch may list as unanswered what another one has answered.
                            let unused = if brings > brought { other } else { own };
                            if brings > brought {
                                first.insert(place);
                            }
                            // What another batch did with it is paid as well.
                            if files[known.file].batch != *batch {
                                collected.book_costs_of(&unused);
                            }
                        }
                        std::collections::hash_map::Entry::Vacant(vacant) => {
                            vacant.insert(place);
                        }
                    },
                }
            }
            opened.push(file);
        }
        Ok((opened, index))
    }

    /// The refusal that all lines have met alike, if there are enough of them and none was answered.
    fn common_refusal(&self, files: &[File], index: &HashMap<LineId, LineLocation>) -> Option<Failure> {
        if index.len() < FEWEST_ALIKE {
            return None;
        }
        let mut common: Option<Failure> = None;
        // Nothing is counted here.
        let mut uncounted = CollectionReport::default();
        for place in index.values() {
            let outcome = self.outcome(&files[place.file], *place, &mut uncounted)?;
            let RecordedOutcome::Failure(failure) = outcome else { return None };
            match &common {
                Some(known) if known.class != failure.class => return None,
                Some(_) => {}
                None => common = Some(failure),
            }
        }
        let Failure { class, detail, .. } = common?;
        let detail = format!("all {} rows of a batch were refused alike ({class}): {detail}", index.len());
        Some(Failure::new(Class::SameRefusal, detail))
    }

    /// Appends the answers for rows of one batch to its journal.
    fn fill(
        &self,
        batch: BatchId,
        files: &[File],
        index: &HashMap<LineId, LineLocation>,
        used: &mut HashSet<LineId>,
        collected: &mut CollectionReport,
    ) -> Result<(), CollectError> {
        let Some((journal, entries)) = self.journals.reopen(batch)? else { return Ok(()) };
        let mut have = HashSet::new();
        let mut submitted: Vec<SubmittedRows> = Vec::new();
        for entry in entries {
            match entry {
                JournalEntry::Record(record) if record.submission == Some(self.submission.id) => {
                    have.insert((record.key, record.step));
                }
                JournalEntry::Record(_) => {}
                JournalEntry::Submitted(rows) if rows.submission == self.submission.id && !rows.follows => {
                    submitted.push(rows);
                }
                JournalEntry::Submitted(_) => {}
            }
        }
        let mut records = Vec::new();
        for rows in &submitted {
            for group in &rows.groups {
                let Some(step) = self.step_number(&group.step) else { continue };
                for (row, fingerprint) in &group.rows {
                    let id = LineId {
                        file: LineId::file_number(&group.file),
                        row: *row,
                        step,
                        fingerprint: *fingerprint,
                    };
                    used.insert(id);
                    let outcome = match index.get(&id) {
                        Some(place) => self.outcome(&files[place.file], *place, collected),
                        None => None,
                    };
                    let Some(outcome) = outcome else {
                        collected.unanswered += 1;
                        continue;
                    };
                    let record = self.record(rows, group, *row, id.fingerprint, outcome);
                    if !have.contains(&(record.key.clone(), Arc::clone(&record.step))) {
                        records.push(record);
                    }
                }
            }
        }
        journal.append(&records)?;
        journal.sync()?;
        Ok(())
    }

    /// Appends answers to the journals of rows that ask the same as a line.
    fn fill_followers(
        &self,
        files: &[File],
        index: &HashMap<LineId, LineLocation>,
    ) -> Result<(), CollectError> {
        if self.submission.follower_batches.is_empty() {
            return Ok(());
        }
        let by_question: HashMap<(u16, Fingerprint), LineLocation> =
            index.iter().map(|(id, place)| ((id.step, id.fingerprint), *place)).collect();
        for batch in &self.submission.follower_batches {
            let Some((journal, entries)) = self.journals.reopen(*batch)? else { continue };
            let mut have = HashSet::new();
            let mut followers: Vec<SubmittedRows> = Vec::new();
            for entry in entries {
                match entry {
                    JournalEntry::Record(record) if record.submission == Some(self.submission.id) => {
                        have.insert((record.key, record.step));
                    }
                    JournalEntry::Submitted(rows)
                        if rows.submission == self.submission.id && rows.follows =>
                    {
                        followers.push(rows);
                    }
                    JournalEntry::Record(_) | JournalEntry::Submitted(_) => {}
                }
            }
            // What the answers cost is booked with the lines.
            let mut booked = CollectionReport::default();
            for rows in &followers {
                for group in &rows.groups {
                    let Some(step) = self.step_number(&group.step) else { continue };
                    for (row, question) in &group.rows {
                        let Some(place) = by_question.get(&(step, *question)) else { continue };
                        let Some(outcome) = self.outcome(&files[place.file], *place, &mut booked) else {
                            continue;
                        };
                        let record =
                            Record { shared: true, ..self.record(rows, group, *row, *question, outcome) };
                        if have.insert((record.key.clone(), Arc::clone(&record.step))) {
                            journal.append([&record])?;
                        }
                    }
                }
            }
            journal.sync()?;
        }
        Ok(())
    }

    /// The number that stands for a step in the ids of lines.
    fn step_number(&self, step: &str) -> Option<u16> {
        let at = self.submission.steps.iter().position(|known| known == step)?;
        u16::try_from(at).ok()
    }

    fn book(&self, response: &ChatResponse, collected: &mut CollectionReport) {
        collected.took = collected.took + self.billing.cost_in_batch(response, self.worst);
        let facts = decode::facts(response);
        collected.tokens += facts.tokens.unwrap_or_default();
        if let Some(cost) = facts.cost_in_batch(self.billing.prices()) {
            collected.cost = Some(collected.cost.unwrap_or_default() + cost);
        }
    }

    /// What a line would add to a report, and what it is worth: an answer is more than a refusal, and a refusal more than
    /// nothing.
    fn weigh(&self, file: &File, place: LineLocation) -> (CollectionReport, u8) {
        let mut alone = CollectionReport::default();
        let worth = match self.outcome(file, place, &mut alone) {
            Some(RecordedOutcome::Response(_)) => 2,
            Some(RecordedOutcome::Failure(_)) => 1,
            None => 0,
        };
        (alone, worth)
    }

    /// Books what the provider counts beyond the answers that it gave back: they were billed, and are lost.
    pub(super) fn book_lost_answers(&self, collected: &mut CollectionReport) {
        let stated = self.submission.remote.iter().filter_map(|copy| copy.usage);
        let (input, output) = stated.fold((0, 0), |(input, output), usage| {
            (input + usage.input_tokens, output + usage.output_tokens)
        });
        let tokens = Tokens {
            prompt: input.saturating_sub(collected.tokens.prompt),
            completion: output.saturating_sub(collected.tokens.completion),
            ..Tokens::default()
        };
        if tokens.total() > 0 {
            let money = self.billing.price_in_batch(tokens);
            collected.tokens += tokens;
            collected.cost = collected.cost.map(|cost| cost + money);
            collected.took = collected.took + Spend { money, tokens: tokens.total(), requests: 0 };
        }
    }

    fn record(
        &self,
        rows: &SubmittedRows,
        group: &SubmittedGroup,
        row: u64,
        fingerprint: Fingerprint,
        outcome: RecordedOutcome,
    ) -> Record {
        Record {
            key: RowKey { file: Arc::clone(&group.file), row },
            step: Arc::clone(&group.step),
            fingerprint,
            provider: Arc::clone(&rows.provider),
            model: Arc::clone(&rows.model),
            attempts: 1,
            latency_ms: 0,
            shared: false,
            submission: Some(self.submission.id),
            outcome,
        }
    }

    /// The outcome that a line shows, or `None` if its row is to be asked again.
    pub(super) fn outcome(
        &self,
        file: &File,
        place: LineLocation,
        collected: &mut CollectionReport,
    ) -> Option<RecordedOutcome> {
        let mut bytes = vec![0; usize::try_from(place.len).ok()?];
        file.read_exact_at(&mut bytes, place.offset).ok()?;
        let bytes = self.api.redact_line(Bytes::from(bytes));
        let line: AnswerLine<'_> = serde_json::from_slice(&bytes).ok()?;
        let Some(response) = line.response else {
            return refusal(classify_line(&line.error?, &self.submission.model)?, collected);
        };
        let body = response.body?.get().as_bytes();
        let status = response.status_code?;
        if (200..300).contains(&status) {
            let body = Bytes::copy_from_slice(body);
            let Ok(parsed) = decode::parse(&body) else {
                collected.unreadable += 1;
                collected.took = collected.took + self.worst;
                return None;
            };
            let has_answer = !parsed.choices.is_empty() || !parsed.data.is_empty();
            let has_error = parsed.error.as_ref().is_some_and(|error| !error.is_empty());
            if !has_error || parsed.usage.is_some() {
                self.book(&parsed, collected);
            }
            if !has_answer || has_error {
                return None;
            }
            collected.answered += 1;
            return Some(RecordedOutcome::Response(body));
        }
        if status == 0 {
            return None;
        }
        let failure = classify(status, body, &self.submission.model, &ResponseHeaders::default());
        refusal(failure, collected)
    }
}

/// The outcome of a line that was refused, or `None` if its row is to be asked again.
fn refusal(failure: Failure, collected: &mut CollectionReport) -> Option<RecordedOutcome> {
    match failure.class.policy() {
        Policy::Reject => {
            collected.refused += 1;
            Some(RecordedOutcome::Failure(failure))
        }
        Policy::Retry | Policy::Wait => None,
        Policy::Stop => {
            collected.stop.get_or_insert(failure);
            None
        }
    }
}
