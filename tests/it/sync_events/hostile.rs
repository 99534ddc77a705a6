//! Locators and services that answer too much, or nonsense.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use event_manager_wire::api::{CallResult, CallStatus};
use event_manager_wire::model::Endpoint;

use super::super::support::raw::{RawPeer, greeting_of, ready};
use super::super::support::responder::Responder;
use super::super::support::{TestDaemon, tunnel};
use super::{LONG, SHORT, Service, call, register, with_locator};

#[test]
fn what_a_locator_says_is_bounded_before_it_is_used_or_echoed() {
    const MIB: usize = 1 << 20;
    let host = ["tcp://", &"h".repeat(4 * MIB), ":1"].concat();
    let path = ["ipc://", &"\u{1}".repeat(4 * MIB)].concat();
    let garbled = "\u{1}".repeat(4 * MIB);
    for (token, said) in [
        ("TK_SYS_ACK", &host),
        ("TK_SYS_ACK", &path),
        ("TK_SYS_ACK", &garbled),
        ("TK_SYS_NAK", &garbled),
    ] {
        let locator = Responder::new(token, said.as_str());
        let daemon = TestDaemon::with(|config| {
            config.locator.address = locator.address.parse().expect("an address");
        });
        daemon.subscribe("sub-1", "Billing", &["Order"]);
        let begun = Instant::now();
        let (token, results) = call(&daemon, Duration::from_secs(2));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(token, "TK_SYS_NAK");
        assert_eq!(results[0].status, CallStatus::Unreachable);
        let shown = results[0].data.as_ref().expect("a sentence").len();
        assert!(shown < 2048, "{shown} bytes are echoed");
    }
}

#[test]
fn answers_of_services_are_no_larger_together_than_a_message() {
    const SAID: usize = 40_000;
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.limits.message_bytes_max = 100_000;
    });
    let services: Vec<_> = (0..4)
        .map(|n| {
            let data = vec![b'a' + n; SAID];
            let service = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", &data);
            let name = format!("Service-{n}");
            daemon.subscribe(&format!("sub-{n}"), &name, &["Order"]);
            register(&daemon, &name, &service.address);
            service
        })
        .collect();
    let (token, results) = call(&daemon, LONG);
    assert_eq!((&*token, results.len()), ("TK_SYS_ACK", services.len()));
    let len = |result: &CallResult| result.data.as_ref().map_or(0, String::len);
    let whole = |result: &&CallResult| len(result) == SAID;
    let (whole, cut): (Vec<_>, Vec<_>) = results.iter().partition(whole);
    assert_eq!(whole.len(), 2, "they fit");
    for result in cut {
        assert_eq!(result.status, CallStatus::Ack);
        assert_eq!(result.data_bytes, Some(SAID as u64));
        assert!(result.data.is_some() && len(result) < SAID);
    }
}

/// Where this is done with each connection.
fn listening(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.expect("a connection"));
        }
    });
    tunnel::before(&format!("tcp://{address}"))
}

/// A service that says this when it is asked, and hangs up.
fn saying(said: &[u8]) -> String {
    let said = said.to_vec();
    listening(move |stream| {
        let mut peer = RawPeer(stream);
        peer.send(&[greeting_of(1), ready("ROUTER", "")].concat());
        peer.read_exactly(64);
        peer.read_frame();
        assert_eq!(peer.read_message().len(), 4);
        peer.send_while_heard(&said);
    })
}

#[test]
fn services_that_misbehave_cost_their_own_answers_alone() {
    let daemon = with_locator();
    let mutes = Mutex::new(vec![]);
    let mute = listening(move |stream| mutes.lock().expect("no panic").push(stream));
    let garbage = listening(|mut stream| {
        // It may hang up before that is written.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut vec![]);
    });
    let long_frame = [&[2][..], &u64::MAX.to_be_bytes()].concat();
    let ack = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"yes");
    for (service, address) in [
        ("Ack", &ack.address),
        ("Endless", &saying(&[1, 0].repeat(100_000))),
        ("Garbage", &garbage),
        ("Huge", &saying(&long_frame)),
        ("Mute", &mute),
        ("Quits", &saying(b"")),
    ] {
        daemon.subscribe(&format!("sub-{service}"), service, &["Order"]);
        register(&daemon, service, address);
    }
    let (token, results) = call(&daemon, SHORT);
    assert_eq!(token, "TK_SYS_NAK");
    let statuses: BTreeMap<_, _> = results
        .iter()
        .map(|r| (&*r.service, r.status.name()))
        .collect();
    let expected = [
        ("Ack", "ack"),
        ("Endless", "timeout"),
        ("Garbage", "unreachable"),
        ("Huge", "timeout"),
        ("Mute", "timeout"),
        ("Quits", "timeout"),
    ];
    assert_eq!(statuses, expected.into(), "{results:#?}");
}
