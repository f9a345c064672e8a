//! The command line of enrich; everything is in the library's `cli`.

/// Threads that free what others allocated, all the time: glibc's allocator spends a tenth of the run on its
/// locks and gives little back (`cargo bench --bench throughput`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    enrich::cli::main()
}
