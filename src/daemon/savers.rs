//! The threads that keep what outlives the reactor: the store, the state database, traces, keys, leases.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::StartError;
use crate::ambient::now;
use crate::config::Config;
use crate::instances;
use crate::keys::Watcher;
use crate::lease::{self, Lease, Turn, TurnTaker};
use crate::reactor::{Effect, Input, Parts, Reactor, Sightings};
use crate::state::{self, State, WriterThread};
use crate::store::{Fence, Holding, Store};
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{Journal, Notable, instance_name};
use crate::traces::{Exporter, Resource, Tracer};
use event_manager_core::instances::FencePolicy;
use event_manager_core::security::Keyring;
use event_manager_zmtp::HubId;
use event_manager_zmtp::curve::KeyPair;

/// How long the state database may take to write its last changes, on a disk that hangs.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take to a collector that hangs.
const TRACES_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads to which the reactor gives what outlives it. They end when nobody gives them anything
/// any more.
#[derive(Debug, Default)]
pub(super) struct Savers {
    pub(super) store: Option<Arc<Store>>,
    state: Option<WriterThread>,
    traces: Option<Exporter>,
    pub(super) keys: Option<Watcher>,
    /// What instances say, and what an earlier run knew of them, for who keeps their registry.
    pub(super) instances: Option<(Sightings, instances::Former)>,
    /// The lease by which instances may lead here, and who takes it.
    pub(super) turn: Option<Turn>,
    turn_taker: Option<TurnTaker>,
    /// What clients ask about leases, for who asks the engine that keeps them.
    pub(super) leases: Option<lease::Asked>,
}

impl Savers {
    /// Starts them, as far as they are wanted, and the reactor that they serve. If it fails, some of
    /// them may run.
    pub(super) fn start_reactor(
        &mut self,
        config: &Config,
        manager: &Manager,
        inherited: Inherited,
        (keyring, own): (Keyring, KeyPair),
        (lease, journal): (Option<&Lease>, &Journal),
    ) -> Result<(Reactor, mpsc::Receiver<Effect>, Tracer), StartError> {
        let (effects, effects_rx) = mpsc::channel(config.pending_calls_max);
        let (inputs, inputs_rx) = Reactor::inputs();
        let holding = lease.map(Lease::holding);
        self.store = start_store(config, holding, inputs.clone(), journal)?.map(Arc::new);
        let held = self
            .store
            .as_ref()
            .map_or((0, None), |store| (store.epoch(), store.fence()));
        let former = open_state(config, held, journal).map(|state| {
            self.state = Some(state.thread);
            (state.kept, state.writer)
        });
        self.start_turn(config, journal)?;
        let observed = instances::observer(&config.instances);
        let observer = observed.map(|(observer, sightings)| {
            let former = former.as_ref().map(|(kept, _)| instances::Former {
                instances: kept.instances.clone(),
                turns: kept.turns.clone(),
            });
            self.instances = Some((sightings, former.unwrap_or_default()));
            observer
        });
        let leases_kept = lease::Clients::channel(config).map(|(kept, asked)| {
            self.leases = Some(asked);
            kept
        });
        let (tracer, traces) = start_traces(config)?;
        self.traces = traces;
        self.keys = Some(Watcher::start(
            config.security.clone(),
            inputs.clone(),
            journal.clone(),
        )?);
        let reactor = Reactor::start(Parts {
            config: config.clone(),
            effects,
            inputs: (inputs, inputs_rx),
            former,
            store: self.store.clone(),
            inherited,
            beat: manager.beat(now()),
            keyring,
            own,
            hub_id: hub_id(config),
            lease: lease.map(|lease| Arc::clone(lease.tenure())),
            turn: self.turn.as_ref().map(Turn::held),
            leases_kept,
            observer,
            journal: journal.clone(),
            tracer: tracer.clone(),
        })?;
        Ok((reactor, effects_rx, tracer))
    }

    /// Who takes the lease by which instances may lead here, if they need one.
    fn start_turn(&mut self, config: &Config, journal: &Journal) -> io::Result<()> {
        let fence = config.instances.fence;
        if config.instances.is_on() && fence == FencePolicy::Standby {
            let (turn, taker) = TurnTaker::start(config, journal.clone())?;
            (self.turn, self.turn_taker) = (Some(turn), Some(taker));
        }
        Ok(())
    }

    /// Waits until they have saved what they were given; whether the state database was, in time. The
    /// reactor has ended.
    pub(super) fn stop(self) -> bool {
        if let Some(store) = self.store.and_then(Arc::into_inner) {
            store.stop();
        }
        let state_is_written = self.state.is_none_or(|state| state.join(STATE_TIMEOUT));
        if !state_is_written {
            tracing::error!(target: "em.state", "the state database was not written and closed in time");
        }
        if let Some(keys) = self.keys {
            keys.stop();
        }
        if let Some(traces) = self.traces {
            traces.stop(TRACES_TIMEOUT);
        }
        // Whoever could want the lease is gone.
        drop(self.turn);
        if let Some(taker) = self.turn_taker {
            taker.join();
        }
        state_is_written
    }
}

/// What makes spans, and what exports them if that is wanted.
fn start_traces(config: &Config) -> io::Result<(Tracer, Option<Exporter>)> {
    let service = config.locator.service_name.to_string();
    let instance = instance_name(&service);
    Exporter::start(&config.traces, Resource { service, instance })
}

/// The state database, if there is to be one and it can be used.
fn open_state(config: &Config, held: (u64, Option<Fence>), journal: &Journal) -> Option<State> {
    state_dir(config).and_then(|directory| state::open_for(directory, held, journal))
}

/// The directory of what outlives the process, if anything is to.
fn state_dir(config: &Config) -> Option<&Path> {
    let directory = config.state_dir.as_path();
    Some(directory).filter(|directory| !directory.as_os_str().is_empty())
}

/// The daemon's id in a mesh.
fn hub_id(config: &Config) -> HubId {
    state::instance(state_dir(config))
}

/// The store, if events are to be kept on disk. Where only dead letters would be, the daemon starts
/// without it too.
fn start_store(
    config: &Config,
    holding: Option<&Holding>,
    inputs: mpsc::Sender<Input>,
    journal: &Journal,
) -> Result<Option<Store>, StartError> {
    if config.state_dir.as_os_str().is_empty() {
        return match config.services.any_durable() {
            true => Err(StartError::NoStateDir),
            false => Ok(None),
        };
    }
    let report = move |report| {
        // It fails when the reactor has ended, and nobody wants to know any more.
        let _ = inputs.blocking_send(Input::Store(report));
    };
    match Store::start_for(&config.state_dir, holding, report) {
        Ok(store) => Ok(Some(store)),
        Err(error) if config.services.any_durable() || holding.is_some() => Err(error.into()),
        Err(error) => {
            journal.note(&Notable::LettersUnavailable {
                error: &error.to_string(),
            });
            Ok(None)
        }
    }
}
