//! What the daemon asks of the system for an event.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::NamedTempFile;

use super::support::TestDaemon;
use super::support::peers::{publish, received};
use super::support::process::signal;
use super::support::responder::{Responder, register};

/// How many calls a process made, in all its threads, while something was done.
fn calls_of(pid: u32, during: impl FnOnce()) -> u64 {
    let counts = NamedTempFile::new().expect("a file");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(counts.path())
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed");
    let mut lines = BufReader::new(strace.stderr.take().expect("it is piped")).lines();
    let attached = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("attached")));
    assert!(attached.is_some(), "strace could not attach");
    during();
    signal(strace.id(), "INT");
    strace.wait().expect("a child");
    let counts = fs::read_to_string(counts.path()).expect("text");
    println!("{counts}");
    let total = counts
        .lines()
        .find_map(|line| line.trim().strip_suffix("total"));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.expect("a total")
}

#[test]
#[ignore = "needs root or the right to trace, and strace"]
fn an_event_that_comes_alone_takes_three() {
    const EVENTS: u64 = 200;
    let daemon = TestDaemon::in_own_process(&json!({}));
    let (publisher, subscriber) = (daemon.publisher(), daemon.subscriber(&["Order"]));
    let one = || {
        // The daemon has come to rest, or it would find the next event before it waits.
        std::thread::sleep(Duration::from_millis(2));
        publish(&publisher, "Order", "x");
        assert_eq!(received(&subscriber), "x");
    };
    one();
    let calls = calls_of(daemon.process().pid(), || (0..EVENTS).for_each(|_| one()));
    // Wait, read, write; and now and then what a daemon does that has no events.
    assert!(calls < EVENTS * 7 / 2, "{calls} for {EVENTS} events");
}

#[test]
#[ignore = "needs root or the right to trace, and strace"]
fn a_sync_event_for_one_service_takes_twelve() {
    const CALLS: u64 = 200;
    let locator = json!({"embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0"});
    let daemon = TestDaemon::in_own_process(&locator);
    let responder = Responder::new("TK_SYS_ACK", "");
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon.locator(), "Billing", &responder.address);
    let requester = daemon.requester();
    let one = || {
        std::thread::sleep(Duration::from_millis(2));
        let event = ["TK_EVENT_MANAGER_PUBLISH", "PARAM", "data\0Order"];
        requester.send_multipart(event, 0).expect("a send");
        let answer = requester.recv_multipart(0).expect("an answer");
        assert_eq!(answer[0], b"TK_SYS_ACK");
    };
    one();
    let calls = calls_of(daemon.process().pid(), || (0..CALLS).for_each(|_| one()));
    assert!(calls < CALLS * 25 / 2, "{calls} for {CALLS} sync events");
}
