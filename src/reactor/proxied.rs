//! Workers behind proxies: several share one connection, and each is found by the frames that the
//! proxies put before its words. The same frames go before its events.
//!
//! To the broker each is a worker of its own, with its own turn, credit and deliveries.

use bytes::Bytes;

use super::hub::Hub;
use super::paths::{Own, Path, Proxied, Said};
use super::peer::{DELIMITER, Envelope, Role};
use crate::ambient::now;
use crate::broker::{Aftermath, PeerId, ServiceKey, WorkerKey};
use crate::messagebus::WorkerWord;
use crate::zmtp::{SocketType, last_frame_at};

/// Workers of one connection that are known at the same time.
const PATHS_MAX: usize = 256;
/// What may stand before a worker's word, in bytes: the routing ids of a few proxies.
const PREFIX_BYTES_MAX: usize = 1024;

impl Hub {
    /// A word of a worker that others' frames stand before, or that shares its connection.
    pub(super) fn take_routed(
        &mut self,
        id: PeerId,
        said: Said<'_>,
        word: Result<WorkerWord<'_>, String>,
    ) {
        let word = said.fault().map_or(word, Err);
        let speaker = match &word {
            Ok(WorkerWord::Ready(credit)) => self.seat(id, said, credit.is_some()),
            _ => self.seated(id, said, matches!(word, Ok(WorkerWord::Bye))),
        };
        let Some(Role::Worker { service, .. }) = self.peers.get_mut(id).map(|peer| &peer.role)
        else {
            return;
        };
        let service = *service;
        match (speaker, word) {
            (Ok(worker), Ok(word)) => self.hear_worker(id, service, worker, word),
            (Err(sentence), _) | (_, Err(sentence)) => self.not_understood(id, said, &sentence),
        }
    }

    /// The proxied workers of a connection, and whether its socket is a REQ.
    fn proxied(&mut self, id: PeerId) -> Option<(&mut Proxied, bool)> {
        let peer = self.peers.get_mut(id)?;
        let is_req = peer.zmtp.socket_type == SocketType::Req;
        match &mut peer.role {
            Role::Worker { proxied, .. } => proxied.as_deref_mut().map(|all| (all, is_req)),
            _ => None,
        }
    }

    /// Whether the worker that says this is told what is not understood.
    pub(super) fn is_told(&mut self, id: PeerId, said: Said<'_>) -> bool {
        if let Some((proxied, is_req)) = self.proxied(id) {
            let speaker = proxied.speaker(said, is_req);
            let path = speaker.and_then(|worker| proxied.paths.get(&worker));
            return path.is_some_and(|path| path.acknowledges);
        }
        let role = self.peers.get_mut(id).map(|peer| &peer.role);
        matches!(role, Some(Role::Worker { envelope: Some(known), .. }) if known.acknowledges)
    }

    /// Appends a message that is no event, for the worker that said this.
    pub(super) fn tell_worker(&mut self, id: PeerId, said: Said<'_>, message: &[u8]) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let is_req = peer.zmtp.socket_type == SocketType::Req;
        let Role::Worker {
            proxied, envelope, ..
        } = &mut peer.role
        else {
            return;
        };
        if let Some(proxied) = proxied {
            if let Some(worker) = proxied.speaker(said, is_req) {
                proxied.push(&mut peer.outbox, worker, &[message], false);
            }
        } else {
            let delimiter = match said.is_direct() {
                true => said.delimiter,
                false => envelope.is_some_and(|known| known.delimiter),
            };
            let before: &[u8] = if delimiter { &DELIMITER } else { &[] };
            peer.outbox.push_copy(&[before, message].concat(), 0);
        }
        self.peers.mark_dirty(id);
    }

    /// The worker that says something else than READY.
    fn seated(&mut self, id: PeerId, said: Said<'_>, is_bye: bool) -> Result<WorkerKey, String> {
        let unknown = || "it has not said READY {\"ack\": true}".to_owned();
        let (proxied, is_req) = self.proxied(id).ok_or_else(unknown)?;
        let worker = proxied.speaker(said, is_req).ok_or_else(unknown)?;
        proxied.heard_from(worker, said);
        match proxied.paths.get(&worker) {
            Some(path) if path.acknowledges || is_bye => Ok(worker),
            _ => Err(unknown()),
        }
    }

    /// The worker that says READY, which may be a new one.
    fn seat(
        &mut self,
        id: PeerId,
        said: Said<'_>,
        acknowledges: bool,
    ) -> Result<WorkerKey, String> {
        let bytes = said.prefix.len();
        if bytes > PREFIX_BYTES_MAX {
            return Err(format!(
                "{bytes} bytes stand before it; at most {PREFIX_BYTES_MAX} are kept"
            ));
        }
        self.share_connection(id);
        let gone = || "its service is gone".to_owned();
        let (proxied, is_req) = self.proxied(id).ok_or_else(gone)?;
        if let Some(worker) = proxied.speaker(said, is_req) {
            proxied.heard_from(worker, said);
            let known = proxied.paths.get(&worker);
            return match known.is_some_and(|path| path.acknowledges) {
                false if acknowledges => Err("its first READY was without acknowledgements".into()),
                _ => Ok(worker),
            };
        }
        if let Some(worker) = self.spent(id, said, acknowledges) {
            if let Some((proxied, _)) = self.proxied(id) {
                proxied.heard_from(worker, said);
            }
            return Ok(worker);
        }
        self.make_room_behind(id)?;
        self.join_proxied(id, said, acknowledges).ok_or_else(gone)
    }

    /// From now on its connection may have several workers.
    fn share_connection(&mut self, id: PeerId) {
        let was_presumed = self.keeping.was_presumed(id);
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let is_req = peer.zmtp.socket_type == SocketType::Req;
        let Role::Worker {
            service,
            key,
            envelope,
            proxied: proxied @ None,
        } = &mut peer.role
        else {
            return;
        };
        let mut all = Proxied::default();
        let found = self.broker.service_mut(*service);
        match envelope.take() {
            Some(Envelope {
                delimiter,
                acknowledges,
            }) => {
                let said = Said {
                    prefix: if delimiter { &DELIMITER } else { &[] },
                    route: &[],
                    delimiter,
                };
                all.insert(*key, said, acknowledges, is_req);
                all.own = Some(Own {
                    worker: *key,
                    end: peer.outbox.bytes() as u64,
                    events: peer.outbox.events(),
                });
                // It has said nothing in this run, and was a proxy.
                if let (true, Some(found)) = (was_presumed, found) {
                    found.workers.bye(*key);
                }
            }
            // Its socket is the worker, or none of its workers.
            None if is_req => {}
            None => drop(found.map(|found| found.workers.leave(*key))),
        }
        *proxied = Some(Box::new(all));
    }

    /// A REQ socket behind a proxy that numbers its requests comes another way each time: the one that
    /// came the way before, and has had its event.
    fn spent(&mut self, id: PeerId, said: Said<'_>, acknowledges: bool) -> Option<WorkerKey> {
        let stem = said.stem().filter(|_| said.delimiter && !acknowledges)?;
        let peer = self.peers.get(id)?;
        let Role::Worker {
            service,
            proxied: Some(proxied),
            ..
        } = &peer.role
        else {
            return None;
        };
        let workers = &self.broker.service(*service)?.workers;
        let is_spent = |(worker, path): &(&WorkerKey, &Path)| {
            let same = path.route.starts_with(stem)
                && last_frame_at(&path.route) == stem.len()
                && path.route.len() == said.route.len();
            same && path.lockstep && !path.acknowledges && workers.outstanding(**worker) > 0
        };
        let found = proxied.paths.iter().find(is_spent);
        found.map(|(worker, _)| *worker)
    }

    fn join_proxied(
        &mut self,
        id: PeerId,
        said: Said<'_>,
        acknowledges: bool,
    ) -> Option<WorkerKey> {
        let peer = self.peers.get_mut(id)?;
        let is_req = peer.zmtp.socket_type == SocketType::Req;
        let Role::Worker {
            service,
            key,
            proxied: Some(proxied),
            ..
        } = &mut peer.role
        else {
            return None;
        };
        let lockstep = said.delimiter || is_req;
        let worker = match is_req {
            true => *key,
            false => self
                .broker
                .service_mut(*service)?
                .workers
                .join(id, lockstep),
        };
        if proxied.paths.is_empty() {
            *key = worker;
        }
        proxied.heard += 1;
        proxied.insert(worker, said, acknowledges, lockstep);
        Some(worker)
    }

    /// If the connection has as many workers as may be, one goes that has said BYE or has had its one
    /// event, else the one that was silent for longest.
    fn make_room_behind(&mut self, id: PeerId) -> Result<(), String> {
        let full = || format!("its connection has {PATHS_MAX} workers already");
        let peer = self.peers.get_mut(id).ok_or_else(full)?;
        let Role::Worker {
            service,
            key: first,
            proxied: Some(proxied),
            ..
        } = &mut peer.role
        else {
            return Err(full());
        };
        if proxied.paths.len() < PATHS_MAX {
            return Ok(());
        }
        let (service, first) = (*service, *first);
        let found = self.broker.service_mut(service).ok_or_else(full)?;
        let is_idle = |worker: WorkerKey, path: &Path| {
            let is_spent = path.lockstep && !path.acknowledges;
            !found.workers.readiness(worker).0
                || (is_spent && found.workers.outstanding(worker) > 0)
        };
        let busy: Vec<_> = proxied.under_way.iter().map(|one| one.worker).collect();
        let can_go = proxied.paths.iter().filter(|(worker, _)| {
            **worker != first
                && proxied.own.map(|own| own.worker) != Some(**worker)
                && !busy.contains(worker)
        });
        let goes = can_go.min_by_key(|(worker, path)| (!is_idle(**worker, path), path.heard));
        let worker = *goes.ok_or_else(full)?.0;
        let path = proxied.forget(worker).ok_or_else(full)?;
        let aftermath = if path.acknowledges {
            found.holder_left(worker, &[], now())
        } else if found.shelf.is_some() {
            found.borrower_left(worker, 0, now())
        } else {
            if path.lockstep {
                found.workers.done(worker, 1);
            }
            found.worker_left(worker, vec![]);
            Aftermath::default()
        };
        self.keeping.workers_changed(service);
        self.finish(service, aftermath);
        Ok(())
    }

    /// No more than so many bytes may wait for all of them together.
    pub(super) fn set_proxied_open(&mut self, service: ServiceKey, id: PeerId, open: bool) {
        let Some((proxied, _)) = self.proxied(id) else {
            return;
        };
        let all: Vec<_> = proxied.workers().collect();
        if let Some(found) = self.broker.service_mut(service) {
            all.iter()
                .for_each(|worker| found.workers.set_open(*worker, open));
        }
    }

    /// Events were written to these workers of a connection.
    pub(super) fn proxied_wrote(&mut self, service: ServiceKey, shares: Vec<(WorkerKey, u64)>) {
        for (worker, events) in shares {
            if let Some(found) = self.broker.service_mut(service) {
                let aftermath = found.written(worker, events, self.clock.now);
                self.finish(service, aftermath);
            }
        }
    }

    /// The connection of proxied workers ended: what they held goes to others.
    pub(super) fn let_proxied_go(
        &mut self,
        service: ServiceKey,
        proxied: &Proxied,
        unwritten: Vec<Bytes>,
    ) {
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        let before = found.account.dropped;
        let left = proxied.sort_out(unwritten);
        let mut aftermath = Aftermath::default();
        for (worker, path) in &proxied.paths {
            let written = left.written.get(worker).copied().unwrap_or_default();
            let settled = if path.acknowledges {
                let held = left.held.get(worker).map_or(&[][..], Vec::as_slice);
                found.holder_left(*worker, held, now())
            } else if found.shelf.is_some() {
                found.borrower_left(*worker, written, now())
            } else {
                let theirs = left.events.iter().filter(|(whose, _)| whose == worker);
                found.workers.done(*worker, theirs.count() as u64);
                found.account.delivered += written;
                found.account.in_flight -= written;
                found.worker_left(*worker, vec![]);
                Aftermath::default()
            };
            aftermath.dead.extend(settled.dead);
            aftermath.settled.extend(settled.settled);
        }
        if found.shelf.is_none() {
            found.take_back(left.events.into_iter().map(|(_, event)| event).collect());
        }
        self.log_dropped_since(service, &before);
        self.finish(service, aftermath);
        self.dispatch(service);
    }
}
