//! Services' ports: those in use are skipped, old ones come back, none left is a NAK.

use std::net::TcpListener;
use std::ops::RangeInclusive;

use event_manager::daemon::Daemon;
use event_manager_wire::model::Endpoint;
use serde_json::json;

use super::support::bus::{own_host, services_on};
use super::support::peers::{connect, connected, publish, received, socket};
use super::support::{TestDaemon, config};

const SUBSCRIBE: &str = "TK_EVENT_MANAGER_SUBSCRIBE";

/// So many ports in a row, all of them held.
pub fn held_ports(host: &str, count: u16) -> Vec<TcpListener> {
    let bind = |port: u16| TcpListener::bind((host, port));
    loop {
        let first = bind(0).expect("a port");
        let port = first.local_addr().expect("it is bound").port();
        let rest = (1..count).map_while(|n| bind(port.checked_add(n)?).ok());
        let held: Vec<_> = std::iter::once(first).chain(rest).collect();
        if held.len() == usize::from(count) {
            return held;
        }
    }
}

pub fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("it is bound").port()
}

pub fn range_of(held: &[TcpListener]) -> RangeInclusive<u16> {
    port_of(&held[0])..=port_of(&held[held.len() - 1])
}

/// In a process of its own: what other tests start from this one holds a copy of each listener between
/// fork and exec, and for so long a port that was given up can't be bound again.
fn with_ports(host: &str, ports: RangeInclusive<u16>) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "publicHostname": host,
        "pullAddress": format!("tcp://{host}"),
        "minStreamerPort": ports.start(),
        "maxStreamerPort": ports.end(),
    }))
}

pub fn port(address: &str) -> u16 {
    let (_, port) = address.rsplit_once(':').expect("a port");
    port.parse().expect("a number")
}

/// A new service doesn't wait for a name server, so a name has to be known before.
#[test]
fn the_host_of_services_is_looked_up_at_the_start() {
    let with_host = |host: &str| {
        let mut config = config();
        config.pull_address = Endpoint::tcp(host, 0);
        config.public_hostname = host.into();
        config
    };
    let error = Daemon::start(with_host("no host")).expect_err("a name that can't be");
    let error = error.to_string();
    assert!(error.contains("pullAddress tcp://no host"), "{error}");
    let daemon = TestDaemon::with(|config| *config = with_host("localhost"));
    let service = daemon.subscribe("1", "A", &["Order"]);
    let worker = daemon.worker("A", &service.pull_address);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&worker), "x");
}

#[test]
fn ports_in_use_are_skipped_and_exhaustion_is_a_nak() {
    let host = own_host();
    let mut held = held_ports(&host, 5);
    let range = range_of(&held);
    let free = [held.remove(3), held.remove(1)].map(|listener| port_of(&listener));
    let daemon = with_ports(&host, range.clone());
    let publisher = daemon.publisher();

    let services = ["A", "B"].map(|service| daemon.subscribe(service, service, &["Order"]));
    let given: Vec<u16> = services.iter().map(|s| port(&s.pull_address)).collect();
    assert_eq!(given, [free[1], free[0]]);
    let workers = ["A", "B"].map(|service| daemon.worker(service, &daemon.address_of(service)));

    for _ in 0..3 {
        let (token, data) = daemon.ask(SUBSCRIBE, &["C", "C", "Order"]);
        assert_eq!(token, "TK_SYS_NAK");
        let sentence = format!(
            "no-port: no port of {}-{} is free for service \"C\"",
            range.start(),
            range.end()
        );
        assert_eq!(data, sentence);
    }
    daemon.subscribe("A2", "A", &["Refund"]);
    publish(&publisher, "Order", "1");
    for worker in &workers {
        assert_eq!(received(worker), "1");
    }

    let freed = port_of(&held.remove(1));
    let subscribed = daemon.subscribe("C", "C", &["Order"]);
    assert_eq!(port(&subscribed.pull_address), freed);
    let worker = daemon.worker("C", &subscribed.pull_address);
    publish(&publisher, "Order", "2");
    for worker in workers.iter().chain([&worker]) {
        assert_eq!(received(worker), "2");
    }
}

#[test]
fn a_port_that_a_service_gave_up_is_another_s_when_no_other_is_free() {
    let host = own_host();
    let ports = range_of(&held_ports(&host, 2));
    let daemon = with_ports(&host, ports);
    let a = daemon.subscribe("A", "A", &["Order"]);
    daemon.subscribe("B", "B", &["Order"]);
    assert_eq!(daemon.refusal(SUBSCRIBE, &["C", "C", "Order"]), "no-port");
    daemon.unsubscribe("A");
    let c = daemon.subscribe("C", "C", &["Order"]);
    assert_eq!(c.pull_address, a.pull_address);
    assert_eq!(daemon.refusal(SUBSCRIBE, &["A", "A", "Order"]), "no-port");
    daemon.unsubscribe("C");
    assert_eq!(
        daemon.subscribe("A", "A", &["Order"]).pull_address,
        a.pull_address
    );
}

#[test]
fn the_same_service_gets_the_same_port_again() {
    let host = own_host();
    let few = range_of(&held_ports(&host, 4));
    for ports in [0..=0, few] {
        let daemon = with_ports(&host, ports);
        let publisher = daemon.publisher();
        let first = daemon.subscribe("A", "A", &["Order"]);
        // It dials the old port for ever, as workers do whose process doesn't hear of the end.
        let _old_worker = daemon.worker("A", &first.pull_address);
        for n in 0..20 {
            daemon.unsubscribe("A");
            let other = daemon.subscribe("B", "B", &["Order"]);
            assert_ne!(other.pull_address, first.pull_address);
            let again = daemon.subscribe("A", "A", &["Order"]);
            assert_eq!(again.pull_address, first.pull_address);
            daemon.unsubscribe("B");
            let worker = daemon.worker("A", &again.pull_address);
            publish(&publisher, "Order", &n.to_string());
            assert_eq!(received(&worker), n.to_string());
        }
    }
}

/// Unsubscribe and subscribe in one read of the daemon, with a worker that stays connected.
#[test]
fn a_port_is_used_again_within_one_burst() {
    const ROUNDS: usize = 50;
    let host = own_host();
    let daemon = with_ports(&host, range_of(&held_ports(&host, 1)));
    let publisher = daemon.publisher();
    let first = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = socket(&daemon.context, zmq::DEALER);
    worker.set_reconnect_ivl(1).expect("an option");
    connect(&worker, &first.pull_address);
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for round in 0..ROUNDS {
        daemon.wait_for("the worker's connection", |status| {
            status.services[0].workers.connected == 1
        });
        worker.send("READY", 0).expect("a send");
        daemon.wait_for_ready("Billing", 1);
        publish(&publisher, "Order", &round.to_string());
        assert_eq!(received(&worker), round.to_string());
        for _ in 0..3 {
            client
                .send_multipart(["2.2", "2", "sub-1"], 0)
                .expect("a send");
            let subscribe = ["2.1", "2", "sub-1\0Billing\0Order"];
            client.send_multipart(subscribe, 0).expect("a send");
        }
        for answer in 0..6 {
            let frames = client.recv_multipart(0).expect("an answer");
            let data = String::from_utf8_lossy(&frames[2]).into_owned();
            assert_eq!(frames[0], b"1.1", "{data}");
            assert!(
                answer % 2 == 0 || data.ends_with(&first.pull_address),
                "{data}"
            );
        }
    }
}

#[test]
fn a_range_may_contain_our_own_ports() {
    let host = own_host();
    let ports = range_of(&held_ports(&host, 5));
    let (min, max) = (*ports.start(), *ports.end());
    let daemon = TestDaemon::with(|config| {
        services_on(&host)(config);
        config.streamer_ports = ports;
        config.pub_addresses = vec![Endpoint::tcp(&*host, min)];
        config.sub_addresses = vec![Endpoint::tcp(&*host, min + 2)];
        config.request_addresses = vec![Endpoint::tcp(&*host, max)];
    });
    let publisher = daemon.publisher();
    let subscriber = daemon.subscriber(&["Order"]);
    for (service, expected) in [("A", min + 1), ("B", min + 3)] {
        let subscribed = daemon.subscribe(service, service, &["Order"]);
        assert_eq!(subscribed.pub_address, daemon.publishers());
        assert_eq!(port(&subscribed.pull_address), expected);
    }
    assert_eq!(daemon.refusal(SUBSCRIBE, &["C", "C", "Order"]), "no-port");
    publish(&publisher, "Order", "1");
    assert_eq!(received(&subscriber), "1");
}

/// A port is in use for all interfaces if it is for one.
#[test]
fn a_port_that_is_in_use_on_one_interface_is_skipped_on_all() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let min = port_of(&held);
    let daemon = TestDaemon::with(|config| {
        config.pull_address = Endpoint::tcp("*", 0);
        config.streamer_ports = min..=min.saturating_add(50);
    });
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("A", "A", &["Order"]);
    assert_ne!(port(&subscribed.pull_address), min);
    let worker = daemon.worker("A", &subscribed.pull_address);
    publish(&publisher, "Order", "1");
    assert_eq!(received(&worker), "1");
}

/// Services on Unix sockets have a path each, and leave no file behind.
#[test]
fn services_on_unix_sockets() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pull");
    let daemon = TestDaemon::with(|config| {
        config.pull_address = Endpoint::Ipc(path);
        config.streamer_ports = 1..=2;
    });
    let publisher = daemon.publisher();
    let services = ["A", "B"].map(|service| daemon.subscribe(service, service, &["Order"]));
    assert_eq!(daemon.refusal(SUBSCRIBE, &["C", "C", "Order"]), "no-port");
    for (service, subscribed) in ["A", "B"].into_iter().zip(&services) {
        let worker = daemon.worker(service, &subscribed.pull_address);
        publish(&publisher, "Order", service);
        while received(&worker) != service {}
    }
    let files = || {
        std::fs::read_dir(directory.path())
            .expect("it is there")
            .count()
    };
    assert_eq!(files(), 2);
    daemon.unsubscribe("A");
    assert_eq!(files(), 1);
    assert_eq!(
        daemon.subscribe("A", "A", &["Order"]).pull_address,
        services[0].pull_address
    );
    assert!(daemon.stop());
    assert_eq!(files(), 0);
}
