//! `event-manager keys check`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::exit;
use super::super::key_args::{KeyArgs, own_keys, probe};
use super::super::output::{Out, complain, exit_code, mend};
use super::super::target::address;
use super::problems::look;
use crate::config::{Loaded, Sources};
use event_manager_client::{ClientKeys, OpenError, TurnedAway};
use event_manager_wire::model::Endpoint;

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// A request address of a hub: the keys are tried there.
    #[arg(value_parser = address)]
    address: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// The daemon's configuration file [environment: CONFIG_PATH; default: ./config.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let checked = match &args.address {
        Some(address) => try_keys(address, args),
        None => look_at_files(args),
    };
    checked.unwrap_or_else(|error| exit_code(Err(error)))
}

/// Code 78 if the daemon would not start, 1 if something else is wrong.
fn look_at_files(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    // Keys that are named are read, at least.
    args.keys.given()?;
    let loaded = Loaded::load(&Sources::from_env(args.config.clone(), vec![]))?;
    let security = &loaded.config.security;
    if !security.offers_curve() {
        writeln!(
            Out::new(false),
            "the configuration has no CURVE: security.mechanisms doesn't have \"curve\""
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let looked = look(security);
    for problem in &looked.problems {
        complain(&problem.text);
        complain(&format!("    fix: {}", problem.mend));
    }
    let mut out = Out::new(false);
    for key in &looked.own {
        writeln!(out, "the daemon's public key: {key}")?;
    }
    writeln!(out, "keys of clients: {}", looked.clients)?;
    let is_fatal = looked.problems.iter().any(|problem| problem.is_fatal);
    Ok(match looked.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false if is_fatal => ExitCode::from(exit::CONFIG),
        false => ExitCode::from(exit::FAILED),
    })
}

fn try_keys(address: &str, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let keys = match args.keys.given()? {
        Some(given) => Some(given),
        None => own(address, args),
    };
    let endpoint: Endpoint = address.parse()?;
    let error = match probe(&endpoint, keys.clone()) {
        Ok(()) => {
            writeln!(Out::new(false), "{address}: {}", admitted(keys.as_ref()))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error,
    };
    complain(&format!("{address}: {error}"));
    Ok(match error {
        OpenError::TurnedAway(why) => {
            if why == TurnedAway::NoCurve && probe(&endpoint, None).is_ok() {
                complain(
                    "It admits peers without keys: it has no CURVE, so nothing is encrypted there",
                );
            }
            complain(mend(why));
            ExitCode::from(exit::TURNED_AWAY)
        }
        _ => {
            complain(
                "Start the daemon (`event-manager`), or correct the address: it is one of its requestAddress",
            );
            ExitCode::from(exit::UNAVAILABLE)
        }
    })
}

fn admitted(keys: Option<&ClientKeys>) -> String {
    match keys {
        None => "it admits peers without keys; nothing is encrypted".to_owned(),
        Some(keys) => format!(
            "it has the server key {}, and admits the client's key {}",
            keys.server,
            keys.own.public()
        ),
    }
}

/// The daemon's own keys, if it is that of the configuration here, and they can be read.
fn own(address: &str, args: &CheckArgs) -> Option<ClientKeys> {
    let loaded = Loaded::load(&Sources::from_env(args.config.clone(), vec![])).ok()?;
    own_keys(&loaded.config, address).ok().flatten()
}
