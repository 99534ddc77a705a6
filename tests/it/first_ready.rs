//! A worker's first READY that can't be read, and when it has to be said again after a cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::raw::{RawPeer, greeting, message, ready};

#[test]
fn a_first_ready_that_can_not_be_read_is_answered_if_it_speaks_of_acknowledging() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    for (options, wanted) in [
        (
            r#"{"ack": "yes"}"#,
            "ack must be true or false, not \"yes\"",
        ),
        (
            r#"{"ack": true, "credit": "many"}"#,
            "credit is 1 to 100000",
        ),
        (
            r#"{"ack": true, "ids": 1}"#,
            "ids must be true or false, not 1",
        ),
        (r#"{"ack": true"#, "READY's options are not valid JSON"),
        ("", "READY and its options need a space between"),
        (r#"["ack"]"#, "READY's options must be a JSON object"),
    ] {
        for before in [&[][..], &[""]] {
            let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
            let ready = match options.is_empty() {
                true => r#"READY{"ack": true}"#.to_owned(),
                false => format!("READY {options}"),
            };
            let frames = [before, &[&*ready]].concat();
            worker.send_multipart(&frames, 0).expect("a send");
            let answer = worker.recv_multipart(0).expect("an answer");
            assert_eq!(answer.len(), frames.len(), "{options}");
            let said = String::from_utf8_lossy(answer.last().expect("a frame"));
            assert!(
                said.starts_with(&format!("ERROR {wanted}")),
                "{options}: {said}"
            );
            // It goes on as if it had said nothing.
            let ready = r#"READY {"ack": true}"#;
            let frames = [before, &[ready]].concat();
            worker.send_multipart(&frames, 0).expect("a send");
            daemon.wait_for_ready("Billing", 1);
            drop(worker);
            daemon.wait_for_ready("Billing", 0);
        }
    }
    // One that doesn't speak of it would take an answer for an event.
    let before = daemon.status().refused("unknown-worker-message");
    let plain = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    plain.send("READY now", 0).expect("a send");
    daemon.wait_for("the word", |status| {
        status.refused("unknown-worker-message") == before + 1
    });
    plain.send("READY", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&plain), "x");
}

/// Of what a worker is sent, only events go to others when it is gone before that was written.
#[test]
fn an_answer_to_a_ready_that_was_not_written_is_no_event() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Kept": {"delivery": "queue"}},
    }));
    for service in ["Live", "Kept"] {
        let pull_address = daemon.subscribe(service, service, &["Order"]).pull_address;
        let bad = message(&[r#"READY {"ack":tru"#]);
        let proxied = message(&["id", "", r#"READY {"ack":tru"#]);
        for said in [
            bad.clone(),
            [message(&["READY"]), bad.clone()].concat(),
            [
                message(&["READY"]),
                message(&["id", "", "READY"]),
                bad,
                proxied,
            ]
            .concat(),
        ] {
            let before = daemon.refused("malformed");
            let mut peer = RawPeer::connect(&pull_address);
            // What is said last ends the connection, before anything is written to it.
            peer.send(&[greeting(), ready("DEALER", ""), said, vec![0x80, 0]].concat());
            daemon.wait_for("its end", |status| {
                status.refused("malformed") == before + 1
            });
            daemon.wait_for_ready(service, 0);
        }
        let worker = daemon.worker(service, &pull_address);
        assert!(is_silent(&worker, 20), "{service}");
        publish(&daemon.publisher(), "Order", "x");
        assert_eq!(received(&worker), "x");
        daemon.dismiss(service, worker);
        daemon.wait_for_counter(service, |c| c.delivered, 1);
    }
}

/// How both ends of a connection, which live on, learn that it is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It is closed.
    Closed,
    /// Nothing passes any more. The worker knows at once, the daemon doesn't.
    SilentAndKnown,
    /// The same, and the worker learns it when the daemon has given up.
    Silent,
}

/// Forwards connections one after the other, and cuts each when it is told to.
fn relay(to: &str, how: Cut) -> (String, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let to = to.strip_prefix("tcp://").expect("a TCP address").to_owned();
    let (cut, cuts) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(&to) else {
                return;
            };
            let is_cut = Arc::new(AtomicBool::new(false));
            for (from, to, from_worker) in [(&near, &far, true), (&far, &near, false)] {
                let clones = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                let (from, to, is_cut) = (clones(from), clones(to), Arc::clone(&is_cut));
                std::thread::spawn(move || forward(from, &to, from_worker, &is_cut));
            }
            if cuts.recv().is_err() {
                return;
            }
            is_cut.store(how != Cut::Closed, Ordering::SeqCst);
            if how != Cut::Silent {
                let _ = near.shutdown(Shutdown::Both);
            }
            if how == Cut::Closed {
                let _ = far.shutdown(Shutdown::Both);
            }
        }
    });
    (address, cut)
}

/// One direction, until its end, of which a daemon that is cut off from its worker doesn't hear.
fn forward(mut from: TcpStream, mut to: &TcpStream, from_worker: bool, is_cut: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !is_cut.load(Ordering::SeqCst) && to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    if !(from_worker && is_cut.load(Ordering::SeqCst)) {
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Says that an event is done, from the frame before it.
fn acknowledge(worker: &zmq::Socket, event: &[Vec<u8>]) {
    let word = String::from_utf8_lossy(&event[0]);
    let delivery = word.split(' ').nth(1).expect("its number");
    worker.send(&format!("ACK {delivery}"), 0).expect("a send");
}

#[test]
fn a_worker_whose_connection_was_cut_says_ready_again_and_once_too_often_does_no_harm() {
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    for (service, ready) in [("Plain", "READY"), ("Acks", r#"READY {"ack": true}"#)] {
        let subscribed = daemon.subscribe(service, service, &[service]);
        let (address, cut) = relay(&subscribed.pull_address, Cut::Closed);
        let worker = connected(&daemon.context, zmq::DEALER, &address);
        worker.send(ready, 0).expect("a send");
        daemon.wait_for_ready(service, 1);
        cut.send(()).expect("it runs");
        daemon.wait_for_ready(service, 0);
        daemon.wait_for_service(service, "the worker again", |found| {
            found.workers.connected == 1
        });
        publish(&publisher, service, "waits");
        daemon.wait_for_counter(service, |counters| counters.queued, 1);
        assert!(is_silent(&worker, 300), "it is not ready");
        for _ in 0..3 {
            worker.send(ready, 0).expect("a send");
        }
        let event = worker.recv_multipart(0).expect("the event");
        assert_eq!(event.last().expect("a frame"), b"waits");
        if service == "Acks" {
            worker.send(ready, 0).expect("a send");
            acknowledge(&worker, &event);
        }
        daemon.wait_for_counter(service, |counters| counters.delivered, 1);
        assert!(is_silent(&worker, 100), "it came twice");
    }
}

/// Its machine couldn't be reached for a while, and it doesn't know: libzmq connects again by itself.
#[test]
fn a_worker_that_fell_silent_goes_on_without_a_word() {
    let interval = Duration::from_millis(100);
    let daemon = TestDaemon::with(|config| config.heartbeat_interval = interval);
    let publisher = daemon.publisher();
    let acks = r#"READY {"ack": true, "credit": 7}"#;
    let all = [
        ("PlainEarly", "READY", Cut::SilentAndKnown),
        ("PlainLate", "READY", Cut::Silent),
        ("AcksEarly", acks, Cut::SilentAndKnown),
        ("AcksLate", acks, Cut::Silent),
    ];
    let workers = all.map(|(service, ready, how)| {
        let subscribed = daemon.subscribe(service, service, &[service]);
        let (address, cut) = relay(&subscribed.pull_address, how);
        let worker = connected(&daemon.context, zmq::DEALER, &address);
        worker.send(ready, 0).expect("a send");
        daemon.wait_for_ready(service, 1);
        (service, worker, cut)
    });
    for is_last in [false, true] {
        let before = daemon.status().refused("heartbeat-timeout");
        for (_, _, cut) in &workers {
            cut.send(()).expect("it runs");
        }
        daemon.wait_for("the connections given up", |status| {
            status.refused("heartbeat-timeout") >= before + 4
        });
        for (service, worker, _) in &workers {
            daemon.wait_for_service(service, "it goes on", |found| {
                found.workers.ready == 1 && found.workers.connected == 1
            });
            // One that was sent an event and hasn't said a word since may only be busy.
            if !is_last {
                continue;
            }
            publish(&publisher, service, "x");
            let event = worker.recv_multipart(0).expect("the event");
            assert_eq!(event.last().expect("a frame"), b"x", "{service}");
            if event[0].starts_with(b"EVENT ") {
                acknowledge(worker, &event);
            }
            daemon.wait_for_counter(service, |counters| counters.delivered, 1);
        }
    }
}
