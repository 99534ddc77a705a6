//! `event-manager serve`: the daemon.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config_args::ConfigArgs;
use super::exit;
use super::signals::{Termination, runtime};
use crate::config::{ConfigErrors, Loaded};
use crate::daemon::{Daemon, StartError};
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{LOG_KEYS, LoadedLog, LogConfig, Logging};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    // Before there are threads: it changes the environment.
    let (inherited, unusable) = Inherited::from_env();
    let (loaded, log) = match load(args) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    let logging = match Logging::init(&log.config, std::env::var("RUST_LOG").ok()) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    for why in unusable {
        tracing::warn!("not used, of what the service manager handed over: {why}");
    }
    let code = match serve(args, (loaded, log.config), &logging, inherited) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            match error.downcast_ref() {
                Some(StartError::Guard(_)) => exit::GUARD,
                _ => exit::FAILED,
            }
        }
    };
    logging.close();
    ExitCode::from(code)
}

fn load(args: &ServeArgs) -> Result<(Loaded, LoadedLog), ConfigErrors> {
    let loaded = args.config.load()?;
    let log = LoadedLog::load(&loaded)?;
    Ok((loaded, log))
}

fn serve(
    args: &ServeArgs,
    loaded: (Loaded, LogConfig),
    logging: &Logging,
    inherited: Inherited,
) -> anyhow::Result<u8> {
    // More peers than the usual soft limit of 1024 are nothing special.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("the limit on file descriptors stays as it is: {error}");
    }
    let runtime = runtime().context("no runtime")?;
    let code = runtime.block_on(run_until_told(args, loaded, logging, inherited));
    // A start or an end that was cut short goes on in its thread until the process is gone.
    runtime.shutdown_background();
    code
}

async fn run_until_told(
    args: &ServeArgs,
    (loaded, log): (Loaded, LogConfig),
    logging: &Logging,
    inherited: Inherited,
) -> anyhow::Result<u8> {
    let source = loaded
        .path
        .as_ref()
        .map_or("embedded defaults".into(), |path| {
            path.display().to_string()
        });
    let mut termination = Termination::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    // The guard may wait for long, and must not hold up a signal.
    let manager = Manager::from_env();
    let mut starting = tokio::task::spawn_blocking({
        let manager = manager.clone();
        move || Daemon::start_under(loaded.config, &manager, inherited)
    });
    let mut daemon = tokio::select! {
        daemon = &mut starting => daemon??,
        () = termination.received() => {
            tracing::info!("stopped before it had started");
            return Ok(0);
        }
    };
    announce(&daemon, &source);
    manager.ready();
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                manager.reloading();
                tokio::select! {
                    () = reload(args, &mut daemon, logging, &log) => manager.ready(),
                    () = termination.received() => break,
                }
            }
            () = termination.received() => break,
            () = daemon.died() => {
                tracing::error!("the daemon ended by itself, which is a fault of its own; the message of its panic is on standard error");
                return Ok(exit::FAILED);
            }
        }
    }
    manager.stopping(daemon.drain_timeout());
    tracing::info!("stopping: what waits is delivered; a second signal ends at once");
    let mut stopping = tokio::task::spawn_blocking(|| daemon.stop());
    tokio::select! {
        ended_well = &mut stopping => {
            tracing::info!("stopped");
            Ok(if ended_well? { 0 } else { exit::FAILED })
        }
        () = termination.received() => {
            tracing::warn!("ended at once: what was not delivered is lost");
            Ok(exit::FAILED)
        }
    }
}

fn announce(daemon: &Daemon, config: &str) {
    let list = |endpoints: &[crate::model::Endpoint]| {
        endpoints
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let bound = daemon.bound();
    let locator = bound
        .locator
        .as_ref()
        .map_or("none embedded".into(), ToString::to_string);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config,
        publishers = list(&bound.publishers),
        subscribers = list(&bound.subscribers),
        requests = list(&bound.requests),
        locator,
        "ready"
    );
}

/// SIGHUP: all that needs no restart, or nothing if anything is wrong.
async fn reload(args: &ServeArgs, daemon: &mut Daemon, logging: &Logging, begun: &LogConfig) {
    let (loaded, log) = match load(args) {
        Ok(loaded) => loaded,
        Err(errors) => {
            return tracing::error!("not reloaded, the old configuration stays: {errors}");
        }
    };
    if let Err(error) = logging.reload(&log.config) {
        return tracing::error!("not reloaded, the old configuration stays: {error}");
    }
    // It fails when the reactor has ended, which is told elsewhere.
    let Some(reload) = daemon.reload(loaded.config).await else {
        return;
    };
    let log_keys = LOG_KEYS
        .iter()
        .filter(|key| !key.is_live && (key.show)(begun) != (key.show)(&log.config))
        .map(|key| format!("log.{}", key.name));
    for key in reload.need_restart.into_iter().chain(log_keys) {
        tracing::warn!(key, "not changed: another value needs a restart");
    }
    tracing::info!(changed = reload.changed.join(","), "configuration reloaded");
}
