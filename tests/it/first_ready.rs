//! A worker's first READY that can't be read, and one that has to be said again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::support::TestDaemon;
use super::support::peers::{connected, is_silent, publish, received};

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

/// Forwards connections one after the other, and cuts each when it is told to: both ends live on.
fn relay(to: &str) -> (String, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let to = to.strip_prefix("tcp://").expect("a TCP address").to_owned();
    let (cut, cuts) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(&to) else {
                return;
            };
            let clones = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            for (mut from, mut to) in [(clones(&near), clones(&far)), (clones(&far), clones(&near))]
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
            if cuts.recv().is_err() {
                return;
            }
            for end in [near, far] {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    });
    (address, cut)
}

#[test]
fn a_worker_whose_connection_was_cut_says_ready_again_and_once_too_often_does_no_harm() {
    let daemon = TestDaemon::start();
    let publisher = daemon.publisher();
    for (service, ready) in [("Plain", "READY"), ("Acks", r#"READY {"ack": true}"#)] {
        let subscribed = daemon.subscribe(service, service, &[service]);
        let (address, cut) = relay(&subscribed.pull_address);
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
            let word = String::from_utf8_lossy(&event[0]).into_owned();
            let delivery = word.split(' ').nth(1).expect("its number").to_owned();
            worker.send(&format!("ACK {delivery}"), 0).expect("a send");
        }
        daemon.wait_for_counter(service, |counters| counters.delivered, 1);
        assert!(is_silent(&worker, 100), "it came twice");
    }
}

/// Forwards connections one after the other. When it is told to, it swallows what comes from the daemon and
/// keeps that end open; the worker's end is closed at once, or when the daemon has given up.
fn swallowing_relay(to: &str, closes_at_once: bool) -> (String, mpsc::Sender<()>) {
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
            let clones = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            for (is_near, mut from, mut to) in [
                (true, clones(&near), clones(&far)),
                (false, clones(&far), clones(&near)),
            ] {
                let is_cut = Arc::clone(&is_cut);
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(len @ 1..) = from.read(&mut buffer) {
                        if !is_cut.load(Ordering::SeqCst) && to.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                    }
                    // The daemon doesn't hear that a worker is gone which is cut off.
                    if !(is_near && is_cut.load(Ordering::SeqCst)) {
                        let _ = to.shutdown(Shutdown::Both);
                    }
                });
            }
            if cuts.recv().is_err() {
                return;
            }
            is_cut.store(true, Ordering::SeqCst);
            if closes_at_once {
                let _ = near.shutdown(Shutdown::Both);
            }
        }
    });
    (address, cut)
}

/// Its machine couldn't be reached for a while, and it doesn't know: libzmq connects again by itself.
#[test]
fn a_worker_that_fell_silent_goes_on_without_a_word() {
    let interval = Duration::from_millis(100);
    let daemon = TestDaemon::with(|config| config.heartbeat_interval = interval);
    let publisher = daemon.publisher();
    let acks = r#"READY {"ack": true, "credit": 7}"#;
    let all = [
        ("PlainEarly", "READY", true),
        ("PlainLate", "READY", false),
        ("AcksEarly", acks, true),
        ("AcksLate", acks, false),
    ];
    let workers = all.map(|(service, ready, comes_early)| {
        let subscribed = daemon.subscribe(service, service, &[service]);
        let (address, cut) = swallowing_relay(&subscribed.pull_address, comes_early);
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
                let word = String::from_utf8_lossy(&event[0]).into_owned();
                let delivery = word.split(' ').nth(1).expect("its number").to_owned();
                worker.send(&format!("ACK {delivery}"), 0).expect("a send");
            }
            daemon.wait_for_counter(service, |counters| counters.delivered, 1);
        }
    }
}
