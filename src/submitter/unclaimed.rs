//! Answers of submissions of which no journal names the rows.

use std::collections::HashMap;
use std::fs::File;

use super::collect::{AnswerCollector, CollectError, CollectionReport, Download, LineLocation};
use crate::checkpoint::Submission;
use crate::ident::Fingerprint;

/// Answers of one submission, which stay in its downloaded files.
#[derive(Debug)]
pub(super) struct UnclaimedAnswers {
    pub(super) submission: Submission,
    pub(super) files: Vec<File>,
    /// Where answers stand, by the row's file and place and by the question.
    pub(super) places: HashMap<(u64, u64, Fingerprint), LineLocation>,
}

impl UnclaimedAnswers {
    /// Reads where the answers of a submission stand, and what they cost.
    pub(super) fn read(
        collector: &AnswerCollector<'_>,
        submission: &Submission,
        files: &[Download],
    ) -> Result<(Self, CollectionReport), CollectError> {
        let mut collected = CollectionReport::default();
        let (files, index) = collector.index(files, &mut collected)?;
        for place in index.values() {
            collector.outcome(&files[place.file], *place, &mut collected);
        }
        collector.book_lost_answers(&mut collected);
        let places =
            index.into_iter().map(|(id, place)| ((id.file, id.row, id.fingerprint), place)).collect();
        Ok((UnclaimedAnswers { submission: submission.clone(), files, places }, collected))
    }
}
