//! Clients that come and go for ever leave nothing behind.

use std::net::TcpStream;
use std::time::Duration;

use event_manager::reactor::Bound;
use event_manager_wire::api::Status;
use serde_json::json;
use socket2::SockRef;

use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::raw::{RawPeer, command, frame, message, tcp_address};

/// Odd and no multiple of three, so that each sees all kinds of cycles.
const THREADS: usize = 5;
/// As many services come back again and again.
const SERVICES: usize = 400;
/// What the allocator may keep, in bytes.
const MEMORY_SLACK: u64 = 1 << 20;

/// Connects to the daemon's sockets, subscribes, unsubscribes, and leaves: as a subscriber or as a
/// service, politely or with a reset. The address of the service's workers, if it was one.
fn cycle(bound: &Bound, n: usize) -> Option<String> {
    let (peer, pull_address) = match n % 2 {
        0 => (come_as_subscriber(bound, n), None),
        _ => {
            let (peer, address) = come_as_service(bound, n);
            (peer, Some(address))
        }
    };
    if n.is_multiple_of(3) {
        // It closes with a RST.
        let socket = SockRef::from(&peer.0);
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }
    pull_address
}

/// Every second one leaves without a CANCEL.
fn come_as_subscriber(bound: &Bound, n: usize) -> RawPeer {
    let mut peer = RawPeer::met(&bound.subscribers[0].to_string(), "SUB");
    let prefix = format!("subject-{n}");
    peer.send(&command("SUBSCRIBE", prefix.as_bytes()));
    if n.is_multiple_of(4) {
        peer.send(&command("CANCEL", prefix.as_bytes()));
    }
    peer.send(&command("PING", &[0, 10]));
    assert_eq!(peer.read_frame().1, b"\x04PONG");
    peer
}

/// Every second one has a worker.
fn come_as_service(bound: &Bound, n: usize) -> (RawPeer, String) {
    let mut peer = RawPeer::met(&bound.requests[0].to_string(), "DEALER");
    let mut ask = |token: &str, data: &str| {
        peer.send(&message(&[token, "PARAM", data]));
        let answer = peer.read_message();
        assert_eq!(answer[0], b"TK_SYS_ACK", "{answer:?}");
        String::from_utf8(answer[2].clone()).expect("text")
    };
    let (id, name) = (format!("id-{n}"), format!("Service-{}", n / 2 % SERVICES));
    // Two threads may come for one service at the same time: it ends with the second of them.
    let data = format!("{id}\0{name}\0subject-{n}\0exact:other-{n}\0glob:*.{n}");
    let addresses = ask("TK_EVENT_MANAGER_SUBSCRIBE", &data);
    let pull_address = addresses
        .rsplit('\0')
        .next()
        .expect("an address")
        .to_owned();
    if n % 4 == 1 {
        let mut worker = RawPeer::met_as(&pull_address, "DEALER", &id, 1);
        worker.send(&frame(0, b"READY"));
    }
    ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &id);
    (peer, pull_address)
}

fn run_cycles(bound: &Bound, cycles: std::ops::Range<usize>) -> Vec<String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mine = cycles.clone().skip(thread).step_by(THREADS);
                scope.spawn(move || mine.fold(None, |last, n| cycle(bound, n).or(last)))
            })
            .collect();
        let last = threads.into_iter().map(|thread| thread.join());
        last.filter_map(|address| address.expect("no panic"))
            .collect()
    })
}

fn is_empty(status: &Status) -> bool {
    status.connections.open == 0
        && status.services.is_empty()
        && status.subscribers.subscriptions == 0
}

fn churn(cycles: usize) {
    let daemon = TestDaemon::in_own_process(&json!({}));
    let process = daemon.process();
    let warm_up = cycles / 10;
    run_cycles(daemon.bound(), 0..warm_up);
    daemon.wait_for("its emptiness", is_empty);
    let (memory, fds) = (process.resident_bytes(), process.open_fds());

    let last_addresses = run_cycles(daemon.bound(), warm_up..cycles);
    daemon.wait_for("its emptiness", |status| {
        is_empty(status) && process.open_fds() <= fds
    });
    let grown = process.resident_bytes().saturating_sub(memory);
    let open = process.open_fds();
    println!("{cycles} cycles: {memory} bytes, then {grown} more; {fds} descriptors, then {open}");
    assert!(grown < MEMORY_SLACK, "memory grew by {grown} bytes");
    assert_eq!(last_addresses.len(), THREADS);
    for address in last_addresses {
        assert!(
            TcpStream::connect(tcp_address(&address)).is_err(),
            "{address} is open"
        );
    }

    let publisher = daemon.publisher();
    (0..cycles).for_each(|n| publish(&publisher, &format!("subject-{n}"), ""));
    daemon.wait_for("events without a route", |status| {
        let publishers = &status.publishers;
        publishers.events == cycles as u64 && publishers.unmatched == cycles as u64
    });
}

#[test]
fn coming_and_going_leaves_nothing_behind() {
    churn(20_000);
}

#[test]
#[ignore = "long: just long"]
fn coming_and_going_leaves_nothing_behind_for_long() {
    churn(100_000);
}
