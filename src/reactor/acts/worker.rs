//! Messages of workers: READY, ACK and so on, and what becomes of the events that they hold.

use crate::ambient::{chance, now};
use crate::reactor::hub::Hub;
use crate::reactor::io::inbox::{Filled, Inbox};
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::state::paths::Said;
use crate::reactor::state::peer::{Envelope, Role};
use event_manager_core::broker::{
    DeliveryId, PeerId, ServiceKey, UnknownDelivery, WorkerAnswer, WorkerKey,
};
use event_manager_wire::messagebus::{Introduction, WorkerWord, error_word};
use event_manager_zmtp::encode_message;

impl Hub {
    /// Takes what a worker of this service sent.
    ///
    /// # Errors
    /// [`PeerError`] ends the connection; what it said before the fault holds.
    pub(crate) fn take_words(
        &mut self,
        id: PeerId,
        service: ServiceKey,
        inbox: &mut Inbox,
        filled: Filled,
    ) -> Result<(), PeerError> {
        self.scratch.words.at = now();
        let result = self.take_messages(id, inbox, filled, Self::take_worker_message);
        if std::mem::take(&mut self.scratch.words.moved) {
            self.settle_words(service);
            self.dispatch(service);
        }
        result
    }

    fn settle_words(&mut self, service: ServiceKey) {
        if !self.scratch.words.settled.is_empty() {
            if !self.served.at_engines.is_empty() {
                self.confirm_by_engine(service);
            }
            let mut settled = std::mem::take(&mut self.scratch.words.settled);
            self.settle(service, settled.drain(..));
            // Its memory is used again.
            self.scratch.words.settled = settled;
        }
    }

    /// A message of a worker: a word in the last frame, and before it what its events are to have
    /// before them: an empty frame, or the way through proxies.
    fn take_worker_message(&mut self, id: PeerId, message: &[u8]) -> Result<(), PeerError> {
        let (said, frame) = Said::split(message);
        let word = WorkerWord::parse(frame);
        let Role::Worker {
            service,
            key,
            envelope,
            proxied,
        } = &self.peers[id].role
        else {
            return Ok(());
        };
        let (service, key) = (*service, *key);
        let heard = match word {
            word if proxied.is_some() || !said.is_direct() => self.routed_word(id, said, word),
            Ok(word @ WorkerWord::Ready { credit, .. }) => self
                .own_ready(id, said, credit)
                .map(|worker| (worker, word)),
            Ok(word) if envelope.is_some_and(|known| known.acknowledges) => Ok((key, word)),
            Ok(_) => Err(NOT_READY.to_owned()),
            Err(sentence) => Err(sentence),
        };
        match heard {
            Ok((worker, word)) => self.hear_worker(id, service, worker, word),
            Err(sentence) => {
                self.not_understood(id, said, &sentence, speaks_of_acknowledging(frame));
            }
        }
        Ok(())
    }

    /// READY of the worker whose connection it is.
    fn own_ready(
        &mut self,
        id: PeerId,
        said: Said<'_>,
        credit: Option<u32>,
    ) -> Result<WorkerKey, String> {
        let envelope = Envelope {
            delimiter: said.delimiter,
            acknowledges: credit.is_some(),
        };
        self.hear_presumed(id, envelope);
        // It may have begun anew, which may have ended it.
        let role = self.peers.get_mut(id).map(|peer| &mut peer.role);
        let Some(Role::Worker { key, envelope, .. }) = role else {
            return Err(NOT_READY.to_owned());
        };
        Envelope::agree(envelope, said.delimiter, credit)?;
        Ok(*key)
    }

    /// A worker said something that it may say.
    fn hear_worker(
        &mut self,
        peer: PeerId,
        key: ServiceKey,
        worker: WorkerKey,
        word: WorkerWord<'_>,
    ) {
        let service = &mut self.broker[key];
        let words = &mut self.scratch.words;
        let (id, said) = match word {
            WorkerWord::Ready {
                credit,
                ids,
                options,
            } => {
                service.workers.set_wants_ids(worker, ids);
                if !options.is_empty() {
                    let workers = &mut service.workers;
                    workers.introduce(worker, Introduction::read(options));
                }
                return self.hear_ready(peer, key, worker, credit);
            }
            WorkerWord::Bye => {
                service.workers.bye(worker);
                return self.saved.workers_changed(key);
            }
            WorkerWord::Ack(id) => {
                match service.ack(worker, DeliveryId(id), words.at) {
                    Ok(seq) => {
                        words.settled.extend(seq);
                        words.moved = true;
                    }
                    Err(UnknownDelivery) => self.notes.count_refused("unknown-delivery"),
                }
                return;
            }
            WorkerWord::Nak { id, delay, reason } => (id, WorkerAnswer::Nak { delay, reason }),
            WorkerWord::Term { id, reason } => (id, WorkerAnswer::Term { reason }),
            WorkerWord::Wip(id) => (id, WorkerAnswer::Wip),
        };
        let before = service.account.dropped;
        match service.hear_answer(worker, DeliveryId(id), said, words.at, chance()) {
            Ok(aftermath) => {
                words.moved = true;
                self.notes.dropped_since(service, &before);
                self.finish(key, aftermath);
            }
            Err(UnknownDelivery) => self.notes.count_refused("unknown-delivery"),
        }
    }

    fn hear_ready(
        &mut self,
        peer: PeerId,
        key: ServiceKey,
        worker: WorkerKey,
        credit: Option<u32>,
    ) {
        let service = &mut self.broker[key];
        service.hear(worker, self.scratch.words.at);
        let before = service.workers.readiness(worker);
        match credit {
            None => service.workers.ready(worker),
            Some(credit) => service.workers.ready_with(worker, credit),
        }
        if service.workers.readiness(worker) != before {
            self.saved.workers_changed(key);
            let was_ready = before.0;
            if !was_ready && let Some(peer) = self.peers.get(peer) {
                self.saved.came_back(key, peer);
                self.notes.worker_joined(service, &peer.address, worker);
            }
        }
        self.dispatch(key);
    }

    /// A worker that speaks of acknowledgements is told what we don't understand; another would take
    /// the answer for an event.
    fn not_understood(&mut self, id: PeerId, said: Said<'_>, sentence: &str, speaks_of_it: bool) {
        // To make room for it behind its proxy may have ended its connection.
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        self.notes
            .discarded(&peer.address, "unknown-worker-message");
        // One that doesn't read its errors needs no more of them.
        let has_room = peer.outbox.bytes() <= self.config.budgets.worker_outbox_bytes;
        if has_room && (peer.is_told(said) || speaks_of_it) {
            let error = encode_message(&[error_word(sentence)]);
            if let Some(peer) = self.peers.outgoing(id) {
                peer.tell_worker(said, &error);
            }
        }
    }
}

/// Whether it is a READY that can't be read, of a worker that means to acknowledge. It would wait for events
/// for ever; one that says READY alone, or nothing of that, would take an answer for an event.
fn speaks_of_acknowledging(frame: &[u8]) -> bool {
    let options = frame.strip_prefix(b"READY");
    options.is_some_and(|options| options.windows(5).any(|part| part == b"\"ack\""))
}

/// What a worker is told that says something else than READY at first.
pub(crate) const NOT_READY: &str = "it has not said READY {\"ack\": true}";
