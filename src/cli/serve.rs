//! `event-manager serve`: the daemon.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config_args::ConfigArgs;
use super::exit;
use super::signals::{Termination, runtime};
use crate::config::Loaded;
use crate::daemon::{Daemon, StartError};
use crate::telemetry::{Journal, LoadedLog, Logging, Notable};

/// How long the event log may take to write its last lines.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(1);

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
        Err(error) => match error.downcast_ref() {
            // The daemon noted it.
            Some(StartError::Guard(_)) => exit::GUARD,
            Some(_) => exit::FAILED,
            None => {
                tracing::error!("{error:#}");
                exit::FAILED
            }
        },
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
            _ = hangup.recv() => reload(args, logging, daemon.journal()),
            () = termination.received() => break,
            () = daemon.died() => {
                daemon.journal().note(&Notable::Died {});
                daemon.journal().close(JOURNAL_TIMEOUT);
                return Ok(exit::FAILED);
            }
        }
    }
    let journal = daemon.journal().clone();
    journal.note(&Notable::Stopping {});
    let mut stopping = tokio::task::spawn_blocking(|| daemon.stop());
    tokio::select! {
        ended_well = &mut stopping => Ok(if ended_well? { 0 } else { exit::FAILED }),
        () = termination.received() => {
            journal.note(&Notable::StoppedAtOnce {});
            journal.close(JOURNAL_TIMEOUT);
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
    daemon.journal().note(&Notable::Started {
        version: env!("CARGO_PKG_VERSION"),
        config,
        publishers: &list(&bound.publishers),
        subscribers: &list(&bound.subscribers),
        requests: &list(&bound.requests),
        locator: &locator,
    });
}

/// SIGHUP: log levels, all or nothing.
fn reload(args: &ServeArgs, logging: &Logging, journal: &Journal) {
    let log = args
        .config
        .load()
        .and_then(|loaded| LoadedLog::load(&loaded));
    let reloaded = match log {
        Err(errors) => Err(errors.to_string()),
        Ok(log) => logging
            .reload(&log.config)
            .map_err(|error| error.to_string()),
    };
    journal.reopen();
    journal.note(&match &reloaded {
        Ok(()) => Notable::Reloaded {},
        Err(why) => Notable::ReloadRefused { why },
    });
}
