//! Services whose queue is another broker's, which daemons share: what comes from there, what goes back, and
//! how much more is wanted.

use std::time::Instant;

use super::backlog::{DeadLetter, DeadReason, Item};
use super::ids::ServiceKey;
use super::service::{Aftermath, Service};
use super::taken::Taken;
use crate::seq::Seq;

/// Why an event that is larger than all that may wait is dead.
const TOO_LARGE: &str = "it is larger than its service's queueBytes";

/// What goes back to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// What no worker could take now: if any is ready, only what none was given.
    Surplus,
    /// All that waits.
    Waiting,
}

impl Service {
    /// The durable service in which its events wait to go to the broker.
    pub fn waits_in(&self) -> Option<ServiceKey> {
        self.spool
    }

    /// Takes an event that the broker gave, whose number it has. It waits for a worker; if it is no event
    /// (`flaw`) or could never wait, it is dead.
    pub fn take_in(
        &mut self,
        item: Item,
        id: &str,
        flaw: Option<String>,
        now: Instant,
    ) -> Aftermath {
        let (Some(taken), Some(number)) = (&mut self.taken, item.seq) else {
            return Aftermath::default();
        };
        taken.take(number, id);
        self.account.matched += 1;
        let flaw = flaw.or_else(|| (!self.queue.fits(&item)).then(|| TOO_LARGE.to_owned()));
        let dead = match flaw {
            Some(detail) => Some(DeadLetter {
                item,
                reason: DeadReason::Terminated,
                detail,
                last_at: now,
            }),
            None => {
                self.enqueue(item);
                None
            }
        };
        self.account.dead_lettered += u64::from(dead.is_some());
        Aftermath {
            dead: dead.into_iter().collect(),
            settled: vec![],
        }
    }

    /// How many events it wants of the broker since the beginning: as many as it got, and those that its
    /// workers could take beside those that wait.
    pub fn wanted_in_all(&self) -> u64 {
        let received = self.taken.as_ref().map_or(0, Taken::received);
        let limits = self.queue.limits();
        let is_full = self.queue.bytes() >= limits.bytes_max || self.queue.holds_too_much();
        if is_full {
            return received;
        }
        let free = self.workers.free_credit();
        let room = limits.events_max.saturating_sub(self.queue.len()) as u64;
        received + free.saturating_sub(self.queue.ready() as u64).min(room)
    }

    /// What goes back to the broker, so that others get it: the numbers.
    pub fn give_back(&mut self, which: GivenBack, now: Instant) -> Vec<Seq> {
        if self.taken.is_none() {
            return vec![];
        }
        let items = match which {
            GivenBack::Waiting => self.queue.take_all(),
            GivenBack::Surplus if self.workers.any_ready() => {
                self.queue.take_surplus(self.workers.free_credit())
            }
            GivenBack::Surplus => std::iter::from_fn(|| self.queue.next(now)).collect::<Vec<_>>(),
        };
        self.account.returned += items.len() as u64;
        items.iter().filter_map(|item| item.seq).collect()
    }

    /// These go back to the broker if they wait: it gives them to others anyway. Those that did.
    pub fn give_back_these(&mut self, numbers: &[Seq]) -> Vec<Seq> {
        let waiting = numbers.iter().copied();
        let items: Vec<_> = waiting
            .filter_map(|number| self.queue.take_waiting(number))
            .collect();
        self.account.returned += items.len() as u64;
        items.iter().filter_map(|item| item.seq).collect()
    }
}

#[cfg(test)]
mod tests;
