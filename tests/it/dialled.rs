//! Publishers that bind: how they are dialled, and where it shows whether they are there.

use std::net::TcpListener;

use event_manager_wire::api::{Dialled, Status};
use event_manager_wire::model::Endpoint;
use serde_json::Value;

use super::notable::{noted, wait_for, with_code};
use super::support::bus::own_host;
use super::support::peers::socket;
use super::support::program::Site;
use super::support::{TestDaemon, tunnel};

/// An address where nobody listens, nor will by chance.
fn free_address() -> Endpoint {
    let host = own_host();
    let listener = TcpListener::bind((host.as_str(), 0)).expect("a port");
    Endpoint::tcp(&host, listener.local_addr().expect("it is bound").port())
}

fn dialling(endpoint: &Endpoint, required: bool) -> TestDaemon {
    TestDaemon::with(|config| {
        config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
        config.connect_publishers = vec![endpoint.clone().into()];
        config.require_publishers = required;
    })
}

/// What STATUS says of the only one.
fn dialled(status: &Status) -> &Dialled {
    &status.publishers.dialled[0]
}

fn binds(context: &zmq::Context, kind: zmq::SocketType, endpoint: &Endpoint) -> zmq::Socket {
    let bound = socket(context, kind);
    bound.bind(&endpoint.to_string()).expect("a free address");
    bound
}

fn examined(daemon: &TestDaemon) -> Value {
    let ended = Site::of(daemon).run(&["doctor", "--json"]);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn finding(report: &Value) -> Option<&Value> {
    let all = report["findings"].as_array().expect("a list");
    all.iter().find(|finding| finding["code"] == "EM-9021")
}

/// With delays that double up to 10 s, the tenth try would come after 17 s at the earliest.
#[test]
fn one_that_is_not_there_is_tried_again_each_second() {
    let daemon = dialling(&free_address(), false);
    daemon.wait_for("ten tries within 10 s", |status| {
        let tries = dialled(status).failed_tries;
        assert!(status.uptime_seconds < 12.0, "{tries} tries");
        tries >= 10
    });
}

#[test]
fn one_that_is_not_there_shows_everywhere() {
    let endpoint = free_address();
    let address = tunnel::before(&endpoint.to_string());
    let daemon = dialling(&endpoint, true);
    let status = daemon.wait_for("a try", |status| dialled(status).failed_tries != 0);
    let shown = dialled(&status);
    assert_eq!((&shown.address, shown.connected), (&address, false));
    assert_eq!(shown.connections, 0);
    let why = shown.last_error.as_deref().expect("a reason");
    assert!(why.contains("refused"), "{why}");
    assert!(shown.since_ms <= status.wall_clock_ms);

    let lost = wait_for(&daemon, "EM-0612");
    assert_eq!(
        (lost.text("publisher"), &*lost.level),
        (Some(&*address), "warn")
    );
    assert!(lost.text("why").expect("a reason").contains("refused"));

    let ready = daemon.readiness();
    let check = &ready.checks["publishers"];
    assert_eq!((ready.ready, check.ok), (false, false));
    assert!(check.reason.contains(&address), "{check:?}");
    let labels = [("publisher", &*address)];
    let connected = "event_manager_dialled_publisher_connected";
    assert_eq!(daemon.metrics().value(connected, &labels), 0.0);
    let report = examined(&daemon);
    let found = finding(&report).expect("a finding");
    assert_eq!(found["severity"], "error");
    assert!(found["text"].as_str().expect("a text").contains(&address));

    let context = zmq::Context::new();
    let publisher = binds(&context, zmq::XPUB, &endpoint);
    assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
    let status = daemon.wait_for("a connection", |status| dialled(status).connected);
    let shown = dialled(&status);
    assert_eq!((shown.failed_tries, shown.connections), (0, 1));
    assert_eq!(wait_for(&daemon, "EM-0611").fields["publisher"], address);
    daemon.wait_for_readiness("ready", |shown| shown.ready);
    assert_eq!(daemon.metrics().value(connected, &labels), 1.0);
    assert_eq!(finding(&examined(&daemon)), None);

    let before = with_code(&noted(&daemon), "EM-0612").len();
    drop((publisher, context));
    daemon.wait_for("its end", |status| !dialled(status).connected);
    let all = noted(&daemon);
    let lost = with_code(&all, "EM-0612");
    // One within 10 s of another like it is only counted.
    assert!(lost.len() >= before, "{lost:#?}");
    daemon.wait_for_readiness("not ready", |shown| !shown.ready);
}

#[test]
fn one_that_is_not_required_does_not_matter_for_readiness() {
    let endpoint = free_address();
    let daemon = dialling(&endpoint, false);
    daemon.wait_for("a try", |status| dialled(status).failed_tries != 0);
    let ready = daemon.readiness();
    let check = &ready.checks["publishers"];
    assert_eq!((ready.ready, check.ok), (true, true));
    let address = tunnel::before(&endpoint.to_string());
    assert!(check.reason.contains(&address), "{check:?}");
    let report = examined(&daemon);
    assert_eq!(finding(&report).expect("a finding")["severity"], "warning");
}

#[test]
fn who_is_no_publisher_says_so_in_the_state() {
    let endpoint = free_address();
    let context = zmq::Context::new();
    let _subscriber = binds(&context, zmq::SUB, &endpoint);
    let daemon = dialling(&endpoint, false);
    let status = daemon.wait_for("a try", |status| dialled(status).failed_tries != 0);
    let why = dialled(&status).last_error.as_deref().expect("a reason");
    assert!(why.contains("SUB") || why.contains("hung up"), "{why}");
}
