//! The daemon's state as JSON: what the STATUS request and the diagnostic record show.

use serde_json::{Map, Value, json};

use super::hub::Hub;
use super::peer::Role;
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{Account, Dropped, Service, ServiceKey};

impl Hub {
    /// The state, without what single subscribers or workers do.
    pub(super) fn status(&self) -> Value {
        let now = now();
        let count = |wanted: fn(&Role) -> bool| {
            self.peers
                .iter()
                .filter(|(_, peer)| wanted(&peer.role))
                .count()
        };
        let subscriptions: usize = self
            .peers
            .iter()
            .map(|(_, peer)| match &peer.role {
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
            "startedAtMs": self.started_at_ms,
            "wallClockMs": wall_clock_ms(),
            "uptimeSeconds": now.saturating_duration_since(self.started_at).as_secs_f64(),
            "subscriptionTtlSeconds": self.config.subscription_ttl.as_secs_f64(),
            "draining": self.draining,
            "addresses": self.addresses,
            "services": services,
            "retiredServices": account(self.broker.retired(), 0, 0),
            "publishers": {
                "connected": count(|role| matches!(role, Role::Publisher)),
                "events": self.published.events,
                "bytes": self.published.bytes,
                "unmatched": self.published.unmatched,
            },
            "subscribers": {
                "connected": count(|role| matches!(role, Role::Subscriber { .. })),
                "subscriptions": subscriptions,
                "counters": account(&self.subscribers, 0, 0),
            },
            "connections": {
                "open": self.connections,
                "max": self.connections_max,
                "fdsMax": rlimit::Resource::NOFILE.get_soft().ok(),
                "requesters": count(|role| matches!(role, Role::Requester { .. })),
                "outboxBytes": self.peers.iter().map(|(_, peer)| peer.outbox.bytes()).sum::<usize>(),
            },
            "memory": {"waitingBytes": self.waiting_bytes(), "limitBytes": self.config.memory_limit},
            "stateDir": self.config.state_dir,
            "state": self.keeping.status(),
            "pendingCalls": self.pending_replies.len(),
            "peers": {"refused": self.refused, "slow": self.slow_peers()},
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
            "address": format!("{}{}", self.settings.pull_address_prefix, service.port()),
            "subjects": service.patterns().map(ToString::to_string).collect::<Vec<_>>(),
            "subscriptions": subscriptions,
            "workers": {"connected": connected, "ready": ready, "stalled": stalled},
            "queue": {
                "events": service.queue.len(),
                "bytes": service.queue.bytes(),
                "eventsMax": limits.events_max,
                "bytesMax": limits.bytes_max,
            },
            "held": {"events": service.queue.held(), "bytes": service.queue.held_bytes()},
            "durable": self.durable_status(service, unsent),
            "counters": account(&service.account, service.queued() + unsent as u64, service.queue.held()),
        })
    }
}

impl Hub {
    fn durable_status(&self, service: &Service, unsent: usize) -> Value {
        let Some(shelf) = &service.shelf else {
            return Value::Null;
        };
        json!({
            "state": self.durable.failure(service.name()).map_or("ok", |_| "failed"),
            "reason": self.durable.failure(service.name()),
            "pendingEvents": shelf.pending() + unsent,
            "onDiskOnlyEvents": shelf.shelved(),
        })
    }
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
    })
}

fn dropped(dropped: &Dropped) -> Map<String, Value> {
    dropped
        .iter()
        .map(|(reason, events)| (reason.name().to_owned(), json!(events)))
        .collect()
}
