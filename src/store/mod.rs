//! Where files lie and how they are replaced, or appended to.
//!
//! On a local disk what is durable by promise goes through [`replace`]: written beside, flushed to the disk, renamed
//! over the old file, and the folder flushed (test `recovery::every_fault_point`). In an object store it is put
//! under a condition, so that of two writers one learns that it came late ([`Objects::put_if`]).

mod folder;
mod local;
mod location;
mod objects;
mod trouble;

pub use folder::Folder;
pub use local::{
    StoreError, append_unflushed, create_folder, create_private_folder, overwrite, private_file, probe, read,
    remove, replace, replace_private, state_folder, sync_folder,
};
pub use location::{Location, LocationError};
pub use objects::{Object, Objects, PutCondition, PutError, Version};
pub use trouble::{disk_trouble, is_full};
