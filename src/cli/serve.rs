//! `event-manager serve`: the daemon.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config_args::ConfigArgs;
use super::exit;
use super::output::complain;
use super::ready::ReadyArgs;
use super::signals::{Termination, runtime};
use crate::config::Loaded;
use crate::daemon::{Daemon, StartError};
use crate::keys;
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{Logging, Notable, outdated_targets};

/// How long the event log may take to write its last lines.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long closing the sockets and `lease.onResign` may take.
const RESIGN_MAX: Duration = Duration::from_secs(12);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    ready: ReadyArgs,
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    // Before there are threads: it changes the environment.
    let (inherited, unusable) = Inherited::from_env();
    let loaded = match args.config.load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    let logging = match Logging::init(&loaded.config.log, std::env::var("RUST_LOG").ok()) {
        Ok(logging) => logging,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    let outdated = outdated_targets(&loaded.config.log, std::env::var("RUST_LOG").ok());
    for warning in loaded.warnings.iter().chain(&outdated) {
        tracing::warn!(target: "em.daemon", "{warning}");
    }
    for why in unusable {
        tracing::warn!(target: "em.systemd", "ignored, of what the service manager passed: {why}");
    }
    let code = match serve(args, loaded, &logging, inherited) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref() {
            // The daemon noted it.
            Some(StartError::Guard(_)) => exit::GUARD,
            Some(StartError::Keys(_)) => exit::CONFIG,
            Some(_) => exit::FAILED,
            None => {
                tracing::error!(target: "em.daemon", "{error:#}");
                exit::FAILED
            }
        },
    };
    logging.close();
    ExitCode::from(code)
}

fn serve(
    args: &ServeArgs,
    loaded: Loaded,
    logging: &Logging,
    inherited: Inherited,
) -> anyhow::Result<u8> {
    // More peers than the usual soft limit of 1024 are nothing special.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(target: "em.daemon", "can't raise the limit on file descriptors: {error}");
    }
    let runtime = runtime().context("no runtime")?;
    let code = runtime.block_on(run_until_told(args, loaded, logging, inherited));
    // A start or an end that was cut short goes on in its thread until the process is gone.
    runtime.shutdown_background();
    code
}

async fn run_until_told(
    args: &ServeArgs,
    loaded: Loaded,
    logging: &Logging,
    inherited: Inherited,
) -> anyhow::Result<u8> {
    let source = loaded
        .path
        .as_ref()
        .map_or("embedded defaults".into(), |path| {
            path.display().to_string()
        });
    let path = loaded.path.clone();
    let mut ready = args.ready.prepare()?;
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
            tracing::info!(target: "em.daemon", "stopped before it had started");
            return Ok(0);
        }
    };
    announce(&daemon, &source);
    if let Err(error) = ready.tell(&daemon, path.as_deref()) {
        tokio::task::spawn_blocking(|| daemon.stop()).await?;
        return Err(error);
    }
    manager.ready();
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                manager.reloading();
                tokio::select! {
                    () = reload(args, path.as_deref(), &mut daemon, logging) => manager.ready(),
                    () = termination.received() => break,
                }
            }
            () = termination.received() => break,
            () = daemon.resigned() => {
                let resigning = tokio::task::spawn_blocking(|| daemon.resign());
                // Nothing is written in any case.
                let _ = tokio::time::timeout(RESIGN_MAX, resigning).await;
                return Ok(exit::RESIGNED);
            }
            () = daemon.died() => {
                daemon.journal().note(&Notable::Died {});
                daemon.journal().close(JOURNAL_TIMEOUT);
                return Ok(exit::FAILED);
            }
        }
    }
    manager.stopping(daemon.drain_timeout());
    stop(daemon, &mut termination).await
}

/// Stops the daemon, at once if it is told so again; the exit code.
async fn stop(daemon: Daemon, termination: &mut Termination) -> anyhow::Result<u8> {
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
    let list = |endpoints: &[event_manager_wire::model::Endpoint]| {
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
    daemon.journal().note(&Notable::Started {
        version: env!("CARGO_PKG_VERSION"),
        config,
        publishers: &list(&bound.publishers),
        subscribers: &list(&bound.subscribers),
        requests: &list(&bound.requests),
        locator: &locator,
        http: &http,
    });
    note_open(daemon, &[]);
}

/// Says what is open to other machines, if it wasn't so before.
fn note_open(daemon: &Daemon, before: &[String]) {
    let open = daemon.open_listeners();
    if open.iter().any(|one| !before.contains(one)) {
        let open = &open.join(",");
        daemon.journal().note(&Notable::OpenToTheNetwork { open });
    }
}

/// SIGHUP: all that needs no restart, or nothing if anything is wrong.
///
/// A `file` that was read at the start and is gone is wrong: all that it said, who may connect among it,
/// would be undone.
async fn reload(args: &ServeArgs, file: Option<&Path>, daemon: &mut Daemon, logging: &Logging) {
    let journal = daemon.journal().clone();
    let open = daemon.open_listeners();
    let loaded = args.config.load().map_err(|errors| errors.to_string());
    let loaded = loaded.and_then(|loaded| {
        if let Some(file) = file.filter(|_| loaded.path.is_none()) {
            return Err(format!("{} is gone", file.display()));
        }
        // What is wrong with a client's file, who takes the keys tells.
        let keys = keys::load(&loaded.config.security, &mut vec![]);
        keys.map_err(|error| error.to_string())?;
        let reloaded = logging.reload(&loaded.config.log);
        reloaded.map_err(|error| error.to_string())?;
        Ok(loaded)
    });
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(why) => return journal.note(&Notable::ReloadRefused { why: &why }),
    };
    journal.reopen();
    // It fails when the reactor has ended, which is told elsewhere.
    let Some(reload) = daemon.reload(loaded.config).await else {
        return;
    };
    for key in reload.need_restart {
        tracing::warn!(target: "em.daemon", key, "not changed: another value needs a restart");
    }
    let changed = &reload.changed.join(",");
    journal.note(&Notable::Reloaded { changed });
    note_open(daemon, &open);
}
