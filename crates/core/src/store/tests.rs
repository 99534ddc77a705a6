//! What the store reports, and when it may.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

mod openings;

use super::*;
use crate::log::LogLimits;
use crate::log::sim_disk::SimDisk;
use crate::seq::Seq;
use event_manager_wire::model::ServiceName;

struct OneDisk(SimDisk);

impl StateStore for OneDisk {
    type Directory = SimDisk;

    fn is_held(&self) -> bool {
        true
    }

    fn hold_again(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn queue(&self, _: &ServiceName) -> io::Result<SimDisk> {
        Ok(self.0.clone())
    }

    fn is_long(&self, _: u64) -> bool {
        false
    }

    fn begin(&self, opening: Opening<SimDisk>) -> Result<(), Opening<SimDisk>> {
        Err(opening)
    }

    fn remove(&self, _: &ServiceName) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the reports, under a clock that stands still until it is moved.
#[derive(Clone)]
struct Ears {
    now: Rc<Cell<Instant>>,
    reports: Rc<RefCell<Vec<Report>>>,
}

impl Ears {
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    fn new() -> Self {
        Self {
            now: Rc::new(Cell::new(Instant::now())),
            reports: Rc::default(),
        }
    }

    fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.reports.borrow_mut())
    }
}

impl Outside for Ears {
    fn report(&self, report: Report) {
        self.reports.borrow_mut().push(report);
    }

    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

fn queue() -> QueueId {
    QueueId {
        name: ServiceName::new("Billing").unwrap(),
        generation: 1,
    }
}

fn limits() -> LogLimits {
    LogLimits {
        segment_bytes: 4096,
        event_bytes_max: 1024,
        bytes_max: u64::MAX,
        age_max_ms: u64::MAX,
        dedup_window_ms: 1000,
        dedup_ids_max: 10,
        reserve_bytes: 1200,
    }
}

fn start(disk: &SimDisk, ears: &Ears) -> Logs<OneDisk, Ears> {
    let mut store = Logs::new(OneDisk(disk.clone()), ears.clone());
    let (queue, limits) = (queue(), limits());
    store.group(Command::Open { queue, limits }, || None);
    store
}

fn pass_a_second(store: &mut Logs<OneDisk, Ears>, ears: &Ears) {
    ears.now.set(ears.now.get() + Duration::from_secs(1));
    store.tend();
}

/// Whether the queue was reported to work again.
fn works_again(reports: &[Report]) -> bool {
    let is_that = |report: &Report| matches!(report, Report::State { failed: None, .. });
    reports.iter().any(is_that)
}

#[test]
fn a_queue_works_again_when_the_log_knows_what_workers_were_given() {
    let (disk, ears) = (SimDisk::new(1), Ears::new());
    let mut store = start(&disk, &ears);
    let event = Event {
        id: None,
        attributes: Bytes::new(),
        body: Bytes::from_static(b"paid"),
    };
    let append = Command::Append {
        queue: queue(),
        tag: AppendTag(0),
        events: vec![event],
        urgent: true,
    };
    store.group(append, || None);
    pass_a_second(&mut store, &ears);

    // Workers are served while the disk fails.
    disk.fail_syncs_after(0);
    let (queue, on) = (queue(), true);
    store.group(Command::HandOut { queue, on }, || None);
    let reports = ears.take();
    let is_answered = |report: &Report| matches!(report, Report::HandingOut { .. });
    assert!(reports.iter().any(is_answered), "{reports:?}");

    // There is a new segment, and nothing can be written to it.
    disk.fail_syncs_after(2);
    pass_a_second(&mut store, &ears);
    assert!(!works_again(&ears.take()));

    disk.fail_one_in(0);
    pass_a_second(&mut store, &ears);
    assert!(works_again(&ears.take()));
    drop(store);
    let _store = start(&disk, &ears);
    let reports = ears.take();
    let Some(Report::Opened { recovered, .. }) = reports.first() else {
        panic!("{reports:?}");
    };
    assert_eq!(
        recovered.given_below,
        Seq(2),
        "after a kill it may have been given"
    );
}
