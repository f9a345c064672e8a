//! Settings of the allocator.
//!
//! glibc gives each thread an arena of its own. Rows that are read on one thread and freed on another leave holes there
//! that grow with the table: three times the memory after 200,000 rows, and no gain in speed
//! (`cargo bench --bench throughput`). It also stops returning large blocks to the system once one of them was freed,
//! which costs another fifth. Both settings are read from the environment when a process starts, so the program
//! executes itself once more, as the same process.

use std::os::unix::process::CommandExt;
use std::process::Command;

const ARENAS: &str = "MALLOC_ARENA_MAX";
/// Blocks of at least this many bytes are taken from the system and returned to it.
const LARGE: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// Executes the program again with one arena, unless the environment sets the number. If that fails, the program
/// continues as it is.
pub(super) fn restart_with_one_arena() {
    if !cfg!(target_env = "gnu") || std::env::var_os(ARENAS).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    // This returns only if it fails.
    let _ = Command::new(program).arg0(name).args(arguments).env(ARENAS, "1").env(LARGE.0, LARGE.1).exec();
}
