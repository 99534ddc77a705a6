//! What is notable of the data plane, at most a line for each burst.

use std::time::{Duration, Instant};

use super::hub::Hub;
use super::peer::Role;
use crate::broker::{DropReason, EndedService, PeerId, ServiceKey, WorkerKey};
use crate::messagebus::{DataType, Message};
use crate::model::{ServiceName, SubscriptionId};
use crate::requests::{EventsRequest, Happening};
use crate::telemetry::Notable;

/// Subjects that a subscription's event shows.
const SUBJECTS_SHOWN: usize = 16;
/// How often to look for workers that read nothing.
const STUCK_LOOK: Duration = Duration::from_secs(1);
/// How long a worker may read nothing, if there are no heartbeats to say so.
const STUCK_MIN: Duration = Duration::from_secs(10);
/// The wall clock is adjusted by less than this between two ticks, if it is not set.
const JUMP_MIN_MS: u64 = 1000;

/// Tells when the wall clock is set.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    last: Option<(u64, Instant)>,
}

impl ClockWatch {
    /// What is set from now on is noticed.
    pub(super) fn started(wall_clock_ms: u64, now: Instant) -> Self {
        Self {
            last: Some((wall_clock_ms, now)),
        }
    }

    /// By how much it went forward since the last look, beyond the time that passed; if it was set.
    pub(super) fn look(&mut self, wall_clock_ms: u64, now: Instant) -> Option<i64> {
        let (wall, at) = self.last.replace((wall_clock_ms, now))?;
        let passed = now.saturating_duration_since(at).as_millis() as u64;
        let jump = wall_clock_ms.wrapping_sub(wall.wrapping_add(passed)) as i64;
        (jump.unsigned_abs() >= JUMP_MIN_MS).then_some(jump)
    }
}

impl Hub {
    /// The answer to EVENTS.
    pub(super) fn latest_events(&self, request: EventsRequest) -> Message {
        let page = self.notes.page(request.after, request.max);
        // It has nothing that JSON can't say.
        let page = serde_json::to_string(&page).unwrap_or_default();
        Message::ack(DataType::String, page)
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
                if let Some(suppressed) =
                    self.notes.admit(&format!("subscribed:{service}"), self.now)
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
                    .burst_of("unsubscribed", service, self.now, |suppressed| {
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
            .burst_of("opened", service, self.now, |suppressed| {
                Notable::ServiceOpened {
                    service: service.as_str(),
                    port,
                    suppressed,
                }
            });
    }

    pub(super) fn note_no_port(&mut self, service: &ServiceName, why: &str) {
        self.notes
            .burst("no-port", self.now, |suppressed| Notable::PortExhausted {
                service: service.as_str(),
                why,
                suppressed,
            });
    }

    pub(super) fn note_expired(&mut self, service: &ServiceName, id: &SubscriptionId) {
        self.notes
            .burst_of("expired", service, self.now, |suppressed| {
                Notable::SubscriptionExpired {
                    service: service.as_str(),
                    subscription: id.as_str(),
                    suppressed,
                }
            });
    }

    pub(super) fn note_service_ended(&mut self, ended: &EndedService) {
        self.notes
            .burst_of("ended", &ended.name, self.now, |suppressed| {
                Notable::ServiceEnded {
                    service: ended.name.as_str(),
                    queued: ended.queued,
                    suppressed,
                }
            });
        if ended.queued > 0 {
            let reason = DropReason::ServiceEnded.name();
            self.notes
                .burst_of(reason, &ended.name, self.now, |suppressed| {
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
            .burst_of("joined", &name, self.now, |suppressed| {
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
        if self.draining || (envelope.is_none() && proxied.is_none()) {
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
                .burst_of("worker-lost", &name, self.now, |suppressed| {
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
                .burst_of("worker-left", &name, self.now, |suppressed| {
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
        if self.now.saturating_duration_since(self.stuck_looked_at) < STUCK_LOOK.min(patience) {
            return;
        }
        self.stuck_looked_at = self.now;
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
                None => peer.stuck = Some((self.now, false)),
                Some((since, false)) if self.now.saturating_duration_since(since) >= patience => {
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
                .burst_of("worker-stalled", &name, self.now, |suppressed| {
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

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_is_adjusted_is_not() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut clock = ClockWatch::default();
        assert_eq!(clock.look(1_000_000, at(0)), None);
        assert_eq!(clock.look(1_000_250, at(250)), None);
        // A stall of our own loop is no jump.
        assert_eq!(clock.look(1_060_250, at(60_250)), None);
        // Slewed by a little at each look, which adds up.
        for look in 1..100 {
            assert_eq!(
                clock.look(1_060_250 + 300 * look, at(60_250 + 250 * look)),
                None
            );
        }
        let (wall, passed) = (1_060_250 + 300 * 99, 60_250 + 250 * 99);
        assert_eq!(clock.look(wall + 5_250, at(passed + 250)), Some(5_000));
        assert_eq!(clock.look(wall - 3_500, at(passed + 500)), Some(-9_000));
        assert_eq!(clock.look(wall - 3_250, at(passed + 750)), None);
    }
}
