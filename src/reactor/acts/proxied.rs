//! Workers behind proxies: several share one connection, and each is found by the frames that the
//! proxies put before its words. The same frames go before its events.
//!
//! To the broker each is a worker of its own, with its own turn, credit and deliveries.

use std::time::Instant;

use super::worker::NOT_READY;
use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::io::outbox::{Outbox, Unwritten};
use crate::reactor::state::paths::{Own, Path, Proxied, Said};
use crate::reactor::state::peer::{DELIMITER, Envelope, Peer, Role};
use event_manager_core::broker::{Aftermath, Broker, PeerId, Service, ServiceKey, WorkerKey};
use event_manager_wire::messagebus::WorkerWord;
use event_manager_zmtp::{SocketType, last_frame_at};

/// Workers of one connection that are known at the same time.
const PATHS_MAX: usize = 256;
/// What may stand before a worker's word, in bytes: the routing ids of a few proxies.
const PREFIX_BYTES_MAX: usize = 1024;

/// A connection that has several workers, beside their service.
struct Proxy<'a> {
    id: PeerId,
    is_req: bool,
    /// The worker that stands for the connection.
    first: &'a mut WorkerKey,
    proxied: &'a mut Proxied,
    service: &'a mut Service,
}

impl<'a> Proxy<'a> {
    /// From now on the connection of a worker may have several.
    fn of(peer: &'a mut Peer, broker: &'a mut Broker, was_presumed: bool) -> Option<Self> {
        let is_req = peer.zmtp.socket_type == SocketType::Req;
        let Role::Worker {
            service,
            key: first,
            envelope,
            proxied,
        } = &mut peer.role
        else {
            return None;
        };
        let service = &mut broker[*service];
        let proxied = proxied.get_or_insert_with(|| {
            let before = envelope.take();
            Box::new(begin(
                *first,
                before,
                is_req,
                was_presumed,
                &peer.outbox,
                service,
            ))
        });
        Some(Self {
            id: peer.id,
            is_req,
            first,
            proxied,
            service,
        })
    }

    /// The worker that says this, if it is known.
    fn known(&mut self, said: Said<'_>, acknowledges: bool) -> Option<Result<WorkerKey, String>> {
        if let Some(worker) = self.proxied.speaker(said, self.is_req) {
            self.proxied.heard_from(worker, said);
            let path = self.proxied.paths.get(&worker);
            return Some(match path.is_some_and(|path| path.acknowledges) {
                false if acknowledges => Err("its first READY was without acknowledgements".into()),
                _ => Ok(worker),
            });
        }
        let worker = self.spent(said, acknowledges)?;
        self.proxied.heard_from(worker, said);
        Some(Ok(worker))
    }

    /// A REQ socket behind a proxy that numbers its requests comes another way each time: the one that
    /// came the way before, and has had its event.
    fn spent(&self, said: Said<'_>, acknowledges: bool) -> Option<WorkerKey> {
        let stem = said.stem().filter(|_| said.delimiter && !acknowledges)?;
        let workers = &self.service.workers;
        let is_spent = |(worker, path): &(&WorkerKey, &Path)| {
            let same = path.route.starts_with(stem)
                && last_frame_at(&path.route) == stem.len()
                && path.route.len() == said.route.len();
            same && path.lockstep && !path.acknowledges && workers.outstanding(**worker) > 0
        };
        let found = self.proxied.paths.iter().find(is_spent);
        found.map(|(worker, _)| *worker)
    }

    fn join(&mut self, said: Said<'_>, acknowledges: bool) -> WorkerKey {
        let lockstep = said.delimiter || self.is_req;
        let worker = match self.is_req {
            true => *self.first,
            false => self.service.workers.join(self.id, lockstep),
        };
        if self.proxied.paths.is_empty() {
            *self.first = worker;
        }
        self.proxied.heard += 1;
        self.proxied.insert(worker, said, acknowledges, lockstep);
        worker
    }

    /// If the connection has as many workers as may be, one goes that has said BYE or has had its one
    /// event, else the one that was silent for longest.
    fn make_room(&mut self, now: Instant) -> Result<Option<Aftermath>, String> {
        let (service, proxied) = (&mut *self.service, &mut *self.proxied);
        if proxied.paths.len() < PATHS_MAX {
            return Ok(None);
        }
        let is_idle = |worker: WorkerKey, path: &Path| {
            let is_spent = path.lockstep && !path.acknowledges;
            !service.workers.readiness(worker).0
                || (is_spent && service.workers.outstanding(worker) > 0)
        };
        let busy: Vec<_> = proxied.under_way.iter().map(|one| one.worker).collect();
        let can_go = proxied.paths.iter().filter(|(worker, _)| {
            **worker != *self.first
                && proxied.own.map(|own| own.worker) != Some(**worker)
                && !busy.contains(worker)
        });
        let goes = can_go.min_by_key(|(worker, path)| (!is_idle(**worker, path), path.heard));
        let goes = goes.map(|(worker, _)| *worker);
        let gone = goes.and_then(|worker| Some((worker, proxied.forget(worker)?)));
        let (worker, path) =
            gone.ok_or_else(|| format!("its connection has {PATHS_MAX} workers already"))?;
        Ok(Some(if path.acknowledges {
            service.holder_left(worker, &[], now)
        } else if service.is_kept() {
            service.plain_worker_left(worker, 0, now)
        } else {
            if path.lockstep {
                service.workers.done(worker, 1);
            }
            service.worker_left(worker, vec![]);
            Aftermath::default()
        }))
    }
}

/// A connection is found to have several workers. Its socket was one so far, or is none.
fn begin(
    worker: WorkerKey,
    envelope: Option<Envelope>,
    is_req: bool,
    was_presumed: bool,
    outbox: &Outbox,
    service: &mut Service,
) -> Proxied {
    let mut all = Proxied::default();
    match envelope {
        Some(Envelope {
            delimiter,
            acknowledges,
        }) => {
            let said = Said {
                prefix: if delimiter { &DELIMITER } else { &[] },
                route: &[],
                delimiter,
            };
            all.insert(worker, said, acknowledges, is_req);
            all.own = Some(Own {
                worker,
                end: outbox.bytes() as u64,
                events: outbox.events(),
            });
            if was_presumed {
                // It has said nothing in this run, and was a proxy.
                service.workers.bye(worker);
            }
        }
        // Its socket is the worker, or none of its workers.
        None if is_req => {}
        None => drop(service.workers.leave(worker)),
    }
    all
}

impl Hub {
    /// A word of a worker that others' frames stand before, or that shares its connection; and which
    /// worker that is, if it may say it.
    pub(crate) fn routed_word<'a>(
        &mut self,
        id: PeerId,
        said: Said<'_>,
        word: Result<WorkerWord<'a>, String>,
    ) -> Result<(WorkerKey, WorkerWord<'a>), String> {
        let word = said.fault().map_or(word, Err);
        let worker = match &word {
            Ok(WorkerWord::Ready { credit, .. }) => self.seat(id, said, credit.is_some())?,
            _ => {
                let is_bye = matches!(word, Ok(WorkerWord::Bye));
                seated(&mut self.peers[id], said, is_bye).ok_or(NOT_READY)?
            }
        };
        Ok((worker, word?))
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
        let gone = || "its service is gone".to_owned();
        let was_presumed = self.saved.was_presumed(id);
        let proxy = Proxy::of(&mut self.peers[id], &mut self.broker, was_presumed);
        let mut proxy = proxy.ok_or_else(gone)?;
        if let Some(known) = proxy.known(said, acknowledges) {
            return known;
        }
        let aftermath = proxy.make_room(now())?;
        let worker = proxy.join(said, acknowledges);
        if let (Some(aftermath), Role::Worker { service, .. }) = (aftermath, &self.peers[id].role) {
            let service = *service;
            self.saved.workers_changed(service);
            self.finish(service, aftermath);
        }
        // What was left to do may have ended its connection.
        self.peers.get(id).map(|_| worker).ok_or_else(gone)
    }

    /// The connection of proxied workers ended: what they held goes to others.
    pub(crate) fn let_proxied_go(
        &mut self,
        key: ServiceKey,
        proxied: &Proxied,
        unwritten: Vec<Unwritten>,
    ) {
        let service = &mut self.broker[key];
        let before = service.account.dropped;
        let left = proxied.sort_out(unwritten);
        let mut aftermath = Aftermath::default();
        for (worker, path) in &proxied.paths {
            let written = left.written.get(worker).copied().unwrap_or_default();
            if path.acknowledges {
                let held = left.held.get(worker).map_or(&[][..], Vec::as_slice);
                add(&mut aftermath, service.holder_left(*worker, held, now()));
            } else if service.is_kept() {
                let settled = service.plain_worker_left(*worker, written, now());
                add(&mut aftermath, settled);
            } else {
                let theirs = left.events.iter().filter(|(whose, _)| whose == worker);
                service.workers.done(*worker, theirs.count() as u64);
                service.account.delivered += written;
                service.account.in_flight -= written;
                service.worker_left(*worker, vec![]);
            }
        }
        if !service.is_kept() {
            service.take_back(left.events.into_iter().map(|(_, event)| event).collect());
        }
        self.notes.dropped_since(service, &before);
        self.finish(key, aftermath);
        self.dispatch(key);
    }
}

/// The worker that says something else than READY. Without acknowledgements it can only say BYE.
fn seated(peer: &mut Peer, said: Said<'_>, is_bye: bool) -> Option<WorkerKey> {
    let (proxied, is_req) = peer.proxied_mut()?;
    let worker = proxied.speaker(said, is_req)?;
    proxied.heard_from(worker, said);
    let path = proxied.paths.get(&worker)?;
    (path.acknowledges || is_bye).then_some(worker)
}

/// Events were written to these workers of a connection.
pub(crate) fn proxied_wrote(
    service: &mut Service,
    shares: Vec<(WorkerKey, u64)>,
    now: Instant,
) -> Aftermath {
    let mut aftermath = Aftermath::default();
    for (worker, events) in shares {
        add(&mut aftermath, service.written(worker, events, now));
    }
    aftermath
}

fn add(all: &mut Aftermath, one: Aftermath) {
    all.dead.extend(one.dead);
    all.settled.extend(one.settled);
}
