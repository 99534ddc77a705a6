//! Disks that are full or fail. These tests mount and trace, so they need root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use event_manager::telemetry::read_events;
use event_manager_wire::api::{NotableEvent, QueueState};
use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::bed::{Worker, sealed, unsealed};
use crate::support::keys::{Keys, Peer, server_key};
use crate::support::peers::{publish, received};
use crate::support::program::wait_until;
use crate::support::{PATIENCE, TestDaemon, disk_of};

const ROUNDS: u64 = 5;

/// A small file system in memory.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// One of this size.
    pub fn mount(size: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path()));
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space but this.
    pub fn fill(&self, left: usize) {
        let filler = self.0.path().join("filler");
        // It is written until there is no more space.
        let _ = fs::write(&filler, vec![1; 80 << 20]);
        let len = fs::metadata(&filler).expect("a file").len();
        let file = fs::OpenOptions::new().write(true).open(&filler);
        let shorter = len.saturating_sub(left as u64);
        file.expect("a file").set_len(shorter).expect("it shrinks");
    }

    pub fn make_space(&self) {
        fs::remove_file(self.0.path().join("filler")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("a program");
    assert!(status.success(), "{command:?}");
}

fn start(state_dir: &Path) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": state_dir,
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

fn state(daemon: &TestDaemon) -> QueueState {
    disk_of(&daemon.service("Billing")).state
}

/// Waits until its queue is in this state, and returns the reason.
fn wait_for_state(daemon: &TestDaemon, state: QueueState) -> Option<String> {
    let service = daemon.wait_for_service("Billing", &format!("{state:?}"), |found| {
        disk_of(found).state == state
    });
    disk_of(&service).reason.clone()
}

/// Waits until no event is on its way to the disk, of so many that were published; how many were
/// dropped because of the disk.
fn settled(daemon: &TestDaemon, published: u64) -> u64 {
    let status = daemon.wait_for("an end of what is pending", |status| {
        let service = status.service("Billing").expect("it is durable");
        disk_of(service).pending_events == 0 && status.publishers.events == published
    });
    let counters = &status.service("Billing").expect("it is durable").counters;
    let dropped = counters.dropped_for("store-failed");
    assert_eq!(counters.dropped_total(), dropped, "{counters:#?}");
    dropped
}

/// Acknowledges all that waits; the numbers.
fn drain(daemon: &TestDaemon, wanted: u64) -> BTreeSet<u64> {
    let worker = Worker::join(&daemon.context, &daemon.address_of("Billing"), 100);
    let mut served = BTreeSet::new();
    while (served.len() as u64) < wanted {
        let event = worker
            .hold(PATIENCE.as_millis() as i64)
            .unwrap_or_else(|| panic!("{} of {wanted} are served", served.len()));
        assert!(served.insert(unsealed(&event.data)), "it is served again");
        worker.ack(&event);
    }
    daemon.wait_for_service("Billing", "all are done", |found| {
        found.counters.queued == 0 && found.counters.in_flight == 0
    });
    assert!(worker.hold(50).is_none());
    served
}

#[test]
#[ignore = "needs root, for a file system of its own"]
fn a_full_disk_stops_one_service_until_there_is_space() {
    let disk = SmallDisk::mount("4m");
    let daemon = start(&disk.0.path().join("state"));
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let cook = daemon.worker("Kitchen", &kitchen.pull_address);
    let publisher = daemon.publisher();
    // All events, those of Billing among them, those that were dropped, those that were served.
    let (mut published, mut orders, mut dropped, mut served) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        disk.fill(128 << 10);
        while state(&daemon) == QueueState::Ok {
            (0..50).for_each(|n| publish(&publisher, "Order", &sealed(orders + n)));
            (published, orders) = (published + 50, orders + 50);
            settled(&daemon, published);
        }
        let failed = wait_for_state(&daemon, QueueState::Failed);
        let reason = failed.expect("a reason");
        assert!(reason.contains("space"), "{reason}");
        let before = settled(&daemon, published);
        assert!(before > dropped, "what did not fit is counted");
        (0..10).for_each(|n| publish(&publisher, "Order", &sealed(orders + n)));
        (published, orders) = (published + 10, orders + 10);
        dropped = settled(&daemon, published);
        assert_eq!(dropped, before + 10, "what is not accepted is counted");
        publish(&publisher, "Meal", &round.to_string());
        published += 1;
        assert_eq!(received(&cook), round.to_string());
        disk.make_space();
        wait_for_state(&daemon, QueueState::Ok);
        (0..10).for_each(|n| publish(&publisher, "Order", &sealed(orders + n)));
        (published, orders) = (published + 10, orders + 10);
        assert_eq!(settled(&daemon, published), dropped, "there is space");
        let wanted = orders - dropped - served;
        let now_served = drain(&daemon, wanted);
        assert_eq!(now_served.last(), Some(&(orders - 1)));
        served += wanted;
        println!("round {round}: {orders} published, {dropped} dropped, {served} served; {reason}");
    }
    assert!(daemon.stop());
}

/// Publishes until the disk has no room for more; how many are there.
fn fill_with_events(daemon: &TestDaemon) -> u64 {
    let publisher = daemon.publisher();
    let mut published = 0;
    while state(daemon) == QueueState::Ok {
        (0..200).for_each(|n| publish(&publisher, "Order", &sealed(published + n)));
        published += 200;
        settled(daemon, published);
    }
    published - settled(daemon, published)
}

#[test]
#[ignore = "needs root, for a file system of its own"]
fn a_disk_that_a_queue_filled_to_the_last_page_drains() {
    let disk = SmallDisk::mount("4m");
    let state_dir = disk.0.path().join("state");
    let daemon = start(&state_dir);
    let waiting = fill_with_events(&daemon);
    // Not even a page is left, and half of them are done.
    disk.fill(0);
    let worker = Worker::join(&daemon.context, &daemon.address_of("Billing"), 100);
    let mut done = BTreeSet::new();
    while (done.len() as u64) < waiting / 2 {
        let event = worker.hold(PATIENCE.as_millis() as i64).expect("an event");
        assert!(done.insert(unsealed(&event.data)), "it is served again");
        worker.ack(&event);
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, waiting / 2);
    drop(worker);
    assert_eq!(state(&daemon), QueueState::Failed);
    assert!(daemon.stop());
    // They don't come again. The others drain, which makes room for new ones.
    let again = start(&state_dir);
    let rest = drain(&again, waiting - waiting / 2);
    assert!(rest.is_disjoint(&done), "what was acknowledged comes again");
    wait_for_state(&again, QueueState::Ok);
    publish(&again.publisher(), "Order", &sealed(1_000_000));
    assert_eq!(drain(&again, 1).first(), Some(&1_000_000));
    assert!(again.stop());
}

#[test]
fn a_queue_that_can_not_be_opened_is_tried_again() {
    let directory = TempDir::new().expect("a directory");
    assert!(start(directory.path()).stop());
    let queue = directory.path().join("queues/Billing");
    fs::remove_dir_all(&queue).expect("it is there");
    fs::write(&queue, "in the way").expect("a file");
    let daemon = start(directory.path());
    let failed = wait_for_state(&daemon, QueueState::Failed);
    assert!(failed.is_some());
    let publisher = daemon.publisher();
    publish(&publisher, "Order", &sealed(0));
    assert_eq!(settled(&daemon, 1), 1);
    fs::remove_file(&queue).expect("it is there");
    wait_for_state(&daemon, QueueState::Ok);
    publish(&publisher, "Order", &sealed(1));
    assert_eq!(settled(&daemon, 2), 1);
    assert!(drain(&daemon, 1).contains(&1));
}

#[test]
#[ignore = "needs root, for a file system of its own"]
fn the_event_log_counts_the_lines_that_a_full_disk_cost() {
    let disk = SmallDisk::mount("4m");
    let path = disk.0.path().join("events.jsonl");
    let daemon = TestDaemon::in_own_process(&json!({"eventLog": {"path": path}}));
    let mut client = daemon.client(PATIENCE);
    let mut page = |max| client.events(None, max).expect("an answer");
    let mut services = 0;
    let mut next_service = || {
        services += 1;
        daemon.subscribe(
            &format!("sub-{services}"),
            &format!("S{services}"),
            &["Order"],
        );
    };
    for round in 0..ROUNDS {
        next_service();
        disk.fill(0);
        // What is left of the last page takes some lines, and a part of one.
        let lost_before = page(1).lost_lines;
        let failed = wait_until(|| {
            next_service();
            (page(1).lost_lines != lost_before).then_some(())
        });
        failed.expect("a line that is lost");
        disk.make_space();
        let whole = wait_until(|| {
            next_service();
            let events = events_in(&path);
            let told = events.iter().filter(|event| event.number("lost").is_some());
            (told.count() as u64 > round).then_some(())
        });
        whole.expect("a line that says how many were lost");
    }
    let settled = wait_until(|| {
        let last = events_in(&path).last().cloned().unwrap_or_default();
        (last.seq == page(1).latest).then_some(())
    });
    settled.expect("the last line");
    let events = events_in(&path);
    let mut next = 1;
    for event in &events {
        next += event.number("lost").unwrap_or(0);
        assert_eq!(event.seq, next, "{event:?}");
        next += 1;
    }
    let lost: u64 = events.iter().filter_map(|event| event.number("lost")).sum();
    assert_eq!(page(1).lost_lines, lost);
    println!("{} lines, {lost} lost", events.len());
    assert!(daemon.stop());
}

fn events_in(path: &Path) -> Vec<NotableEvent> {
    let mut events = vec![];
    let read = read_events(path, |event| {
        events.push(event);
        Ok(())
    });
    read.expect("a file");
    events
}

/// Syncs of a process that fail or are slow, as long as this lives.
struct TamperedSyncs(Child);

impl TamperedSyncs {
    /// What strace is to do to them, in its words.
    fn inject(pid: u32, what: &str) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync,fsync"])
            .args(["-e", &format!("inject=fdatasync,fsync:{what}")])
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let attached = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("attached")));
        assert!(attached.is_some(), "strace could not attach");
        // It must not wait for us to read.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn end(mut self) {
        crate::support::process::signal(self.0.id(), "INT");
        self.0.wait().expect("a child");
    }
}

impl Drop for TamperedSyncs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root or the right to trace, and strace"]
fn events_whose_sync_failed_are_not_called_durable() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(directory.path());
    let publisher = daemon.publisher();
    let (mut published, mut dropped, mut served) = (0, 0, 0);
    for round in 0..ROUNDS {
        // All from the third on.
        let failing = TamperedSyncs::inject(daemon.process().pid(), "error=EIO:when=3+");
        while state(&daemon) == QueueState::Ok {
            publish(&publisher, "Order", &sealed(published));
            published += 1;
            settled(&daemon, published);
        }
        let failed = wait_for_state(&daemon, QueueState::Failed);
        let now_dropped = settled(&daemon, published);
        assert!(now_dropped > dropped, "a failed sync was called a success");
        dropped = now_dropped;
        failing.end();
        wait_for_state(&daemon, QueueState::Ok);
        publish(&publisher, "Order", &sealed(published));
        published += 1;
        assert_eq!(settled(&daemon, published), dropped);
        let wanted = published - dropped - served;
        assert!(drain(&daemon, wanted).contains(&(published - 1)));
        served += wanted;
        let reason = failed.expect("a reason");
        println!(
            "round {round}: {published} published, {dropped} dropped, {served} served; {reason}"
        );
    }
    assert!(daemon.stop());
    let again = start(directory.path());
    assert_eq!(drain(&again, 0).len(), 0);
}

#[test]
#[ignore = "needs root or the right to trace, and strace"]
fn who_floods_a_slow_disk_leaves_room_to_others() {
    const FLOODING: u8 = 2;
    const MODEST: u8 = 3;
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let mut security = keys.security(&["null", "curve"]);
    security["clients"] = json!({
        "flooding": {"keys": server_key(FLOODING).to_string()},
        "modest": {"keys": server_key(MODEST).to_string()},
    });
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        "security": security,
    }));
    let [mut flooding, mut modest] =
        [FLOODING, MODEST].map(|own| Peer::met(&daemon.requests(), LocalSocket::Dealer, own));
    let code = |peer: &mut Peer, subject: &str, len: usize| {
        let payload = "x".repeat(len);
        let request = json!({"token": "emit", "subject": subject, "payload": payload});
        peer.connection.send([b"", request.to_string().as_bytes()]);
        let answer: Value = serde_json::from_slice(&peer.message()[1]).expect("JSON");
        answer["code"].as_str().unwrap_or_default().to_owned()
    };
    let slow = TamperedSyncs::inject(daemon.process().pid(), "delay_exit=3000000");
    let mut emitted = 0;
    loop {
        match &*code(&mut flooding, "Order", 1 << 20) {
            "" => emitted += 1,
            refused => break assert_eq!(refused, "busy"),
        }
        assert!(emitted < 100, "the disk is not slow");
    }
    for _ in 0..10 {
        assert_eq!(code(&mut modest, "Order", 1), "", "others have room");
        emitted += 1;
    }
    // What no durable service gets doesn't wait for the disk.
    assert_eq!(code(&mut flooding, "Other", 1 << 20), "");
    assert_eq!(code(&mut flooding, "Order", 1 << 20), "busy");
    slow.end();
    daemon.wait_for_counter("Billing", |counters| counters.queued, emitted);
    assert_eq!(code(&mut flooding, "Order", 1), "", "it is over");
}
