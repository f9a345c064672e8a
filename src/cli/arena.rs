//! One arena for the allocator.
//!
//! glibc gives each thread an arena of its own; rows that are read on one thread and freed on another leave
//! holes there that grow with the table: three times the memory after 200,000 rows, and no faster
//! (`cargo bench --bench throughput`). The number of arenas is read from the environment when a process
//! starts, so the program starts itself once more, as the same process.

use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "MALLOC_ARENA_MAX";

/// Starts the program again with one arena, unless the environment says how many. Where that does not
/// work, it goes on as it is.
pub(super) fn settle_on_one() {
    if !cfg!(target_env = "gnu") || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    // It returns only when it fails.
    let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, "1").exec();
}
