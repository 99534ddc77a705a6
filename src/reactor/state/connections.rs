//! How many connections there are, and may be.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::reactor::io::agreements::Agreements;
use event_manager_core::security::{
    Crowded, Handshakes, Origin, Place, Unfinished, UnfinishedLimits,
};

/// Connections from when they are accepted, before their handshake, to their end.
pub(crate) struct Connections {
    open: usize,
    max: usize,
    /// Those of the open ones that are refused, and kept for a while before they end.
    held: usize,
    /// Those of the open ones whose handshake isn't done.
    unfinished: Unfinished<Rc<Yielding>>,
    /// Handshakes with keys that are under way.
    pub(crate) handshakes: Handshakes,
    /// The thread that agrees on their keys.
    pub(crate) agreements: Agreements,
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
        Self {
            open: 0,
            max,
            held: 0,
            unfinished: Unfinished::with(UnfinishedLimits::of(max)),
            handshakes: Handshakes::default(),
            agreements,
        }
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.unfinished.set_limits(UnfinishedLimits::of(max));
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Makes room for another connection, if there is none; whether there is.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.open < self.max {
            return true;
        }
        if self.open >= self.max.saturating_add(YIELDING_MAX) {
            return false;
        }
        let yields = self.unfinished.take_one();
        yields
            .inspect(|one| one.tell(Crowded::Connections))
            .is_some()
    }

    /// A connection from there begins its handshake. Another may have to make room for it.
    pub(crate) fn begin(&mut self, origin: Origin) -> (Place, Rc<Yielding>) {
        let yielding = Rc::<Yielding>::default();
        let (place, lost) = self.unfinished.begin(origin, Rc::clone(&yielding));
        if let Some((lost, why)) = lost {
            lost.tell(why);
        }
        (place, yielding)
    }

    /// Its handshake is done, or came to none.
    pub(crate) fn begun(&mut self, place: Place) {
        self.unfinished.done(place);
    }

    /// Counts a refused connection that is kept for a while; false if there are enough of them.
    pub(crate) fn hold(&mut self) -> bool {
        let is_held = self.held < HELD_MAX.min(self.max / 4);
        self.held += usize::from(is_held);
        is_held
    }

    /// A connection that was kept for a while ends.
    pub(crate) fn let_go(&mut self) {
        self.held -= 1;
    }

    pub(crate) fn add(&mut self) {
        self.open += 1;
    }

    pub(crate) fn remove(&mut self) {
        self.open -= 1;
    }
}
