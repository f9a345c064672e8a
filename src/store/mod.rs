//! Where files lie and how they are replaced.
//!
//! Only local paths so far: a URL of an object store is refused by name. Everything that is durable by
//! promise goes through [`replace`]: written beside, flushed to the disk, renamed over the old file, and
//! the folder flushed (test `recovery::every_fault_point`).

mod local;
mod location;
mod trouble;

pub use local::{StoreError, create_folder, overwrite, probe, read, remove, replace, sync_folder};
pub use location::{Location, LocationError};
pub use trouble::{disk_trouble, is_full};
