//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    event_manager::cli::run(std::env::args_os())
}
