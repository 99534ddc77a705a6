//! What publishers do: plain ones, and those that want to hear of their events.

use super::*;
use crate::event_id::{Emitter, EventId};

impl World {
    /// Of a plain publisher.
    pub(super) fn publish(&mut self) {
        for _ in 0..=self.rng.below(6) {
            self.number += 1;
            let (number, key) = (self.number, self.rng.below(3) as u8);
            trace!("    publish {number}, key {key}");
            let padding = self.rng.below(100) as usize;
            for service in 0..3 {
                let Some(key_of_it) = self.daemon().broker.find(&name(service)) else {
                    continue;
                };
                let body = body(key, number, padding);
                let cost = self.daemon().item(key_of_it, body.clone()).cost();
                let fate = Fate {
                    key,
                    is_too_large: cost > self.settings[service].bytes_max,
                    ..Fate::default()
                };
                self.fates.insert((service, number), fate);
                self.daemon().deliver(key_of_it, body);
            }
            self.carry_out();
        }
    }

    /// Of one who wants to be told when the event is on disk, and gives it an id.
    pub(super) fn emit(&mut self, again: Option<Sent>) {
        let now = self.now();
        for _ in 0..=self.rng.below(5) {
            let sent = again.unwrap_or_else(|| {
                self.number += 1;
                let due = self.rng.one_in(4).then(|| now + ms(self.rng.below(2000)));
                let ttl = self.rng.one_in(4).then(|| ms(1 + self.rng.below(2000)));
                Sent {
                    number: self.number,
                    key: self.rng.below(3) as u8,
                    due: due.filter(|due| *due > now),
                    expires_at: ttl.map(|ttl| due.unwrap_or(now) + ttl),
                }
            });
            self.emit_one(sent, again.is_some());
            if again.is_some() {
                return;
            }
        }
    }

    pub(super) fn emit_one(&mut self, sent: Sent, is_again: bool) {
        let padding = self.rng.below(100) as usize;
        let Sent {
            number,
            key,
            due,
            expires_at,
        } = sent;
        trace!("    emit {number} again: {is_again}, key {key}, due {due:?}, ends {expires_at:?}");
        let daemon = self.daemon.as_mut().unwrap();
        let durable = [0, 1].map(name);
        let durable: Vec<_> = durable
            .iter()
            .filter(|name| daemon.broker.find(name).is_some())
            .collect();
        let mut refusals = durable.iter().map(|name| daemon.queues.refusal(name));
        if refusals.any(|refusal| refusal.is_some()) {
            // Nobody gets it, so that it can be sent again.
            return self.resends.push(sent);
        }
        let emission = EmissionId(self.emissions.last_key_value().map_or(0, |(id, _)| id.0) + 1);
        let awaited = durable.len();
        // Three emitters say the same of three events.
        let emitters = [
            Emitter::Nameless,
            Emitter::Client("a"),
            Emitter::Client("b"),
        ];
        let emitter = emitters[(number % 3) as usize];
        let said = (number / 3).to_le_bytes().to_vec();
        let id = EventId::of(emitter, said.into());
        for service in 0..3 {
            let Some(found) = daemon.broker.find(&name(service)) else {
                continue;
            };
            if is_again && service == 2 {
                continue;
            }
            let fate = self.fates.entry((service, number)).or_default();
            (fate.key, fate.not_before, fate.expires_at) = (key, due, expires_at);
            fate.resent |= is_again;
            let mut item = daemon.item(found, body(key, number, padding));
            item.not_before = due;
            item.expires_at = expires_at;
            item.by_clock = due.is_some();
            let clocks = daemon.clocks();
            fate.due_ms = due.map(|at| clocks.wall_ms_at(at));
            fate.ends_ms = expires_at.map(|at| clocks.wall_ms_at(at));
            fate.by_clock = item.by_clock;
            fate.is_too_large |= item.cost() > self.settings[service].bytes_max;
            let emitted = Emitted {
                id: Some(id.clone()),
                due_ms: fate.due_ms,
                emission: Some(emission),
            };
            daemon.deliver_confirmed(found, item, emitted);
        }
        let waits = Emission {
            number,
            awaited,
            failed: false,
        };
        if awaited > 0 {
            self.emissions.insert(emission, waits);
        }
        self.resends.push(sent);
        self.carry_out();
    }

    /// Publishers that heard nothing, or a NAK, or are only careful, send again.
    pub(super) fn resend(&mut self) {
        let at = self.rng.below(self.resends.len() as u64) as usize;
        if at < self.resends.len() {
            let sent = self.resends.swap_remove(at);
            let now = self.now();
            let due = sent.due.filter(|due| *due > now);
            self.emit(Some(Sent { due, ..sent }));
        }
    }
}
