//! The mask of the rows of a file that are read.

use std::ops::Range;
use std::sync::Arc;

/// The rows of a file that are read: those that are not deleted and meet the condition. Rows beyond the end of a list
/// count as set.
#[derive(Clone, Debug, Default)]
pub struct RowMask {
    /// Whether each row is not deleted; `None` if no row is deleted.
    undeleted: Option<Arc<[bool]>>,
    /// Whether each row is not deleted and meets the condition; `None` if every row is read.
    selected: Option<Arc<[bool]>>,
}

impl RowMask {
    /// Returns the mask of the rows that are not deleted. `undeleted` is `None` if no row is deleted.
    #[must_use]
    pub fn undeleted(undeleted: Option<Arc<[bool]>>) -> Self {
        RowMask { selected: undeleted.clone(), undeleted }
    }

    /// Returns the mask with `selected` as the rows that are read. `selected` must not set a deleted row.
    #[must_use]
    pub fn with_selected(self, selected: Arc<[bool]>) -> Self {
        RowMask { selected: Some(selected), ..self }
    }

    /// Whether a row is read.
    #[must_use]
    pub fn holds(&self, row: u64) -> bool {
        is_set(self.selected.as_deref(), row)
    }

    /// Whether both share one list, or have none, and so are equal. Other equal lists do not count.
    #[must_use]
    pub fn is_same(&self, other: &RowMask) -> bool {
        match (&self.selected, &other.selected) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// Returns the length of the list of rows; 0 without a list.
    pub(super) fn size(&self) -> usize {
        self.selected.as_ref().map_or(0, |selected| selected.len())
    }

    /// Whether every row is read.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.selected.is_none()
    }

    /// Returns the rows of a range that are read.
    pub fn rows(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        range.filter(|row| self.holds(*row))
    }

    /// Counts the deleted rows of a range.
    #[must_use]
    pub fn deleted(&self, range: Range<u64>) -> u64 {
        let undeleted = self.undeleted.as_deref();
        if undeleted.is_none() {
            return 0;
        }
        range.filter(|row| !is_set(undeleted, *row)).count() as u64
    }
}

fn is_set(list: Option<&[bool]>, row: u64) -> bool {
    list.and_then(|list| list.get(usize::try_from(row).ok()?)) != Some(&false)
}
