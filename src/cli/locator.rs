//! `event-manager locator`: a ServiceLocator alone.

use std::env::VarError;
use std::process::ExitCode;

use clap::Args;

use super::exit;
use super::output::complain;
use super::signals::{Termination, runtime};
use crate::ambient::{now, random_bytes};
use crate::config::{Config, LogConfig};
use crate::reactor::{Input, Parts, Reactor};
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{Journal, Logging};
use crate::traces::Tracer;
use event_manager_core::security::Keyring;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::curve::KeyPair;

#[derive(Debug, Args)]
pub(super) struct LocatorArgs {
    /// Address to listen on.
    #[arg(
        long,
        env = "SERVICE_LOCATOR_ADDRESS",
        default_value = "tcp://*:6000",
        value_name = "ADDRESS"
    )]
    address: Endpoint,
}

pub(super) fn run(args: &LocatorArgs) -> ExitCode {
    let rust_log = match std::env::var("RUST_LOG") {
        Err(VarError::NotUnicode(_)) => {
            complain("environment RUST_LOG: its value is not UTF-8");
            return ExitCode::from(exit::CONFIG);
        }
        levels => levels.ok(),
    };
    let logging = match Logging::init(&LogConfig::default(), rust_log) {
        Ok(logging) => logging,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    let result = serve(args);
    if let Err(error) = &result {
        tracing::error!(target: "em.daemon", "{error:#}");
    }
    logging.close();
    ExitCode::from(if result.is_ok() { 0 } else { exit::FAILED })
}

fn serve(args: &LocatorArgs) -> anyhow::Result<()> {
    let mut config = Config {
        pub_addresses: Vec::new(),
        sub_addresses: Vec::new(),
        request_addresses: Vec::new(),
        ..Config::default()
    };
    config.locator.embedded = true;
    config.locator.address = args.address.clone();
    let drain_timeout = config.drain_timeout;
    let (effects, _no_effects) = tokio::sync::mpsc::channel(1);
    let reactor = Reactor::start(Parts {
        config,
        effects,
        inputs: Reactor::inputs(),
        former: None,
        store: None,
        inherited: Inherited::default(),
        beat: Manager::default().beat(now()),
        keyring: Keyring::default(),
        own: KeyPair::from_secret(random_bytes()),
        journal: Journal::default(),
        tracer: Tracer::default(),
    })?;
    let Some(bound) = &reactor.bound.locator else {
        let _ = reactor.inputs.blocking_send(Input::Stop(drain_timeout));
        reactor.join();
        anyhow::bail!(
            "{} is in use: a ServiceLocator may already run there",
            args.address
        );
    };
    tracing::info!(target: "em.locator", address = %bound, "the ServiceLocator is ready");
    runtime()?.block_on(async {
        Termination::listen()?.received().await;
        std::io::Result::Ok(())
    })?;
    let _ = reactor.inputs.blocking_send(Input::Stop(drain_timeout));
    anyhow::ensure!(reactor.join().is_some(), "the reactor ended badly");
    Ok(())
}
