//! Where files lie and how they are replaced.
//!
//! Places in object stores are named here; tables reach them through deltalake, sources through the same. What is
//! durable by promise is local so far and goes through [`replace`]: written beside, flushed to the disk, renamed over the old file, and
//! the folder flushed (test `recovery::every_fault_point`).

mod local;
mod location;
mod trouble;

pub use local::{StoreError, create_folder, overwrite, probe, read, remove, replace, sync_folder};
pub use location::{Location, LocationError};
pub use trouble::{disk_trouble, is_full};
