//! `event-manager health`: whether the daemon does its work, as an exit code.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::key_args::KeyArgs;
use super::output::Out;
use super::standby::{StandsBy, stands_by};
use super::target::{address, seconds};
use crate::config::{Loaded, Sources};
use event_manager_client::blocking::Client;

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// The daemon's request address [default: the requestAddress of its configuration]
    #[arg(long, env = "EVENT_MANAGER_ADDRESS", value_name = "ADDRESS", value_parser = address)]
    address: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// The daemon's configuration file [environment: CONFIG_PATH; default: ./config.json]
    #[arg(long, value_name = "PATH", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// Seconds to wait for the daemon's answer.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    wait: f64,
}

/// The daemon's reactor itself has to answer: that a port is open says little. One that stands by takes no
/// requests, and does what it is to do.
pub(super) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let mut out = Out::new(false);
    if let Some((name, stands_by)) = standby(args) {
        if let Some(why) = stands_by.other_directory.or(stands_by.full_disk) {
            bail!("{name} stands by, and can't take over: {why}");
        }
        writeln!(out, "standby: {name} is healthy; {}", stands_by.reason)?;
        return Ok(());
    }
    let daemon = args
        .keys
        .daemon(args.address.clone(), args.config.clone())?;
    let (address, wait) = (daemon.address, Duration::from_secs_f64(args.wait));
    let client = Client::new(&*address, wait).with_keys(daemon.keys);
    let status = { client }.status()?;
    let (name, version) = (&status.service, &status.version);
    if status.draining {
        bail!("{name} {version} at {address} is stopping: it accepts no more events");
    }
    let uptime = status.uptime_seconds;
    writeln!(
        out,
        "healthy: {name} {version} answers at {address}, up for {uptime:.0} s"
    )?;
    Ok(())
}

/// The name of the daemon that is meant, if it stands by.
fn standby(args: &HealthArgs) -> Option<(String, StandsBy)> {
    // What is wrong with it is told by who needs it.
    let loaded = Loaded::load(&Sources::from_env(args.config.clone(), vec![])).ok()?;
    let (config, wait) = (loaded.config, Duration::from_secs_f64(args.wait));
    let standby = stands_by(&config, args.address.as_deref(), wait)?;
    Some((config.locator.service_name.to_string(), standby))
}
