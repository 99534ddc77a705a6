//! Files that somebody else put into a queue's directory: nothing of the queue is lost for them, none
//! is served, and none is changed.

use super::super::support::disk_of;
use event_manager_wire::api::{EventsPage, NotableEvent};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::bed::{Worker, sealed, unsealed};
use crate::support::peers::publish;
use crate::support::{PATIENCE, TestDaemon};

fn start(state_dir: &Path) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": state_dir,
        "services": {
            "Billing": {"delivery": "queue", "subjects": ["Order"]},
            "Kitchen": {"delivery": "queue", "subjects": ["Meal"]},
        },
    }))
}

/// Publishes events, and waits until a service has so many on disk.
fn publish_to(daemon: &TestDaemon, service: &str, numbers: Range<u64>, wanted: u64) {
    let publisher = daemon.publisher();
    let subject = if service == "Billing" {
        "Order"
    } else {
        "Meal"
    };
    numbers.for_each(|n| publish(&publisher, subject, &sealed(n)));
    daemon.wait_for_service(service, "all are on disk", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == wanted
    });
}

/// All that a service has, acknowledged.
fn drain(daemon: &TestDaemon, service: &str, wanted: usize) -> BTreeSet<u64> {
    let worker = Worker::join(&daemon.context, &daemon.address_of(service), 100);
    let mut served = BTreeSet::new();
    while served.len() < wanted {
        let event = worker
            .hold(PATIENCE.as_millis() as i64)
            .unwrap_or_else(|| panic!("{} of {wanted} are served", served.len()));
        assert!(served.insert(unsealed(&event.data)), "it is served again");
        worker.ack(&event);
    }
    daemon.wait_for_service(service, "all are done", |found| {
        found.counters.queued == 0 && found.counters.in_flight == 0
    });
    assert!(worker.hold(50).is_none(), "something else is served");
    served
}

fn queue(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join("queues").join(name)
}

fn segments(queue: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(queue).expect("a directory");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

/// Whether some file of a queue has just this content.
fn is_kept(queue: &Path, content: &[u8]) -> bool {
    let mut files = fs::read_dir(queue).expect("a directory");
    files.any(|file| fs::read(file.expect("a file").path()).is_ok_and(|bytes| bytes == content))
}

/// The files that the daemon said it refused, of a queue.
fn refused(daemon: &TestDaemon, queue: &str) -> Vec<NotableEvent> {
    let (_, answer) = daemon.ask("TK_EVENT_MANAGER_EVENTS", &[]);
    let page: EventsPage = serde_json::from_str(&answer).expect("a page");
    let is_it = |event: &NotableEvent| event.code == "EM-0507" && event.fields["queue"] == queue;
    page.events.into_iter().filter(is_it).collect()
}

#[test]
fn a_file_with_an_extreme_number_costs_nothing() {
    for stray in [
        "ffffffffffffffff-0000000000000001.log",
        "fffffffffffffffe-fffffffffffffffe.log",
        "0000000000000002-ffffffffffffffff.log",
        "7fffffffffffffff-0000000000000001.log",
    ] {
        let directory = TempDir::new().expect("a directory");
        let first = start(directory.path());
        publish_to(&first, "Billing", 0..20, 20);
        first.kill();
        let stray_at = queue(&directory, "Billing").join(stray);
        fs::write(&stray_at, b"not a segment").expect("a file");
        let second = start(directory.path());
        publish_to(&second, "Billing", 20..60, 60);
        let told = refused(&second, "Billing");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].fields["file"], stray);
        second.kill();
        let third = start(directory.path());
        assert_eq!(drain(&third, "Billing", 60), (0..60).collect(), "{stray}");
        assert!(is_kept(&queue(&directory, "Billing"), b"not a segment"));
        assert!(third.stop());
    }
}

#[test]
fn a_segment_of_another_queue_is_not_served() {
    let directory = TempDir::new().expect("a directory");
    let first = start(directory.path());
    publish_to(&first, "Kitchen", 0..200, 200);
    first.kill();
    // Each start begins a new segment.
    for round in 0..3 {
        let daemon = start(directory.path());
        let first = 1000 + round * 10;
        publish_to(&daemon, "Billing", first..first + 10, 10 + round * 10);
        publish_to(&daemon, "Kitchen", 200 + round..201 + round, 201 + round);
        daemon.kill();
    }
    let foreign = segments(&queue(&directory, "Kitchen"));
    let foreign: Vec<_> = foreign
        .into_iter()
        .filter(|path| {
            let copy = queue(&directory, "Billing").join(path.file_name().expect("a name"));
            // One of the queue's own is not to be written over.
            let is_free = !copy.exists();
            if is_free {
                fs::copy(path, copy).expect("a copy");
            }
            is_free
        })
        .collect();
    assert!(foreign.len() >= 3, "{foreign:?}");
    let daemon = start(directory.path());
    assert_eq!(drain(&daemon, "Billing", 30), (1000..1030).collect());
    assert_eq!(drain(&daemon, "Kitchen", 203), (0..203).collect());
    let told = refused(&daemon, "Billing");
    assert_eq!(told.len(), foreign.len(), "{told:?}");
    let why = told[0].text("why").expect("a text");
    assert!(why.contains("Kitchen"), "{why}");
    for path in foreign.iter().skip(1) {
        let content = fs::read(path);
        if let Ok(content) = content {
            assert!(is_kept(&queue(&directory, "Billing"), &content));
        }
    }
    publish_to(&daemon, "Billing", 2000..2010, 10);
    daemon.kill();
    let again = start(directory.path());
    assert_eq!(drain(&again, "Billing", 10), (2000..2010).collect());
    assert_eq!(refused(&again, "Billing"), [], "once");
    assert!(again.stop());
}

/// What is no file at all, or not to be opened.
#[test]
fn what_is_no_file_costs_nothing() {
    let directory = TempDir::new().expect("a directory");
    let first = start(directory.path());
    publish_to(&first, "Billing", 0..10, 10);
    first.kill();
    let billing = queue(&directory, "Billing");
    fs::create_dir(billing.join("0000000000000005-0000000000000100.log")).expect("a directory");
    std::os::unix::fs::symlink(
        "nowhere",
        billing.join("0000000000000006-0000000000000100.log"),
    )
    .expect("a link");
    fs::write(billing.join("spare-4294967295"), "x").expect("a file");
    fs::write(billing.join("spare-parts.txt"), "mine").expect("a file");
    fs::write(billing.join("notes.txt"), "mine, too").expect("a file");
    fs::write(directory.path().join("queues/.removed-0"), "no directory").expect("a file");
    let second = start(directory.path());
    publish_to(&second, "Billing", 10..20, 20);
    assert_eq!(refused(&second, "Billing").len(), 2);
    assert_eq!(drain(&second, "Billing", 20), (0..20).collect());
    assert!(is_kept(&billing, b"mine") && is_kept(&billing, b"mine, too"));
    assert!(second.stop());
}
