//! Documents that could not be read, counted by reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Maximum number of documents that a report names.
const MAX_EXAMPLES: usize = 20;
/// Maximum length of what a library says about a document, in bytes.
const MAX_DETAIL_BYTES: usize = 200;

/// Why a document could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadReason {
    /// It has no bytes.
    Empty,
    /// It has no header of a PDF.
    NotPdf,
    /// Its structure cannot be read.
    Damaged,
    /// It opens with a password only, or with an unsupported encryption.
    Encrypted,
    /// It is not UTF-8.
    NotUtf8,
    /// It has more bytes than a document may have.
    TooLarge,
    /// It has more text than a document may have.
    TooMuchText,
    /// Reading it took longer than a document may take.
    TimedOut,
    /// Reading it took more memory, or a deeper stack, than a document may take.
    Exhausted,
    /// The file is gone, or access to it is denied.
    Inaccessible,
}

impl fmt::Display for UnreadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnreadReason::Empty => "it is empty",
            UnreadReason::NotPdf => "it is not a PDF",
            UnreadReason::Damaged => "it is damaged",
            UnreadReason::Encrypted => "it is encrypted",
            UnreadReason::NotUtf8 => "it is not UTF-8",
            UnreadReason::TooLarge => "it is too large",
            UnreadReason::TooMuchText => "it has too much text",
            UnreadReason::TimedOut => "reading it takes too long",
            UnreadReason::Exhausted => "reading it takes too much memory or too deep a stack",
            UnreadReason::Inaccessible => "its file is gone or may not be read",
        })
    }
}

/// A document that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct UnreadDocument {
    /// The reason.
    pub reason: UnreadReason,
    /// The document's name, if it is known.
    pub name: Option<String>,
    /// More about the reason.
    pub detail: Option<String>,
}

impl UnreadDocument {
    pub(super) fn new(reason: UnreadReason) -> Self {
        UnreadDocument { reason, name: None, detail: None }
    }

    /// Adds what a library says, cut to some two hundred bytes.
    pub(super) fn with_detail(mut self, detail: &str) -> Self {
        let (detail, _) = detail.split_at(detail.floor_char_boundary(MAX_DETAIL_BYTES.min(detail.len())));
        self.detail = Some(detail.to_owned());
        self
    }

    pub(super) fn with_name(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }
}

impl fmt::Display for UnreadDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("a document");
        write!(f, "{name} cannot be read: {}", self.reason)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// What was counted since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadReport {
    /// Nulls that functions and tables returned, by reason.
    pub counts: BTreeMap<UnreadReason, u64>,
    /// The first twenty documents.
    pub examples: Vec<UnreadDocument>,
}

/// The documents that could not be read, shared by the functions and tables of a query.
#[derive(Clone, Debug, Default)]
pub struct UnreadDocuments(Arc<Mutex<UnreadReport>>);

impl UnreadDocuments {
    pub(super) fn add(&self, document: UnreadDocument) {
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *report.counts.entry(document.reason).or_default() += 1;
        if report.examples.len() < MAX_EXAMPLES {
            report.examples.push(document);
        }
    }

    pub(super) fn is_same(&self, other: &UnreadDocuments) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns what was counted, and begins anew.
    #[must_use]
    pub fn take(&self) -> UnreadReport {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_all_and_names_the_first() {
        let unread = UnreadDocuments::default();
        for number in 0..50 {
            let document = UnreadDocument::new(UnreadReason::Damaged).with_detail(&"é".repeat(500));
            unread.clone().add(document.with_name(Some(&format!("{number}.pdf"))));
        }
        unread.add(UnreadDocument::new(UnreadReason::Empty));
        let report = unread.take();
        assert_eq!(report.counts, [(UnreadReason::Empty, 1), (UnreadReason::Damaged, 50)].into());
        assert_eq!(report.examples.len(), MAX_EXAMPLES);
        let said = report.examples[0].to_string();
        assert!(said.starts_with("0.pdf cannot be read: it is damaged (éé") && said.len() < 300, "{said}");
        assert_eq!(unread.take(), UnreadReport::default());
    }
}
