//! A daemon ends in the order of the data and in time, and leaves nothing.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use event_manager::config::Config;
use event_manager::daemon::Daemon;
use event_manager::store::StateDir;
use event_manager::telemetry::process_readings;
use event_manager_wire::api::Process;
use event_manager_wire::model::Endpoint;

use super::support::peers::{publish, received};
use super::support::program::wait_until;
use super::support::raw::{RawPeer, command, frame, greeting, ready, tcp_address};
use super::support::{PATIENCE, TestDaemon, config, tunnel};

/// More than what the kernel and a worker's outbox hold together; a tunnel has buffers of its own.
fn events() -> usize {
    if tunnel::is_on() { 300 } else { 200 }
}
const EVENT_BYTES: usize = 60_000;

/// Raw peers that have been sent more than their sockets hold, and have read nothing of it: a
/// subscriber and a worker.
fn stalled(daemon: &TestDaemon) -> [RawPeer; 2] {
    let service = daemon.subscribe("stalled", "Stalled", &["event"]);
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", b"event"));
    let mut worker = RawPeer::met(&service.pull_address, "DEALER");
    worker.send(&frame(0, b"READY"));
    daemon.wait_for_subscriptions(1);
    daemon.wait_for_ready("Stalled", 1);
    let publisher = daemon.publisher();
    let padding = "x".repeat(EVENT_BYTES);
    for n in 0..events() {
        publish(&publisher, "event", &format!("{n} {padding}"));
    }
    let status = daemon.wait_for("all events", |status| {
        status.publishers.events == events() as u64
    });
    assert!(status.services[0].queue.events > 0);
    assert!(status.subscribers.counters.in_flight > 0);
    [subscriber, worker]
}

#[test]
fn what_waits_is_delivered_first() {
    let daemon = TestDaemon::with(|config| config.drain_timeout = PATIENCE);
    let peers = stalled(&daemon);
    let unwanted = daemon.subscribe("nobody", "Nobody", &["unwanted"]);
    publish(&daemon.publisher(), "unwanted", "no worker will ever come");
    daemon.wait_for("it", |status| {
        status.publishers.events == events() as u64 + 1
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| daemon.stop());
        let readers = peers.map(|mut peer| {
            scope.spawn(move || {
                for n in 0..events() {
                    let event = peer.read_message();
                    let data = String::from_utf8_lossy(&event[1]);
                    assert_eq!(data.split(' ').next(), Some(&*n.to_string()));
                }
                assert_eq!(peer.read_to_end(), b"");
            })
        });
        for reader in readers {
            reader.join().expect("all events, then the end");
        }
        assert!(stopped.join().expect("no panic"));
    });
    assert!(begun.elapsed() < PATIENCE / 2);
    assert!(TcpStream::connect(tcp_address(&unwanted.pull_address)).is_err());
}

#[test]
fn stalled_and_half_open_peers_hold_up_the_end_no_longer_than_allowed() {
    const DRAIN: Duration = Duration::from_millis(700);
    let daemon = TestDaemon::with(|config| config.drain_timeout = DRAIN);
    let _stalled = stalled(&daemon);
    let silent = RawPeer::met(&daemon.publishers(), "PUB");
    let mut halfway = RawPeer::connect(&daemon.requests());
    halfway.send(&greeting()[..20]);
    let begun = Instant::now();
    assert!(daemon.stop());
    let took = begun.elapsed();
    let allowed = DRAIN..DRAIN + Duration::from_millis(500);
    assert!(allowed.contains(&took), "{took:?}");
    for mut peer in [silent, halfway] {
        peer.read_to_end();
    }
}

#[test]
fn peers_that_are_owed_nothing_do_not_hold_up_the_end() {
    let daemon = TestDaemon::with(|config| config.drain_timeout = PATIENCE);
    let service = daemon.subscribe("id", "Service", &["a"]);
    let _worker = daemon.worker("Service", &service.pull_address);
    let _half_open = [
        RawPeer::met(&service.pull_address, "DEALER"),
        RawPeer::met(&daemon.publishers(), "PUB"),
        RawPeer::met(&daemon.subscribers(), "SUB"),
        RawPeer::met(&daemon.requests(), "REQ"),
        RawPeer::connect(&daemon.requests()),
    ];
    let begun = Instant::now();
    assert!(daemon.stop());
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_taken_address_is_named_with_its_key() {
    let first = TestDaemon::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("publishers");
    let bound = first.bound();
    type Take = fn(&mut Config, Vec<Endpoint>);
    let keys: [(&str, &[Endpoint], Take); 3] = [
        ("pubAddress", &bound.publishers, |c, taken| {
            c.pub_addresses = taken
        }),
        ("subAddress", &bound.subscribers, |c, taken| {
            c.sub_addresses = taken
        }),
        ("requestAddress", &bound.requests, |c, taken| {
            c.request_addresses = taken
        }),
    ];
    for (key, taken, take) in keys {
        let mut second = config();
        second.pub_addresses = vec![Endpoint::Ipc(path.clone())];
        take(&mut second, taken.to_vec());
        let error = Daemon::start(second).expect_err("it is taken").to_string();
        let begin = format!("{key} {} can't be bound: ", taken[0]);
        assert!(error.starts_with(&begin), "{error}");
        assert!(error.contains("another process listens there"), "{error}");
        assert!(!path.exists(), "what was bound before is not closed");
    }
}

/// Set for the process in which daemons start and stop.
const STARTS_AND_STOPS: &str = "EVENT_MANAGER_TEST_STARTS_AND_STOPS";

#[test]
fn fifty_starts_and_stops_leave_nothing() {
    let status = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "stopping::starts_and_stops", "--ignored"])
        .env(STARTS_AND_STOPS, "50")
        .status();
    assert!(status.expect("a process").success());
}

#[test]
#[ignore = "what the process of fifty_starts_and_stops_leave_nothing runs"]
fn starts_and_stops() {
    let Ok(count) = std::env::var(STARTS_AND_STOPS) else {
        return;
    };
    (0..5).for_each(|_| start_and_stop());
    let before = process_readings();
    (0..count.parse().expect("a number")).for_each(|_| start_and_stop());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = process_readings();
        if after.threads <= before.threads && after.open_fds <= before.open_fds {
            let bytes = |readings: Process| readings.resident_bytes.expect("Linux");
            let grown = bytes(after).saturating_sub(bytes(before));
            assert!(grown < 4 << 20, "memory grew by {grown} bytes");
            return;
        }
        // A thread that was joined is in the kernel's list for a moment still.
        assert!(Instant::now() < deadline, "{before:?}, now {after:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon with a client of each kind, which carries an event.
fn start_and_stop() {
    let daemon = TestDaemon::with(|config| {
        config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    });
    let service = daemon.subscribe("id", "Service", &["a"]);
    let worker = daemon.worker("Service", &service.pull_address);
    let subscriber = daemon.subscriber(&["a"]);
    publish(&daemon.publisher(), "a", "b");
    assert_eq!([received(&worker), received(&subscriber)], ["b", "b"]);
    let _halfway = RawPeer::connect(&daemon.requests());
    assert_eq!(daemon.http_get("/livez").status, 200);
    let _silent = TcpStream::connect(daemon.http()).expect("a connection");
    assert!(daemon.stop());
}

#[test]
fn what_a_dialled_publisher_has_sent_is_delivered_too() {
    const SENT: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("it is bound").port();
    let daemon = TestDaemon::with(|config| {
        config.connect_publishers = vec![Endpoint::tcp("127.0.0.1", port).into()];
    });
    let subscriber = daemon.subscriber(&["event"]);
    let mut publisher = RawPeer(listener.accept().expect("it is dialled").0);
    publisher.send(&[greeting(), ready("PUB", "")].concat());
    daemon.wait_for("the publisher", |status| status.publishers.connected == 1);
    let header = [&[2][..], &(EVENT_BYTES as u64).to_be_bytes()].concat();
    let body = [&b"event"[..], &vec![7; EVENT_BYTES - 5]].concat();
    publisher.send(&[header, body.clone()].concat().repeat(SENT));
    assert!(daemon.stop());
    for _ in 0..SENT {
        assert!(subscriber.recv_bytes(0).expect("an event") == body);
    }
}

#[test]
fn a_start_that_fails_lets_go_of_the_state_directory() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let mut config = config();
        config.state_dir = directory.path().to_owned();
        config.sub_addresses = vec![Endpoint::tcp("127.0.0.1", port)];
        let error = Daemon::start(config).unwrap_err().to_string();
        assert!(error.contains("subAddress"), "{error}");
        // Its thread has ended, or the lock would still be held: but for a moment by a process that another
        // test has forked and that has not begun its own program.
        let locked = wait_until(|| StateDir::lock(directory.path()).ok());
        locked.expect("nobody has the lock");
    }
}
