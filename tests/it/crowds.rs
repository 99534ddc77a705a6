//! Connections whose handshake never ends, and many that come at once.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use event_manager_wire::api::Status;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::support::TestDaemon;
use super::support::bus::own_host;
use super::support::healthy::Healthy;
use super::support::peers::socket;
use super::support::raw::{self, RawPeer, greeting, message, tcp_address};
use super::support::tunnel;

/// Connections from this address of the machine.
pub fn connections_from(host: &str, address: &str, count: usize) -> Vec<TcpStream> {
    let from: SocketAddr = format!("{host}:0").parse().expect("an address");
    let to: SocketAddr = tcp_address(address).parse().expect("an address");
    let connect = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).expect("an address");
        socket.connect(&to.into()).expect("a connection");
        socket.into()
    };
    (0..count).map(connect).collect()
}

fn unfinished(status: &Status) -> u64 {
    status.refused("too-many-unfinished")
}

/// How long a good client takes until it is answered.
fn answered_within(daemon: &TestDaemon) -> Duration {
    let begun = Instant::now();
    let (token, _) = daemon.ask("TK_EVENT_MANAGER_KEEP_ALIVE", &["healthy"]);
    assert_eq!(token, "TK_SYS_ACK");
    begun.elapsed()
}

#[test]
fn one_address_can_not_fill_all_connections_with_half_greetings() {
    let settings = json!({"maxConnections": 400, "handshakeTimeout": 60});
    let daemon = TestDaemon::in_own_process(&settings);
    let healthy = Healthy::start(&daemon);
    let mut silent = vec![];
    for n in 1..=1000 {
        silent.extend(connections_from("127.0.0.1", &daemon.publishers(), 1));
        if n % 100 == 0 {
            // From this address, too.
            assert!(answered_within(&daemon) < Duration::from_secs(1));
        }
    }
    let status = daemon.wait_for("they are bounded", |status| {
        unfinished(status) + 64 >= 1000
            && status.connections.open <= 64 + Healthy::CONNECTIONS
            && (60..=64).contains(&status.connections.unfinished)
    });
    assert_eq!(status.refused("too-many-connections"), 0);
    let why = status.peers.refused_again.iter();
    let mut why = why.filter(|again| again.reason == "too-many-unfinished");
    assert_eq!(
        why.next().map(|again| &*again.why),
        Some("no handshake so far, and its address has 64 connections without one")
    );
    drop(silent);
    daemon.wait_for("their end", |status| status.connections.unfinished == 0);
    healthy.finish();
}

/// It has been told READY, so it takes itself for connected, and sends.
#[test]
fn who_speaks_our_mechanism_makes_room_for_nobody_who_is_silent() {
    let daemon = TestDaemon::in_own_process(&json!({"maxConnections": 400}));
    let mut peer = RawPeer::connect(&daemon.requests());
    peer.send(&greeting());
    peer.read_exactly(64);
    let ready = peer.read_frame();
    assert!(ready.1.starts_with(b"\x05READY"), "{ready:?}");
    let silent = connections_from("127.0.0.1", &daemon.requests(), 200);
    daemon.wait_for("others had to go", |status| unfinished(status) >= 200 - 64);
    peer.send(&raw::ready("DEALER", ""));
    peer.send(&message(&[
        "",
        "TK_EVENT_MANAGER_KEEP_ALIVE",
        "STRING",
        "x",
    ]));
    let answer = peer.read_message();
    assert!(
        answer.iter().any(|frame| frame == b"TK_SYS_NAK"),
        "{answer:?}"
    );
    drop(silent);
}

#[test]
fn nor_can_many_addresses() {
    let settings = json!({"maxConnections": 400, "handshakeTimeout": 60});
    let daemon = TestDaemon::in_own_process(&settings);
    let healthy = Healthy::start(&daemon);
    let mut silent = vec![];
    for host in 2..22 {
        let from = format!("127.0.0.{host}");
        silent.extend(connections_from(&from, &daemon.requests(), 60));
        assert!(answered_within(&daemon) < Duration::from_secs(1));
    }
    let status = daemon.wait_for("they are bounded", |status| {
        unfinished(status) + 200 >= 1200 && status.connections.open <= 200 + Healthy::CONNECTIONS
    });
    assert_eq!(status.refused("too-many-connections"), 0);
    healthy.finish();
}

/// Connections that are in use are nobody's to take, those that aren't are.
#[test]
fn who_greets_gets_the_place_of_who_does_not() {
    let settings = json!({"maxConnections": 60, "handshakeTimeout": 60});
    let daemon = TestDaemon::in_own_process(&settings);
    let mut peers: Vec<_> = (0..40)
        .map(|_| RawPeer::met(&daemon.subscribers(), "SUB"))
        .collect();
    let mut silent = connections_from("127.0.0.9", &daemon.publishers(), 100);
    daemon.wait_for("it is full", |status| status.connections.open >= 60);
    for _ in 0..19 {
        peers.push(RawPeer::met(&daemon.subscribers(), "SUB"));
    }
    silent.extend(connections_from("127.0.0.9", &daemon.publishers(), 5));
    peers.push(RawPeer::met(&daemon.subscribers(), "SUB"));
    daemon.wait_for("all places are in use", |status| {
        status.subscribers.connected == 60 && status.connections.open == 60
    });
    let before = daemon.refused("too-many-connections");
    let mut late = RawPeer::connect(&daemon.subscribers());
    late.send_while_heard(&greeting());
    daemon.wait_for("there is no more room", |status| {
        status.refused("too-many-connections") > before
    });
    drop(silent);
}

/// As behind one router, after the daemon was away.
#[test]
fn a_thousand_clients_of_one_address_come_back_at_once() {
    const CLIENTS: usize = 1000;
    rlimit::increase_nofile_limit(8000).expect("a limit");
    let host = own_host();
    let mut settings = json!({ "subAddress": format!("tcp://{host}:0") });
    let daemon = TestDaemon::in_own_process(&settings);
    let address = daemon.subscribers();
    let crowd = zmq::Context::new();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = socket(&crowd, zmq::SUB);
            client.set_subscribe(b"").expect("an option");
            client.connect(&tunnel::to(&address)).expect("an address");
            client
        })
        .collect();
    daemon.wait_for("all are there", |status| {
        // Who was refused at first says what it wants again when its socket is used.
        for client in &clients {
            client.get_events().expect("an option");
        }
        status.subscribers.subscriptions == CLIENTS as u64
    });
    daemon.kill();
    // They have seen its end, and try again ten times a second each.
    std::thread::sleep(Duration::from_millis(300));
    settings["subAddress"] = json!(address);
    let daemon = TestDaemon::in_own_process(&settings);
    let begun = Instant::now();
    let status = daemon.wait_for("all are back", |status| {
        status.subscribers.connected == CLIENTS as u64
    });
    let took = begun.elapsed();
    println!(
        "{CLIENTS} clients are back after {took:?}, {:?}",
        status.peers.refused
    );
    // With keys, so many of one address as may be under way at once; the others come again after a second.
    let allowed = Duration::from_secs(if tunnel::is_on() { 20 } else { 5 });
    assert!(took < allowed, "{took:?}");
    drop(clients);
}
