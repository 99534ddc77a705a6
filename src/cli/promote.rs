//! `event-manager promote`: a person says that this machine serves.

use std::io::{BufRead, Write};

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::config_args::ConfigArgs;
use super::output::{Out, shown};
use crate::store::{By, StateDirError, holder, promote};
use crate::telemetry::host_name;

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The machine that served before, which is dead: instead of asking for it.
    #[arg(long, value_name = "MACHINE")]
    dead: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &PromoteArgs) -> anyhow::Result<()> {
    let config = args.config.load()?.config;
    if !config.lease.is_by_hand() {
        bail!(
            "lease.source is not \"hand\": an engine gives the lease, or there is none; see docs/availability.md"
        );
    }
    let (host, directory) = (host_name(), &config.state_dir);
    let before = holder(directory).map(|holder| holder.by);
    let mut out = Out::new(false);
    match before {
        Ok(By::Hand(other)) if other == host => {
            return Ok(writeln!(out, "{} serves already", shown(host.as_bytes()))?);
        }
        Ok(By::Hand(other)) => confirm(args, &other)?,
        // Who that is is not known by a name.
        Ok(By::Lease) => confirm(args, "lease")?,
        Ok(By::Finding) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let directory = directory.display().to_string();
            writeln!(
                out,
                "{}: no daemon has served with this state directory yet; if one has, its storage is not mounted here",
                shown(directory.as_bytes())
            )?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(error).context("run it as the user that runs the daemon");
        }
        Err(error) => return Err(error).context(directory.display().to_string()),
    }
    let epoch = promote(directory, &host).map_err(|error| {
        let full = [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::QuotaExceeded,
        ];
        match &error {
            StateDirError::Disk(why) if full.contains(&why.kind()) => {
                anyhow!("{error}; free some space there, and promote again")
            }
            _ => error.into(),
        }
    })?;
    let host = shown(host.as_bytes());
    Ok(writeln!(out, "{host} serves from now on (epoch {epoch})")?)
}

/// Two that serve at the same time would both take events, and only one of them could keep them.
fn confirm(args: &PromoteArgs, other: &str) -> anyhow::Result<()> {
    let shown = shown(other.as_bytes());
    let said = match &args.dead {
        Some(said) => said.clone(),
        None => {
            let mut out = Out::new(false);
            writeln!(
                out,
                "{shown} serves with this state directory. See that its daemon has ended, or that the machine is off: one that lives and doesn\'t reach the directory would go on serving.\nType {shown} to confirm that it is dead:"
            )?;
            out.flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line
        }
    };
    if said.trim() != other {
        bail!("nothing was changed: {shown} was not confirmed to be dead");
    }
    Ok(())
}
