//! Who is presumed to be ready after a restart: workers that say nothing, as those before it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::peer::Peer;
use crate::state::{KeptMarks, KeptReady};
use event_manager_core::broker::{PeerId, ServiceKey};

/// A worker that has something to say says it at once when it is connected.
const SILENCE: Duration = Duration::from_millis(200);
/// What is noted of the routing ids of one service's workers, in bytes.
const IDENTITIES_BYTES_MAX: usize = 64 << 10;
/// The most hosts that are noted for one service.
const HOSTS_MAX: usize = 1024;

/// A time after the start in which workers of an earlier run come back.
#[derive(Debug, Default)]
pub(crate) struct Grace {
    pub(crate) ends_at: Option<Instant>,
    pub(crate) former: HashMap<ServiceKey, Former>,
    /// Connections of which it is not known yet whether they are silent, and when they came.
    pub(crate) silent: VecDeque<(PeerId, Instant)>,
    /// The same as a set.
    pub(crate) unjudged: HashSet<PeerId>,
    /// Those that count, or counted, as ready without having said so.
    pub(crate) presumed: HashSet<PeerId>,
}

/// A service of an earlier run.
#[derive(Debug)]
pub(crate) struct Former {
    /// The port that it had.
    pub(crate) port: u16,
    /// Other services had it, too.
    pub(crate) is_shared: bool,
    /// What its workers had said.
    pub(crate) ready: KeptReady,
    /// Those presumed ready that are known by their host alone.
    pub(crate) by_host: HashMap<String, HashSet<PeerId>>,
}

/// What a silent peer is taken for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presumption {
    Presumed,
    /// It is not, and why; nor are these any more.
    InDoubt(&'static str, Vec<PeerId>),
}

impl Former {
    pub(crate) fn presume(&mut self, id: PeerId, identity: &[u8], host: &str) -> Presumption {
        let Some(marks) = &mut self.ready.marks else {
            return match self.is_shared {
                true => Presumption::InDoubt("it is not known who was ready", vec![]),
                false => Presumption::Presumed,
            };
        };
        if !identity.is_empty() {
            return match marks.identities.contains(&STANDARD.encode(identity)) {
                true => Presumption::Presumed,
                false => Presumption::InDoubt(
                    "none of the workers that were ready had its routing id",
                    vec![],
                ),
            };
        }
        if !self.is_shared {
            return Presumption::Presumed;
        }
        if marks.strangers.contains(host) {
            let why = "from its host there were workers and others without a routing id";
            return Presumption::InDoubt(why, vec![]);
        }
        let were = marks.hosts.get(host).copied().unwrap_or_default() as usize;
        let presumed = self.by_host.entry(host.to_owned()).or_default();
        if presumed.len() < were {
            presumed.insert(id);
            return Presumption::Presumed;
        }
        let withdrawn = self.by_host.remove(host).unwrap_or_default();
        if were == 0 {
            let why = "none of the workers that were ready came from its host";
            return Presumption::InDoubt(why, vec![]);
        }
        marks.strangers.insert(host.to_owned());
        let why = "more come from its host, without a routing id, than were ready there";
        Presumption::InDoubt(why, withdrawn.into_iter().collect())
    }
}

impl Grace {
    /// The workers of a service had said this, when it had this port.
    pub(crate) fn expect(
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

    pub(crate) fn begin(&mut self, ends_at: Instant) {
        self.ends_at = Some(ends_at);
    }

    /// The services of which nothing is presumed any more, if its time is over.
    pub(crate) fn end(&mut self, now: Instant) -> Option<Vec<ServiceKey>> {
        let first = self.silent.front().map(|(_, since)| *since);
        self.ends_at
            .take_if(|end| *end <= now && first.is_none_or(|first| first >= *end))?;
        Some(self.former.drain().map(|(service, _)| service).collect())
    }

    /// A connection to a service, at this time. A REQ socket that waits for its answer isn't one of
    /// these: it has to ask anew anyway.
    pub(crate) fn worker_joined(&mut self, id: PeerId, lockstep: bool, at: Instant) {
        if !lockstep {
            self.silent.push_back((id, at));
            self.unjudged.insert(id);
        }
    }

    /// One that has been there for long enough to say what it has to say.
    pub(crate) fn next_judged(&mut self, now: Instant) -> Option<PeerId> {
        let (_, since) = self.silent.front()?;
        if now.saturating_duration_since(*since) < SILENCE {
            return None;
        }
        let (id, _) = self.silent.pop_front()?;
        self.unjudged.remove(&id);
        Some(id)
    }

    /// Whether a connection counted as ready without having said so; it says something now.
    pub(crate) fn was_presumed(&mut self, id: PeerId) -> bool {
        self.presumed.remove(&id)
    }

    pub(crate) fn worker_left(&mut self, service: ServiceKey, id: PeerId) {
        self.presumed.remove(&id);
        self.unjudged.remove(&id);
        if let Some(former) = self.former.get_mut(&service) {
            for ids in former.by_host.values_mut() {
                ids.remove(&id);
            }
        }
    }

    pub(crate) fn service_ended(&mut self, service: ServiceKey, workers: &[PeerId]) {
        self.former.remove(&service);
        for worker in workers {
            self.presumed.remove(worker);
            self.unjudged.remove(worker);
        }
    }
}

/// Marks as they are gathered, within their bounds. A worker that is not noted is not presumed ready.
#[derive(Debug, Default)]
pub(crate) struct Marks {
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
    pub(crate) fn of(is_shared: bool) -> Self {
        Self {
            is_shared,
            ..Self::default()
        }
    }

    /// At a port that nobody else had, a worker that is not noted must not be in doubt.
    pub(crate) fn kept(self) -> Option<KeptMarks> {
        (self.is_shared || !self.lacks_identities).then_some(self.kept)
    }

    pub(crate) fn note(&mut self, peer: &Peer, is_ready: bool) {
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
    pub(crate) fn add(&mut self, before: &KeptMarks) {
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
pub(crate) fn host_of(peer: &Peer) -> &str {
    host_in(&peer.address)
}

pub(crate) fn host_in(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests;
