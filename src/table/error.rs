//! A failed operation on a table.

use crate::store::{self, Location};

/// A failed operation on a table.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the Delta table {at}: {}", reason(source.as_ref()))]
pub struct TableError {
    /// The action that failed, as a verb for the message.
    pub action: &'static str,
    /// Location of the table.
    pub at: Location,
    /// The underlying error.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl TableError {
    /// Returns the feature because of which the table cannot even be opened, by its name in the Delta protocol.
    #[must_use]
    pub fn feature(&self) -> Option<&'static str> {
        // The kernel has no error variant for this.
        self.source.to_string().contains("catalog-managed").then_some("catalogManaged")
    }
}

/// Returns the reason of a failure, in the words of the operating system if it is a disk error. Cuts off the
/// backtrace that DataFusion and the Delta kernel put into their messages if the environment asks for one.
fn reason(source: &(dyn std::error::Error + 'static)) -> String {
    if let Some(trouble) = store::disk_trouble(source) {
        return trouble.to_string();
    }
    let text = source.to_string();
    let message = ["\n\nbacktrace:", "\n   0: "]
        .iter()
        .filter_map(|frames| text.split_once(frames))
        .map(|(message, _)| message)
        .min_by_key(|message| message.len());
    message.unwrap_or(&text).trim_end().to_owned()
}
