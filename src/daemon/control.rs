//! What may wait, and so is not the reactor's.

use std::time::Instant;

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::lists::whole_state;
use crate::config::{Config, DiagnosticConfig};
use crate::outbound::{LocatorClient, RegistrationState, call_services, keep_registered};
use crate::reactor::{CallKeys, Effect, Input, Lists};
use crate::telemetry::{Journal, process_readings};
use crate::traces::Tracer;
use event_manager_client::{Caller, ClientKeys};
use event_manager_zmtp::curve::KeyPair;

/// How we ask the locator: our own, if that is embedded and doesn't serve peers without keys, with a pair
/// that lives as long as the process; another, if it has a key, with the first of the configured pairs.
#[derive(Debug)]
pub(super) struct LocatorCaller {
    pub(super) caller: Caller,
    keys: ClientKeys,
    pub(super) is_embedded: bool,
}

impl LocatorCaller {
    pub(super) fn new(config: &Config, own: KeyPair, first: Option<KeyPair>) -> Self {
        let server = *own.public();
        let this = Self {
            caller: Caller::new(config.limits),
            keys: ClientKeys { own, server },
            is_embedded: config.locator.embedded,
        };
        this.follow(config, first);
        this
    }

    /// Another configuration is in force, and other keys.
    pub(super) fn follow(&self, config: &Config, first: Option<KeyPair>) {
        self.caller.use_keys(match self.is_embedded {
            true if config.security.offers_null() => None,
            true => Some(self.keys.clone()),
            false => keys_of_another(config, first),
        });
    }
}

/// The keys for a locator that is not ours, if it has one.
pub(super) fn keys_of_another(config: &Config, first: Option<KeyPair>) -> Option<ClientKeys> {
    let (server, own) = (config.locator.server_key?, first?);
    Some(ClientKeys { own, server })
}

/// What may wait, and so is not the reactor's: calls, the registration, the diagnostic record.
pub(super) struct Control {
    pub(super) config: Config,
    pub(super) diagnostic: watch::Receiver<DiagnosticConfig>,
    pub(super) request_address: String,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) state: watch::Sender<RegistrationState>,
    /// Dropped when we are deregistered.
    pub(super) deregistered: std::sync::mpsc::Sender<()>,
    pub(super) locator_caller: Caller,
    pub(super) journal: Journal,
    pub(super) tracer: Tracer,
}

impl Control {
    pub(super) async fn run(
        self,
        mut effects: mpsc::Receiver<Effect>,
        stop: oneshot::Receiver<Instant>,
    ) {
        let caller = Caller::new(self.config.limits);
        let asking = self.locator_caller;
        let locator = LocatorClient::new(asking.clone(), self.config.locator.clone());
        // Ends with the task that it holds when control ends.
        let mut registration = JoinSet::new();
        registration.spawn({
            let locator = locator.clone();
            let (address, deregistered) = (self.request_address, self.deregistered);
            async move {
                if locator.config().register {
                    keep_registered(locator.clone(), address, self.state, self.journal, stop).await;
                } else {
                    let _ = stop.await;
                }
                // What is connected to our own locator would hold it up, and what connects again while it
                // ends would have a service manager that keeps its socket start us again.
                if locator.config().embedded {
                    asking.leave(&locator.config().address).await;
                }
                drop(deregistered);
            }
        });
        let diagnostics = write_diagnostics(self.inputs.clone(), self.diagnostic);
        let diagnostics = tokio::spawn(diagnostics);
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                effect = effects.recv() => {
                    let inputs = self.inputs.clone();
                    match effect {
                        Some(Effect::Call { ticket, event, keys }) => {
                            let keys = keys.into_iter().map(client_keys).collect();
                            let (caller, locator) = (caller.clone(), locator.clone());
                            let tracer = self.tracer.clone();
                            calls.spawn(async move {
                                let answer = call_services((*event, keys), caller, locator, tracer).await;
                                let _ = inputs.send(Input::Answer { ticket, answer }).await;
                            });
                        }
                        Some(Effect::State { ticket, begun }) => {
                            calls.spawn(async move {
                                let answer = whole_state(*begun, &inputs).await;
                                let _ = inputs.send(Input::Answer { ticket, answer }).await;
                            });
                        }
                        // The reactor ended.
                        None => break,
                    }
                }
                Some(_) = calls.join_next() => {}
            }
        }
        diagnostics.abort();
    }
}

fn client_keys(keys: Option<CallKeys>) -> Option<ClientKeys> {
    let CallKeys { own, server } = keys?;
    Some(ClientKeys { own, server })
}

/// One structured record in the log, again and again, as long as it is wanted.
async fn write_diagnostics(
    inputs: mpsc::Sender<Input>,
    mut wanted: watch::Receiver<DiagnosticConfig>,
) {
    loop {
        let DiagnosticConfig { enabled, interval } = *wanted.borrow_and_update();
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep(interval), if enabled => {}
        }
        let (reply, status) = oneshot::channel();
        if inputs
            .send(Input::Status(Lists::Begun, reply))
            .await
            .is_err()
        {
            return;
        }
        let Ok(status) = status.await else { return };
        let record = json!({"process": process_readings(), "daemon": status});
        tracing::info!(target: "em.diagnostics", snapshot = %record, "diagnostics");
    }
}
