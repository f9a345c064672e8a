//! What was submitted by a disk that is lost, with the list of submissions, the checkpoint or the journals. It is found at
//! the provider, and a row that is about to be submitted is looked for in it first, so that it is not paid for again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::collect::CollectionReport;
use super::error::SubmitterError;
use super::line_id::LineId;
use super::submission::note;
use super::task::{Submitter, SubmitterEnd};
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::event::Event;
use crate::executor::Request;
use crate::fault::Policy;
use crate::ident::{Spend, SubmissionId};
use crate::journal::JournalEntry;
use crate::wire::RemoteBatch;
use crate::wording::counted;

/// Number of pages of a list that are looked through.
const MOST_PAGES: u32 = 20;

impl Submitter {
    /// Looks at the provider for batches of this job that the list does not know: it was lost. Returns whether that is
    /// known now.
    pub(super) async fn look_for_lost(&mut self) -> Result<bool, SubmitterEnd> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = match self.api.list(after.as_deref()).await {
                Ok(page) => page,
                Err(failure) => {
                    return match failure.class.policy() {
                        Policy::Stop => self.refused(failure).map(|()| false),
                        // There is no list to look at.
                        Policy::Reject => Ok(true),
                        Policy::Retry | Policy::Wait => Ok(false),
                    };
                }
            };
            found.extend(page.items.into_iter().filter_map(|batch| Some((self.lost_id(&batch)?, batch))));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut lost: HashMap<SubmissionId, Submission> = HashMap::new();
        let now = clock::wall();
        for (id, batch) in found {
            let submission = lost.entry(id).or_insert_with(|| self.submission_without_rows(id, &batch));
            note(submission, &batch, now);
        }
        if !lost.is_empty() {
            let rows: u64 = lost.values().map(|submission| submission.lines).sum();
            let text = format!(
                "{} at {} hold {} of this job, and the list of submissions is lost: nothing is submitted before they are back",
                counted(lost.len() as u64, "batch"),
                self.name,
                counted(rows, "row"),
            );
            self.io.voice.say(&Event::Notice(&text));
        }
        let ids: Vec<SubmissionId> = lost.keys().copied().collect();
        let saved = self.context.submissions.change(|list| {
            for submission in lost.into_values() {
                let number = list.next_number();
                list.open.push(Submission { number, ..submission });
            }
        });
        saved.await?;
        ids.into_iter().for_each(|id| self.drive(id));
        Ok(true)
    }

    /// The id of the submission of which a batch was made, if this job made it and the list does not know it.
    fn lost_id(&self, batch: &RemoteBatch) -> Option<SubmissionId> {
        let metadata = batch.metadata.as_ref()?;
        let is = |key, value: &str| metadata.get(key).is_some_and(|found| *found == *value);
        let is_own = is("enrich_app", &self.context.app_id.to_string())
            && is("enrich_target", &self.context.target_id);
        let id = metadata.get("enrich").filter(|_| is_own)?.parse().ok()?;
        self.submission(id).is_none().then_some(id)
    }

    fn submission_without_rows(&self, id: SubmissionId, batch: &RemoteBatch) -> Submission {
        Submission {
            id,
            number: 0,
            lineage: self.context.lineage,
            machine: self.context.machine,
            run: self.context.run,
            provider: self.name.to_string(),
            model: self.endpoint.model().to_string(),
            address: self.endpoint.address(),
            endpoint: String::new(),
            steps: Vec::new(),
            files: Vec::new(),
            batches: BTreeMap::new(),
            follower_batches: BTreeSet::new(),
            without_rows: true,
            lines: batch.request_counts.map_or(0, |counts| counts.total),
            bytes: 0,
            prompt_tokens: 0,
            worst: Spend::default(),
            worst_request: Spend::default(),
            state: SubmissionState::Created,
            since: clock::wall(),
            file: batch.input_file_id.clone(),
            uploaded_at: None,
            remote: Vec::new(),
            looks: 0,
            made_again: 0,
            took: None,
            counted: BTreeSet::new(),
        }
    }

    /// Whether journals lack rows of a submission that it says are in them.
    pub(super) fn lacks_rows(&self, submission: &Submission) -> Result<bool, SubmitterError> {
        for (batch, lines) in &submission.batches {
            let mut named = 0;
            if let Some(mut reader) = self.context.journals.reader(*batch)? {
                while let Some(entry) = reader.next_entry()? {
                    if let JournalEntry::Submitted(rows) = entry
                        && rows.submission == submission.id
                        && !rows.follows
                    {
                        named += rows.groups.iter().map(|group| group.rows.len() as u64).sum::<u64>();
                    }
                }
            }
            if named < *lines {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether rows may be at the provider of which it is not known which they are.
    pub(super) fn awaits_unknown_rows(&self) -> bool {
        self.context.submissions.read(|list| {
            let own = list.open.iter().filter(|own| own.provider == *self.name && own.state.is_open());
            own.into_iter().any(|submission| submission.without_rows)
        })
    }

    /// Writes the answer to a request into the journal, if a submission without rows has brought it. Returns whether one
    /// has.
    pub(super) fn claim(&mut self, request: &Request) -> Result<bool, SubmitterError> {
        if self.unclaimed.is_empty() {
            return Ok(false);
        }
        let key = &request.receipt.key;
        let question = request.question.fingerprint();
        let wanted = (LineId::file_number(&key.file), key.row, question);
        for answers in &self.unclaimed {
            let Some(place) = answers.places.get(&wanted) else { continue };
            let collector = self.collector(&answers.submission);
            // What it cost is booked.
            let mut booked = CollectionReport::default();
            let outcome = collector.outcome(&answers.files[place.file], *place, &mut booked);
            let Some(outcome) = outcome else { continue };
            let (name, model) = (&self.name, self.endpoint.model());
            let mut record = request.record(name, model, 1, Duration::ZERO, outcome);
            record.submission = Some(answers.submission.id);
            request.receipt.journal.append([&record])?;
            return Ok(true);
        }
        Ok(false)
    }
}
