//! Durable services exist whatever else is missing: their ports, their subscriptions, the request that made
//! them durable. What is missing is looked for, and reported.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::reactor::hub::Hub;
use crate::store::Store;
use crate::telemetry::Notable;
use event_manager_core::broker::{DeliveryMode, FoundPort, Service, ServiceKey};
use event_manager_wire::api::{Durable, DurableReason, QueueState};

/// How long to wait before ports are looked for again.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);
/// How many services without a port are named at the start.
const NAMED_MAX: usize = 16;

impl Hub {
    /// A queue on disk makes its service durable, whatever else is known of that.
    pub(crate) fn know_queues(&mut self, store: Option<&Arc<Store>>) {
        let found = store.map_or(&[][..], |store| store.found());
        self.broker.know_queues(found.iter().cloned());
    }

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
        self.note_without_port();
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
            self.keep_subscriptions_of(service);
        }
    }

    /// Names services that have no port; if they are many, the first of them.
    fn note_without_port(&self) {
        let services = self.broker.services();
        let without: Vec<_> = services
            .filter_map(|(_, service)| Some((service.name(), service.lacks_port()?)))
            .collect();
        for (at, (name, why)) in without.iter().enumerate().take(NAMED_MAX) {
            let is_last = at + 1 == NAMED_MAX;
            self.notes.note(&Notable::PortExhausted {
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

    /// A queue that is open. If nothing but it makes its service durable, somebody should know.
    pub(crate) fn note_if_left(&mut self, key: ServiceKey, events: u64) {
        let service = &self.broker[key];
        if self.why_durable(service) == DurableReason::OnDisk {
            self.notes.note(&Notable::QueueLeft {
                service: service.name().as_str(),
                events,
            });
            // It needs a port only if there is something in it.
            self.time.upkeep.ports_sought_at = None;
        }
    }

    /// What makes a durable service durable.
    fn why_durable(&self, service: &Service) -> DurableReason {
        if service.asked_delivery() == Some(DeliveryMode::Queue) {
            return DurableReason::Subscribed;
        }
        match self.config.policy_of(service.name()).delivery {
            DeliveryMode::Queue => DurableReason::Configured,
            DeliveryMode::Live => DurableReason::OnDisk,
        }
    }

    pub(crate) fn durable_status(&self, service: &Service) -> Option<Durable> {
        let spill = service.spill.as_ref()?;
        let failure = self.durable.queues.failure(service.name());
        let unreadable = self.durable.queues.unreadable(service.name());
        let (state, reason) = match (failure, unreadable) {
            (Some(reason), _) => (QueueState::Failed, Some(reason)),
            (None, Some(reason)) => (QueueState::Unreadable, Some(reason)),
            // What is in it isn't known yet.
            (None, None) if !spill.is_open() => (QueueState::Opening, None),
            (None, None) => (QueueState::Ok, None),
        };
        Some(Durable {
            state,
            reason: reason.map(str::to_owned),
            because: self.why_durable(service),
            pending_events: spill.pending() as u64,
            on_disk_only_events: spill.on_disk_alone(),
        })
    }
}
