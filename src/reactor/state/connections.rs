//! How many connections there are, and may be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::reactor::io::agreements::Agreements;
use event_manager_core::security::{
    Crowded, Handshakes, Origin, Place, TooMany, UnderWay, Unfinished, UnfinishedLimits,
};

/// Connections from when they are accepted, before their handshake, to their end. What counts them is given
/// back when it is dropped, whoever has borrowed the hub then.
pub(crate) struct Connections {
    counts: Rc<RefCell<Counts>>,
    /// The thread that agrees on their keys.
    pub(crate) agreements: Agreements,
}

struct Counts {
    open: usize,
    max: usize,
    /// Those of the open ones that are refused, and kept for a while before they end.
    held: usize,
    /// Those of the open ones whose handshake isn't done.
    unfinished: Unfinished<Rc<Yielding>>,
    /// Handshakes with keys that are under way.
    handshakes: Handshakes,
}

/// A connection is open as long as this is there.
pub(crate) struct Open(Rc<RefCell<Counts>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.borrow_mut().open -= 1;
    }
}

/// Its handshake isn't done as long as this is there.
pub(crate) struct Begun {
    counts: Rc<RefCell<Counts>>,
    place: Option<Place>,
    pub(crate) yielding: Rc<Yielding>,
}

impl Begun {
    /// It speaks our mechanism, so others make room before it does.
    pub(crate) fn agreed(&mut self) {
        if let Some(place) = &mut self.place {
            self.counts.borrow_mut().unfinished.agreed(place);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.counts.borrow_mut().unfinished.done(place);
        }
    }
}

/// It is refused, and kept as long as this is there.
pub(crate) struct Held(Rc<RefCell<Counts>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.borrow_mut().held -= 1;
    }
}

/// A step of its handshake is under way as long as this is there.
pub(crate) struct Step {
    counts: Rc<RefCell<Counts>>,
    under_way: Option<UnderWay>,
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            self.counts.borrow_mut().handshakes.done(under_way);
        }
    }
}

/// How a connection hears that it has to make room for another, before its handshake is done.
#[derive(Debug, Default)]
pub(crate) struct Yielding {
    why: Cell<Option<Crowded>>,
    told: Notify,
}

impl Yielding {
    fn tell(&self, why: Crowded) {
        self.why.set(Some(why));
        self.told.notify_one();
    }

    /// Waits until it has to, and says why.
    pub(crate) async fn wanted(&self) -> Crowded {
        loop {
            self.told.notified().await;
            if let Some(why) = self.why.get() {
                return why;
            }
        }
    }
}

/// So many connections above `max` are open for the moment that it takes others to make room.
const YIELDING_MAX: usize = 16;

/// So many refused connections are kept for a while at most, and no more than a quarter of `max`: the
/// others end at once.
const HELD_MAX: usize = 1024;

impl Connections {
    pub(crate) fn with_max(max: usize, agreements: Agreements) -> Self {
        let counts = Counts {
            open: 0,
            max,
            held: 0,
            unfinished: Unfinished::with(UnfinishedLimits::of(max)),
            handshakes: Handshakes::default(),
        };
        Self {
            counts: Rc::new(RefCell::new(counts)),
            agreements,
        }
    }

    pub(crate) fn set_max(&self, max: usize) {
        let mut counts = self.counts.borrow_mut();
        counts.max = max;
        counts.unfinished.set_limits(UnfinishedLimits::of(max));
    }

    pub(crate) fn open(&self) -> usize {
        self.counts.borrow().open
    }

    pub(crate) fn max(&self) -> usize {
        self.counts.borrow().max
    }

    /// Those of the open ones whose handshake isn't done, or which are refused and kept for a while.
    pub(crate) fn unfinished(&self) -> usize {
        self.counts.borrow().unfinished.len()
    }

    /// Makes room for another connection, if there is none; whether there is.
    pub(crate) fn has_room(&self) -> bool {
        let mut counts = self.counts.borrow_mut();
        if counts.open < counts.max {
            return true;
        }
        if counts.open >= counts.max.saturating_add(YIELDING_MAX) {
            return false;
        }
        let yields = counts.unfinished.take_one();
        yields
            .inspect(|one| one.tell(Crowded::Connections))
            .is_some()
    }

    /// Another connection.
    pub(crate) fn add(&self) -> Open {
        self.counts.borrow_mut().open += 1;
        Open(Rc::clone(&self.counts))
    }

    /// A connection from there begins its handshake. Another may have to make room for it.
    pub(crate) fn begin(&self, origin: Origin) -> Begun {
        let yielding = Rc::<Yielding>::default();
        let mut counts = self.counts.borrow_mut();
        let (place, lost) = counts.unfinished.begin(origin, Rc::clone(&yielding));
        if let Some((lost, why)) = lost {
            lost.tell(why);
        }
        Begun {
            counts: Rc::clone(&self.counts),
            place: Some(place),
            yielding,
        }
    }

    /// A refused connection is kept for a while, if there aren't enough of them.
    pub(crate) fn hold(&self) -> Option<Held> {
        let mut counts = self.counts.borrow_mut();
        if counts.held >= HELD_MAX.min(counts.max / 4) {
            return None;
        }
        counts.held += 1;
        Some(Held(Rc::clone(&self.counts)))
    }

    /// A step of a handshake from there begins.
    ///
    /// # Errors
    /// Too many are under way.
    pub(crate) fn step(
        &self,
        origin: Origin,
        is_first: bool,
        now: Instant,
    ) -> Result<Step, TooMany> {
        let handshakes = &mut self.counts.borrow_mut().handshakes;
        let under_way = match is_first {
            true => handshakes.begin(origin, now),
            false => handshakes.go_on(origin, now),
        }?;
        Ok(Step {
            counts: Rc::clone(&self.counts),
            under_way: Some(under_way),
        })
    }

    /// A handshake from there ended with a key that is known.
    pub(crate) fn known(&self, origin: Origin) {
        self.counts.borrow_mut().handshakes.known(origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::now;

    #[test]
    fn what_counts_is_given_back_whoever_drops_it() {
        let (agreements, thread) = Agreements::start(1).unwrap();
        let connections = Connections::with_max(8, agreements);
        let steps = || connections.counts.borrow().handshakes.steps();
        for _ in 0..3 {
            let open = connections.add();
            let begun = connections.begin(Origin::Local);
            let held: Vec<_> = (0..5).filter_map(|_| connections.hold()).collect();
            assert_eq!(held.len(), 2, "no more than a quarter");
            let step = connections.step(Origin::Local, true, now());
            assert_eq!((connections.open(), connections.unfinished()), (1, 1));
            assert_eq!(steps(), 1);
            drop((open, begun, held, step));
            assert_eq!((connections.open(), connections.unfinished()), (0, 0));
            assert_eq!((steps(), connections.counts.borrow().held), (0, 0));
        }
        // A connection may have lost its place before it ends.
        connections.set_max(0);
        let begun = connections.begin(Origin::Local);
        assert!(connections.has_room());
        assert_eq!(connections.unfinished(), 0);
        drop(begun);
        assert_eq!(connections.unfinished(), 0);
        connections.agreements.end();
        thread.join().unwrap();
    }
}
