//! Arguments in, exit code out.

use std::process::ExitCode;

/// Unlike the system's it gives back what a storm of events took: the one of glibc keeps whatever lies
/// below something that is still in use. jemalloc frees single pages, and has a thread that does so also
/// when nothing happens any more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    event_manager::cli::run(std::env::args_os())
}
