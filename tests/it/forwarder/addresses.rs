//! Where the daemon listens.

use std::path::Path;

use event_manager::daemon::Daemon;
use event_manager_wire::model::Endpoint;

use super::super::support::peers::{probe, publish, received, socket};
use super::super::support::{PATIENCE, TestDaemon, config};
use super::{connected_to, ipc};

/// A name that begins with `@` is one of Linux's abstract namespace, as for libzmq: there is no file.
#[test]
fn an_abstract_address_has_no_file() {
    let name = |socket| format!("@event-manager-test-{}-{socket}", std::process::id());
    let endpoint = |socket| Endpoint::Ipc(name(socket).into());
    let context = zmq::Context::new();
    let dialled = socket(&context, zmq::PUB);
    let address = endpoint("dialled").to_string();
    dialled.bind(&address).expect("a free name");
    let daemon = TestDaemon::with(|config| {
        config.pub_addresses.push(endpoint("pub"));
        config.sub_addresses.push(endpoint("sub"));
        config.pull_address = endpoint("pull");
        config.connect_publishers = vec![endpoint("dialled").into()];
    });
    let subscriber = connected_to(&daemon.context, zmq::SUB, &endpoint("sub"));
    subscriber.set_subscribe(b"").expect("an option");
    daemon.wait_for_subscriptions(1);
    let publisher = connected_to(&daemon.context, zmq::PUB, &endpoint("pub"));
    let service = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &service.pull_address);
    assert!(service.pull_address.starts_with("ipc://@"));
    publish(&publisher, "Order", "by name");
    assert_eq!(received(&worker), "by name");
    assert_eq!(received(&subscriber), "by name");
    probe(&dialled, &subscriber, "dialled");
    for socket in ["pub", "sub", "pull", "dialled"] {
        assert!(!Path::new(&name(socket)).exists());
    }
}

#[test]
fn all_addresses_belong_to_one_forwarder() {
    let directory = tempfile::tempdir().expect("a directory");
    // A file that a killed process left behind does not keep the next from its address.
    let stale = std::os::unix::net::UnixListener::bind(directory.path().join("pub"));
    drop(stale.expect("a socket"));
    let addresses = |file| {
        let tcp = [Endpoint::tcp("127.0.0.1", 0), Endpoint::tcp("::1", 0)];
        let mut addresses = tcp.to_vec();
        addresses.push(ipc(directory.path(), file));
        addresses
    };
    let daemon = TestDaemon::with(|config| {
        config.pub_addresses = addresses("pub");
        config.sub_addresses = addresses("sub");
    });
    let bound = daemon.bound();
    let connect = |kind, endpoint| connected_to(&daemon.context, kind, endpoint);
    let publishers: Vec<_> = bound
        .publishers
        .iter()
        .map(|e| connect(zmq::XPUB, e))
        .collect();
    let subscribers: Vec<_> = bound
        .subscribers
        .iter()
        .map(|e| connect(zmq::SUB, e))
        .collect();
    for publisher in &publishers {
        assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
    }
    for subscriber in &subscribers {
        subscriber.set_subscribe(b"").expect("an option");
    }
    daemon.wait_for_subscriptions(3);
    for (n, publisher) in publishers.iter().enumerate() {
        publish(publisher, "subject", &n.to_string());
        for subscriber in &subscribers {
            assert_eq!(received(subscriber), n.to_string());
        }
    }
    assert_eq!(daemon.bound().publishers.len(), 3);
    daemon.stop();
    assert!(!directory.path().join("pub").exists());
}

/// Its backlog is full, so that to connect to it would be to wait for it.
#[test]
fn a_listener_that_hangs_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hangs");
    let address = socket2::SockAddr::unix(&path).expect("an address");
    let socket = || {
        let (unix, stream) = (socket2::Domain::UNIX, socket2::Type::STREAM);
        let socket = socket2::Socket::new(unix, stream, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        socket
    };
    let listener = socket();
    listener.bind(&address).expect("a free path");
    listener.listen(0).expect("a listener");
    let waiting: Vec<_> = std::iter::repeat_with(socket)
        .take_while(|socket| socket.connect(&address).is_ok())
        .collect();
    assert!(!waiting.is_empty());
    let (told, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut config = config();
        config.pub_addresses = vec![Endpoint::Ipc(path)];
        let started = Daemon::start(config);
        let _ = told.send(started.err().map(|error| error.to_string()));
    });
    let error = result.recv_timeout(PATIENCE).expect("it doesn't wait");
    let error = error.expect("the address is taken");
    assert!(error.contains("another process listens"), "{error}");
    drop((listener, waiting));
}

#[test]
fn a_star_is_both_families_on_one_port() {
    let daemon = TestDaemon::with(|config| config.sub_addresses = vec![Endpoint::tcp("*", 0)]);
    let port = daemon.bound().subscribers[0].port().expect("a TCP port");
    let publisher = daemon.publisher();
    let hosts = ["127.0.0.1", "::1"];
    let subscribers = hosts.map(|host| {
        let endpoint = Endpoint::tcp(host, port);
        let subscriber = connected_to(&daemon.context, zmq::SUB, &endpoint);
        subscriber.set_subscribe(b"").expect("an option");
        subscriber
    });
    daemon.wait_for_subscriptions(2);
    publish(&publisher, "subject", "data");
    subscribers
        .iter()
        .for_each(|s| assert_eq!(received(s), "data"));
}
