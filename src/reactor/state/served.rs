//! Services whose queue is another broker's: who takes events for them there, and hears what became of each.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use event_manager_core::broker::{Service, ServiceKey};
use event_manager_core::queues::EmissionId;
use event_manager_core::seq::Seq;
use event_manager_wire::model::ServiceName;

/// A part of this process that takes events for a service.
#[derive(Debug)]
pub struct Serving {
    pub service: ServiceName,
    /// Takes what became of events. Not bounded by itself: there is one for each that was taken.
    pub settlements: mpsc::UnboundedSender<Settlement>,
    /// How many events are wanted since the first.
    pub wanted: watch::Sender<u64>,
    /// Why it can't be, if so: a sentence.
    pub answered: oneshot::Sender<Result<(), String>>,
}

/// Events for a service, in the broker's order.
#[derive(Debug)]
pub struct Handed {
    pub service: ServiceName,
    pub events: Vec<HandedEvent>,
}

/// An event that another broker gave.
#[derive(Debug)]
pub struct HandedEvent {
    /// What it is called here; each gets a higher one.
    pub number: u64,
    /// By which it is known for ever.
    pub id: String,
    pub frames: Vec<Bytes>,
    /// How often it was given to somebody before, as far as the broker knows.
    pub attempts: u32,
    /// Why it is no event, if it is none: it becomes a dead letter.
    pub flaw: Option<String>,
}

/// What waits goes back to the broker.
#[derive(Debug)]
pub struct Returning {
    pub service: ServiceName,
    /// Only these, which the broker gives to others by itself; else all that waits.
    pub only: Option<Vec<u64>>,
    /// Those that did wait, and are not here any more.
    pub answered: oneshot::Sender<Vec<u64>>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// A worker has acknowledged it.
    Done(u64),
    /// It is a dead letter on disk.
    Dead(u64),
    /// Others should get it: there is no worker for it here.
    Returned(u64),
    /// It could not be kept as a dead letter: it is to come again later.
    Later(u64),
}

/// Who takes events for which service, and who waits until an engine has an event.
#[derive(Debug, Default)]
pub(crate) struct Served {
    takers: BTreeMap<ServiceKey, Taker>,
    pub(crate) at_engines: AtEngines,
}

/// Emissions whose publishers wait until an engine has their event: by the service in which that waits, and
/// its number there. As many as requests may wait.
#[derive(Debug, Default)]
pub(crate) struct AtEngines(BTreeMap<(ServiceKey, Seq), (EmissionId, Instant)>);

impl AtEngines {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One waits from now on, until then.
    pub(crate) fn wait(&mut self, spool: ServiceKey, seq: Seq, waits: (EmissionId, Instant)) {
        self.0.insert((spool, seq), waits);
    }

    /// An event has gone there: whose it is, if that waits.
    pub(crate) fn heard_of(&mut self, spool: ServiceKey, seq: Seq) -> Option<EmissionId> {
        self.0.remove(&(spool, seq)).map(|(number, _)| number)
    }

    /// Those that have waited long enough wait no more.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(ServiceKey, EmissionId)> {
        let mut overdue = vec![];
        self.0.retain(|(spool, _), (number, until)| {
            let is_over = *until <= now;
            overdue.extend(is_over.then_some((*spool, *number)));
            !is_over
        });
        overdue
    }
}

#[derive(Debug)]
struct Taker {
    settlements: mpsc::UnboundedSender<Settlement>,
    wanted: watch::Sender<u64>,
}

impl Served {
    pub(crate) fn begin(
        &mut self,
        key: ServiceKey,
        settlements: mpsc::UnboundedSender<Settlement>,
        wanted: watch::Sender<u64>,
    ) {
        let taker = Taker {
            settlements,
            wanted,
        };
        self.takers.insert(key, taker);
    }

    /// Workers are done with these.
    pub(crate) fn settle(
        &self,
        service: &mut Service,
        key: ServiceKey,
        numbers: impl IntoIterator<Item = Seq>,
    ) {
        for number in numbers {
            self.tell(service, key, number, Settlement::Done);
        }
    }

    /// Says what became of an event, which is not here any more.
    pub(crate) fn tell(
        &self,
        service: &mut Service,
        key: ServiceKey,
        number: Seq,
        became: fn(u64) -> Settlement,
    ) {
        if let Some(taken) = &mut service.taken {
            taken.forget(number);
        }
        if let Some(taker) = self.takers.get(&key) {
            // Who took it may have stopped: the broker gives it again.
            let _ = taker.settlements.send(became(number.0));
        }
    }

    /// Says how many are wanted since the first.
    pub(crate) fn want(&self, key: ServiceKey, wanted: u64) {
        if let Some(taker) = self.takers.get(&key) {
            taker.wanted.send_if_modified(|known| {
                let is_new = *known != wanted;
                *known = wanted;
                is_new
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ambient::now;

    #[test]
    fn who_waits_for_an_engine_hears_of_it_or_waits_no_more() {
        let (mut waiting, spool, now) = (AtEngines::default(), ServiceKey(3), now());
        let later = now + Duration::from_secs(1);
        waiting.wait(spool, Seq(1), (EmissionId(7), later));
        waiting.wait(spool, Seq(2), (EmissionId(8), later));
        assert_eq!(waiting.heard_of(ServiceKey(4), Seq(1)), None);
        assert_eq!(waiting.heard_of(spool, Seq(1)), Some(EmissionId(7)));
        assert_eq!(waiting.overdue(now), []);
        assert_eq!(waiting.overdue(later), [(spool, EmissionId(8))]);
        assert!(waiting.is_empty());
    }
}
