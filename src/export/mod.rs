//! Writes the rows of a target to files: Parquet, CSV or JSON lines, on a local disk or in an object store.
//!
//! Rows are streamed from one version of the table. A file, or a local folder of files, has its name only once it is
//! complete (test `export::whatever_is_killed_no_half_file_has_the_name`). Nothing here changes the target.

mod destination;
mod encoder;
mod error;
mod file_writer;
mod format;
mod text;
mod transfer;

pub use destination::Destination;
pub use encoder::Encoder;
pub use error::{EncodeError, ExportError};
pub use format::{ExportFormat, TextCompression};
pub use text::{CellStyle, FormulaCells, TextReader};
pub use transfer::{Export, Exported};
