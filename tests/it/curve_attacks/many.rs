//! Attacks by numbers. The short ones are run always; the long ones by `just curve-floods`.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{Attacked, KNOWN};
use crate::support::keys::{Keys, SERVER, Spread, publisher};
use crate::support::raw::{COMMAND, RawPeer, tcp_address};
use crate::support::raw_curve::{CurvePeer, RawCurve, any_frame, curve_greeting};
use crate::support::{PATIENCE, TestDaemon};

/// A connection from another address of this machine.
fn from(source: [u8; 4], address: &str) -> RawPeer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source = SocketAddr::from((source, 0));
    socket
        .bind(&source.into())
        .expect("an address of this machine");
    let address: SocketAddr = tcp_address(address).parse().expect("an address");
    socket.connect(&address.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.set_nodelay(true).expect("an option");
    RawPeer(stream)
}

fn attacked() -> Attacked {
    let keys = Keys::new();
    Attacked::of(keys, |keys| {
        TestDaemon::in_own_process(&json!({
            "security": keys.security(&["curve"]), "handshakeTimeout": 2,
        }))
    })
}

/// CVE-2020-15166: libzmq kept what was to be sent to connections that had not shaken hands.
fn idle(attacked: &mut Attacked, count: usize, says: &[&[u8]]) {
    let address = attacked.daemon.publishers();
    let before = attacked.daemon.process().resident_bytes();
    let begun = Instant::now();
    let mut idle = vec![];
    for (n, said) in (0..count).zip(says.iter().cycle()) {
        let mut peer = from([127, 0, 1, (n / says.len() % 200) as u8 + 1], &address);
        peer.send(said);
        idle.push(peer);
    }
    println!("{count} connections after {:?}", begun.elapsed());
    attacked.goes_on();
    println!("another, {:?} after they began:", begun.elapsed());
    attacked.goes_on();
    let grown = attacked
        .daemon
        .process()
        .resident_bytes()
        .saturating_sub(before);
    println!("{} bytes for each", grown / count as u64);
    attacked
        .daemon
        .wait_for("their end", |status| status.connections.open < 10);
    println!("all are closed after {:?}", begun.elapsed());
    attacked.goes_on();
}

/// What connections say that say nothing more then.
fn sayings() -> [(&'static str, Vec<u8>); 4] {
    let hello = any_frame(COMMAND, &RawCurve::new(KNOWN, SERVER).hello());
    let greeting = curve_greeting();
    [
        ("nothing", vec![]),
        ("11 bytes", greeting[..11].to_vec()),
        ("a greeting", greeting.clone()),
        ("a greeting and HELLO", [greeting, hello].concat()),
    ]
}

#[test]
fn c06_connections_that_say_nothing_more() {
    let says = sayings();
    let says: Vec<&[u8]> = says.iter().map(|(_, said)| &said[..]).collect();
    idle(&mut attacked(), 200, &says);
}

/// One kind after the other: a process may have 20,000 descriptors in most places.
#[test]
#[ignore = "10,000 connections of each kind: just curve-floods"]
fn c06_ten_thousand_connections_of_each_kind_that_say_nothing_more() {
    for (what, said) in sayings() {
        println!("{what}:");
        idle(&mut attacked(), 10_000, &[&said]);
    }
}

/// libzmq#3566: each forged message left memory behind.
fn forged_messages(count: usize) {
    let mut attacked = attacked();
    let address = attacked.daemon.publishers();
    let forge = || {
        let mut peer = CurvePeer::met(&address, KNOWN, "PUB");
        let mut message = peer.curve.message(0, &[7; 1000]);
        *message.last_mut().expect("a byte") ^= 1;
        peer.raw.send(&message);
    };
    let warming_up = count / 10;
    (0..warming_up).for_each(|_| forge());
    attacked.refuses(&[("curve-forged", warming_up as u64)]);
    let before = attacked.daemon.process().resident_bytes();
    (warming_up..count).for_each(|_| forge());
    attacked.refuses(&[("curve-forged", (count - warming_up) as u64)]);
    let grown = attacked
        .daemon
        .process()
        .resident_bytes()
        .saturating_sub(before);
    println!("{count} forged messages: {grown} bytes");
    assert!(grown < 8 << 20, "{grown}");
    attacked.goes_on();
}

#[test]
fn c08_forged_messages() {
    forged_messages(100);
}

#[test]
#[ignore = "takes half a minute: just curve-floods"]
fn c08_many_forged_messages() {
    forged_messages(20_000);
}

/// HELLOs for another server's key from four addresses, so many a second in all.
fn flood(address: &str, per_second: u32, stop: &AtomicBool, sent: &AtomicU64) {
    let hello = any_frame(COMMAND, &RawCurve::new(KNOWN, 99).hello());
    let bytes = [curve_greeting(), hello].concat();
    let interval = Duration::from_secs(1) * 4 / per_second;
    std::thread::scope(|scope| {
        for n in 1..=4 {
            let bytes = &bytes;
            scope.spawn(move || {
                let mut open = VecDeque::new();
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let mut peer = from([127, 0, 2, n], address);
                    // Closed with a reset: thousands of connections would wait for their ports.
                    let linger = Some(Duration::ZERO);
                    socket2::SockRef::from(&peer.0)
                        .set_linger(linger)
                        .expect("an option");
                    peer.send_while_heard(bytes);
                    sent.fetch_add(1, Ordering::Relaxed);
                    open.push_back(peer);
                    if open.len() > 500 {
                        open.pop_front();
                    }
                    due += interval;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
    });
}

fn survives_a_flood(per_second: u32, time: Duration) {
    let mut attacked = attacked();
    let address = attacked.daemon.publishers();
    let quiet = attacked.latencies(time / 4);
    let before = attacked.daemon.process().resident_bytes();
    let cpu_before = attacked.daemon.process().cpu_time();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let flooding = Instant::now();
    let flooded = std::thread::scope(|scope| {
        scope.spawn(|| flood(&address, per_second, &stop, &sent));
        let begun = Instant::now();
        let flooded = attacked.latencies(time / 2);
        let newcomer = Instant::now();
        let mut peer = publisher(&attacked.daemon, KNOWN);
        peer.publish("Order", b"of a newcomer");
        assert_eq!(attacked.subscriber.message()[1], b"of a newcomer");
        println!("a newcomer's event came after {:?}", newcomer.elapsed());
        let more = attacked.latencies(time / 2);
        let grown = attacked
            .daemon
            .process()
            .resident_bytes()
            .saturating_sub(before);
        let cpu = attacked.daemon.process().cpu_time() - cpu_before;
        let rate = sent.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        println!("{rate:.0} HELLOs/s, {cpu:?} CPU, {} KiB grown", grown >> 10);
        assert!(grown < 16 << 20, "{grown}");
        [flooded, more].concat()
    });
    println!("{} quiet", Spread(quiet));
    println!("{} in the flood", Spread(flooded));
    let refused = attacked.daemon.status().peers.refused;
    println!("{refused:?}");
    // 4 addresses, each with 200 at once and 50 a second.
    let opened = refused.get("curve-server-key").copied().unwrap_or_default();
    let seconds = flooding.elapsed().as_secs() + 1;
    assert!(opened <= 4 * (200 + 50 * seconds), "{opened}");
    attacked.goes_on();
}

#[test]
fn hellos_of_one_address_are_bounded() {
    survives_a_flood(2000, Duration::from_secs(1));
}

#[test]
#[ignore = "takes 80 s: just curve-floods"]
fn a_flood_of_hellos() {
    survives_a_flood(20_000, Duration::from_secs(60));
}
