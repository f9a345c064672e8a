//! Rows that ask what a request in a submission asks already. They have no line of their own, and take the answer of that
//! one when it comes back.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::SubmitterError;
use super::leaders::Leaders;
use super::spool::{Spool, SpooledRow};
use super::spooled::push_row;
use super::task::{Submitter, SubmitterEnd};
use crate::checkpoint::{Submission, SubmissionState};
use crate::executor::Request;
use crate::fault::Failure;
use crate::ident::{BatchId, Fingerprint, RowKey, SubmissionId};
use crate::journal::{JournalEntry, Record, RecordedOutcome, SubmittedRows};

/// Whether a row may take the answer to the same request for another row.
fn may_share(request: &Request) -> bool {
    request.shares && request.earlier.answers == 0
}

impl Submitter {
    /// The submission, or the file, that has the request of a row for another row already.
    pub(super) fn leader_of(&mut self, request: &Request) -> Result<Option<SubmissionId>, SubmitterError> {
        if !may_share(request) {
            return Ok(None);
        }
        let leaders = match self.leaders.take() {
            Some(leaders) => leaders,
            None => self.read_leaders()?,
        };
        let found = leaders.find(&request.receipt.step, request.question.fingerprint());
        self.leaders = Some(leaders);
        Ok(found)
    }

    /// Has a row take the answer that a submission brings, or has brought, for the same request.
    pub(super) fn follow(&mut self, request: &Request, leader: SubmissionId) {
        if let Some(spool) = self.spool.as_mut().filter(|spool| spool.id == leader) {
            return spool.follow(request);
        }
        let batches = self.new_followers.entry(leader).or_default();
        let journal = || (request.receipt.journal.clone(), Vec::new());
        let (_, groups) = batches.entry(request.cell.batch).or_insert_with(journal);
        push_row(groups, &request.receipt.key, &request.receipt.step, request.question.fingerprint());
    }

    /// Gives rows the answers that a submission has brought for the same requests, and returns them. Those without one are
    /// left in `requests`; after a failure all are.
    pub(super) fn take_known(
        &mut self,
        leader: SubmissionId,
        requests: &mut Vec<Request>,
    ) -> Result<Vec<Request>, SubmitterError> {
        let question =
            |request: &Request| (Arc::clone(&request.receipt.step), request.question.fingerprint());
        let mut wanted: HashMap<(Arc<str>, Fingerprint), Vec<usize>> = HashMap::new();
        for (at, request) in requests.iter().enumerate() {
            wanted.entry(question(request)).or_default().push(at);
        }
        let batches = self.submission(leader).map(|submission| submission.batches).unwrap_or_default();
        for batch in batches.into_keys() {
            let Some(mut reader) = self.context.journals.reader(batch)? else { continue };
            while !wanted.is_empty()
                && let Some(record) = reader.next_record()?
            {
                if record.submission != Some(leader) || record.shared {
                    continue;
                }
                let answered = (Arc::clone(&record.step), record.fingerprint);
                for at in wanted.remove(&answered).into_iter().flatten() {
                    let Request { receipt, .. } = &requests[at];
                    let shared = Record { key: receipt.key.clone(), shared: true, ..record.clone() };
                    receipt.journal.append([&shared])?;
                }
            }
        }
        // Their batches are committed, or it was not answered.
        if let Some(leaders) = &mut self.leaders {
            wanted.keys().for_each(|(step, question)| leaders.forget(step, *question));
        }
        let is_given = |request: &mut Request| !wanted.contains_key(&question(request));
        Ok(requests.extract_if(.., is_given).collect())
    }

    /// Notes that a request is in a file, so that other rows can follow it.
    pub(super) fn lead(&mut self, request: &Request, file: SubmissionId) {
        if let (true, Some(leaders)) = (may_share(request), &mut self.leaders) {
            leaders.insert(&request.receipt.step, request.question.fingerprint(), file);
        }
    }

    /// Has rows follow the files that take the place of a submission.
    pub(super) fn lead_instead(&mut self, submission: SubmissionId, files: &[Spool]) {
        let Some(leaders) = &mut self.leaders else { return };
        leaders.remove(submission);
        for spool in files {
            for (step, question) in spool.questions() {
                leaders.insert(&step, question, spool.id);
            }
        }
    }

    /// Gives rows that follow a request the failure of its line.
    pub(super) fn fail_followers(
        &self,
        submission: &Submission,
        failures: &HashMap<(Arc<str>, Fingerprint), Failure>,
    ) -> Result<(), SubmitterError> {
        for batch in &submission.follower_batches {
            let Some((journal, entries)) = self.context.journals.reopen(*batch)? else { continue };
            for entry in entries {
                let JournalEntry::Submitted(rows) = entry else { continue };
                if rows.submission != submission.id || !rows.follows {
                    continue;
                }
                for group in &rows.groups {
                    for (row, fingerprint) in &group.rows {
                        let question = (Arc::clone(&group.step), *fingerprint);
                        let Some(failure) = failures.get(&question) else { continue };
                        let key = RowKey { file: Arc::clone(&group.file), row: *row };
                        let step = Arc::clone(&group.step);
                        let row = SpooledRow {
                            batch: *batch,
                            journal: journal.clone(),
                            key,
                            step,
                            fingerprint: *fingerprint,
                        };
                        let outcome = RecordedOutcome::Failure(failure.clone());
                        let record = self.record_of(submission, &row, outcome);
                        journal.append([&Record { shared: true, ..record }])?;
                    }
                }
            }
            journal.sync()?;
        }
        Ok(())
    }

    /// Writes into the journals which rows follow requests of complete files, and into the list which batches they are in.
    pub(super) async fn record_followers(&mut self) -> Result<(), SubmitterEnd> {
        for (submission, batches) in std::mem::take(&mut self.new_followers) {
            let ids: Vec<BatchId> = batches.keys().copied().collect();
            for (journal, groups) in batches.into_values() {
                journal.append_submitted(&SubmittedRows {
                    submission,
                    provider: Arc::clone(&self.name),
                    model: Arc::clone(self.endpoint.model()),
                    follows: true,
                    groups,
                })?;
            }
            let saved = self.context.submissions.change(|list| {
                if let Some(submission) = list.get_mut(submission) {
                    submission.follower_batches.extend(ids);
                }
            });
            saved.await?;
        }
        Ok(())
    }

    /// Reads which requests are in submissions whose rows are not all in the table.
    fn read_leaders(&self) -> Result<Leaders, SubmitterError> {
        let mut leaders = Leaders::default();
        let open: Vec<(SubmissionId, Vec<BatchId>)> = self.context.submissions.read(|list| {
            let is_known = |own: &&Submission| {
                own.provider == *self.name && (own.state.is_open() || own.state == SubmissionState::Collected)
            };
            let own = list.open.iter().filter(is_known);
            own.map(|submission| (submission.id, submission.batches.keys().copied().collect())).collect()
        });
        for (submission, batches) in open {
            for batch in batches {
                let Some(mut reader) = self.context.journals.reader(batch)? else { continue };
                while let Some(entry) = reader.next_entry()? {
                    let JournalEntry::Submitted(rows) = entry else { continue };
                    if rows.submission != submission || rows.follows {
                        continue;
                    }
                    for group in rows.groups {
                        for (_, question) in group.rows {
                            leaders.insert(&group.step, question, submission);
                        }
                    }
                }
            }
        }
        Ok(leaders)
    }
}
