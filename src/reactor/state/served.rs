//! Services whose queue is another broker's: who takes events for them there, and hears what became of each.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use event_manager_core::broker::{Service, ServiceKey};
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

/// Who takes events for which service.
#[derive(Debug, Default)]
pub(crate) struct Served(BTreeMap<ServiceKey, Taker>);

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
        self.0.insert(key, taker);
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
        if let Some(taker) = self.0.get(&key) {
            // Who took it may have stopped: the broker gives it again.
            let _ = taker.settlements.send(became(number.0));
        }
    }

    /// Says how many are wanted since the first.
    pub(crate) fn want(&self, key: ServiceKey, wanted: u64) {
        if let Some(taker) = self.0.get(&key) {
            taker.wanted.send_if_modified(|known| {
                let is_new = *known != wanted;
                *known = wanted;
                is_new
            });
        }
    }
}
