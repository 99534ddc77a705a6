//! How bridges are, for reports.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::{Bridge, Direction, spool_of};
use crate::telemetry::{Journal, Notable};
use event_manager_wire::api;
use event_manager_wire::model::ServiceName;

/// How all bridges are.
#[derive(Debug, Clone)]
pub(super) struct Board(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Journal,
    all: RefCell<BTreeMap<String, api::Bridge>>,
    is_changed: Cell<bool>,
}

impl Board {
    /// None yet.
    pub(super) fn new(journal: Journal) -> Self {
        Self(Rc::new(Shared {
            journal,
            all: RefCell::default(),
            is_changed: Cell::default(),
        }))
    }

    /// All of them, if anything has changed since the last time.
    pub(super) fn take_changed(&self) -> Option<Vec<api::Bridge>> {
        let is_changed = self.0.is_changed.replace(false);
        is_changed.then(|| self.0.all.borrow().values().cloned().collect())
    }
}

fn word(direction: Direction) -> String {
    let word = match direction {
        Direction::Out => "out",
        Direction::In => "in",
    };
    word.to_owned()
}

/// How one bridge is.
#[derive(Debug)]
pub(super) struct Lane {
    board: Board,
    name: String,
}

impl Lane {
    /// That of a bridge.
    pub(super) fn new(board: &Board, name: &str, bridge: &Bridge) -> Self {
        let shown = api::Bridge {
            name: name.into(),
            engine: bridge.engine().into(),
            direction: word(bridge.direction()),
            required: bridge.is_required(),
            ..api::Bridge::default()
        };
        Self::begin(board, shown)
    }

    /// One of the two of a service whose queue is another broker's.
    pub(super) fn of_service(
        board: &Board,
        service: &ServiceName,
        engine: &str,
        direction: Direction,
    ) -> Self {
        let spool = spool_of(service).filter(|_| direction == Direction::Out);
        let shown = api::Bridge {
            name: spool.as_ref().unwrap_or(service).to_string(),
            service: Some(service.to_string()),
            engine: engine.into(),
            direction: word(direction),
            ..api::Bridge::default()
        };
        Self::begin(board, shown)
    }

    fn begin(board: &Board, shown: api::Bridge) -> Self {
        let name = shown.name.clone();
        board.0.all.borrow_mut().insert(name.clone(), shown);
        board.0.is_changed.set(true);
        Self {
            board: board.clone(),
            name,
        }
    }

    /// Changes what is shown.
    pub(super) fn change(&self, change: impl FnOnce(&mut api::Bridge)) {
        if let Some(shown) = self.board.0.all.borrow_mut().get_mut(&self.name) {
            change(shown);
            self.board.0.is_changed.set(true);
        }
    }

    /// It doesn't work, and why. The same again is no change.
    pub(super) fn fails(&self, state: api::BridgeState, why: &str) {
        self.change(|shown| {
            shown.state = state;
            shown.failures += 1;
            if shown.problem.as_deref() != Some(why) {
                self.board.0.journal.note(&Notable::BridgeDown {
                    bridge: &self.name,
                    why,
                });
                shown.problem = Some(why.into());
            }
        });
    }

    /// Its engine is reached. If that doesn't confirm what it is sent, it doesn't work for that.
    pub(super) fn is_connected(&self) {
        let all = self.board.0.all.borrow();
        let state = all.get(&self.name).map(|shown| shown.state);
        drop(all);
        if state == Some(api::BridgeState::Connecting) {
            self.works();
        }
    }

    /// It works.
    pub(super) fn works(&self) {
        self.change(|shown| {
            if shown.state != api::BridgeState::Running {
                self.board
                    .0
                    .journal
                    .note(&Notable::BridgeUp { bridge: &self.name });
            }
            shown.state = api::BridgeState::Running;
            shown.problem = None;
        });
    }
}
