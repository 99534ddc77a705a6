//! Workers of an earlier run that come back and say nothing: their libzmq connected again, and they don't
//! know of it. Who is presumed to be one of them.
//!
//! A peer with a routing id is known by that. Another one that connects to a port that only its service
//! ever had is its worker. If other services had the port, too, their workers may dial it still: then it is
//! presumed ready only if it is known by its host, and no other can be meant.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::hub::Hub;
use super::peer::{Envelope, Peer, Role};
use crate::broker::{PeerId, Service, ServiceKey, WorkerKey};
use crate::state::{KeptMarks, KeptReady};
use crate::telemetry::Notable;
use crate::zmtp::SocketType;

/// A worker that has something to say says it at once when it is connected.
const SILENCE: Duration = Duration::from_millis(200);
/// What is noted of the routing ids of one service's workers, in bytes.
const IDENTITIES_BYTES_MAX: usize = 64 << 10;
/// The most hosts that are noted for one service.
const HOSTS_MAX: usize = 1024;

/// A time after the start in which workers of an earlier run come back.
#[derive(Debug, Default)]
pub(super) struct Grace {
    ends_at: Option<Instant>,
    former: HashMap<ServiceKey, Former>,
    /// Connections of which it is not known yet whether they are silent, and when they came.
    silent: VecDeque<(PeerId, Instant)>,
    /// The same as a set.
    unjudged: HashSet<PeerId>,
    /// Those that count, or counted, as ready without having said so.
    presumed: HashSet<PeerId>,
}

/// A service of an earlier run.
#[derive(Debug)]
struct Former {
    /// The port that it had.
    port: u16,
    /// Other services had it, too.
    is_shared: bool,
    /// What its workers had said.
    ready: KeptReady,
    /// Those presumed ready that are known by their host alone.
    by_host: HashMap<String, HashSet<PeerId>>,
}

/// What a silent peer is taken for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Presumed,
    /// It is not, and why; nor are these any more.
    InDoubt(&'static str, Vec<PeerId>),
}

impl Former {
    fn judge(&mut self, id: PeerId, identity: &[u8], host: &str) -> Verdict {
        let Some(marks) = &mut self.ready.marks else {
            return match self.is_shared {
                true => Verdict::InDoubt("it is not known who was ready", vec![]),
                false => Verdict::Presumed,
            };
        };
        if !identity.is_empty() {
            return match marks.identities.contains(&STANDARD.encode(identity)) {
                true => Verdict::Presumed,
                false => Verdict::InDoubt(
                    "none of the workers that were ready had its routing id",
                    vec![],
                ),
            };
        }
        if !self.is_shared {
            return Verdict::Presumed;
        }
        if marks.strangers.contains(host) {
            let why = "from its host there were workers and others without a routing id";
            return Verdict::InDoubt(why, vec![]);
        }
        let were = marks.hosts.get(host).copied().unwrap_or_default() as usize;
        let presumed = self.by_host.entry(host.to_owned()).or_default();
        if presumed.len() < were {
            presumed.insert(id);
            return Verdict::Presumed;
        }
        let withdrawn = self.by_host.remove(host).unwrap_or_default();
        if were == 0 {
            let why = "none of the workers that were ready came from its host";
            return Verdict::InDoubt(why, vec![]);
        }
        marks.strangers.insert(host.to_owned());
        let why = "more come from its host, without a routing id, than were ready there";
        Verdict::InDoubt(why, withdrawn.into_iter().collect())
    }
}

impl Grace {
    /// The workers of a service had said this, when it had this port.
    pub(super) fn expect(
        &mut self,
        service: ServiceKey,
        port: u16,
        ready: KeptReady,
        is_shared: bool,
    ) {
        let former = Former {
            port,
            is_shared,
            ready,
            by_host: HashMap::new(),
        };
        self.former.insert(service, former);
    }

    pub(super) fn begin(&mut self, ends_at: Instant) {
        self.ends_at = Some(ends_at);
    }

    /// The services of which nothing is presumed any more, if its time is over.
    fn end(&mut self, now: Instant) -> Option<Vec<ServiceKey>> {
        let first = self.silent.front().map(|(_, since)| *since);
        self.ends_at
            .take_if(|end| *end <= now && first.is_none_or(|first| first >= *end))?;
        Some(self.former.drain().map(|(service, _)| service).collect())
    }

    /// A connection to a service, at this time. A REQ socket that waits for its answer isn't one of
    /// these: it has to ask anew anyway.
    pub(super) fn worker_joined(&mut self, id: PeerId, lockstep: bool, at: Instant) {
        if !lockstep {
            self.silent.push_back((id, at));
            self.unjudged.insert(id);
        }
    }

    /// One that has been there for long enough to say what it has to say.
    fn next_judged(&mut self, now: Instant) -> Option<PeerId> {
        let (_, since) = self.silent.front()?;
        if now.saturating_duration_since(*since) < SILENCE {
            return None;
        }
        let (id, _) = self.silent.pop_front()?;
        self.unjudged.remove(&id);
        Some(id)
    }

    /// Whether a connection counted as ready without having said so; it says something now.
    pub(super) fn was_presumed(&mut self, id: PeerId) -> bool {
        self.presumed.remove(&id)
    }

    pub(super) fn worker_left(&mut self, service: ServiceKey, id: PeerId) {
        self.presumed.remove(&id);
        self.unjudged.remove(&id);
        if let Some(former) = self.former.get_mut(&service) {
            for ids in former.by_host.values_mut() {
                ids.remove(&id);
            }
        }
    }

    pub(super) fn service_ended(&mut self, service: ServiceKey, workers: &[PeerId]) {
        self.former.remove(&service);
        for worker in workers {
            self.presumed.remove(worker);
            self.unjudged.remove(worker);
        }
    }
}

impl Hub {
    /// What time brings about: silent workers are presumed ready, the grace ends.
    pub(super) fn tend_grace(&mut self) {
        while let Some(id) = self.keeping.grace.next_judged(self.clock.now) {
            self.hear_silence(id);
        }
        for service in self.keeping.grace.end(self.clock.now).unwrap_or_default() {
            self.keeping.workers_changed(service);
        }
    }

    /// A peer that has just come to a service of the earlier run says nothing.
    fn hear_silence(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.id == id) else {
            return;
        };
        let Role::Worker {
            service,
            key,
            envelope: None,
            proxied: None,
        } = peer.role
        else {
            return;
        };
        // It counts as a stranger from now on, if it is not presumed ready.
        self.keeping.workers_changed(service);
        let port = self.broker.service(service).and_then(Service::port);
        let former = self.keeping.grace.former.get_mut(&service);
        let Some(former) = former.filter(|former| port == Some(former.port)) else {
            return;
        };
        match former.judge(id, &peer.zmtp.identity, host_of(peer)) {
            Verdict::Presumed => {
                let ready = former.ready.clone();
                self.presume_ready(id, service, key, &ready);
            }
            Verdict::InDoubt(why, withdrawn) => {
                let address = peer.address.clone();
                for id in withdrawn {
                    self.withdraw(id);
                }
                self.note_in_doubt(service, &address, why);
            }
        }
    }

    fn presume_ready(
        &mut self,
        id: PeerId,
        service: ServiceKey,
        key: WorkerKey,
        ready: &KeptReady,
    ) {
        self.set_envelope(
            id,
            key,
            Some(Envelope {
                delimiter: ready.delimiter,
                acknowledges: ready.credit.is_some(),
            }),
        );
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        match ready.credit {
            Some(credit) => found.workers.ready_with(key, credit),
            None => found.workers.ready(key),
        }
        let name = found.name().clone();
        if let Some(suppressed) = self.notes.admit("presumed-ready", self.clock.now) {
            tracing::info!(target: "em.worker", service = %name, suppressed,
                "a silent worker reconnected after the restart: it is presumed ready, as before");
        }
        self.keeping.grace.presumed.insert(id);
        self.dispatch(service);
    }

    /// One that was presumed ready gets no more until it says READY; what it was sent stays with it.
    fn withdraw(&mut self, id: PeerId) {
        if let Some(Role::Worker { service, key, .. }) =
            self.peers.get_mut(id).map(|peer| &peer.role)
        {
            let (service, key) = (*service, *key);
            if let Some(found) = self.broker.service_mut(service) {
                found.workers.bye(key);
            }
        }
    }

    fn note_in_doubt(&mut self, service: ServiceKey, peer: &str, why: &str) {
        let Some(found) = self.broker.service(service) else {
            return;
        };
        let name = found.name().clone();
        self.notes
            .burst_of("in-doubt", &name, self.clock.now, |suppressed| {
                Notable::WorkerInDoubt {
                    service: name.as_str(),
                    peer,
                    why,
                    suppressed,
                }
            });
    }

    fn set_envelope(&mut self, id: PeerId, new_key: WorkerKey, new: Option<Envelope>) {
        if let Some(Role::Worker { key, envelope, .. }) =
            self.peers.get_mut(id).map(|peer| &mut peer.role)
        {
            (*key, *envelope) = (new_key, new);
        }
    }

    /// A worker that was presumed ready says READY, and so how it really wants its events. If that is
    /// otherwise, it begins anew, unless some are on their way to it.
    pub(super) fn hear_presumed(&mut self, id: PeerId, said: Envelope) {
        if !self.keeping.grace.presumed.remove(&id) {
            return;
        }
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let Role::Worker {
            service,
            key,
            envelope: Some(presumed),
            ..
        } = peer.role
        else {
            return;
        };
        if presumed == said {
            return self.keeping.grace.worker_left(service, id);
        }
        if !peer.outbox.is_empty() {
            return tracing::warn!(target: "em.worker", peer = %peer.address, "READY differs from the mode presumed after the restart while events are on their way to the worker: keeping the presumed mode; reconnect the worker");
        }
        let anew = Role::Worker {
            service,
            key,
            envelope: None,
            proxied: None,
        };
        let former = std::mem::replace(&mut peer.role, anew);
        self.keeping.grace.worker_left(service, id);
        self.let_worker_go(&former, vec![], 0);
        if let Some(found) = self.broker.service_mut(service) {
            let key = found.workers.join(id, false);
            self.set_envelope(id, key, None);
        }
    }

    /// What the service's workers said: all the same, but for the credit, of which the least counts.
    /// If they didn't, nothing can be presumed of the next one. While they may still come back after
    /// a restart it is what they said before, or more.
    pub(super) fn common_ready(&self, key: ServiceKey) -> Option<KeptReady> {
        let service = self.broker.service(key)?;
        let is_shared = service
            .port()
            .is_some_and(|port| self.broker.is_shared_port(port));
        let mut marks = Marks::of(is_shared);
        let unjudged = &self.keeping.grace.unjudged;
        let mut common: Option<KeptReady> = None;
        for id in service.workers.peers() {
            let Some(peer) = self.peers.get(id) else {
                continue;
            };
            if peer.zmtp.socket_type == SocketType::Req {
                continue;
            }
            let is_proxy = matches!(
                peer.role,
                Role::Worker {
                    proxied: Some(_),
                    ..
                }
            );
            if is_proxy {
                // After a restart it is not known by which ways its workers are reached.
                return None;
            }
            let ready = self.ready_of(peer);
            // One that has just come may be about to say READY.
            if ready.is_some() || !unjudged.contains(&id) {
                marks.note(peer, ready.is_some());
            }
            let Some(ready) = ready else { continue };
            let form = |ready: &KeptReady| (ready.delimiter, ready.credit.is_some());
            let before = common.get_or_insert_with(|| ready.clone());
            if form(before) != form(&ready) {
                return None;
            }
            before.credit = before.credit.min(ready.credit);
        }
        let former = self
            .keeping
            .grace
            .former
            .get(&key)
            .map(|former| &former.ready);
        let mut common = common.or_else(|| former.cloned())?;
        let before = former.and_then(|former| former.marks.as_ref());
        before.inspect(|before| marks.add(before));
        common.marks = marks.kept();
        Some(common)
    }

    fn ready_of(&self, peer: &Peer) -> Option<KeptReady> {
        let Role::Worker {
            service,
            key,
            envelope: Some(envelope),
            ..
        } = peer.role
        else {
            return None;
        };
        let (ready, credit) = self.broker.service(service)?.workers.readiness(key);
        ready.then_some(KeptReady {
            delimiter: envelope.delimiter,
            credit,
            marks: None,
        })
    }
}

/// Marks as they are gathered, within their bounds. A worker that is not noted is not presumed ready.
#[derive(Debug, Default)]
struct Marks {
    /// Hosts matter, too.
    is_shared: bool,
    kept: KeptMarks,
    identities_bytes: usize,
    /// Some identities were too many.
    lacks_identities: bool,
    /// Some hosts were too many.
    lacks_strangers: bool,
}

impl Marks {
    fn of(is_shared: bool) -> Self {
        Self {
            is_shared,
            ..Self::default()
        }
    }

    /// At a port that nobody else had, a worker that is not noted must not be in doubt.
    fn kept(self) -> Option<KeptMarks> {
        (self.is_shared || !self.lacks_identities).then_some(self.kept)
    }

    fn note(&mut self, peer: &Peer, is_ready: bool) {
        let (identity, host) = (&peer.zmtp.identity, host_of(peer));
        match (identity.is_empty(), is_ready) {
            (false, true) => self.add_identity(STANDARD.encode(identity)),
            // Its routing id is known to nobody, which is enough.
            (false, false) => {}
            (true, _) if !self.is_shared => {}
            (true, true) => *self.host(host) += 1,
            (true, false) => self.add_stranger(host),
        }
    }

    fn add_identity(&mut self, identity: String) {
        if self.identities_bytes + identity.len() <= IDENTITIES_BYTES_MAX {
            let bytes = identity.len();
            self.identities_bytes += match self.kept.identities.insert(identity) {
                true => bytes,
                false => 0,
            };
        } else {
            self.lacks_identities = true;
        }
    }

    fn host(&mut self, host: &str) -> &mut u32 {
        let hosts = &mut self.kept.hosts;
        let host =
            match self.lacks_strangers || hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
                true => "",
                false => host,
            };
        hosts.entry(host.to_owned()).or_default()
    }

    fn add_stranger(&mut self, host: &str) {
        if self.kept.strangers.len() < HOSTS_MAX {
            self.kept.strangers.insert(host.to_owned());
        } else {
            // One that is not noted must not be taken for a worker.
            self.lacks_strangers = true;
            self.kept.hosts.clear();
        }
    }

    /// What was there before may come back still.
    fn add(&mut self, before: &KeptMarks) {
        for identity in &before.identities {
            self.add_identity(identity.clone());
        }
        for host in &before.strangers {
            self.add_stranger(host);
        }
        for (host, count) in &before.hosts {
            let now = self.host(host);
            *now = (*now).max(*count);
        }
    }
}

/// The host that a peer connects from.
fn host_of(peer: &Peer) -> &str {
    host_in(&peer.address)
}

fn host_in(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests;
