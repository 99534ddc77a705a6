//! Publishers that we connect to, and what tells rings of event managers.

use std::rc::Rc;
use std::time::Instant;

use super::notes::Notes;
use crate::ambient::wall_clock_ms;
use crate::config::DialledPublisher;
use crate::telemetry::Notable;
use event_manager_core::broker::{Loops, PeerId};
use event_manager_wire::api;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::curve::PublicKey;

/// All of them.
pub(crate) struct Upstream {
    pub(crate) dialled: Vec<Dialled>,
    /// Looks for rings of event managers.
    pub(crate) watch: Watch,
}

impl Upstream {
    /// Whether this connection is one that we dialled.
    pub(crate) fn is_dialled(&self, id: PeerId) -> bool {
        self.dialled.iter().any(|dialled| dialled.peer == Some(id))
    }

    /// The addresses are dialled by the reactor's tasks; `own` is an id that no other daemon has.
    pub(crate) fn new(publishers: &[DialledPublisher], own: u64, now: Instant) -> Self {
        Self {
            dialled: publishers.iter().cloned().map(Dialled::new).collect(),
            watch: Watch::new(own, now),
        }
    }

    /// A handshake with a publisher that is dialled is done.
    pub(crate) fn has_begun(&mut self, index: usize, id: PeerId, notes: &mut Notes) {
        let dialled = &mut self.dialled[index];
        dialled.connected(id);
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
        let (is_news, why) = dialled.not_connected(ended);
        if is_news {
            let burst = format!("publisher-lost:{publisher}");
            notes.burst(&burst, |suppressed| Notable::PublisherLost {
                publisher,
                why,
                suppressed,
            });
        }
    }
}

/// An address that is dialled.
#[derive(Debug)]
pub(crate) struct Dialled {
    endpoint: Endpoint,
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
}

impl Dialled {
    fn new(publisher: DialledPublisher) -> Self {
        let endpoint = publisher.address;
        Self {
            address: endpoint.to_string().into(),
            endpoint,
            server_key: publisher.server_key,
            peer: None,
            since_ms: wall_clock_ms(),
            failed_tries: 0,
            connections: 0,
            last_error: None,
            is_missed: false,
            ring: None,
        }
    }

    /// There is a connection to it now.
    fn connected(&mut self, id: PeerId) {
        self.peer = Some(id);
        self.ring = None;
        self.since_ms = wall_clock_ms();
        self.failed_tries = 0;
        self.connections += 1;
        self.is_missed = false;
    }

    /// A connection to it ended, or there was none: whether that is news, and why.
    fn not_connected(&mut self, ended: Result<(), String>) -> (bool, &str) {
        let is_news = !std::mem::replace(&mut self.is_missed, true);
        self.ring = None;
        if self.peer.take().is_some() {
            self.since_ms = wall_clock_ms();
        }
        let why = match ended {
            Ok(()) => "the connection ended".to_owned(),
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

    /// For STATUS.
    pub(crate) fn status(&self) -> api::Dialled {
        api::Dialled {
            address: self.address.to_string(),
            connected: self.peer.is_some(),
            ring: self.ring.map(|ring| api::Ring {
                daemons: ring.daemons as u64,
                held: ring.is_held,
            }),
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
    pub(crate) next_at: Instant,
    pub(crate) passed_on: u32,
}

impl Watch {
    fn new(own: u64, now: Instant) -> Self {
        Self {
            loops: Loops::new(own),
            downstream: vec![],
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
