//! How the allocator keeps memory.
//!
//! glibc gives each thread an arena of its own; rows that are read on one thread and freed on another leave
//! holes there that grow with the table: three times the memory after 200,000 rows, and no faster
//! (`cargo bench --bench throughput`). It also stops giving large blocks back to the system once one of
//! them was freed, a fifth more. Both are read from the environment when a process starts, so the program
//! starts itself once more, as the same process.

use std::os::unix::process::CommandExt;
use std::process::Command;

const ARENAS: &str = "MALLOC_ARENA_MAX";
/// Blocks of this many bytes and more come from the system, and go back to it.
const LARGE: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// Starts the program again with one arena, unless the environment says how many. Where that does not
/// work, it goes on as it is.
pub(super) fn restart_with_one_arena() {
    if !cfg!(target_env = "gnu") || std::env::var_os(ARENAS).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    // It returns only when it fails.
    let _ = Command::new(program).arg0(name).args(arguments).env(ARENAS, "1").env(LARGE.0, LARGE.1).exec();
}
