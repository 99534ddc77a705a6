//! Instances that nobody has named, found by who subscribes to their heartbeats.

use std::io::ErrorKind;
use std::net::TcpListener;

use event_manager::config::Config;
use event_manager_wire::api::{Dialled, InstanceState};

use super::{heartbeat, observing, send, state_of, wait_for};
use crate::support::TestDaemon;
use crate::support::peers::{connected, is_silent, received, socket};

/// An instance as ScheduleZero's: it binds to publish, and connects to hear the others.
struct Found {
    publisher: zmq::Socket,
    port: u16,
}

fn bound(context: &zmq::Context) -> Found {
    let publisher = socket(context, zmq::PUB);
    publisher.bind("tcp://0.0.0.0:*").expect("a port");
    let at = publisher.get_last_endpoint().expect("an option");
    let port = at.expect("text").rsplit(':').next().map(str::parse);
    Found {
        publisher,
        port: port.expect("a port").expect("a number"),
    }
}

fn discovering(places: &[String]) -> impl FnOnce(&mut Config) {
    let places = places.iter().map(|place| place.parse().expect("a place"));
    let places: Vec<_> = places.collect();
    |config| {
        observing(config);
        config.instances.discover = places;
    }
}

fn listener(daemon: &TestDaemon) -> zmq::Socket {
    let listener = connected(&daemon.context, zmq::SUB, &daemon.subscribers());
    listener.set_subscribe(b"").expect("an option");
    listener
}

fn dialled(daemon: &TestDaemon) -> Vec<Dialled> {
    daemon.status().publishers.dialled
}

#[test]
fn who_hears_heartbeats_is_heard_without_being_named() {
    let context = zmq::Context::new();
    let one = bound(&context);
    let place = format!("tcp://127.0.0.0/8:{}", one.port);
    let daemon = TestDaemon::with(discovering(&[place]));
    assert!(dialled(&daemon).is_empty());
    let hears = listener(&daemon);
    wait_for(&daemon, "it is found", |instances| {
        send(&one.publisher, &heartbeat("a", 7));
        state_of(instances, "a") == Some(InstanceState::Alive)
    });
    let known = dialled(&daemon);
    assert!(
        known.len() == 1 && known[0].discovered && known[0].connected,
        "{known:?}"
    );
    assert!(
        known[0].address.ends_with(&format!(":{}", one.port)),
        "{known:?}"
    );
    // What it sends passes once, also when it is looked for again.
    while !is_silent(&hears, 50) {
        received(&hears);
    }
    send(&one.publisher, "event");
    assert_eq!(received(&hears), "event");
    assert!(is_silent(&hears, 1100), "it came twice");
    // Another that comes later at the same address is found, too; one that is gone is not told of.
    drop(one.publisher);
    daemon.wait_for("it is gone", |status| status.publishers.dialled.is_empty());
    drop(hears);
    let again = socket(&context, zmq::PUB);
    let bind = || again.bind(&format!("tcp://0.0.0.0:{}", one.port)).ok();
    assert!(crate::support::program::wait_until(bind).is_some());
    let _hears = listener(&daemon);
    wait_for(&daemon, "it is found again", |instances| {
        send(&again, &heartbeat("b", 8));
        state_of(instances, "b") == Some(InstanceState::Alive)
    });
}

#[test]
fn nobody_is_dialled_outside_of_the_list() {
    let context = zmq::Context::new();
    let inside = bound(&context);
    let outside = TcpListener::bind("0.0.0.0:0").expect("a port");
    outside.set_nonblocking(true).expect("an option");
    let port = outside.local_addr().expect("it is bound").port();
    let places = [
        format!("tcp://10.0.0.0/8:{port}"),
        format!("tcp://127.0.0.0/8:{}", inside.port),
    ];
    let daemon = TestDaemon::with(discovering(&places));
    let _hears = listener(&daemon);
    wait_for(&daemon, "one is found", |instances| {
        send(&inside.publisher, &heartbeat("a", 7));
        state_of(instances, "a").is_some()
    });
    let nobody = outside.accept().expect_err("the port is in no place");
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
}
