//! What STATUS says, as far as `top` shows it, and what went by between two of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::output::safe;

/// The daemon's state at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    /// The daemon's name and version, made safe.
    pub(super) title: String,
    /// When this run of the daemon began, in milliseconds since 1970.
    started_at_ms: u64,
    /// Since then, in seconds.
    pub(super) uptime: f64,
    pub(super) draining: bool,
    pub(super) publishers: u64,
    pub(super) subscribers: u64,
    pub(super) subscriptions: u64,
    pub(super) connections: u64,
    pub(super) connections_max: u64,
    /// What publishers sent.
    published: u64,
    /// What the subscribers' side did with it.
    plain: Counters,
    pub(super) services: Vec<Service>,
    pub(super) slow: Vec<SlowPeer>,
}

/// One service; texts are made safe.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) port: u64,
    pub(super) subjects: String,
    pub(super) connected: u64,
    pub(super) ready: u64,
    pub(super) stalled: u64,
    /// Events that wait, on disk too.
    pub(super) lag: u64,
    /// Of those, the ones that are on disk alone.
    pub(super) on_disk: u64,
    pub(super) in_flight: u64,
    pub(super) dead: u64,
    pub(super) counters: Counters,
}

/// Counters that only grow while the daemon and the service live.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) matched: u64,
    pub(super) delivered: u64,
    /// By reason.
    pub(super) dropped: BTreeMap<String, u64>,
}

/// A peer for whom much waits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct SlowPeer {
    pub(super) address: String,
    /// Its role, and its service if it is a worker.
    pub(super) role: String,
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
}

/// Events in a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) matched: f64,
    pub(super) delivered: f64,
    /// By reason, those that are not zero.
    pub(super) dropped: BTreeMap<String, f64>,
}

/// All rates between two snapshots.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AllRates {
    /// What publishers sent.
    pub(super) published: f64,
    /// The subscribers' side.
    pub(super) plain: Rates,
    /// By service; one that is new has none.
    pub(super) services: BTreeMap<String, Rates>,
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn text(value: &Value) -> String {
    safe(value.as_str().unwrap_or_default())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Snapshot {
    /// Reads what STATUS answered; what is not there is zero.
    pub(super) fn read(status: &Value) -> Self {
        let (publishers, subscribers) = (&status["publishers"], &status["subscribers"]);
        let (name, version) = (text(&status["service"]), text(&status["version"]));
        Self {
            title: format!("{name} {version}"),
            started_at_ms: number(&status["startedAtMs"]),
            uptime: status["uptimeSeconds"].as_f64().unwrap_or_default(),
            draining: status["draining"] == true,
            publishers: number(&publishers["connected"]),
            subscribers: number(&subscribers["connected"]),
            subscriptions: number(&subscribers["subscriptions"]),
            connections: number(&status["connections"]["open"]),
            connections_max: number(&status["connections"]["max"]),
            published: number(&publishers["events"]),
            plain: Counters::read(&subscribers["counters"]),
            services: list(&status["services"]).map(Service::read).collect(),
            slow: list(&status["peers"]["slow"]).map(SlowPeer::read).collect(),
        }
    }

    /// What went by since an earlier one; nothing is known if the daemon was started again.
    pub(super) fn rates_since(&self, before: &Self) -> Option<AllRates> {
        let seconds = self.uptime - before.uptime;
        let restarted = self.started_at_ms != before.started_at_ms;
        if restarted || seconds <= 0.0 {
            return None;
        }
        let earlier: BTreeMap<_, _> = before.services.iter().map(|s| (&s.name, s)).collect();
        let of_service = |service: &Service| {
            let before = earlier.get(&service.name)?;
            let rates = service.counters.rates_since(&before.counters, seconds)?;
            Some((service.name.clone(), rates))
        };
        Some(AllRates {
            published: rate(before.published, self.published, seconds)?,
            plain: self.plain.rates_since(&before.plain, seconds)?,
            services: self.services.iter().filter_map(of_service).collect(),
        })
    }
}

impl Service {
    fn read(status: &Value) -> Self {
        let (workers, counters) = (&status["workers"], &status["counters"]);
        let subjects: Vec<String> = list(&status["subjects"])
            .map(|subject| match text(subject) {
                all if all.is_empty() => "(all)".to_owned(),
                subject => subject,
            })
            .collect();
        Self {
            name: text(&status["name"]),
            port: number(&status["port"]),
            subjects: subjects.join(" "),
            connected: number(&workers["connected"]),
            ready: number(&workers["ready"]),
            stalled: number(&workers["stalled"]),
            lag: number(&counters["queued"]),
            on_disk: number(&status["durable"]["onDiskOnlyEvents"]),
            in_flight: number(&counters["inFlight"]),
            dead: number(&counters["deadLettered"]),
            counters: Counters::read(counters),
        }
    }
}

impl Counters {
    fn read(counters: &Value) -> Self {
        let dropped = counters["dropped"].as_object().into_iter().flatten();
        Self {
            matched: number(&counters["matched"]),
            delivered: number(&counters["delivered"]),
            dropped: dropped.map(|(why, n)| (safe(why), number(n))).collect(),
        }
    }

    /// All that was dropped.
    pub(super) fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// `None` if a counter went back: then it is not the same service any more.
    fn rates_since(&self, before: &Self, seconds: f64) -> Option<Rates> {
        let went_back = |(why, n): (&String, &u64)| self.dropped.get(why).unwrap_or(&0) < n;
        if before.dropped.iter().any(went_back) {
            return None;
        }
        let dropped = self.dropped.iter().filter_map(|(why, n)| {
            let earlier = before.dropped.get(why).copied().unwrap_or_default();
            (*n > earlier).then(|| (why.clone(), (n - earlier) as f64 / seconds))
        });
        Some(Rates {
            matched: rate(before.matched, self.matched, seconds)?,
            delivered: rate(before.delivered, self.delivered, seconds)?,
            dropped: dropped.collect(),
        })
    }
}

impl Rates {
    /// All that is dropped.
    pub(super) fn dropped_total(&self) -> f64 {
        // A sum of nothing is -0.
        self.dropped.values().fold(0.0, |sum, rate| sum + rate)
    }
}

impl SlowPeer {
    fn read(peer: &Value) -> Self {
        let (role, service) = (text(&peer["role"]), text(&peer["service"]));
        Self {
            address: text(&peer["address"]),
            role: format!("{role} {service}").trim_end().to_owned(),
            bytes: number(&peer["bytes"]),
            bytes_max: number(&peer["budgetBytes"]),
        }
    }
}

fn rate(before: u64, now: u64, seconds: f64) -> Option<f64> {
    Some(now.checked_sub(before)? as f64 / seconds)
}
