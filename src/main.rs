//! The command line of enrich; everything is in the library's `cli`.

/// glibc's allocator takes a sixth more CPU time, and leaves holes where rows are read on one thread and freed on another
/// (`cargo bench --bench throughput`). How jemalloc gives memory back to the system is set in `.cargo/config.toml`.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    enrich::cli::main()
}
