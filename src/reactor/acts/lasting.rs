//! Durable services exist whatever else is missing: their ports, their subscriptions, the request that made
//! them durable. What is missing is looked for, and reported.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::persistence::keep_subscriptions_of;
use crate::reactor::hub::Hub;
use crate::reactor::state::durable::why_durable;
use crate::reactor::state::notes::Notes;
use crate::store::Store;
use crate::telemetry::Notable;
use event_manager_core::broker::{Broker, FoundPort, ServiceKey};
use event_manager_wire::api::DurableReason;

/// How long to wait before ports are looked for again.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);
/// How many services without a port are named at the start.
const NAMED_MAX: usize = 16;

impl Hub {
    /// Durable services that are declared, or of which there is a queue on disk, exist from now on. All
    /// that have not the port that they had get another, if there is one.
    pub(crate) fn begin_durable(&mut self, store: Option<Arc<Store>>) {
        self.site.settings.has_store = store.is_some();
        self.durable.begin(store);
        let config = Rc::clone(&self.config);
        for (name, subjects) in config.services.declared() {
            let declared = self.broker.declare(name, subjects, &mut self.streamers);
            match declared {
                Ok(key) => {
                    if config.bridges.has_service(name) {
                        self.broker.routes.set_passing_on(key);
                    }
                    if let Some(port) = self.broker[key].port() {
                        self.notes.service_opened(name, port);
                    }
                }
                Err(error) => {
                    tracing::error!(target: "em.service", service = %name, "not declared: {error}")
                }
            }
        }
        self.broker.adopt_queues(&mut self.streamers);
        self.find_ports();
        note_without_port(&self.broker, &self.notes);
        self.open_queues();
    }

    /// Looks for ports again, if services lack one and it is time.
    pub(crate) fn seek_ports(&mut self) {
        let is_due = |at: Instant| self.time.now.saturating_duration_since(at) >= SEEK_INTERVAL;
        if self.time.upkeep.ports_sought_at.is_none_or(is_due) {
            self.find_ports();
        }
    }

    fn find_ports(&mut self) {
        self.time.upkeep.ports_sought_at = Some(self.time.now);
        let found = self.broker.find_ports(&mut self.streamers);
        for FoundPort {
            service,
            port,
            former,
        } in found
        {
            let name = self.broker[service].name();
            match former.filter(|former| *former != port) {
                None => self.notes.service_opened(name, port),
                Some(former) => self.notes.note(&Notable::ServiceMoved {
                    service: name.as_str(),
                    port,
                    former_port: former,
                }),
            }
            self.saved.workers_changed(service);
            keep_subscriptions_of(&self.broker[service], &mut self.saved);
        }
    }

    /// A queue that is open. If nothing but it makes its service durable, somebody should know.
    pub(crate) fn note_if_left(&mut self, key: ServiceKey, events: u64) {
        let service = &self.broker[key];
        if why_durable(service, &self.config) == DurableReason::OnDisk {
            self.notes.note(&Notable::QueueLeft {
                service: service.name().as_str(),
                events,
            });
            // It needs a port only if there is something in it.
            self.time.upkeep.ports_sought_at = None;
        }
    }
}

/// Names services that have no port; if they are many, the first of them.
fn note_without_port(broker: &Broker, notes: &Notes) {
    let services = broker.services();
    let without: Vec<_> = services
        .filter_map(|(_, service)| Some((service.name(), service.lacks_port()?)))
        .collect();
    for (at, (name, why)) in without.iter().enumerate().take(NAMED_MAX) {
        let is_last = at + 1 == NAMED_MAX;
        notes.note(&Notable::PortExhausted {
            service: name.as_str(),
            why,
            suppressed: if is_last {
                (without.len() - NAMED_MAX) as u64
            } else {
                0
            },
        });
    }
}
