//! The source: a Delta table or files, as rows in a fixed order with their keys.
//!
//! A source is a catalog (which files, in which order: `catalog.rs`) and the format of its files (how they are read:
//! `file_format.rs`). Its end is fixed when a run starts; later runs read what was added since. Files are read in
//! pieces, never as a whole; consecutive batches of a file share a reader.

mod catalog;
mod columns;
mod conform;
mod delta_catalog;
mod error;
mod file;
mod file_format;
mod filter;
mod folder_catalog;
mod known_footers;
mod listing;
mod merge;
mod missing;
mod open_source;
mod position;
mod reader;
mod row_mask;
mod shape;
mod source_table;
mod staging;

pub use error::SourceError;
pub use file::Root;
pub use file_format::SourceFiles;
pub use missing::{HeldRows, MissingRows};
pub use open_source::Source;
pub use position::{HeldFile, Lag, NextFile, NextRows};
pub use reader::RowReader;
pub use row_mask::RowMask;
pub use shape::{FileShape, Fitting};
pub use staging::StagingProgress;
pub(crate) use staging::{ColumnConversion, ParquetFileWriter};
