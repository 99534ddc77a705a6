//! `event-manager man`: the manual pages, for packages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::Man;

use super::output::Out;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, which exists; without it, the main page
    /// to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    let command = command.disable_help_subcommand(true);
    let Some(directory) = &args.out else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return Ok(Out::write_own(&page)?);
    };
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("the pages can't be written to {}", directory.display()))
}
