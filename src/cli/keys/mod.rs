//! `event-manager keys`: makes keys for CURVE, and says what is wrong with those that are there.

mod check;
mod files;
mod init;
mod new;
mod problems;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::exit_code;
pub(super) use problems::{Problem, problems};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the daemon's own keys, and a directory for those of its clients.
    ///
    /// It writes server.key_secret, which nobody but its owner can read, server.key, which clients need, and
    /// the directory keys; and config.json, if there is none, else it prints the lines for it. It changes no
    /// file that is there.
    Init(init::InitArgs),
    /// Make a client's keys, and admit it.
    ///
    /// It writes NAME.key_secret, for the client alone, and NAME.key into `security.keysDir`, which admits it.
    /// Both are as pyzmq and czmq write them. It changes no file that is there.
    New(new::NewArgs),
    /// Try keys from the client's side, or look at the files that the configuration names.
    ///
    /// With an address it connects there and says what fails: nobody listens, the server key is wrong, the key
    /// is not known, there is no CURVE. Without, it looks at the files of `security`.
    Check(check::CheckArgs),
}

pub(super) fn run(command: &KeysCommand) -> ExitCode {
    exit_code(match command {
        KeysCommand::Init(args) => init::run(args),
        KeysCommand::New(args) => new::run(args),
        KeysCommand::Check(args) => return check::run(args),
    })
}
