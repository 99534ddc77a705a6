//! Events that a part of this process publishes, many at once, and what became of each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;

use event_manager_wire::model::ServiceName;

/// Events to publish in this order, on disk where they match durable services. Behind the first that can't
/// be published now, none is.
#[derive(Debug)]
pub struct Batch {
    /// Whose ids they have: the name of a bridge.
    pub publisher: String,
    pub events: Vec<Publishing>,
    /// What became of each, once all of it is known. Nobody answers if the daemon stops.
    pub answered: oneshot::Sender<Vec<Published>>,
}

/// An event to publish.
#[derive(Debug, Clone)]
pub struct Publishing {
    /// By which it is known when it comes again; empty for none.
    pub id: Bytes,
    pub frames: Vec<Bytes>,
    /// The only service that gets it; else it goes to all that it matches.
    pub only: Option<ServiceName>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// All that it matched have it, durable services on disk.
    Done,
    /// They had it already.
    Known,
    /// It can never be published, and why.
    Refused(String),
    /// Not now, and why.
    NotNow(String),
}

/// The answers to a batch.
#[derive(Debug)]
pub(crate) struct Answers {
    given: RefCell<Vec<Option<Published>>>,
    missing: Cell<usize>,
    answered: RefCell<Option<oneshot::Sender<Vec<Published>>>>,
}

impl Answers {
    pub(crate) fn new(count: usize, answered: oneshot::Sender<Vec<Published>>) -> Rc<Self> {
        Rc::new(Self {
            given: RefCell::new(vec![None; count]),
            missing: Cell::new(count),
            answered: RefCell::new(Some(answered)),
        })
    }

    /// Where the answer to one of its events goes.
    pub(crate) fn slot(self: &Rc<Self>, index: usize) -> Slot {
        Slot {
            answers: Rc::clone(self),
            index,
        }
    }

    /// Why an event can't be published now, if that is known already.
    pub(crate) fn put_off(&self, index: usize) -> Option<String> {
        match self.given.borrow().get(index) {
            Some(Some(Published::NotNow(why))) => Some(why.clone()),
            _ => None,
        }
    }

    fn give(&self, index: usize, published: Published) {
        let mut given = self.given.borrow_mut();
        if let Some(slot @ None) = given.get_mut(index) {
            *slot = Some(published);
            self.missing.set(self.missing.get() - 1);
        }
        if self.missing.get() == 0
            && let Some(answered) = self.answered.borrow_mut().take()
        {
            // Who asked may be gone.
            let _ = answered.send(given.drain(..).flatten().collect());
        }
    }
}

/// Where the answer to one event of a batch goes.
#[derive(Debug)]
pub(crate) struct Slot {
    answers: Rc<Answers>,
    index: usize,
}

impl Slot {
    /// What became of it.
    pub(crate) fn give(&self, published: Published) {
        self.answers.give(self.index, published);
    }
}
