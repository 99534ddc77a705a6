//! Services whose queue is another broker's: who takes events for them there, and hears what became of each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use event_manager_core::broker::{Service, ServiceKey};
use event_manager_core::queues::EmissionId;
use event_manager_core::seq::Seq;
use event_manager_wire::messagebus::ENGINE_WAIT_MAX;
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

/// Emissions whose publishers wait until an engine has their event, as many as requests may wait; and the
/// ways to engines that don't work, for which nobody waits for long.
#[derive(Debug, Default)]
pub(crate) struct AtEngines {
    /// By the service in which the event waits, and its number there.
    waiting: BTreeMap<(ServiceKey, Seq), (EmissionId, Instant)>,
    /// By that service.
    broken: BTreeMap<ServiceKey, Broken>,
}

/// A way to an engine that doesn't work.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broken {
    since: Instant,
    /// For how long somebody waits since then.
    patience: Duration,
    why: String,
}

/// How a way to an engine is said to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WayDown<'a> {
    /// The service in which its events wait.
    pub(crate) spool: ServiceKey,
    /// The engine is reached, and takes nothing.
    pub(crate) is_refused: bool,
    pub(crate) why: &'a str,
}

/// How long an engine that refuses events is tried before publishers hear of it: another server of its
/// cluster may take them in a moment.
const REFUSED_MAX: Duration = Duration::from_secs(1);

impl AtEngines {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One waits from now on.
    pub(crate) fn wait(&mut self, spool: ServiceKey, seq: Seq, number: EmissionId, now: Instant) {
        let until = now + ENGINE_WAIT_MAX;
        self.waiting.insert((spool, seq), (number, until));
    }

    /// An event has gone there, or never will: whose it is, if that waits.
    pub(crate) fn heard_of(&mut self, spool: ServiceKey, seq: Seq) -> Option<EmissionId> {
        self.waiting.remove(&(spool, seq)).map(|(number, _)| number)
    }

    /// These ways don't work, and all others do.
    pub(crate) fn are_down<'a>(
        &mut self,
        down: impl IntoIterator<Item = WayDown<'a>>,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.broken);
        for way in down {
            let broken = Broken {
                since: before.get(&way.spool).map_or(now, |before| before.since),
                patience: match way.is_refused {
                    true => REFUSED_MAX,
                    false => ENGINE_WAIT_MAX,
                },
                why: way.why.to_owned(),
            };
            self.broken.insert(way.spool, broken);
        }
    }

    /// Those that have waited long enough wait no more; and why their events are not there.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(ServiceKey, EmissionId, String)> {
        let mut overdue = vec![];
        let broken = &self.broken;
        self.waiting.retain(|(spool, _), (number, until)| {
            let broken = broken.get(spool);
            let is_hopeless = broken.is_some_and(|way| way.since + way.patience <= now);
            let is_over = *until <= now || is_hopeless;
            if is_over {
                let why = match broken {
                    Some(way) => way.why.clone(),
                    None => format!("the engine has not confirmed it within {ENGINE_WAIT_MAX:?}"),
                };
                overdue.push((*spool, *number, why));
            }
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
    use super::*;
    use crate::ambient::now;

    const SPOOL: ServiceKey = ServiceKey(3);

    fn down(is_refused: bool, why: &str) -> [WayDown<'_>; 1] {
        let spool = SPOOL;
        [WayDown {
            spool,
            is_refused,
            why,
        }]
    }

    #[test]
    fn who_waits_for_an_engine_hears_of_it_or_waits_no_more() {
        let (mut waiting, now) = (AtEngines::default(), now());
        waiting.wait(SPOOL, Seq(1), EmissionId(7), now);
        waiting.wait(SPOOL, Seq(2), EmissionId(8), now);
        assert_eq!(waiting.heard_of(ServiceKey(4), Seq(1)), None);
        assert_eq!(waiting.heard_of(SPOOL, Seq(1)), Some(EmissionId(7)));
        assert_eq!(waiting.overdue(now), []);
        let why = "the engine has not confirmed it within 10s".to_owned();
        let overdue = waiting.overdue(now + ENGINE_WAIT_MAX);
        assert_eq!(overdue, [(SPOOL, EmissionId(8), why)]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn for_a_way_that_doesn_t_work_nobody_waits_long_and_its_time_counts_from_the_first_word_of_it()
    {
        let (mut waiting, begun) = (AtEngines::default(), now());
        let at = |ms| begun + Duration::from_millis(ms);
        waiting.are_down(down(true, "full"), begun);
        waiting.wait(SPOOL, Seq(1), EmissionId(7), begun);
        waiting.wait(ServiceKey(4), Seq(1), EmissionId(8), begun);
        waiting.are_down(down(true, "fuller"), at(900));
        assert_eq!(waiting.overdue(at(999)), []);
        let overdue = |number| [(SPOOL, EmissionId(number), "fuller".to_owned())];
        assert_eq!(waiting.overdue(at(1000)), overdue(7));
        waiting.wait(SPOOL, Seq(2), EmissionId(9), at(1500));
        assert_eq!(waiting.overdue(at(1500)), overdue(9));
        // An engine that isn't reached may be in a moment.
        waiting.are_down(down(false, "away"), at(2000));
        waiting.wait(SPOOL, Seq(3), EmissionId(10), at(2000));
        assert_eq!(waiting.overdue(at(2000)), []);
        waiting.are_down([], at(3000));
        waiting.are_down(down(true, "full"), at(4000));
        assert_eq!(waiting.overdue(at(4999)), []);
    }
}
