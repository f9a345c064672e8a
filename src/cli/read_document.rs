//! The command `enrich read-document MEMORY_BYTES`, with which this program reads documents for another process.
//!
//! It is no command for people, so that help and completion scripts are without it.

use std::env;

use super::exit::Exit;
use crate::documents::{READER_COMMAND, serve_reader};

/// Reads documents until standard input ends, if the arguments ask for that; else returns `None`.
pub(super) fn read_document() -> Option<Exit> {
    let mut arguments = env::args_os().skip(1);
    arguments.next().filter(|command| command == READER_COMMAND)?;
    let memory_bytes = arguments.next()?.to_str()?.parse().ok()?;
    Some(match serve_reader(memory_bytes) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Internal,
    })
}
