//! Notable events of services, workers and subscribers: at most one line for each burst.

use super::notes::Notes;
use super::peer::{Peer, Role};
use crate::telemetry::Notable;
use event_manager_core::broker::{DropReason, Dropped, EndedService, Service, WorkerKey};
use event_manager_core::log::Refused;
use event_manager_core::queues::Note;
use event_manager_core::requests::Happening;
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// Subjects that a subscription's event shows.
const SUBJECTS_SHOWN: usize = 16;

impl Notes {
    /// What a request brought about.
    pub(crate) fn happening(&mut self, happening: &Happening) {
        match happening {
            Happening::Subscribed {
                id,
                service,
                subjects,
                port,
                opened,
            } => {
                if *opened {
                    self.service_opened(service, *port);
                }
                self.subscribed(id, service, subjects, *port);
            }
            Happening::Unsubscribed { id, service } => {
                self.burst_of("unsubscribed", service, |suppressed| {
                    Notable::Unsubscribed {
                        service: service.as_str(),
                        subscription: id.as_str(),
                        suppressed,
                    }
                });
            }
            Happening::NoPort { service, why } => {
                self.burst("no-port", |suppressed| Notable::PortExhausted {
                    service: service.as_str(),
                    why,
                    suppressed,
                });
            }
        }
    }

    fn subscribed(
        &mut self,
        id: &SubscriptionId,
        service: &ServiceName,
        subjects: &[String],
        port: u16,
    ) {
        if let Some(suppressed) = self.admit(&format!("subscribed:{service}")) {
            self.note(&Notable::Subscribed {
                service: service.as_str(),
                subscription: id.as_str(),
                subjects: &shown(subjects),
                port,
                suppressed,
            });
        }
    }

    pub(crate) fn service_opened(&mut self, service: &ServiceName, port: u16) {
        self.burst_of("opened", service, |suppressed| Notable::ServiceOpened {
            service: service.as_str(),
            port,
            suppressed,
        });
    }

    pub(crate) fn subscription_expired(&mut self, service: &ServiceName, id: &SubscriptionId) {
        self.burst_of("expired", service, |suppressed| {
            Notable::SubscriptionExpired {
                service: service.as_str(),
                subscription: id.as_str(),
                suppressed,
            }
        });
    }

    pub(crate) fn service_ended(&mut self, ended: &EndedService) {
        let (name, queued) = (&ended.name, ended.queued);
        self.burst_of("ended", name, |suppressed| Notable::ServiceEnded {
            service: name.as_str(),
            queued,
            suppressed,
        });
        if queued > 0 {
            let reason = DropReason::ServiceEnded.name();
            self.burst_of(reason, name, |suppressed| Notable::EventsDropped {
                service: name.as_str(),
                reason,
                events: queued,
                total: queued,
                suppressed,
            });
        }
    }

    /// A service's events that were dropped since its counts were these, by reason.
    #[inline]
    pub(crate) fn dropped_since(&mut self, service: &Service, before: &Dropped) {
        if service.account.dropped != *before {
            self.dropped(service, before);
        }
    }

    fn dropped(&mut self, service: &Service, before: &Dropped) {
        let dropped = &service.account.dropped;
        for (reason, events) in dropped.since(before).iter() {
            let reason = reason.name();
            self.burst_of(reason, service.name(), |suppressed| {
                Notable::EventsDropped {
                    service: service.name().as_str(),
                    reason,
                    events,
                    total: dropped.total(),
                    suppressed,
                }
            });
        }
    }

    pub(crate) fn subscriber_slow(&mut self, address: &str, reason: DropReason, events: u64) {
        let burst = format!("{reason}:{address}");
        self.burst(&burst, |suppressed| Notable::SubscriberSlow {
            peer: address,
            reason: reason.name(),
            events,
            suppressed,
        });
    }

    pub(crate) fn worker_joined(&mut self, service: &Service, address: &str, worker: WorkerKey) {
        let acknowledges = service.workers.acknowledges(worker);
        self.burst_of("joined", service.name(), |suppressed| {
            Notable::WorkerJoined {
                service: service.name().as_str(),
                peer: address,
                acknowledges,
                suppressed,
            }
        });
    }

    /// The connection of workers that had said READY has ended. They are still among those of the
    /// service.
    pub(crate) fn worker_gone(&mut self, service: &Service, peer: &Peer) {
        let all: Vec<WorkerKey> = match &peer.role {
            Role::Worker {
                proxied: Some(proxied),
                ..
            } => proxied.workers().collect(),
            Role::Worker {
                key,
                envelope: Some(_),
                ..
            } => vec![*key],
            _ => return,
        };
        let (workers, name) = (&service.workers, service.name());
        let held = all.iter().map(|key| workers.outstanding(*key)).sum();
        let acknowledged = all.iter().any(|key| workers.acknowledges(*key));
        if held > 0 {
            self.burst_of("worker-lost", name, |suppressed| Notable::WorkerLost {
                service: name.as_str(),
                peer: &peer.address,
                held,
                acknowledged,
                suppressed,
            });
        } else {
            self.burst_of("worker-left", name, |suppressed| Notable::WorkerLeft {
                service: name.as_str(),
                peer: &peer.address,
                suppressed,
            });
        }
    }

    /// A peer sent something that has no meaning here, and does no harm.
    pub(crate) fn discarded(&mut self, address: &str, reason: &'static str) {
        self.count_refused(reason);
        self.burst(reason, |suppressed| Notable::MessageDiscarded {
            peer: address,
            reason,
            suppressed,
        });
    }

    /// What the queues on disk have to tell.
    pub(crate) fn queue(&mut self, note: Note) {
        match note {
            Note::Failed { queue, reason } => self.note(&Notable::StoreFailed {
                queue: queue.as_str(),
                reason: &reason,
            }),
            Note::Recovered(queue) => self.note(&Notable::StoreRecovered {
                queue: queue.as_str(),
            }),
            Note::Unreadable { queue, reason } => self.note(&Notable::QueueUnreadable {
                queue: queue.as_str(),
                reason: &reason,
            }),
            Note::Found {
                queue,
                events,
                torn_bytes,
            } => {
                tracing::info!(target: "em.store", %queue, events, torn_bytes, "a queue was found on disk");
            }
            Note::Damaged { queue, damage } => self.note(&Notable::QueueDamaged {
                queue: queue.as_str(),
                damage: &damage,
            }),
            Note::Refused { queue, refused } => {
                for Refused { file, now, why } in &refused {
                    self.note(&Notable::SegmentRefused {
                        queue: queue.as_str(),
                        file,
                        now,
                        why,
                    });
                }
            }
            Note::LettersDropped {
                queue,
                reason,
                letters,
            } => {
                if let Some(suppressed) = self.admit(&format!("{reason}:{queue}")) {
                    tracing::warn!(target: "em.store", %queue, %reason, letters, suppressed, "dead letters dropped: the oldest");
                }
            }
            Note::LettersNotKept { service, reason } => {
                self.burst_of("not-kept", &service, |suppressed| {
                    Notable::DeadLetterNotKept {
                        service: service.as_str(),
                        reason: &reason,
                        suppressed,
                    }
                });
            }
            Note::DirectoryGone(why) => self.note(&Notable::StateDirGone { why: &why }),
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
