//! Rings of event managers that dial each other: traces go out, and a link on which our own come back
//! is not subscribed to. The decisions are those of [`Loops`](event_manager_core::broker::Loops).

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::notes::Notes;
use crate::reactor::state::peer::Source;
use crate::reactor::state::peers::Peers;
use crate::reactor::state::upstream::{Ring, Upstream};
use crate::telemetry::Notable;
use event_manager_core::broker::{Heard, Loops, PeerId};
use event_manager_zmtp::{encode_cancel, encode_trace};

/// How often traces are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so long without a trace that came back the ring is open.
const OPEN_AFTER: Duration = Duration::from_millis(3500);
/// Traces that are passed on, or sent because of others, in the time of one interval.
const PASSED_ON_MAX: u32 = 256;

/// The publishers that we dial, the event managers that dialled us, and their connections.
pub(crate) struct Rings<'a> {
    upstream: &'a mut Upstream,
    peers: &'a mut Peers,
    notes: &'a mut Notes,
}

impl<'a> Rings<'a> {
    pub(crate) fn of(hub: &'a mut Hub) -> Self {
        Self {
            upstream: &mut hub.upstream,
            peers: &mut hub.peers,
            notes: &mut hub.notes,
        }
    }

    /// An event manager dialled us: its link may close a ring, and it is to know that before events
    /// have gone round often.
    pub(crate) fn downstream_joined(&mut self, id: PeerId) {
        self.upstream.watch.downstream.push(id);
        let trace = self.upstream.watch.loops.trace(true);
        self.send_trace(id, &trace);
    }

    /// The same of a hub of a mesh.
    pub(crate) fn hub_joined(&mut self, id: PeerId) {
        self.upstream.watch.hubs.push(id);
        let trace = self.upstream.watch.loops.trace_to_hubs(true);
        self.send_trace(id, &trace);
    }

    fn send_trace(&mut self, id: PeerId, trace: &[u8]) {
        // Behind what it doesn't read it would come too late, and only add to that.
        let peer = self.peers.get(id);
        if peer.is_some_and(|peer| !peer.outbox.is_blocked()) {
            let mut command = BytesMut::new();
            encode_trace(&mut command, trace);
            self.peers.command(id, &command);
        }
    }

    fn send_downstream(&mut self, trace: &[u8]) {
        let mut downstream = std::mem::take(&mut self.upstream.watch.downstream);
        downstream.retain(|id| self.peers.get(*id).is_some());
        downstream.iter().for_each(|id| self.send_trace(*id, trace));
        self.upstream.watch.downstream = downstream;
    }

    /// Sends traces of our own, to hubs too: what our clients publish goes there.
    fn send_own(&mut self) {
        if !self.upstream.watch.downstream.is_empty() {
            let trace = self.upstream.watch.loops.trace(false);
            self.send_downstream(&trace);
        }
        let mut hubs = std::mem::take(&mut self.upstream.watch.hubs);
        hubs.retain(|id| self.peers.get(*id).is_some());
        if !hubs.is_empty() {
            let trace = self.upstream.watch.loops.trace_to_hubs(false);
            hubs.iter().for_each(|id| self.send_trace(*id, &trace));
        }
        self.upstream.watch.hubs = hubs;
    }

    /// A publisher sent a trace; who is no event manager that we dialled has none to send.
    pub(crate) fn hear_trace(&mut self, id: PeerId, trace: &[u8]) {
        let mut dialled = self.upstream.dialled.iter();
        let Some(index) = dialled.position(|dialled| dialled.peer() == Some(id)) else {
            return;
        };
        // What it sends is others'.
        self.peers[id].source = Source::EventManager;
        self.upstream.dialled[index].run = Loops::neighbour(trace);
        self.hold_twins();
        match self.upstream.watch.loops.hear(trace) {
            Heard::Nothing => {}
            Heard::PassOn { trace, is_urgent } => {
                if self.upstream.dialled[index].is_held()
                    || self.upstream.watch.passed_on >= PASSED_ON_MAX
                {
                    return;
                }
                self.upstream.watch.passed_on += 1;
                self.send_downstream(&trace);
                if is_urgent {
                    self.send_own();
                }
            }
            Heard::Returned { daemons, is_ours } => self.see_ring(id, index, daemons, is_ours),
        }
    }

    fn see_ring(&mut self, id: PeerId, index: usize, daemons: usize, is_ours: bool) {
        let dialled = &mut self.upstream.dialled[index];
        let before = dialled.ring;
        let was_held = before.is_some_and(|ring| ring.is_held);
        // While it is held, another way round may be ours or another's to break; this one stays.
        dialled.ring = Some(Ring {
            daemons,
            is_held: was_held || is_ours,
            seen_at: now(),
        });
        let address = dialled.address();
        if is_ours && !was_held && !dialled.is_twin {
            let mut cancel = BytesMut::new();
            encode_cancel(&mut cancel, b"");
            self.peers.command(id, &cancel);
        }
        if before.is_none() || (is_ours && !was_held) {
            let burst = format!("publisher-ring:{address}");
            self.notes
                .burst(&burst, |suppressed| Notable::PublisherRing {
                    publisher: &address,
                    daemons: daemons as u64,
                    held: was_held || is_ours,
                    suppressed,
                });
        }
    }

    /// Sends traces once a second, and subscribes again where a ring is open.
    pub(crate) fn tend(&mut self, now: Instant) {
        if self.upstream.watch.next_at > now {
            return;
        }
        self.upstream.watch.next_at = now + INTERVAL;
        self.upstream.watch.passed_on = 0;
        self.send_own();
        for index in 0..self.upstream.dialled.len() {
            let dialled = &mut self.upstream.dialled[index];
            let over = |ring: &Ring| now.saturating_duration_since(ring.seen_at) >= OPEN_AFTER;
            let Some(ring) = dialled.ring.filter(over) else {
                continue;
            };
            dialled.ring = None;
            tracing::info!(target: "em.publisher", publisher = %dialled.address(), "a ring of event managers is open again");
            let id = dialled.peer().filter(|_| ring.is_held && !dialled.is_twin);
            if let Some(id) = id {
                self.peers.subscribe_to(id);
            }
        }
        self.hold_twins();
    }

    /// Takes nothing from an event manager that is linked as a hub, too, but over that link.
    pub(crate) fn hold_twins(&mut self) {
        for index in 0..self.upstream.dialled.len() {
            let dialled = &self.upstream.dialled[index];
            let (Some(id), Some(run), None) = (dialled.peer(), dialled.run, &dialled.link) else {
                continue;
            };
            let mut all = self.upstream.dialled.iter();
            let of = all.find(|other| other.hub().is_some_and(|(_, linked)| linked == run));
            let of = of.map(|other| other.address());
            let dialled = &mut self.upstream.dialled[index];
            if of.is_some() == dialled.is_twin {
                continue;
            }
            let was_held = dialled.is_held();
            dialled.set_twin(of.as_deref());
            let address = dialled.address();
            match (was_held, dialled.is_held()) {
                (false, true) => {
                    let mut cancel = BytesMut::new();
                    encode_cancel(&mut cancel, b"");
                    self.peers.command(id, &cancel);
                }
                (true, false) => self.peers.subscribe_to(id),
                _ => {}
            }
            if let Some(of) = of {
                let why = format!("the hub that is linked as {of} is in connectPublishers, too");
                self.notes.refuse_hub(&address, &why);
            }
        }
    }
}
