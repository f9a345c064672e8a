//! What becomes of a document that cannot be read.

use datafusion::common::{DataFusionError, Result};

use super::settings::OnUnread;
use super::unread::{UnreadDocument, UnreadDocuments};

/// Whether such documents are counted or stop the query.
#[derive(Clone, Debug)]
pub(super) struct UnreadPolicy {
    pub(super) unread: UnreadDocuments,
    pub(super) on_unread: OnUnread,
}

impl UnreadPolicy {
    /// Whether both count in the same place.
    pub(super) fn is_same(&self, other: &UnreadPolicy) -> bool {
        self.on_unread == other.on_unread && self.unread.is_same(&other.unread)
    }

    /// Returns the null that stands for a document.
    ///
    /// # Errors
    /// With the [`UnreadDocument`], if the query is to stop.
    pub(super) fn null<T>(&self, document: UnreadDocument) -> Result<Option<T>> {
        match self.on_unread {
            OnUnread::Stop => Err(DataFusionError::External(Box::new(document))),
            OnUnread::Skip => {
                self.unread.add(document);
                Ok(None)
            }
        }
    }
}
