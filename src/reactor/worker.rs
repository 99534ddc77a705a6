//! What workers say, and what becomes of the events that they hold.

use super::hub::Hub;
use super::inbox::{Filled, Inbox};
use super::paths::Said;
use super::peer::{Envelope, Role};
use super::peer_error::PeerError;
use crate::ambient::{chance, now};
use crate::broker::{DeliveryId, PeerId, ServiceKey, UnknownDelivery, Verdict, WorkerKey};
use crate::messagebus::{WorkerWord, error_word};
use crate::zmtp::encode_message;

impl Hub {
    /// Takes what a worker of this service sent.
    ///
    /// # Errors
    /// [`PeerError`] ends the connection; what it said before the fault holds.
    pub(super) fn take_words(
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
        let settled = &mut self.scratch.words.settled;
        if !settled.is_empty()
            && let Some(found) = self.broker.service(service)
        {
            let queues = &mut self.durable.queues;
            queues.settle(found.name(), settled.drain(..));
            self.peers.want_flush();
        }
        settled.clear();
    }

    /// A message of a worker: a word in the last frame, and before it what its events are to have
    /// before them: an empty frame, or the way through proxies.
    fn take_worker_message(&mut self, id: PeerId, message: &[u8]) -> Result<(), PeerError> {
        let (said, frame) = Said::split(message);
        let word = WorkerWord::parse(frame);
        let role = self.peers.get_mut(id).map(|peer| &peer.role);
        let shares = |role| {
            matches!(
                role,
                Some(&Role::Worker {
                    proxied: Some(_),
                    ..
                })
            )
        };
        if !said.is_direct() || shares(role) {
            self.take_routed(id, said, word);
            return Ok(());
        }
        if let Ok(WorkerWord::Ready(credit)) = &word {
            let said = Envelope {
                delimiter: said.delimiter,
                acknowledges: credit.is_some(),
            };
            self.hear_presumed(id, said);
        }
        let Some(Role::Worker {
            service,
            key,
            envelope,
            ..
        }) = self.peers.get_mut(id).map(|peer| &mut peer.role)
        else {
            return Ok(());
        };
        let (service, key) = (*service, *key);
        let understood = word.and_then(|word| {
            match (&word, *envelope) {
                (WorkerWord::Ready(credit), _) => {
                    Envelope::agree(envelope, said.delimiter, *credit)?
                }
                (_, Some(known)) if known.acknowledges => {}
                _ => return Err("it has not said READY {\"ack\": true}".to_owned()),
            }
            Ok(word)
        });
        match understood {
            Ok(word) => self.hear_worker(id, service, key, word),
            Err(sentence) => self.not_understood(id, said, &sentence),
        }
        Ok(())
    }

    pub(super) fn hear_worker(
        &mut self,
        peer: PeerId,
        service: ServiceKey,
        key: WorkerKey,
        word: WorkerWord<'_>,
    ) {
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        let (id, verdict) = match word {
            WorkerWord::Ready(credit) => {
                found.hear(key, self.scratch.words.at);
                let before = found.workers.readiness(key);
                match credit {
                    None => found.workers.ready(key),
                    Some(credit) => found.workers.ready_with(key, credit),
                }
                if found.workers.readiness(key) != before {
                    self.keeping.workers_changed(service);
                    if !before.0 {
                        self.note_worker_joined(peer, service, key);
                    }
                }
                return self.dispatch(service);
            }
            WorkerWord::Bye => {
                found.workers.bye(key);
                return self.keeping.workers_changed(service);
            }
            WorkerWord::Ack(id) => {
                match found.ack(key, DeliveryId(id), self.scratch.words.at) {
                    Ok(place) => {
                        self.scratch.words.settled.extend(place);
                        self.scratch.words.moved = true;
                    }
                    Err(UnknownDelivery) => self.count_unknown_delivery(),
                }
                return;
            }
            WorkerWord::Nak { id, delay, reason } => (id, Verdict::Nak { delay, reason }),
            WorkerWord::Term { id, reason } => (id, Verdict::Term { reason }),
            WorkerWord::Wip(id) => (id, Verdict::Wip),
        };
        let before = found.account.dropped;
        match found.judge(
            key,
            DeliveryId(id),
            verdict,
            self.scratch.words.at,
            chance(),
        ) {
            Ok(aftermath) => {
                self.log_dropped_since(service, &before);
                self.finish(service, aftermath);
                self.scratch.words.moved = true;
            }
            Err(UnknownDelivery) => self.count_unknown_delivery(),
        }
    }

    fn count_unknown_delivery(&mut self) {
        self.notes.count_refused("unknown-delivery");
    }

    /// A worker that speaks of acknowledgements is told what we don't understand; another would take
    /// the answer for an event.
    pub(super) fn not_understood(&mut self, id: PeerId, said: Said<'_>, sentence: &str) {
        self.count_discarded(id, "unknown-worker-message");
        let budget = self.config.budgets.worker_outbox_bytes;
        // One that doesn't read its errors needs no more of them.
        let has_room = self
            .peers
            .get_mut(id)
            .is_some_and(|peer| peer.outbox.bytes() <= budget);
        if has_room && self.is_told(id, said) {
            self.tell_worker(id, said, &encode_message(&[error_word(sentence)]));
        }
    }
}
