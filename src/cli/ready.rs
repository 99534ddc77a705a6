//! Tells the program that started the daemon that it is ready, and where it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use event_manager_wire::model::Endpoint;

/// How programs want to be told.
#[derive(Debug, Args)]
pub(super) struct ReadyArgs {
    /// When ready, write a line of JSON with the addresses to this file, which appears whole and is removed
    /// at the end.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// When ready, write the same line to this open file descriptor: a pipe or a file.
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
}

/// Who is to be told.
#[derive(Debug)]
pub(super) struct Ready {
    file: Option<PathBuf>,
    descriptor: Option<File>,
}

impl ReadyArgs {
    /// Before the daemon starts: what an earlier one left is no answer, and what can't be written to is
    /// told at once.
    pub(super) fn prepare(&self) -> anyhow::Result<Ready> {
        if let Some(path) = &self.ready_file {
            removed(path).with_context(|| format!("--ready-file {}", path.display()))?;
        }
        let open = |number: u32| {
            let path = format!("/proc/self/fd/{number}");
            let opened = OpenOptions::new().append(true).open(path);
            opened.with_context(|| format!("--ready-fd {number}: it is no open pipe or file"))
        };
        Ok(Ready {
            file: self.ready_file.clone(),
            descriptor: self.ready_fd.map(open).transpose()?,
        })
    }
}

impl Ready {
    /// The daemon is ready.
    pub(super) fn tell(&mut self, daemon: &Daemon, config: Option<&Path>) -> anyhow::Result<()> {
        let line = format!("{}\n", account(daemon, config));
        if let Some(mut descriptor) = self.descriptor.take() {
            let written = descriptor.write_all(line.as_bytes());
            written.context("--ready-fd: nobody was told")?;
        }
        if let Some(path) = &self.file {
            let written = write_whole(path, &line);
            written.with_context(|| format!("--ready-file {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // Whoever looks for it finds that there is no daemon, too.
        let _ = self.file.as_deref().map(removed);
    }
}

/// Whoever reads it finds nothing or all of it.
fn write_whole(path: &Path, line: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    std::fs::write(&name, line)?;
    std::fs::rename(&name, path)
}

fn removed(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Addresses are as they are dialled on this machine.
fn account(daemon: &Daemon, config: Option<&Path>) -> Value {
    let bound = daemon.bound();
    let local = |endpoint: &Endpoint| endpoint.local().to_string();
    let all = |endpoints: &[Endpoint]| endpoints.iter().map(local).collect::<Vec<_>>();
    json!({
        "ready": true,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "config": config,
        "publishers": all(&bound.publishers),
        "subscribers": all(&bound.subscribers),
        "requests": all(&bound.requests),
        "locator": bound.locator.as_ref().map(local),
        "http": daemon.http().map(|address| address.to_string()),
    })
}
