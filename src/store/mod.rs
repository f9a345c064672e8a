//! Locations of files and folders, and how files are replaced or appended to.
//!
//! On a local disk, a file that is promised to be durable is written by [`replace`]: as a new file beside the old
//! one, flushed to the disk, renamed over the old one, and the folder flushed (test `recovery::every_fault_point`).
//! In an object store it is put under a condition, so that one of two writers learns that it is late
//! ([`Objects::put_if`]). Dataset repositories of Hugging Face are object stores that are only read ([`HubDataset`]).

mod dataset_path;
mod folder;
mod hub_client;
mod hub_dataset;
mod local;
mod location;
mod new_file;
mod objects;
mod trouble;

pub use dataset_path::DatasetPath;
pub use folder::Folder;
pub use hub_client::HubError;
pub use hub_dataset::{HubDataset, without_store_name};
pub use local::{
    StoreError, append_unflushed, create_folder, create_private_folder, overwrite, private_file, probe, read,
    remove, replace, replace_private, state_folder, sync_folder,
};
pub use location::{Location, LocationError};
pub use new_file::{ExistingFile, NewFile, NewFolder};
pub use objects::{Object, Objects, PutCondition, PutError, Version};
pub use trouble::{disk_trouble, is_full};
