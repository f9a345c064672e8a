//! What the requests in submissions ask, so that no other row asks it again.

use std::collections::{BTreeMap, HashMap};

use crate::ident::{BatchId, Fingerprint, SubmissionId};
use crate::journal::{Journal, SubmittedGroup};

/// The requests in submissions, by what they ask.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    submissions: Vec<SubmissionId>,
    /// Index of the submission by the first 64 bits of the hash of step and question. Two questions with the same bits are
    /// told apart when the answers are in: the row of the second one is then sent after all.
    by_question: HashMap<u64, u32>,
}

impl Leaders {
    /// Returns the submission that asks a question for a step.
    pub(super) fn find(&self, step: &str, question: Fingerprint) -> Option<SubmissionId> {
        let at = self.by_question.get(&bits(step, question))?;
        self.submissions.get(*at as usize).copied()
    }

    /// Adds a question, unless a submission asks it already.
    pub(super) fn insert(&mut self, step: &str, question: Fingerprint, submission: SubmissionId) {
        let newest = self.submissions.iter().rposition(|known| *known == submission);
        let at = newest.unwrap_or_else(|| {
            self.submissions.push(submission);
            self.submissions.len() - 1
        });
        if let Ok(at) = u32::try_from(at) {
            self.by_question.entry(bits(step, question)).or_insert(at);
        }
    }

    /// Forgets a question.
    pub(super) fn forget(&mut self, step: &str, question: Fingerprint) {
        self.by_question.remove(&bits(step, question));
    }

    /// Forgets the requests of a submission.
    pub(super) fn remove(&mut self, submission: SubmissionId) {
        if let Some(removed) = self.submissions.iter().position(|known| *known == submission) {
            self.by_question.retain(|_, at| *at as usize != removed);
        }
    }
}

fn bits(step: &str, question: Fingerprint) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] =
        Fingerprint::of([step.as_bytes(), question.to_bytes().as_slice()]).to_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Rows that follow requests of complete files, and are in no journal yet, by submission and batch.
pub(super) type NewFollowers = BTreeMap<SubmissionId, BTreeMap<BatchId, (Journal, Vec<SubmittedGroup>)>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_first_submission_that_asks_it() {
        let (first, second) = (SubmissionId::random(), SubmissionId::random());
        let question = |text: &str| Fingerprint::of([text.as_bytes()]);
        let mut leaders = Leaders::default();
        leaders.insert("step", question("a"), first);
        leaders.insert("step", question("a"), second);
        leaders.insert("step", question("b"), second);
        assert_eq!(leaders.find("step", question("a")), Some(first));
        assert_eq!(leaders.find("other", question("a")), None);
        leaders.remove(first);
        assert_eq!(leaders.find("step", question("a")), None);
        assert_eq!(leaders.find("step", question("b")), Some(second));
    }
}
