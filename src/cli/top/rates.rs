//! What went by between two answers of STATUS.

use std::collections::BTreeMap;

use super::super::output::safe;
use event_manager_wire::api::{Bridge, Counters, ServiceStatus, Status};

/// Events in a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) matched: f64,
    pub(super) delivered: f64,
    /// By reason, those that are not zero.
    pub(super) dropped: BTreeMap<String, f64>,
}

/// All rates between two answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AllRates {
    /// What publishers sent.
    pub(super) published: f64,
    /// What came from hubs of the mesh, and what went to them.
    pub(super) mesh: [f64; 2],
    /// The subscribers' side.
    pub(super) plain: Rates,
    /// By service; one that is new has none.
    pub(super) services: BTreeMap<String, Rates>,
    /// What went over each bridge, by its name.
    pub(super) bridges: BTreeMap<String, f64>,
}

/// Makes what peers chose safe to be shown: names, subjects, reasons, addresses.
pub(super) fn made_safe(mut status: Status) -> Status {
    let of_counters = |counters: &mut Counters| {
        let dropped = std::mem::take(&mut counters.dropped).into_iter();
        counters.dropped = dropped.map(|(why, n)| (safe(&why), n)).collect();
    };
    for text in [&mut status.service, &mut status.version] {
        *text = safe(text);
    }
    of_counters(&mut status.subscribers.counters);
    for service in &mut status.services {
        service.name = safe(&service.name);
        service.dead_letter_subject = safe(&service.dead_letter_subject);
        for subject in &mut service.subjects {
            *subject = safe(subject);
        }
        for worker in &mut service.workers.named {
            worker.name = worker.name.as_deref().map(safe);
            worker.client = worker.client.as_deref().map(safe);
        }
        of_counters(&mut service.counters);
    }
    for bridge in &mut status.bridges {
        for text in [&mut bridge.name, &mut bridge.engine, &mut bridge.direction] {
            *text = safe(text);
        }
        bridge.problem = bridge.problem.as_deref().map(safe);
    }
    for peer in &mut status.peers.slow {
        peer.address = safe(&peer.address);
        peer.role = safe(&peer.role);
        peer.service = peer.service.as_deref().map(safe);
    }
    status
}

impl AllRates {
    /// What went by since an earlier answer; nothing is known if the daemon was started again.
    pub(super) fn between(before: &Status, now: &Status) -> Option<Self> {
        let seconds = now.uptime_seconds - before.uptime_seconds;
        let restarted = now.started_at_ms != before.started_at_ms;
        if restarted || seconds <= 0.0 {
            return None;
        }
        let earlier: BTreeMap<_, _> = before.services.iter().map(|s| (&s.name, s)).collect();
        let of_service = |service: &ServiceStatus| {
            let before = earlier.get(&service.name)?;
            let rates = of_counters(&service.counters, &before.counters, seconds)?;
            Some((service.name.clone(), rates))
        };
        let of_bridge = |bridge: &Bridge| {
            let mut earlier = before.bridges.iter();
            let before = earlier.find(|earlier| earlier.name == bridge.name)?;
            let events = rate(before.events, bridge.events, seconds)?;
            Some((bridge.name.clone(), events))
        };
        let (plain, plain_before) = (&now.subscribers.counters, &before.subscribers.counters);
        Some(Self {
            published: rate(before.publishers.events, now.publishers.events, seconds)?,
            mesh: [
                rate(came(before), came(now), seconds)?,
                rate(before.mesh.events_sent, now.mesh.events_sent, seconds)?,
            ],
            plain: of_counters(plain, plain_before, seconds)?,
            services: now.services.iter().filter_map(of_service).collect(),
            bridges: now.bridges.iter().filter_map(of_bridge).collect(),
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

/// Events of all links.
fn came(status: &Status) -> u64 {
    status.mesh.links.iter().map(|link| link.events).sum()
}

/// `None` if a counter went back: then it is not the same service any more.
fn of_counters(now: &Counters, before: &Counters, seconds: f64) -> Option<Rates> {
    let went_back = |(why, n): (&String, &u64)| now.dropped.get(why).unwrap_or(&0) < n;
    if before.dropped.iter().any(went_back) {
        return None;
    }
    let dropped = now.dropped.iter().filter_map(|(why, n)| {
        let earlier = before.dropped.get(why).copied().unwrap_or_default();
        (*n > earlier).then(|| (why.clone(), (n - earlier) as f64 / seconds))
    });
    Some(Rates {
        matched: rate(before.matched, now.matched, seconds)?,
        delivered: rate(before.delivered, now.delivered, seconds)?,
        dropped: dropped.collect(),
    })
}

fn rate(before: u64, now: u64, seconds: f64) -> Option<f64> {
    Some(now.checked_sub(before)? as f64 / seconds)
}
