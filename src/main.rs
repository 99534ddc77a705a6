//! Arguments in, exit code out.

use std::process::ExitCode;

/// Unlike the system's it gives back what a storm of events took: the one of glibc keeps whatever lies
/// below something that is still in use (`reactor::memory`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    event_manager::cli::run(std::env::args_os())
}
