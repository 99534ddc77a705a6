//! Workers of an earlier run, or that had fallen silent, which come back and say nothing: their libzmq
//! connected again, and they don't know of it. Who is presumed to be one of them.
//!
//! After a restart, a peer with a routing id is known by that. Another one that connects to a port that only
//! its service ever had is its worker. If other services had the port, too, their workers may dial it still:
//! then it is presumed ready only if it is known by its host, and no other can be meant.
//!
//! Of those that had fallen silent, as many as were ready are presumed so, by their routing id or host
//! ([`cut_off`](crate::reactor::state::cut_off)). A connection that its other end has closed is not one of
//! these: its process may be another one, which isn't ready until it says so.

use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::cut_off::Signature;
use crate::reactor::state::grace::{Grace, Marks, Presumption, host_of};
use crate::reactor::state::peer::{Envelope, Peer, Role};
use crate::reactor::state::peers::Peers;
use crate::state::KeptReady;
use crate::telemetry::Notable;
use event_manager_core::broker::{Broker, PeerId, ServiceKey, WorkerKey};
use event_manager_zmtp::SocketType;

impl Hub {
    /// Presumes silent workers ready, and ends the grace when it is over.
    pub(crate) fn tend_grace(&mut self) {
        while let Some(id) = self.saved.grace.next_judged(self.time.now) {
            self.hear_silence(id);
        }
        for service in self.saved.grace.end(self.time.now).unwrap_or_default() {
            self.saved.workers_changed(service);
        }
    }

    /// A peer that has just come to a service of the earlier run says nothing.
    fn hear_silence(&mut self, id: PeerId) {
        // It may have left, or have said something after all.
        let Some(peer) = self.peers.get(id) else {
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
        self.saved.workers_changed(service);
        let port = self.broker[service].port();
        let former = self.saved.grace.former.get_mut(&service);
        let Some(former) = former.filter(|former| port == Some(former.port)) else {
            return self.seek_cut_off(id, service, key);
        };
        match former.presume(id, &peer.zmtp.identity, host_of(peer)) {
            Presumption::Presumed => {
                let ready = former.ready.clone();
                self.presume_ready(id, service, key, &ready, "the restart");
            }
            Presumption::InDoubt(why, withdrawn) => {
                let address = peer.address.clone();
                for id in withdrawn {
                    self.withdraw(id);
                }
                self.note_in_doubt(service, &address, why);
            }
        }
    }

    /// A peer says nothing, and the restart explains nothing. It may be a worker that had fallen silent.
    fn seek_cut_off(&mut self, id: PeerId, service: ServiceKey, key: WorkerKey) {
        let peer = &self.peers[id];
        let signature = Signature::of(peer);
        let port = self.broker[service].port();
        let is_shared = port.is_some_and(|port| self.broker.is_shared_port(port));
        let presumed = match is_shared && signature.identity.is_empty() {
            true if self.saved.cut_off.expects(service, self.time.now) => {
                Err("other services had this port, and it has no routing id")
            }
            true => Ok(None),
            false => self
                .saved
                .cut_off
                .presume(service, signature, self.time.now),
        };
        match presumed {
            Ok(None) => {}
            Ok(Some(ready)) => self.presume_ready(id, service, key, &ready, "a cut"),
            Err(why) => {
                let address = peer.address.clone();
                self.note_in_doubt(service, &address, why);
            }
        }
    }

    /// Nothing is heard of a connection, which is about to end. If it is a worker's, it may come back, or
    /// has before we knew.
    pub(crate) fn worker_fell_silent(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let Role::Worker {
            service,
            proxied: None,
            ..
        } = peer.role
        else {
            return;
        };
        if peer.zmtp.socket_type == SocketType::Req {
            return;
        }
        let (ready, now) = (ready_of(peer, &self.broker), now());
        let signature = Signature::of(peer);
        let saved = &mut self.saved;
        saved.cut_off.fell_silent(service, signature, ready, now);
        for other in self.broker[service].workers.peers() {
            let peer = &self.peers[other];
            let is_silent = matches!(
                peer.role,
                Role::Worker {
                    envelope: None,
                    proxied: None,
                    ..
                }
            );
            if is_silent && other != id && !saved.grace.unjudged.contains(&other) {
                let lockstep = peer.zmtp.socket_type == SocketType::Req;
                saved.worker_joined(service, other, lockstep);
            }
        }
    }

    fn presume_ready(
        &mut self,
        id: PeerId,
        service: ServiceKey,
        key: WorkerKey,
        ready: &KeptReady,
        after: &str,
    ) {
        let envelope = Envelope {
            delimiter: ready.delimiter,
            acknowledges: ready.credit.is_some(),
        };
        self.peers[id].set_worker(key, Some(envelope));
        let found = &mut self.broker[service];
        match ready.credit {
            Some(credit) => found.workers.ready_with(key, credit),
            None => found.workers.ready(key),
        }
        found.workers.set_wants_ids(key, ready.ids);
        let name = found.name();
        if let Some(suppressed) = self.notes.admit("presumed-ready") {
            tracing::info!(target: "em.worker", service = %name, suppressed,
                "a silent worker reconnected after {after}: it is presumed ready, as before");
        }
        self.saved.grace.presumed.insert(id);
        self.dispatch(service);
    }

    /// One that was presumed ready gets no more until it says READY; what it was sent stays with it.
    fn withdraw(&mut self, id: PeerId) {
        if let Some(Role::Worker { service, key, .. }) = self.peers.get(id).map(|peer| &peer.role) {
            self.broker[*service].workers.bye(*key);
        }
    }

    fn note_in_doubt(&mut self, service: ServiceKey, peer: &str, why: &str) {
        let name = self.broker[service].name();
        self.notes
            .burst_of("in-doubt", name, |suppressed| Notable::WorkerInDoubt {
                service: name.as_str(),
                peer,
                why,
                suppressed,
            });
    }

    /// A worker that was presumed ready says READY, and so how it really wants its events. If that is
    /// otherwise, it begins anew, unless some are on their way to it.
    pub(crate) fn hear_presumed(&mut self, id: PeerId, said: Envelope) {
        if !self.saved.grace.presumed.remove(&id) {
            return;
        }
        let peer = &mut self.peers[id];
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
            return self.saved.grace.worker_left(service, id);
        }
        if !peer.outbox.is_empty() {
            return tracing::warn!(target: "em.worker", peer = %peer.address, "READY differs from the mode presumed after the restart while events are on their way to the worker: keeping the presumed mode; reconnect the worker");
        }
        peer.set_worker(key, None);
        self.saved.grace.worker_left(service, id);
        self.let_worker_go(service, key, Some(presumed), vec![], 0);
        // That may have ended its connection.
        if let Some(peer) = self.peers.get_mut(id) {
            let key = self.broker[service].workers.join(id, false);
            peer.set_worker(key, None);
        }
    }
}

/// What the service's workers said: all the same, but for the credit, of which the least counts.
/// If they didn't, nothing can be presumed of the next one. While they may still come back after
/// a restart it is what they said before, or more.
pub(crate) fn common_ready(
    key: ServiceKey,
    broker: &Broker,
    peers: &Peers,
    grace: &Grace,
) -> Option<KeptReady> {
    let service = &broker[key];
    let is_shared = service
        .port()
        .is_some_and(|port| broker.is_shared_port(port));
    let mut marks = Marks::of(is_shared);
    let unjudged = &grace.unjudged;
    let mut common: Option<KeptReady> = None;
    for id in service.workers.peers() {
        let peer = &peers[id];
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
        let ready = ready_of(peer, broker);
        // One that has just come may be about to say READY.
        if ready.is_some() || !unjudged.contains(&id) {
            marks.note(peer, ready.is_some());
        }
        let Some(ready) = ready else { continue };
        let form = |ready: &KeptReady| (ready.delimiter, ready.credit.is_some(), ready.ids);
        let before = common.get_or_insert_with(|| ready.clone());
        if form(before) != form(&ready) {
            return None;
        }
        before.credit = before.credit.min(ready.credit);
    }
    let former = grace.former.get(&key).map(|former| &former.ready);
    let mut common = common.or_else(|| former.cloned())?;
    let before = former.and_then(|former| former.marks.as_ref());
    before.inspect(|before| marks.add(before));
    common.marks = marks.kept();
    Some(common)
}

fn ready_of(peer: &Peer, broker: &Broker) -> Option<KeptReady> {
    let Role::Worker {
        service,
        key,
        envelope: Some(envelope),
        ..
    } = peer.role
    else {
        return None;
    };
    let (ready, credit) = broker[service].workers.readiness(key);
    ready.then_some(KeptReady {
        delimiter: envelope.delimiter,
        credit,
        ids: broker[service].workers.wants_ids(key),
        marks: None,
    })
}
