//! Attacks by numbers. The short ones are run always; the long ones by `just curve-floods`.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{Attacked, KNOWN};
use crate::support::keys::{Keys, SERVER};
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
fn idle_in_every_state(of_each: usize) {
    let mut attacked = attacked();
    let address = attacked.daemon.publishers();
    let hello = any_frame(COMMAND, &RawCurve::new(KNOWN, SERVER).hello());
    let greeting = curve_greeting();
    let before = attacked.daemon.process().resident_bytes();
    let begun = Instant::now();
    let mut idle = vec![];
    for n in 0..of_each {
        let source = [127, 0, 1, (n % 200) as u8 + 1];
        let said = [
            &b""[..],
            &greeting[..11],
            &greeting,
            &[&greeting[..], &hello].concat(),
        ];
        for said in said {
            let mut peer = from(source, &address);
            peer.send(said);
            idle.push(peer);
        }
    }
    println!("{} connections after {:?}", idle.len(), begun.elapsed());
    attacked.goes_on();
    let grown = attacked
        .daemon
        .process()
        .resident_bytes()
        .saturating_sub(before);
    println!("{} bytes for each", grown / idle.len() as u64);
    attacked
        .daemon
        .wait_for("their end", |status| status.connections.open < 10);
    println!("all are closed after {:?}", begun.elapsed());
    attacked.goes_on();
}

#[test]
fn c06_connections_that_say_nothing_more() {
    idle_in_every_state(50);
}

#[test]
#[ignore = "10,000 connections: just curve-floods"]
fn c06_ten_thousand_connections_that_say_nothing_more() {
    idle_in_every_state(2500);
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
