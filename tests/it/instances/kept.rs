//! What is kept over a restart, also when the daemon is killed.

use std::collections::BTreeSet;
use std::time::Duration;

use event_manager_wire::api::{InstanceState, InstancesPage};
use serde_json::json;
use tempfile::TempDir;

use super::super::support::TestDaemon;
use super::{find, heartbeat, said, send, settings, state_of, turns, wait_for};

fn daemon(directory: &TempDir, timeout: f64) -> TestDaemon {
    let mut instances = settings();
    instances["timeout"] = json!(timeout);
    TestDaemon::in_own_process(&json!({"stateDir": directory.path(), "instances": instances}))
}

fn ids(page: &InstancesPage) -> BTreeSet<String> {
    let known = page.instances.known.iter();
    known.map(|one| one.id.clone()).collect()
}

#[test]
fn instances_and_who_led_when_survive_a_kill() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, 60.0);
    let publisher = first.publisher();
    let mut log = vec![];
    for (id, pid) in [("c", 30), ("b", 20), ("a", 10)] {
        send(&publisher, &heartbeat(id, pid));
        wait_for(&first, id, |all| all.leaders == [id]);
        if let Some((before, _)) = log.last().cloned() {
            log.push((before, "resigned".to_owned()));
        }
        log.push((id.to_owned(), "elected".to_owned()));
    }
    send(&publisher, &said("shutdown", "c", 30));
    wait_for(&first, "its end", |all| {
        state_of(all, "c") == Some(InstanceState::Gone)
    });
    first.wait_for("all is on disk", |status| status.state.written);
    let before = super::page(&first);
    first.kill();

    let again = daemon(&directory, 60.0);
    let page = wait_for(&again, "what was kept", |all| all.known.len() == 3);
    assert_eq!((ids(&page), turns(&page)), (ids(&before), log.clone()));
    let states = ["a", "b", "c"].map(|id| find(&page, id).state);
    let (unknown, gone) = (InstanceState::Unknown, InstanceState::Gone);
    assert_eq!(states, [unknown, unknown, gone]);
    assert_eq!(page.instances.leaders, ["a"], "as before");
    // Whoever is heard first leads no sooner than the others are known to be there or not.
    let publisher = again.publisher();
    send(&publisher, &heartbeat("b", 20));
    wait_for(&again, "b", |all| {
        state_of(all, "b") == Some(InstanceState::Alive)
    });
    send(&publisher, &heartbeat("a", 10));
    let page = wait_for(&again, "a", |all| {
        state_of(all, "a") == Some(InstanceState::Alive)
    });
    assert_eq!(
        (turns(&page), page.instances.leaders),
        (log, vec!["a".to_owned()])
    );
    let a = find(&super::page(&again), "a");
    assert_eq!(a.heartbeats, 2, "counts go on");
}

#[test]
fn one_that_does_not_come_back_is_gone_and_another_leads() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory, 60.0);
    let publisher = first.publisher();
    send(&publisher, &heartbeat("a", 10));
    send(&publisher, &heartbeat("b", 20));
    wait_for(&first, "both", |all| all.known.len() == 2);
    first.wait_for("all is on disk", |status| status.state.written);
    first.kill();
    // Long enough for the other one to be heard in time on a busy machine.
    let again = daemon(&directory, 2.0);
    let publisher = again.publisher();
    let page = loop {
        send(&publisher, &heartbeat("b", 20));
        let page = super::page(&again);
        if page.instances.leaders == ["b"] {
            break page;
        }
        assert_eq!(page.instances.leaders, ["a"]);
        std::thread::sleep(Duration::from_millis(20));
    };
    let last = turns(&page).split_off(1);
    let expected = [("a", "timeout"), ("b", "elected")];
    assert_eq!(last, expected.map(|(id, kind)| (id.into(), kind.into())));
}
