//! The state directory, or a part of it, is removed while the daemon runs.

use super::super::support::disk_of;
use event_manager_wire::api::{EventsPage, NotableEvent, QueueState, Status};
use std::fs;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use tempfile::TempDir;

use super::bed::{Worker, sealed, unsealed};
use crate::support::peers::publish;
use crate::support::program::wait_until;
use crate::support::{PATIENCE, TestDaemon};

fn start(state_dir: &Path) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": state_dir,
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

/// Waits until the daemon has said something.
fn wait_for_word(daemon: &TestDaemon, code: &str) -> NotableEvent {
    let said = wait_until(|| {
        let (_, answer) = daemon.ask("TK_EVENT_MANAGER_EVENTS", &[]);
        let page: EventsPage = serde_json::from_str(&answer).expect("a page");
        page.events.into_iter().rfind(|event| event.code == code)
    });
    said.unwrap_or_else(|| panic!("{code} is not said"))
}

fn wait_until_on_disk(daemon: &TestDaemon, events: u64) {
    daemon.wait_for_service("Billing", "the events are on disk", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == events
    });
}

fn is_written(status: &Status) -> bool {
    status.state.written && !status.state.failing
}

#[test]
fn a_state_database_that_is_removed_is_written_anew() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(directory.path());
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    daemon.wait_for("the subscription is kept", is_written);
    let files = fs::read_dir(directory.path()).expect("a directory");
    for file in files.map(|file| file.expect("a file").path()) {
        if file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("state."))
        {
            fs::remove_file(file).expect("it is there");
        }
    }
    // Nothing changes, and yet it is missed.
    wait_for_word(&daemon, "EM-0515");
    wait_for_word(&daemon, "EM-0512");
    daemon.wait_for("all is written", is_written);
    daemon.kill();
    let again = start(directory.path());
    let kitchen_again = again.service("Kitchen");
    assert!(
        kitchen_again.address.as_deref().is_some_and(|address| {
            address.rsplit(':').next() == kitchen.pull_address.rsplit(':').next()
        }),
        "{kitchen_again:?}"
    );
}

#[test]
fn a_state_directory_that_is_removed_is_begun_anew() {
    let parent = TempDir::new().expect("a directory");
    let state_dir = parent.path().join("state");
    let daemon = start(&state_dir);
    daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let publisher = daemon.publisher();
    (0..10).for_each(|n| publish(&publisher, "Order", &sealed(n)));
    wait_until_on_disk(&daemon, 10);
    daemon.wait_for("the subscription is kept", is_written);
    fs::remove_dir_all(&state_dir).expect("it is there");
    wait_for_word(&daemon, "EM-0508");
    assert_eq!(wait_for_word(&daemon, "EM-0501").fields["queue"], "Billing");
    wait_for_word(&daemon, "EM-0502");
    wait_for_word(&daemon, "EM-0515");
    wait_for_word(&daemon, "EM-0512");
    // What was in memory is served, and what comes is on disk.
    let worker = Worker::join(&daemon.context, &daemon.address_of("Billing"), 1);
    for n in 0..10 {
        let event = worker.hold(PATIENCE.as_millis() as i64).expect("an event");
        assert_eq!(unsealed(&event.data), n);
        worker.ack(&event);
    }
    drop(worker);
    daemon.wait_for_counter("Billing", |c| c.delivered, 10);
    (10..20).for_each(|n| publish(&publisher, "Order", &sealed(n)));
    wait_until_on_disk(&daemon, 10);
    daemon.wait_for("all is written", is_written);
    // It is ours alone, as before.
    let lock = fs::read_to_string(state_dir.join("lock")).expect("a file");
    assert_eq!(lock.trim(), daemon.process().pid().to_string());
    daemon.kill();
    let again = start(&state_dir);
    assert!(again.find_service("Kitchen").is_some());
    let worker = Worker::join(&again.context, &again.address_of("Billing"), 100);
    for n in 10..20 {
        let event = worker.hold(PATIENCE.as_millis() as i64).expect("an event");
        assert_eq!(unsealed(&event.data), n);
        worker.ack(&event);
    }
    again.wait_for_counter("Billing", |c| c.delivered, 10);
}

/// Somebody else has begun to use the directory.
#[test]
fn a_state_directory_that_became_another_daemons_is_left_alone() {
    let parent = TempDir::new().expect("a directory");
    let state_dir = parent.path().join("state");
    let first = start(&state_dir);
    publish(&first.publisher(), "Order", &sealed(0));
    wait_until_on_disk(&first, 1);
    let other_dir = parent.path().join("other");
    let second = start(&other_dir);
    let exchanged = renameat_with(CWD, &state_dir, CWD, &other_dir, RenameFlags::EXCHANGE);
    exchanged.expect("both are there");
    let gone = wait_for_word(&first, "EM-0508");
    assert!(
        gone.text("why").is_some_and(|why| why.contains("in use")),
        "{gone:?}"
    );
    first.wait_for_service("Billing", "it takes no events", |found| {
        disk_of(found).state == QueueState::Failed
    });
    drop(second);
    wait_for_word(&first, "EM-0502");
}
