//! Which rows of a file are read.

use std::ops::Range;
use std::sync::Arc;

/// The rows of a file that are read: those that are not deleted and meet the condition. Rows beyond the end of a list
/// are as if it said yes.
#[derive(Clone, Debug, Default)]
pub struct RowMask {
    /// Not deleted; all of them if there is no list.
    there: Option<Arc<[bool]>>,
    /// Not deleted, and as the condition wants them.
    wanted: Option<Arc<[bool]>>,
}

impl RowMask {
    /// The rows that are not deleted.
    #[must_use]
    pub fn there(there: Option<Arc<[bool]>>) -> Self {
        RowMask { wanted: there.clone(), there }
    }

    /// Of these only the ones that a list names.
    #[must_use]
    pub fn and(self, wanted: Arc<[bool]>) -> Self {
        RowMask { wanted: Some(wanted), ..self }
    }

    /// Whether a row is read.
    #[must_use]
    pub fn holds(&self, row: u64) -> bool {
        is_set(self.wanted.as_deref(), row)
    }

    /// Whether both were made at once, and so are the same.
    #[must_use]
    pub fn is_same(&self, other: &RowMask) -> bool {
        match (&self.wanted, &other.wanted) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// Rows that it has an answer for.
    pub(super) fn size(&self) -> usize {
        self.wanted.as_ref().map_or(0, |wanted| wanted.len())
    }

    /// Whether every row is read.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.wanted.is_none()
    }

    /// The rows of a range that are read.
    pub fn rows(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        range.filter(|row| self.holds(*row))
    }

    /// How many rows of a range are deleted.
    #[must_use]
    pub fn deleted(&self, range: Range<u64>) -> u64 {
        let there = self.there.as_deref();
        if there.is_none() {
            return 0;
        }
        range.filter(|row| !is_set(there, *row)).count() as u64
    }
}

fn is_set(list: Option<&[bool]>, row: u64) -> bool {
    list.and_then(|list| list.get(usize::try_from(row).ok()?)) != Some(&false)
}
