#![allow(clippy::disallowed_methods, reason = "tests have a clock")]

mod long;
mod small_disk;

use std::fs;
use std::sync::mpsc::channel;

use bytes::Bytes;

use std::time::Duration;

use super::*;
use event_manager_core::log::LogLimits;
use event_manager_core::log::Recovered;
use event_manager_core::seq::Seq;
use event_manager_core::store::{AppendTag, Appended, Event, Outcome, QueueId};

/// Long enough for the slowest disk.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn queue_of(text: &str) -> QueueId {
    QueueId {
        name: name(text),
        generation: 1,
    }
}

fn event(id: &str, body: &'static str) -> Event {
    Event {
        id: (!id.is_empty()).then(|| Bytes::copy_from_slice(id.as_bytes())),
        attributes: Bytes::from_static(b"attributes"),
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// A store, and what it reports.
struct Tested {
    store: Store,
    limits: LogLimits,
    reports: Receiver<Report>,
}

impl Tested {
    fn start(directory: &Path, limits: LogLimits) -> Self {
        let (sender, reports) = channel();
        let report = move |report| {
            let _ = sender.send(report);
        };
        let store = Store::start(directory, report).unwrap();
        Self {
            store,
            limits,
            reports,
        }
    }

    fn send(&self, command: Command) {
        self.store.try_send(command).unwrap();
    }

    /// The next report, but for what queues hold.
    fn next(&self) -> Report {
        loop {
            match self.reports.recv_timeout(PATIENCE).unwrap() {
                Report::Holds { .. } => {}
                report => return report,
            }
        }
    }

    fn open(&self, queue: &str) -> Recovered {
        self.send(Command::Open {
            queue: queue_of(queue),
            limits: self.limits,
        });
        match self.next() {
            Report::Opened { recovered, .. } => recovered,
            other => panic!("{other:?}"),
        }
    }

    fn send_append(&self, queue: &str, tag: u64, events: Vec<Event>, urgent: bool) {
        let queue = queue_of(queue);
        self.send(Command::Append {
            queue,
            tag: AppendTag(tag),
            events,
            urgent,
        });
    }

    fn append(&self, queue: &str, tag: u64, events: Vec<Event>) -> Vec<Outcome> {
        self.send_append(queue, tag, events, true);
        match self.next() {
            Report::Committed { mut appends, .. } => {
                let Appended { tag: of, outcomes } = appends.remove(0);
                assert_eq!((of, appends.len()), (AppendTag(tag), 0));
                outcomes
            }
            other => panic!("{other:?}"),
        }
    }

    /// The appends that the next report says are durable.
    fn committed(&self) -> Vec<u64> {
        match self.next() {
            Report::Committed { appends, .. } => {
                appends.iter().map(|append| append.tag.0).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn bodies(&self, queue: &str) -> Vec<(Seq, u32, Bytes)> {
        let (events_max, bytes_max) = (usize::MAX, u64::MAX);
        let queue = queue_of(queue);
        self.send(Command::Read {
            queue,
            from: Seq::ZERO,
            events_max,
            bytes_max,
        });
        match self.next() {
            Report::Stored { events, .. } => events
                .into_iter()
                .map(|event| (event.seq, event.attempts, event.body))
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    use Outcome::{Appended, Seen};
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    assert_eq!(tested.open("Billing").next_seq, Seq(1));
    let events = vec![event("a", "one"), event("", "two"), event("a", "one again")];
    let outcomes = tested.append("Billing", 7, events);
    assert_eq!(outcomes, [Appended(Seq(1)), Appended(Seq(2)), Seen(Seq(1))]);
    let queue = queue_of("Billing");
    tested.send(Command::Settle {
        queue: queue.clone(),
        seqs: vec![Seq(1)],
    });
    tested.send(Command::Attempts {
        queue,
        attempts: vec![(Seq(2), 3)],
        in_hands: vec![],
    });
    tested.store.stop();

    let tested = Tested::start(directory.path(), LogLimits::default());
    assert_eq!(tested.store.found(), [name("Billing")]);
    let recovered = tested.open("Billing");
    assert_eq!(
        (recovered.next_seq, recovered.unsettled_events),
        (Seq(3), 1)
    );
    let expected = (Seq(2), 3, Bytes::from_static(b"two"));
    assert_eq!(tested.bodies("Billing"), [expected]);
    assert_eq!(
        tested.append("Billing", 8, vec![event("a", "one")]),
        [Seen(Seq(1))]
    );
    tested.store.stop();
}

#[test]
fn a_file_that_somebody_removes_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.open("A");
    tested.append("A", 1, vec![event("", "x")]);
    let queue = directory.path().join("queues/A");
    let segments = fs::read_dir(&queue).unwrap();
    for segment in segments {
        fs::remove_file(segment.unwrap().path()).unwrap();
    }
    match tested.next() {
        Report::State {
            failed: Some(reason),
            ..
        } => assert!(reason.starts_with("opening /"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // It goes on in another file.
    assert!(matches!(tested.next(), Report::State { failed: None, .. }));
    tested.append("A", 2, vec![event("", "y")]);
    // And has its reserve again.
    assert_eq!(fs::read_dir(&queue).unwrap().count(), 2);
    tested.store.stop();
}

#[test]
fn what_nobody_waits_for_is_durable_soon_or_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.open("A");
    tested.send_append("A", 1, vec![event("", "x")], false);
    assert_eq!(tested.committed(), [1]);
    tested.send_append("A", 2, vec![event("", "x")], false);
    tested.send_append("A", 3, vec![event("", "x")], true);
    assert_eq!(tested.committed(), [2, 3]);
    tested.store.stop();
}

#[test]
fn a_read_sees_the_appends_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.open("A");
    for tag in 0..100 {
        tested.send_append("A", tag, vec![event("", "x")], false);
    }
    let queue = queue_of("A");
    tested.send(Command::Read {
        queue,
        from: Seq(1),
        events_max: 1000,
        bytes_max: 1 << 20,
    });
    let mut committed = vec![];
    while committed.len() < 100 {
        committed.append(&mut tested.committed());
    }
    assert_eq!(committed, Vec::from_iter(0..100));
    let report = tested.next();
    assert!(matches!(report, Report::Stored { events, .. } if events.len() == 100));
    tested.store.stop();
}

#[test]
fn a_read_before_a_close_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    for _ in 0..20 {
        tested.open("A");
        tested.send_append("A", 1, vec![event("id", "x")], true);
        tested.send(Command::Read {
            queue: queue_of("A"),
            from: Seq::ZERO,
            events_max: 1,
            bytes_max: 0,
        });
        tested.send(Command::Close {
            queue: queue_of("A"),
        });
        assert!(matches!(tested.next(), Report::Committed { .. }));
        let report = tested.next();
        assert!(matches!(report, Report::Stored { events, .. } if events.len() == 1));
        assert!(matches!(tested.next(), Report::Closed { .. }));
    }
    tested.store.stop();
}

#[test]
fn a_log_that_fails_recovers_and_leaves_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.open("A");
    tested.open("B");
    // Without its directory it can't have a segment.
    let path = directory.path().join("queues/A");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "in the way").unwrap();
    tested.send_append("A", 1, vec![event("id", "lost")], true);
    let reason = match tested.next() {
        Report::Failed {
            tag: AppendTag(1),
            reason,
            ..
        } => reason,
        other => panic!("{other:?}"),
    };
    assert!(
        reason.contains("reserving space in /") && reason.contains("queues/A/"),
        "{reason}"
    );
    let report = tested.next();
    assert!(
        matches!(
            &report,
            Report::State {
                failed: Some(_),
                ..
            }
        ),
        "{report:?}"
    );
    assert_eq!(
        tested.append("B", 2, vec![event("", "kept")]),
        [Outcome::Appended(Seq(1))]
    );
    fs::remove_file(&path).unwrap();
    let report = tested.next();
    assert!(
        matches!(&report, Report::State { failed: None, .. }),
        "{report:?}"
    );
    assert_eq!(
        tested.append("A", 3, vec![event("id", "kept")]),
        [Outcome::Appended(Seq(2))]
    );
    assert_eq!(tested.bodies("A").len(), 1);
    tested.store.stop();
}

#[test]
fn what_is_too_much_is_expelled_and_what_is_too_large_refused() {
    let directory = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        bytes_max: 150,
        event_bytes_max: 20,
        ..LogLimits::default()
    };
    let tested = Tested::start(directory.path(), limits);
    tested.open("A");
    let events = vec![
        event("", "one"),
        event("", "much too large"),
        event("", "two"),
        event("", "three"),
    ];
    use Outcome::{Appended, TooLarge};
    let outcomes = tested.append("A", 1, events);
    assert_eq!(
        outcomes,
        [
            Appended(Seq(1)),
            TooLarge,
            Appended(Seq(2)),
            Appended(Seq(3))
        ]
    );
    match tested.next() {
        Report::Expelled { events, .. } => {
            let expelled: Vec<_> = events.iter().map(|e| (e.seq, e.reason.name())).collect();
            assert_eq!(expelled, [(Seq(1), "retention-bytes")]);
        }
        other => panic!("{other:?}"),
    }
    tested.store.stop();
}

#[test]
fn a_queue_that_was_removed_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.open("A/1");
    tested.append("A/1", 1, vec![event("id", "x")]);
    tested.send(Command::Remove {
        queue: queue_of("A/1"),
    });
    assert!(matches!(tested.next(), Report::Removed { error: None, .. }));
    tested.send_append("A/1", 2, vec![event("id", "x")], true);
    assert!(matches!(
        tested.next(),
        Report::Failed {
            tag: AppendTag(2),
            ..
        }
    ));
    assert_eq!(tested.open("A/1").next_seq, Seq(1));
    tested.send(Command::Close {
        queue: queue_of("A/1"),
    });
    assert!(matches!(tested.next(), Report::Closed { .. }));
    // It is there no more; that is not the same as empty.
    let (events_max, bytes_max) = (1, 1);
    tested.send(Command::Read {
        queue: queue_of("A/1"),
        from: Seq::ZERO,
        events_max,
        bytes_max,
    });
    assert!(matches!(tested.next(), Report::Unread { .. }));
    tested.store.stop();
}

#[test]
fn single_events_are_read_and_who_is_served_is_known_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let tested = Tested::start(directory.path(), LogLimits::default());
    let recovered = tested.open("A");
    assert_eq!(recovered.given_below, Seq::ZERO);
    let times = |text: &'static str| Event {
        attributes: Bytes::from_static(b"16 bytes of time"),
        ..event("", text)
    };
    let plain = |text: &'static str| Event {
        attributes: Bytes::new(),
        ..event("", text)
    };
    let events = vec![times("a"), plain("b"), times("c"), plain("d")];
    tested.append("A", 1, events);
    let queue = queue_of("A");
    let seqs = vec![Seq(1)];
    tested.send(Command::Settle { queue, seqs });
    tested.send(Command::ReadThese {
        queue: queue_of("A"),
        seqs: [1, 3, 4, 9].map(Seq).to_vec(),
        bytes_max: u64::MAX,
    });
    let Report::Stored { events, .. } = tested.next() else {
        panic!("they can be read")
    };
    let found: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(found, [Seq(3), Seq(4)]);
    let on = true;
    tested.send(Command::HandOut {
        queue: queue_of("A"),
        on,
    });
    assert!(matches!(tested.next(), Report::HandingOut { .. }));
    // It is on disk when that is said: another who looks there meanwhile sees it.
    let copy = tempfile::tempdir().unwrap();
    let queues = copy.path().join("queues/A");
    fs::create_dir_all(&queues).unwrap();
    for file in fs::read_dir(directory.path().join("queues/A")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), queues.join(file.file_name())).unwrap();
    }
    let crashed = Tested::start(copy.path(), LogLimits::default());
    let recovered = crashed.open("A");
    assert_eq!(recovered.given_below, recovered.next_seq);
    let noted: Vec<_> = recovered.attributes.iter().map(|(seq, _)| *seq).collect();
    assert_eq!((noted, recovered.unsettled_events), (vec![Seq(3)], 3));
    crashed.store.stop();
    let on = false;
    tested.send(Command::HandOut {
        queue: queue_of("A"),
        on,
    });
    tested.store.stop();
    let next = Tested::start(directory.path(), LogLimits::default());
    assert_eq!(next.open("A").given_below, Seq::ZERO);
    next.store.stop();
}

#[test]
fn what_waits_for_the_thread_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, closed) = channel::<()>();
    let store = Store::start(directory.path(), move |_| {
        let _ = closed.recv();
    });
    let store = store.unwrap();
    let read = || Command::Read {
        queue: queue_of("none"),
        from: Seq::ZERO,
        events_max: 1,
        bytes_max: 1,
    };
    // The thread may have taken some before it was stuck in its first report.
    let sent = (0..10 * COMMANDS_MAX)
        .take_while(|_| store.try_send(read()).is_ok())
        .count();
    assert!((COMMANDS_MAX..10 * COMMANDS_MAX).contains(&sent), "{sent}");
    drop(gate);
    store.stop();
}

#[test]
fn bytes_that_wait_for_the_thread_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, closed) = channel::<()>();
    let store = Store::start(directory.path(), move |_| {
        let _ = closed.recv();
    });
    let store = store.unwrap();
    let body = Bytes::from(vec![0; COMMAND_BYTES_MAX / 4]);
    let append = || Command::Append {
        queue: queue_of("none"),
        tag: AppendTag(0),
        events: vec![Event {
            id: None,
            attributes: Bytes::new(),
            body: body.clone(),
        }],
        urgent: true,
    };
    let sent = (0..100)
        .take_while(|_| store.try_send(append()).is_ok())
        .count();
    assert!((4..10).contains(&sent), "{sent}");
    drop(gate);
    store.stop();
}

#[test]
fn a_thread_that_panics_says_so_at_last() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, reports) = channel();
    let report = move |report| {
        let opened = matches!(report, Report::Opened { .. });
        sender.send(report).unwrap();
        assert!(!opened, "as a fault of the thread's own would");
    };
    let store = Store::start(directory.path(), report).unwrap();
    let queue = queue_of("Billing");
    let limits = LogLimits::default();
    store.try_send(Command::Open { queue, limits }).unwrap();
    let next = || reports.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(next(), Report::Opened { .. }));
    assert!(matches!(next(), Report::Died));
    store.stop();
}
