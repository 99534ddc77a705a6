//! The daemon's state as JSON: what the STATUS request and the diagnostic record show.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::hub::Hub;
use super::peer::Role;
use super::upstream::Dialled;
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{Account, Dropped, Histogram, Service, ServiceKey};

/// Peers of ZMTP 2.0 that are named.
const OLD_PEERS_SHOWN: usize = 64;

impl Hub {
    /// Answers who asks for the state, unless they have gone.
    pub(super) fn tell_status(&mut self, reply: oneshot::Sender<Value>) {
        if !reply.is_closed() {
            let _ = reply.send(self.status());
        }
    }

    /// The state, without what single workers do.
    pub(super) fn status(&mut self) -> Value {
        let now = now();
        self.broker.routes.subjects.name_largest();
        let count =
            |wanted: fn(&Role) -> bool| self.peers.iter().filter(|peer| wanted(&peer.role)).count();
        let subscriptions: usize = self
            .peers
            .iter()
            .map(|peer| match &peer.role {
                Role::Subscriber { prefixes } => prefixes.len(),
                _ => 0,
            })
            .sum();
        let services: Vec<Value> = self
            .broker
            .services()
            .map(|(key, service)| self.service_status(key, service, now))
            .collect();
        json!({
            "service": self.config.locator.service_name.as_str(),
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "startedAtMs": self.clock.started_at_ms(),
            "wallClockMs": wall_clock_ms(),
            "uptimeSeconds": self.clock.uptime(now).as_secs_f64(),
            "subscriptionTtlSeconds": self.config.subscription_ttl.as_secs_f64(),
            "draining": self.phase.is_draining(),
            "addresses": self.site.addresses,
            "services": services,
            "retiredServices": account(self.broker.retired(), 0, 0),
            "publishers": {
                "connected": count(|role| matches!(role, Role::Publisher)),
                "events": self.books.published.events,
                "bytes": self.books.published.bytes,
                "unmatched": self.books.published.unmatched,
                "held": self.attendance.status(),
                "dialled": self.upstream.dialled.iter().map(Dialled::status).collect::<Vec<_>>(),
                "dialledAreRequired": self.config.require_publishers,
                "subjects": self.subjects(),
                "emitSeconds": times(&self.books.publish_times.emits),
                "callSeconds": times(&self.books.publish_times.calls),
            },
            "subscribers": {
                "connected": count(|role| matches!(role, Role::Subscriber { .. })),
                "subscriptions": subscriptions,
                "remembered": self.attendance.audience.remembered(),
                "outbox": self.subscriber_outboxes(),
                "counters": account(&self.books.subscribers, 0, 0),
            },
            "connections": {
                "open": self.connections.open(),
                "max": self.connections.max(),
                "fdsMax": rlimit::Resource::NOFILE.get_soft().ok(),
                "requesters": count(|role| matches!(role, Role::Requester { .. })),
                "outboxBytes": self.peers.iter().map(|peer| peer.outbox.bytes()).sum::<usize>(),
            },
            "memory": {
                "waitingBytes": self.waiting_bytes(),
                "halfReceivedBytes": self.half_received_bytes(),
                "limitBytes": self.config.memory_limit,
            },
            "store": {
                "kept": self.durable.store.is_some(),
                "waitingBytes": self.durable.appending_bytes,
                "failed": self.failed_queues(),
            },
            "stateDir": self.config.state_dir,
            "state": self.keeping.status(&self.attendance.audience),
            "traces": self.notes.tracer().status(),
            "pendingCalls": self.pending_replies.len(),
            "peers": {
                "refused": self.notes.refused(),
                "refusedAgain": self.notes.refused_again(now),
                "slow": self.slow_peers(),
                "zmtp": self.zmtp_spoken(),
            },
        })
    }

    fn service_status(&self, key: ServiceKey, service: &Service, now: std::time::Instant) -> Value {
        let unsent = self.durable.unsent(key);
        let limits = service.queue.limits();
        let (connected, ready, stalled) = service.workers.census();
        let subscriptions: Vec<Value> = self
            .broker
            .subscriptions_of(service, now)
            .map(|view| {
                json!({
                    "id": view.id.as_str(),
                    "subjects": view.patterns.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "expiresInSeconds": view.expires_in.as_secs_f64(),
                })
            })
            .collect();
        json!({
            "name": service.name().as_str(),
            "port": service.port(),
            "address": service.port().map(|port| format!("{}{port}", self.site.settings.pull_address_prefix)),
            "noPort": service.lacks_port(),
            "subjects": service.patterns().map(ToString::to_string).collect::<Vec<_>>(),
            "subscriptions": subscriptions,
            "workers": {"connected": connected, "ready": ready, "stalled": stalled},
            "queue": {
                "events": service.queue.len(),
                "bytes": service.queue.bytes(),
                "budgetBytes": limits.bytes_max,
                "budgetEvents": limits.events_max,
            },
            "consumeSeconds": histogram(&service.consumed),
            "held": {"events": service.queue.held(), "bytes": service.queue.held_bytes()},
            "durable": self.durable_status(service, unsent),
            "dispatch": self.dispatch_status(key, service),
            "counters": account(&service.account, service.queued() + unsent as u64, service.queue.held()),
        })
    }
}

impl Hub {
    /// What matters most, on one line.
    pub(super) fn status_line(&self) -> String {
        let services = self.broker.services();
        let (mut count, mut workers, mut waiting, mut dropped) = (0, 0, 0, 0);
        for (_, service) in services {
            count += 1;
            workers += service.workers.census().1;
            waiting += service.queued() + service.queue.held() as u64 + service.account.in_flight;
            dropped += service.account.dropped.total();
        }
        dropped += self.broker.retired().dropped.total() + self.books.subscribers.dropped.total();
        waiting += self.books.subscribers.in_flight;
        let doing = if self.phase.is_draining() {
            "stopping"
        } else {
            "serving"
        };
        format!(
            "{doing}: services {count}, workers {workers}, connections {}, events published {}, under way {waiting}, dropped {dropped}",
            self.connections.open(),
            self.books.published.events
        )
    }

    /// Events by subject, for the subjects with the most of them.
    fn subjects(&self) -> Value {
        let subjects = &self.broker.routes.subjects;
        let named: Vec<Value> = subjects
            .named()
            .map(|named| json!({"subject": named.subject, "events": named.events}))
            .collect();
        json!({"named": named, "otherEvents": subjects.unnamed_events()})
    }

    /// How many peers speak each version of ZMTP, and who speaks one of before 3.0.
    fn zmtp_spoken(&self) -> Value {
        let mut versions = BTreeMap::<&str, u64>::new();
        let mut old = vec![];
        for peer in self.peers.iter() {
            *versions.entry(peer.zmtp.version.name()).or_default() += 1;
            if !peer.zmtp.version.has_commands() && old.len() < OLD_PEERS_SHOWN {
                old.push(json!({
                    "address": &*peer.address,
                    "role": peer.role.name(),
                    "service": self.service_of(peer),
                    "socketType": peer.zmtp.socket_type.name(),
                    "identity": peer.zmtp.identity.escape_ascii().to_string(),
                }));
            }
        }
        json!({"versions": versions, "old": old})
    }

    fn subscriber_outboxes(&self) -> Value {
        let subscribers = self
            .peers
            .iter()
            .filter(|peer| matches!(peer.role, Role::Subscriber { .. }) && !peer.outbox.is_empty());
        let (mut bytes, mut largest) = (0, 0);
        for peer in subscribers {
            bytes += peer.outbox.bytes();
            largest = largest.max(peer.outbox.bytes());
        }
        json!({
            "bytes": bytes,
            "largestBytes": largest,
            "peakBytes": self.books.outbox_peak_bytes,
            "budgetBytes": self.config.budgets.subscriber_outbox_bytes,
        })
    }

    /// Queues on disk that take no events, with the reasons.
    fn failed_queues(&self) -> Map<String, Value> {
        let failed = self.durable.failed.iter();
        failed
            .map(|(queue, reason)| (queue.to_string(), json!(reason)))
            .collect()
    }
}

/// Durations of what was done, and of what was refused.
fn times([done, refused]: &[Histogram; 2]) -> Value {
    json!({"ack": histogram(done), "nak": histogram(refused)})
}

/// Counts by bucket, not added up, for the bounds of [`BUCKETS_US`](crate::broker::BUCKETS_US) and one for what is above.
fn histogram(histogram: &Histogram) -> Value {
    json!({
        "counts": histogram.counts(),
        "sum": histogram.sum_us() as f64 / 1e6,
    })
}

fn account(account: &Account, queued: u64, held: usize) -> Value {
    json!({
        "matched": account.matched,
        "delivered": account.delivered,
        "queued": queued,
        "inFlight": account.in_flight + held as u64,
        "deadLettered": account.dead_lettered,
        "expired": account.expired,
        "dropped": dropped(&account.dropped),
        "unconfirmed": account.unconfirmed,
        "retries": account.retries,
        "redelivered": account.redelivered,
        "lettersLost": account.letters_lost,
    })
}

fn dropped(dropped: &Dropped) -> Map<String, Value> {
    dropped
        .iter()
        .map(|(reason, events)| (reason.name().to_owned(), json!(events)))
        .collect()
}
