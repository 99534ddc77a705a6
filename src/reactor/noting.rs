//! What is notable of the data plane, at most a line for each burst.

use std::time::Duration;

use super::hub::Hub;
use super::peer::Role;
use crate::broker::{DropReason, EndedService, PeerId, ServiceKey, WorkerKey};
use crate::model::{ServiceName, SubscriptionId};
use crate::requests::Happening;
use crate::telemetry::Notable;

/// Subjects that a subscription's event shows.
const SUBJECTS_SHOWN: usize = 16;
/// How often to look for workers that read nothing.
const STUCK_LOOK: Duration = Duration::from_secs(1);
/// How long a worker may read nothing, if there are no heartbeats to say so.
const STUCK_MIN: Duration = Duration::from_secs(10);

impl Hub {
    /// The first notable events after a number, or the latest, as JSON.
    pub(super) fn latest_events(&self, after: Option<u64>, max: usize) -> String {
        let page = self.notes.page(after, max);
        // It has nothing that JSON can't say.
        serde_json::to_string(&page).unwrap_or_default()
    }

    /// What a request brought about.
    pub(super) fn note_happening(&mut self, happening: &Happening) {
        match happening {
            Happening::Subscribed {
                id,
                service,
                subjects,
                port,
                opened,
            } => {
                if *opened {
                    self.note_service_opened(service, *port);
                }
                if let Some(suppressed) = self
                    .notes
                    .admit(&format!("subscribed:{service}"), self.clock.now)
                {
                    self.notes.note(&Notable::Subscribed {
                        service: service.as_str(),
                        subscription: id.as_str(),
                        subjects: &shown(subjects),
                        port: *port,
                        suppressed,
                    });
                }
            }
            Happening::Unsubscribed { id, service } => {
                self.notes
                    .burst_of("unsubscribed", service, self.clock.now, |suppressed| {
                        Notable::Unsubscribed {
                            service: service.as_str(),
                            subscription: id.as_str(),
                            suppressed,
                        }
                    });
            }
            Happening::NoPort { service, why } => self.note_no_port(service, why),
        }
    }

    pub(super) fn note_service_opened(&mut self, service: &ServiceName, port: u16) {
        self.notes
            .burst_of("opened", service, self.clock.now, |suppressed| {
                Notable::ServiceOpened {
                    service: service.as_str(),
                    port,
                    suppressed,
                }
            });
    }

    pub(super) fn note_no_port(&mut self, service: &ServiceName, why: &str) {
        self.notes.burst("no-port", self.clock.now, |suppressed| {
            Notable::PortExhausted {
                service: service.as_str(),
                why,
                suppressed,
            }
        });
    }

    pub(super) fn note_expired(&mut self, service: &ServiceName, id: &SubscriptionId) {
        self.notes
            .burst_of("expired", service, self.clock.now, |suppressed| {
                Notable::SubscriptionExpired {
                    service: service.as_str(),
                    subscription: id.as_str(),
                    suppressed,
                }
            });
    }

    pub(super) fn note_service_ended(&mut self, ended: &EndedService) {
        self.notes
            .burst_of("ended", &ended.name, self.clock.now, |suppressed| {
                Notable::ServiceEnded {
                    service: ended.name.as_str(),
                    queued: ended.queued,
                    suppressed,
                }
            });
        if ended.queued > 0 {
            let reason = DropReason::ServiceEnded.name();
            self.notes
                .burst_of(reason, &ended.name, self.clock.now, |suppressed| {
                    Notable::EventsDropped {
                        service: ended.name.as_str(),
                        reason,
                        events: ended.queued,
                        total: ended.queued,
                        suppressed,
                    }
                });
        }
    }

    pub(super) fn note_worker_joined(&mut self, id: PeerId, service: ServiceKey, key: WorkerKey) {
        let Some(found) = self.broker.service(service) else {
            return;
        };
        let acknowledges = found.workers.acknowledges(key);
        let name = found.name().clone();
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        self.notes
            .burst_of("joined", &name, self.clock.now, |suppressed| {
                Notable::WorkerJoined {
                    service: name.as_str(),
                    peer: &peer.address,
                    acknowledges,
                    suppressed,
                }
            });
    }

    /// A worker's connection ended; the service has its books still.
    pub(super) fn note_worker_gone(&mut self, address: &str, role: &Role) {
        let Role::Worker {
            service,
            key,
            envelope,
            proxied,
        } = role
        else {
            return;
        };
        // At our own end all of them go.
        if self.phase.is_draining() || (envelope.is_none() && proxied.is_none()) {
            return;
        }
        let Some(found) = self.broker.service(*service) else {
            return;
        };
        let all: Vec<WorkerKey> = match proxied {
            Some(proxied) => proxied.workers().collect(),
            None => vec![*key],
        };
        let workers = &found.workers;
        let held = all.iter().map(|key| workers.outstanding(*key)).sum();
        let acknowledged = all.iter().any(|key| workers.acknowledges(*key));
        let name = found.name().clone();
        if held > 0 {
            self.notes
                .burst_of("worker-lost", &name, self.clock.now, |suppressed| {
                    Notable::WorkerLost {
                        service: name.as_str(),
                        peer: address,
                        held,
                        acknowledged,
                        suppressed,
                    }
                });
        } else {
            self.notes
                .burst_of("worker-left", &name, self.clock.now, |suppressed| {
                    Notable::WorkerLeft {
                        service: name.as_str(),
                        peer: address,
                        suppressed,
                    }
                });
        }
    }

    /// Workers that were full for a heartbeat, and took no byte in it.
    pub(super) fn note_stuck_workers(&mut self) {
        let patience = match self.config.heartbeat_interval {
            Duration::ZERO => STUCK_MIN,
            interval => interval,
        };
        if self
            .clock
            .now
            .saturating_duration_since(self.upkeep.stuck_looked_at)
            < STUCK_LOOK.min(patience)
        {
            return;
        }
        self.upkeep.stuck_looked_at = self.clock.now;
        let budget = self.config.budgets.worker_outbox_bytes;
        let mut stuck = vec![];
        for peer in self.peers.iter_mut() {
            let Role::Worker { service, .. } = peer.role else {
                continue;
            };
            if peer.outbox.bytes() <= budget {
                continue;
            }
            match peer.stuck {
                None => peer.stuck = Some((self.clock.now, false)),
                Some((since, false))
                    if self.clock.now.saturating_duration_since(since) >= patience =>
                {
                    peer.stuck = Some((since, true));
                    stuck.push((service, peer.address.clone(), peer.outbox.bytes()));
                }
                Some(_) => {}
            }
        }
        for (service, address, bytes) in stuck {
            let Some(found) = self.broker.service(service) else {
                continue;
            };
            let name = found.name().clone();
            self.notes
                .burst_of("worker-stalled", &name, self.clock.now, |suppressed| {
                    Notable::WorkerStalled {
                        service: name.as_str(),
                        peer: &address,
                        bytes: bytes as u64,
                        suppressed,
                    }
                });
        }
    }
}

fn shown(subjects: &[String]) -> String {
    let mut shown: Vec<&str> = subjects
        .iter()
        .take(SUBJECTS_SHOWN)
        .map(|subject| match subject.as_str() {
            "" => "(all)",
            subject => subject,
        })
        .collect();
    if subjects.len() > SUBJECTS_SHOWN {
        shown.push("…");
    }
    shown.join(" ")
}
