//! `event-manager locator`: a ServiceLocator alone.

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::exit;
use super::output::complain;
use super::signals::{Termination, runtime};
use crate::ambient::{now, random_bytes};
use crate::config::{
    Config, ConfigErrors, Loaded, LogConfig, SecurityConfig, Sources, is_reached_by_others,
};
use crate::keys::{self, KeysError, Watcher};
use crate::reactor::{Input, Parts, Reactor};
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{Journal, Logging, Notable};
use crate::traces::Tracer;
use event_manager_core::security::Keyring;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::HubId;
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
    /// A configuration file, whose `security` says who may connect and register what; SIGHUP reads it
    /// again [default: whoever has an address that the Internet doesn't route]
    #[arg(long, env = "SERVICE_LOCATOR_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,
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
    ExitCode::from(match &result {
        Ok(()) => 0,
        Err(error) if error.is::<ConfigErrors>() || error.is::<KeysError>() => exit::CONFIG,
        Err(_) => exit::FAILED,
    })
}

/// What it does, with this `security`.
fn config_with(args: &LocatorArgs, security: SecurityConfig) -> Config {
    let mut config = Config {
        pub_addresses: Vec::new(),
        sub_addresses: Vec::new(),
        request_addresses: Vec::new(),
        // It has no publishers that could wait.
        subscriber_grace: Duration::ZERO,
        security,
        ..Config::default()
    };
    config.locator.embedded = true;
    config.locator.address = args.address.clone();
    config
}

/// Reads `security`, and the keys that it names.
fn load(path: Option<&Path>, journal: &Journal) -> anyhow::Result<(SecurityConfig, Keyring)> {
    let Some(path) = path else {
        return Ok((SecurityConfig::default(), Keyring::default()));
    };
    let loaded = Loaded::load(&Sources::from_env(Some(path.to_owned()), vec![]))?;
    for warning in &loaded.warnings {
        tracing::warn!(target: "em.locator", "{warning}");
    }
    let security = loaded.config.security;
    let mut problems = vec![];
    let keyring = keys::load(&security, &mut problems)?;
    for why in problems {
        let why = &why.to_string();
        journal.note(&Notable::KeysUnreadable { why });
    }
    Ok((security, keyring))
}

fn serve(args: &LocatorArgs) -> anyhow::Result<()> {
    let journal = Journal::default();
    let path = args.config.as_deref();
    let (security, keyring) = load(path, &journal)?;
    let config = config_with(args, security.clone());
    let drain_timeout = config.drain_timeout;
    let (effects, _no_effects) = tokio::sync::mpsc::channel(1);
    let (inputs, inputs_rx) = Reactor::inputs();
    let reactor = Reactor::start(Parts {
        config,
        effects,
        inputs: (inputs.clone(), inputs_rx),
        former: None,
        store: None,
        inherited: Inherited::default(),
        beat: Manager::default().beat(now()),
        keyring,
        own: KeyPair::from_secret(random_bytes()),
        hub_id: HubId::from_bytes(random_bytes()),
        lease: None,
        turn: None,
        leases_kept: None,
        observer: None,
        journal: journal.clone(),
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
    if security.is_unsaid() && is_reached_by_others(bound) {
        let open = &bound.to_string();
        journal.note(&Notable::OpenToTheNetwork { open });
    }
    tracing::info!(target: "em.locator", address = %bound, "the ServiceLocator is ready");
    let watcher = Watcher::start(security, inputs, journal.clone())?;
    let served = runtime()?.block_on(until_terminated(args, &reactor, &watcher, &journal));
    let _ = reactor.inputs.blocking_send(Input::Stop(drain_timeout));
    let ended = reactor.join();
    watcher.stop();
    served?;
    anyhow::ensure!(ended.is_some(), "the reactor ended badly");
    Ok(())
}

/// Waits for the end, and reads the configuration again at SIGHUP, which ends a locator without one.
async fn until_terminated(
    args: &LocatorArgs,
    reactor: &Reactor,
    watcher: &Watcher,
    journal: &Journal,
) -> std::io::Result<()> {
    let mut termination = Termination::listen()?;
    let Some(path) = &args.config else {
        termination.received().await;
        return Ok(());
    };
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = termination.received() => return Ok(()),
            _ = hangup.recv() => match load(Some(path), journal) {
                Ok((security, keyring)) => {
                    watcher.watch(security.clone());
                    reload(args, reactor, security, keyring).await;
                    journal.note(&Notable::Reloaded { changed: "security" });
                }
                Err(error) => journal.note(&Notable::ReloadRefused { why: &error.to_string() }),
            },
        }
    }
}

async fn reload(args: &LocatorArgs, reactor: &Reactor, security: SecurityConfig, keyring: Keyring) {
    let (done, is_done) = oneshot::channel();
    let config = Box::new(config_with(args, security));
    // They fail when the reactor has ended, which is told elsewhere.
    let _ = reactor.inputs.send(Input::Reload(config, done)).await;
    let _ = is_done.await;
    let _ = reactor.inputs.send(Input::Keys(keyring)).await;
}
