//! Documents in SQL: functions that read PDF and HTML and cut text into chunks, and a table of files.
//!
//! A document that cannot be read is null, and [`UnreadDocuments`] counts why. PDFs are read in processes of their own
//! ([`serve_reader`]), since a stack overflow or a hunger for memory cannot be caught in this one.

mod chunk_function;
mod chunks;
mod error;
mod files;
mod functions;
mod glob;
mod html;
mod page_text;
mod pdf;
mod policy;
mod pool;
mod reader;
mod reply;
mod serve_reader;
mod settings;
mod table;
mod unread;
mod values;

pub use error::DocumentError;
pub use functions::register;
pub use serve_reader::serve_reader;
pub use settings::{
    DOCUMENT_BYTES, DocumentSettings, MEMORY_BYTES, OnUnread, READER_COMMAND, STACK_BYTES, TEXT_BYTES,
    TIME_LIMIT,
};
pub use table::DocumentTable;
pub use unread::{UnreadDocument, UnreadDocuments, UnreadReason, UnreadReport};
