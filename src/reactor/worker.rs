//! What workers say, and what becomes of the events that they hold.

use bytes::Bytes;

use super::hub::Hub;
use super::intake::PeerError;
use super::peer::{Envelope, Role};
use crate::ambient::{chance, now};
use crate::broker::{DeliveryId, PeerId, ServiceKey, UnknownDelivery, Verdict, WorkerKey};
use crate::messagebus::{WorkerWord, error_word};
use crate::zmtp::{encode_message, frames};

impl Hub {
    /// A message of a worker: one frame, with or without a delimiter before it.
    pub(super) fn take_worker_message(
        &mut self,
        id: PeerId,
        message: &[u8],
    ) -> Result<(), PeerError> {
        let mut rest = frames(message).peekable();
        let first = rest.next_if(|frame| frame.is_empty());
        let has_delimiter = first.is_some() && rest.peek().is_some();
        let word = match (rest.next().or(first), rest.count()) {
            (Some(frame), 0) => WorkerWord::parse(frame),
            (_, more) => Err(format!("a word is one frame, not {}", 1 + more)),
        };
        if let Ok(WorkerWord::Ready(credit)) = &word {
            let said = Envelope {
                delimiter: has_delimiter,
                acknowledges: credit.is_some(),
            };
            self.hear_presumed(id, said);
        }
        let Some(Role::Worker {
            service,
            key,
            envelope,
        }) = self.peer(id).map(|peer| &mut peer.role)
        else {
            return Ok(());
        };
        let (service, key) = (*service, *key);
        let understood = word.and_then(|word| {
            match (&word, *envelope) {
                (WorkerWord::Ready(credit), _) => {
                    Envelope::agree(envelope, has_delimiter, *credit)?
                }
                (_, Some(known)) if known.acknowledges => {}
                _ => return Err("it has not said READY {\"ack\": true}".to_owned()),
            }
            Ok(word)
        });
        match understood {
            Ok(word) => self.hear_worker(id, service, key, word),
            Err(sentence) => self.not_understood(id, has_delimiter, &sentence),
        }
        Ok(())
    }

    fn hear_worker(
        &mut self,
        peer: PeerId,
        service: ServiceKey,
        key: WorkerKey,
        word: WorkerWord<'_>,
    ) {
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        let before = found.workers.readiness(key);
        let (id, verdict) = match word {
            WorkerWord::Ready(credit) => {
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
            WorkerWord::Ack(id) => (id, Verdict::Ack),
            WorkerWord::Nak { id, delay, reason } => (id, Verdict::Nak { delay, reason }),
            WorkerWord::Term { id, reason } => (id, Verdict::Term { reason }),
            WorkerWord::Wip(id) => (id, Verdict::Wip),
        };
        let before = found.account.dropped;
        match found.judge(key, DeliveryId(id), verdict, now(), chance()) {
            Ok(aftermath) => {
                self.log_dropped_since(service, &before);
                self.finish(service, aftermath);
                self.dispatch(service);
                self.plan_timeout(service);
            }
            Err(UnknownDelivery) => *self.refused.entry("unknown-delivery").or_default() += 1,
        }
    }

    /// A worker that speaks of acknowledgements is told what we don't understand; another would take
    /// the answer for an event.
    fn not_understood(&mut self, id: PeerId, has_delimiter: bool, sentence: &str) {
        self.count_discarded(id, "unknown-worker-message");
        let budget = self.config.budgets.worker_outbox_bytes;
        let is_told = self.peer(id).is_some_and(|peer| {
            // One that doesn't read its errors needs no more of them.
            peer.outbox.bytes() <= budget
                && matches!(&peer.role, Role::Worker { envelope: Some(known), .. } if known.acknowledges)
        });
        if is_told {
            let delimiter = has_delimiter.then(Bytes::new);
            let frames: Vec<Bytes> = delimiter
                .into_iter()
                .chain([error_word(sentence)])
                .collect();
            self.send(id, &encode_message(&frames));
        }
    }
}
