//! Finds the disk error inside an error, below whatever the libraries in between wrapped around it.

use std::error::Error;
use std::io::{self, ErrorKind};

/// Returns the disk error that caused an error: the disk is full, over a quota or read-only, or access is denied.
/// `None` if the cause is something else.
#[must_use]
pub fn disk_trouble<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if let Some(io) = io.filter(|io| is_of_the_disk(io.kind())) {
            return Some(io);
        }
        // The error inside an I/O error is not its `source`.
        let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        next = inner.or_else(|| error.source());
    }
    None
}

/// Whether an error reports that a disk has no space.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn is_of_the_disk(kind: ErrorKind) -> bool {
    use ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn trouble_with_the_disk_is_found_below_other_errors() {
        let full = io::Error::from(ErrorKind::StorageFull);
        let wrapped =
            io::Error::other(StoreError::of("write", std::path::Path::new("x"))(io::Error::other(full)));
        assert!(is_full(disk_trouble(&wrapped).unwrap()));
        assert!(disk_trouble(&io::Error::other("x")).is_none());
    }
}
