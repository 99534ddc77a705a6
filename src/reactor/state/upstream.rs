//! Publishers that we connect to, and what tells rings of event managers.

use std::rc::Rc;
use std::time::Instant;

use super::mesh::{Link, Mesh};
use super::notes::Notes;
use crate::ambient::{now, wall_clock_ms};
use crate::config::{Config, DialledPublisher};
use crate::telemetry::Notable;
use event_manager_core::broker::{Interest, Loops, PeerId};
use event_manager_wire::api;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::HubId;
use event_manager_zmtp::curve::PublicKey;

/// All of them.
pub(crate) struct Upstream {
    pub(crate) dialled: Vec<Dialled>,
    /// Looks for rings of event managers.
    pub(crate) watch: Watch,
    pub(crate) mesh: Mesh,
}

impl Upstream {
    /// Whether this connection is one that we dialled.
    pub(crate) fn is_dialled(&self, id: PeerId) -> bool {
        self.dialled.iter().any(|dialled| dialled.peer == Some(id))
    }

    /// The addresses are dialled by the reactor's tasks; no other daemon has these ids: those of this run,
    /// and the one that is kept.
    pub(crate) fn new(config: &Config, own: [u64; 2], hub: HubId, now: Instant) -> Self {
        let publishers = config.connect_publishers.iter().cloned();
        let hubs = config.mesh.peers.iter().cloned();
        let subjects = config.mesh.subjects.iter().map(String::as_bytes);
        let dialled = publishers.map(|publisher| Dialled::new(publisher, None));
        let dialled = dialled.chain(hubs.map(|hub| Dialled::new(hub, Some(Link::new(now)))));
        Self {
            dialled: dialled.collect(),
            watch: Watch::new(own, now),
            mesh: Mesh {
                id: hub,
                interest: (!config.mesh.peers.is_empty()).then(|| Interest::new(subjects)),
                is_to_be_renewed: false,
                renewed_at: now,
            },
        }
    }

    /// Has a publisher that was found dialled, too: by its index. None if it is dialled already, or if there are
    /// too many.
    pub(crate) fn add_found(&mut self, endpoint: &Endpoint) -> Option<usize> {
        let mut dialled = self.dialled.iter();
        if dialled.any(|one| one.endpoint == *endpoint && one.reason != Reason::Left) {
            return None;
        }
        let left = self
            .dialled
            .iter()
            .position(|one| one.reason == Reason::Left);
        let found = self
            .dialled
            .iter()
            .filter(|one| one.reason == Reason::Found);
        if left.is_none() && found.count() >= FOUND_MAX {
            return None;
        }
        let publisher = DialledPublisher {
            address: endpoint.clone(),
            server_key: None,
        };
        let mut dialled = Dialled::new(publisher, None);
        dialled.reason = Reason::Found;
        // That nobody is there is no news: somebody may be.
        dialled.is_missed = true;
        let index = left.unwrap_or(self.dialled.len());
        match left {
            Some(left) => self.dialled[left] = dialled,
            None => self.dialled.push(dialled),
        }
        Some(index)
    }

    /// Gives up one that was found, unless it is connected; whether it is given up.
    pub(crate) fn leave_found(&mut self, index: usize) -> bool {
        let dialled = &mut self.dialled[index];
        let is_left = dialled.peer.is_none();
        if is_left {
            dialled.reason = Reason::Left;
        }
        is_left
    }

    /// Those of which somebody wants to know: what was found counts while it is connected.
    pub(crate) fn publishers(&self) -> impl Iterator<Item = &Dialled> {
        let publishers = self.dialled.iter().filter(|one| one.link.is_none());
        publishers.filter(|one| one.reason == Reason::Named || one.peer.is_some())
    }

    /// The address that was dialled for this connection, if that was so.
    pub(crate) fn dialled_as(&mut self, id: PeerId) -> Option<&mut Dialled> {
        let mut all = self.dialled.iter_mut();
        all.find(|dialled| dialled.peer == Some(id))
    }

    /// Hubs that we dialled and that take subscriptions.
    pub(crate) fn linked(&self) -> impl Iterator<Item = PeerId> {
        let linked = self
            .dialled
            .iter()
            .filter(|dialled| dialled.hub().is_some());
        linked.filter_map(|dialled| dialled.peer)
    }

    /// A handshake with a publisher that is dialled is done.
    pub(crate) fn has_begun(&mut self, index: usize, id: PeerId, notes: &mut Notes) {
        let dialled = &mut self.dialled[index];
        dialled.connected(id);
        if let Some(link) = &mut dialled.link {
            // It has to say first that it is a hub.
            return link.connected(now());
        }
        let publisher = &dialled.address();
        let burst = format!("publisher-found:{publisher}");
        notes.burst(&burst, |suppressed| Notable::PublisherFound {
            publisher,
            suppressed,
        });
    }

    /// A connection to it ended, or there was none.
    pub(crate) fn has_ended(&mut self, index: usize, ended: Result<(), String>, notes: &mut Notes) {
        let dialled = &mut self.dialled[index];
        let publisher = &dialled.address();
        let is_link = dialled.link.is_some();
        let refused = dialled.refused.take();
        let told = dialled.is_refused.then(|| dialled.last_error.clone());
        let is_refused = refused.is_some();
        dialled.is_refused = is_refused;
        let ended = refused.map_or(ended, Err);
        let (is_news, why) = dialled.not_connected(ended);
        if is_refused && told.flatten().as_deref() != Some(why) {
            // Once, until it is linked, or is refused for another reason: each try would say the same.
            notes.note(&Notable::LinkRefused {
                peer: publisher,
                why,
                suppressed: 0,
            });
        }
        if is_news && is_link {
            let burst = format!("link-down:{publisher}");
            notes.burst(&burst, |suppressed| Notable::LinkDown {
                peer: publisher,
                why,
                suppressed,
            });
        } else if is_news {
            let burst = format!("publisher-lost:{publisher}");
            notes.burst(&burst, |suppressed| Notable::PublisherLost {
                publisher,
                why,
                suppressed,
            });
        }
    }
}

/// The most publishers that are dialled without being named.
const FOUND_MAX: usize = 64;

/// Why an address is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The configuration names it.
    Named,
    /// It was found.
    Found,
    /// It was found, and is not dialled any more.
    Left,
}

/// An address that is dialled.
#[derive(Debug)]
pub(crate) struct Dialled {
    endpoint: Endpoint,
    reason: Reason,
    /// Its key, if it has CURVE.
    pub(crate) server_key: Option<PublicKey>,
    address: Rc<str>,
    /// The connection, if there is one.
    peer: Option<PeerId>,
    /// Since when that is so, in milliseconds since 1970.
    since_ms: u64,
    /// Tries that failed since it was connected, or since the start.
    failed_tries: u64,
    connections: u64,
    /// The latest, also if it is connected again.
    last_error: Option<String>,
    /// That it is not connected was noted.
    is_missed: bool,
    /// What it sends would come back to it.
    pub(crate) ring: Option<Ring>,
    /// The id of its run, if it is an event manager that sent a trace.
    pub(crate) run: Option<u64>,
    /// It is linked as a hub, too: nothing is taken from this connection.
    pub(crate) is_twin: bool,
    /// It is a hub of the mesh.
    pub(crate) link: Option<Link>,
    /// Why we ended the connection.
    pub(crate) refused: Option<String>,
    /// The last connection ended because we did.
    is_refused: bool,
}

impl Dialled {
    fn new(publisher: DialledPublisher, link: Option<Link>) -> Self {
        let endpoint = publisher.address;
        Self {
            address: endpoint.to_string().into(),
            endpoint,
            reason: Reason::Named,
            server_key: publisher.server_key,
            peer: None,
            since_ms: wall_clock_ms(),
            failed_tries: 0,
            connections: 0,
            last_error: None,
            is_missed: false,
            ring: None,
            run: None,
            is_twin: false,
            link,
            refused: None,
            is_refused: false,
        }
    }

    /// There is a connection to it now.
    fn connected(&mut self, id: PeerId) {
        self.peer = Some(id);
        (self.ring, self.run, self.is_twin) = (None, None, false);
        self.refused = None;
        if self.link.is_none() {
            self.serves();
        }
    }

    /// Another connection to the same event manager brings its events, or brings them no more.
    pub(crate) fn set_twin(&mut self, of: Option<&str>) {
        self.is_twin = of.is_some();
        if let Some(of) = of {
            self.last_error = Some(format!(
                "it is the hub that is linked as {of}, which brings its events: remove {} from connectPublishers",
                self.address
            ));
        }
    }

    /// Nothing is taken from there.
    pub(crate) fn is_held(&self) -> bool {
        self.is_twin || self.ring.is_some_and(|ring| ring.is_held)
    }

    /// It is what it should be.
    fn serves(&mut self) {
        self.since_ms = wall_clock_ms();
        self.failed_tries = 0;
        self.connections += 1;
        self.is_missed = false;
    }

    /// A hub has said who it is.
    pub(crate) fn linked(&mut self, hub: HubId, run: u64) {
        if let Some(link) = &mut self.link {
            link.hub = Some((hub, run));
            self.is_refused = false;
            self.serves();
        }
    }

    /// Which hub it is, and the id of its run, if it is linked.
    pub(crate) fn hub(&self) -> Option<(HubId, u64)> {
        self.link.as_ref()?.hub
    }

    /// A connection to it ended, or there was none: whether that is news, and why.
    fn not_connected(&mut self, ended: Result<(), String>) -> (bool, &str) {
        let is_news = !std::mem::replace(&mut self.is_missed, true);
        self.ring = None;
        let was_connected = self.peer.take().is_some();
        let has_served = match &mut self.link {
            Some(link) => link.ended(),
            None => was_connected,
        };
        if has_served {
            self.since_ms = wall_clock_ms();
        }
        let why = match ended {
            Ok(()) if has_served => "the connection ended".to_owned(),
            Ok(()) => {
                self.failed_tries += 1;
                "the connection ended before it said that it is a hub".to_owned()
            }
            Err(why) => {
                self.failed_tries += 1;
                why
            }
        };
        (is_news, self.last_error.insert(why))
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection, if there is one.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        self.peer
    }

    /// As it was written.
    pub(crate) fn address(&self) -> Rc<str> {
        Rc::clone(&self.address)
    }

    /// For STATUS, of a hub.
    pub(crate) fn link_status(&self, prefixes: usize) -> Option<api::Link> {
        let link = self.link.as_ref()?;
        let hub = link.hub.map(|(hub, _)| hub.to_string());
        Some(api::Link {
            address: self.address.to_string(),
            connected: hub.is_some(),
            prefixes: if hub.is_some() { prefixes as u64 } else { 0 },
            hub,
            events: link.events,
            bytes: link.bytes,
            since_ms: self.since_ms,
            failed_tries: self.failed_tries,
            connections: self.connections,
            last_error: self.last_error.clone(),
            refused: self.is_refused,
        })
    }

    /// For STATUS.
    pub(crate) fn status(&self) -> api::Dialled {
        api::Dialled {
            address: self.address.to_string(),
            discovered: self.reason == Reason::Found,
            connected: self.peer.is_some(),
            ring: self.ring.map(|ring| api::Ring {
                daemons: ring.daemons as u64,
                held: ring.is_held,
            }),
            doubled: self.is_twin,
            since_ms: self.since_ms,
            failed_tries: self.failed_tries,
            connections: self.connections,
            last_error: self.last_error.clone(),
        }
    }
}

/// Traces, and to whom they go.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) loops: Loops,
    /// Event managers that dialled us.
    pub(crate) downstream: Vec<PeerId>,
    /// Those of them that are hubs: they are sent our own traces only, as events.
    pub(crate) hubs: Vec<PeerId>,
    pub(crate) next_at: Instant,
    pub(crate) passed_on: u32,
}

impl Watch {
    fn new([own, to_hubs]: [u64; 2], now: Instant) -> Self {
        Self {
            loops: Loops::new(own, to_hubs),
            downstream: vec![],
            hubs: vec![],
            next_at: now,
            passed_on: 0,
        }
    }
}

/// A ring that a link closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// Event managers in it, with us.
    pub(crate) daemons: usize,
    /// We don't take events from this link; else another of them doesn't from its own.
    pub(crate) is_held: bool,
    /// The latest trace that came back.
    pub(crate) seen_at: Instant,
}
