//! Logs that are long enough to be read beside the thread.

use std::time::Instant;

use super::*;

/// Appends so many bytes to a queue and stops the store, so that the next one has them to read.
fn fill(directory: &Path, queue: &str, bytes: u64, body_bytes: usize) -> u64 {
    let limits = LogLimits {
        bytes_max: u64::MAX,
        ..LogLimits::default()
    };
    let tested = Tested::start(directory, limits);
    tested.open(queue);
    let body = Bytes::from(vec![7; body_bytes]);
    let mut count = 0;
    for tag in 0..bytes.div_ceil(1 << 22) {
        let events = (0..(1 << 22) / body_bytes).map(|_| Event {
            body: body.clone(),
            ..event("", "")
        });
        let events: Vec<_> = events.collect();
        count += events.len() as u64;
        tested.append(queue, tag, events);
    }
    tested.store.stop();
    count
}

#[test]
fn a_long_log_is_read_beside_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let count = fill(directory.path(), "Long", LONG_BYTES, 1 << 20);
    let tested = Tested::start(directory.path(), LogLimits::default());
    assert_eq!(tested.open("Long").unsettled_events, count);
    tested.open("Short");
    tested.append("Long", 1, vec![event("", "x")]);
    tested.append("Short", 2, vec![event("", "y")]);
    assert_eq!(tested.bodies("Long").len() as u64, count + 1);
    tested.store.stop();

    // It is stopped when it has done what it was asked, however long that takes.
    let tested = Tested::start(directory.path(), LogLimits::default());
    tested.send(Command::Open {
        queue: queue_of("Long"),
        limits: tested.limits,
    });
    tested.send_append("Long", 3, vec![event("", "z")], true);
    tested.store.stop();
    let reports: Vec<_> = tested.reports.iter().collect();
    let is_committed = |report: &Report| matches!(report, Report::Committed { .. });
    assert!(reports.iter().any(is_committed), "{reports:?}");
}

/// How long the first confirmation of another queue takes while one of `EVENT_MANAGER_LONG_MIB` is read, beside what
/// it takes when none is, and how long that reading takes.
#[test]
#[ignore = "a measurement: writes half a GiB"]
fn what_a_long_log_costs_others() {
    let mib = std::env::var("EVENT_MANAGER_LONG_MIB").ok();
    let mib = mib.and_then(|mib| mib.parse().ok()).unwrap_or(512);
    let directory = tempfile::tempdir().unwrap();
    let count = fill(directory.path(), "Long", mib << 20, 1024);
    let limits = LogLimits {
        bytes_max: u64::MAX,
        ..LogLimits::default()
    };
    let tested = Tested::start(directory.path(), limits);
    let first = |queue: &str| {
        let begun = Instant::now();
        let (queue, limits) = (queue_of(queue), tested.limits);
        tested.send(Command::Open {
            queue: queue.clone(),
            limits,
        });
        tested.send_append(queue.name.as_str(), 1, vec![event("", "x")], true);
        loop {
            match tested.next() {
                Report::Committed { queue: of, .. } if of == queue => return begun.elapsed(),
                Report::Opened { queue: of, .. } if of.name.as_str() == "Long" => {
                    println!("the long log was open first");
                }
                _ => {}
            }
        }
    };
    let alone: Vec<_> = ["A", "B", "C"].map(&first).into();
    let begun = Instant::now();
    tested.send(Command::Open {
        queue: queue_of("Long"),
        limits: tested.limits,
    });
    let beside: Vec<_> = ["D", "E", "F"].map(&first).into();
    loop {
        if let Report::Opened { queue, recovered } = tested.next()
            && queue.name.as_str() == "Long"
        {
            assert_eq!(recovered.unsettled_events, count);
            break;
        }
    }
    let took = begun.elapsed();
    tested.store.stop();
    println!(
        "a queue's first confirmation, alone: {alone:?}; while {mib} MiB are read: {beside:?}; these took {took:?}"
    );
}
