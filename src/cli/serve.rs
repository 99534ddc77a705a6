//! `event-manager serve`: the daemon.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config_args::ConfigArgs;
use super::exit;
use super::signals::{Termination, runtime};
use crate::config::Loaded;
use crate::daemon::{Daemon, StartError};
use crate::telemetry::{LoadedLog, Logging};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let (loaded, log) = match args
        .config
        .load()
        .and_then(|loaded| Ok((LoadedLog::load(&loaded)?, loaded)))
    {
        Ok((log, loaded)) => (loaded, log),
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
    let code = match serve(args, loaded, &logging) {
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

fn serve(args: &ServeArgs, loaded: Loaded, logging: &Logging) -> anyhow::Result<u8> {
    // More peers than the usual soft limit of 1024 are nothing special.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("the limit on file descriptors stays as it is: {error}");
    }
    let runtime = runtime().context("no runtime")?;
    let code = runtime.block_on(run_until_told(args, loaded, logging));
    // A start or an end that was cut short goes on in its thread until the process is gone.
    runtime.shutdown_background();
    code
}

async fn run_until_told(args: &ServeArgs, loaded: Loaded, logging: &Logging) -> anyhow::Result<u8> {
    let source = loaded
        .path
        .as_ref()
        .map_or("embedded defaults".into(), |path| {
            path.display().to_string()
        });
    let mut termination = Termination::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    // The guard may wait for long, and must not hold up a signal.
    let mut starting = tokio::task::spawn_blocking(move || Daemon::start(loaded.config));
    let daemon = tokio::select! {
        daemon = &mut starting => daemon??,
        () = termination.received() => {
            tracing::info!("stopped before it had started");
            return Ok(0);
        }
    };
    announce(&daemon, &source);
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(args, logging),
            () = termination.received() => break,
            () = daemon.died() => {
                tracing::error!("the daemon ended by itself, which is a fault of its own; the message of its panic is on standard error");
                return Ok(exit::FAILED);
            }
        }
    }
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
    let http = daemon.http();
    let http = http.map_or("off".into(), |address| address.to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config,
        publishers = list(&bound.publishers),
        subscribers = list(&bound.subscribers),
        requests = list(&bound.requests),
        locator,
        http,
        "ready"
    );
}

/// SIGHUP: log levels, all or nothing.
fn reload(args: &ServeArgs, logging: &Logging) {
    let log = args
        .config
        .load()
        .and_then(|loaded| LoadedLog::load(&loaded));
    match log {
        Err(errors) => tracing::error!("not reloaded, the old log configuration stays: {errors}"),
        Ok(log) => match logging.reload(&log.config) {
            Ok(()) => tracing::info!("log levels reloaded"),
            Err(error) => tracing::error!("not reloaded, the old log configuration stays: {error}"),
        },
    }
}
