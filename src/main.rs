//! The command line of enrich; everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    enrich::cli::main()
}
