//! Publishers in, subscribers out, byte for byte.

mod addresses;

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use event_manager::daemon::Daemon;
use event_manager_wire::model::Endpoint;

use super::support::peers::{connect, connected, probe, publish, received, socket};
use super::support::raw::{COMMAND, MORE, RawPeer, command, frame, message};
use super::support::{TestDaemon, config, tunnel};

/// Events of all shapes that exist.
fn events() -> Vec<Vec<Vec<u8>>> {
    let binary: Vec<u8> = (0..=255).collect();
    let text = |frames: &[&str]| frames.iter().map(|f| f.as_bytes().to_vec()).collect();
    vec![
        text(&["one frame"]),
        text(&["subject", "data"]),
        text(&["five", "frames", "of", "one", "event"]),
        text(&["subject", ""]),
        text(&["", "", ""]),
        text(&[""]),
        text(&["", "after an empty one"]),
        text(&["READY"]),
        text(&["\u{1}subscription?", "\0"]),
        text(&["subject\0type\0source", "data"]),
        text(&["\0", "a subject that is empty"]),
        vec![binary.clone(), binary],
        vec![vec![0xFF; 255]],
        vec![vec![0x00; 256], vec![4; 255], vec![2; 257]],
        vec![b"large".to_vec(), vec![7; 65_536], vec![8; 300_000]],
    ]
}

#[test]
fn frames_pass_unchanged_and_in_order() {
    let daemon = TestDaemon::start();
    let subscribed = daemon.subscribe("sub-1", "All", &[""]);
    let worker = daemon.worker("All", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&[""]);
    let publisher = daemon.publisher();
    let mut stream: Vec<_> = (0..10).flat_map(|_| events()).collect();
    stream.extend((0..1000).flat_map(|_| events().into_iter().take(5)));
    for event in &stream {
        publisher.send_multipart(event, 0).expect("a send");
    }
    for event in &stream {
        assert_eq!(subscriber.recv_multipart(0).as_ref(), Ok(event));
        assert_eq!(worker.recv_multipart(0).as_ref(), Ok(event));
    }
}

#[test]
fn events_of_3_mb_pass_unchanged() {
    let daemon = TestDaemon::start();
    let subscribed = daemon.subscribe("sub-1", "All", &["large"]);
    let worker = daemon.worker("All", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&["large"]);
    let publisher = daemon.publisher();
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 8) as u8)
        .collect();
    let small = vec![b"large".to_vec(), b"not at all".to_vec()];
    let large = vec![b"large".to_vec(), bytes.clone(), bytes.clone()];
    let one_frame = vec![[b"large", &bytes[..]].concat()];
    let stream = [&small, &large, &small, &small, &one_frame, &large, &small];
    for event in stream {
        publisher.send_multipart(event, 0).expect("a send");
    }
    for event in stream {
        assert!(subscriber.recv_multipart(0).as_ref() == Ok(event));
        assert!(worker.recv_multipart(0).as_ref() == Ok(event));
    }
}

#[test]
fn subscribers_hear_what_begins_with_their_prefixes() {
    let daemon = TestDaemon::start();
    let orders = daemon.subscriber(&["Order", "POS1", "last"]);
    let all = daemon.subscriber(&[""]);
    let publisher = daemon.publisher();
    let subjects = [
        "OrderCreated",
        "Orde",
        "order",
        "POS1",
        "Order",
        "POS10",
        "POS",
        "XOrder",
        "last",
    ];
    for subject in subjects {
        publish(&publisher, subject, subject);
    }
    for subject in subjects {
        assert_eq!(received(&all), subject);
    }
    for subject in ["OrderCreated", "POS1", "Order", "POS10", "last"] {
        assert_eq!(received(&orders), subject);
    }
}

#[test]
fn prefixes_are_compared_with_the_whole_first_frame() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["A\0b", "\0\0\u{1}", "last"]);
    let subscribed = daemon.subscribe("sub-1", "Exact", &["exact:A", "glob:last*"]);
    let worker = daemon.worker("Exact", &subscribed.pull_address);
    let publisher = daemon.publisher();
    for subject in [
        "A\0bc",
        "A\0c",
        "A",
        "A\0b",
        "\0\0\u{1}\u{2}",
        "\0\0\u{2}",
        "last",
    ] {
        publish(&publisher, subject, subject);
    }
    for subject in ["A\0bc", "A\0b", "\0\0\u{1}\u{2}", "last"] {
        assert_eq!(received(&subscriber), subject);
    }
    for subject in ["A\0bc", "A\0c", "A", "A\0b", "last"] {
        assert_eq!(received(&worker), subject);
    }
}

#[test]
fn an_unsubscribed_prefix_is_heard_no_more() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["A", "B", "last"]);
    let publisher = daemon.publisher();
    publish(&publisher, "A", "1");
    assert_eq!(received(&subscriber), "1");
    subscriber.set_unsubscribe(b"A").expect("an option");
    daemon.wait_for_subscriptions(2);
    publish(&publisher, "A", "2");
    publish(&publisher, "B", "3");
    assert_eq!(received(&subscriber), "3");
    subscriber.set_subscribe(b"A").expect("an option");
    daemon.wait_for_subscriptions(3);
    publish(&publisher, "A", "4");
    assert_eq!(received(&subscriber), "4");
    drop(subscriber);
    daemon.wait_for_subscriptions(0);
}

#[test]
fn overlapping_and_repeated_prefixes_give_each_event_once() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["", "A", "AB", "last"]);
    let mut by_hand = RawPeer::met(&daemon.subscribers(), "XSUB");
    for _ in 0..3 {
        by_hand.send(&command("SUBSCRIBE", b"A"));
    }
    by_hand.send(&command("SUBSCRIBE", b"last"));
    daemon.wait_for_subscriptions(6);
    let publisher = daemon.publisher();
    publish(&publisher, "ABC", "1");
    publish(&publisher, "last", "2");
    assert_eq!(received(&subscriber), "1");
    assert_eq!(received(&subscriber), "2");
    assert_eq!(by_hand.read_message(), [b"ABC", &b"1"[..]]);
    assert_eq!(by_hand.read_message(), [b"last", &b"2"[..]]);
    by_hand.send(&command("CANCEL", b"A"));
    by_hand.send(&command("CANCEL", b"never subscribed"));
    daemon.wait_for_subscriptions(5);
    publish(&publisher, "ABC", "3");
    publish(&publisher, "last", "4");
    assert_eq!(by_hand.read_message(), [b"last", &b"4"[..]]);
}

#[test]
fn a_prefix_that_libzmq_subscribes_twice_ends_with_the_second_unsubscribe() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["A", "last"]);
    subscriber.set_subscribe(b"A").expect("an option");
    subscriber.set_unsubscribe(b"A").expect("an option");
    subscriber.set_subscribe(b"B").expect("an option");
    daemon.wait_for_subscriptions(3);
    let publisher = daemon.publisher();
    publish(&publisher, "A", "1");
    assert_eq!(received(&subscriber), "1");
    subscriber.set_unsubscribe(b"A").expect("an option");
    daemon.wait_for_subscriptions(2);
    publish(&publisher, "A", "2");
    publish(&publisher, "last", "3");
    assert_eq!(received(&subscriber), "3");
}

fn connected_to(context: &zmq::Context, kind: zmq::SocketType, to: &Endpoint) -> zmq::Socket {
    let socket = socket(context, kind);
    socket.set_ipv6(true).expect("an option");
    connect(&socket, &to.to_string());
    socket
}

fn ipc(directory: &Path, name: &str) -> Endpoint {
    Endpoint::Ipc(directory.join(name))
}

#[test]
fn publishers_are_pub_or_xpub() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["A"]);
    for kind in [zmq::PUB, zmq::XPUB] {
        let publisher = connected(&daemon.context, kind, &daemon.publishers());
        probe(&publisher, &subscriber, "A");
        publish(&publisher, "B", "unheard");
        publish(&publisher, "A", "heard");
        assert_eq!(received(&subscriber), "heard");
    }
}

/// libzmq's proxy, which ends with its context.
struct Proxy {
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
    address: String,
}

impl Proxy {
    /// Between a socket that is bound and one that is connected to the daemon.
    fn start(bound: zmq::SocketType, connecting: zmq::SocketType, daemon: &str) -> Self {
        let context = zmq::Context::new();
        let outer = socket(&context, bound);
        outer.bind("tcp://127.0.0.1:*").expect("a free port");
        let address = outer.get_last_endpoint().expect("it is bound");
        let address = address.expect("text");
        tunnel::spare(&address);
        let inner = connected(&context, connecting, daemon);
        let thread = std::thread::spawn(move || {
            assert_eq!(zmq::proxy(&outer, &inner), Err(zmq::Error::ETERM));
        });
        Self {
            context,
            thread: Some(thread),
            address,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.context.destroy().expect("its sockets are closed");
        let ended = self.thread.take().expect("it ran").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[test]
fn proxies_chain_on_either_side() {
    let daemon = TestDaemon::start();
    let downstream = Proxy::start(zmq::XPUB, zmq::XSUB, &daemon.subscribers());
    let upstream = Proxy::start(zmq::XSUB, zmq::XPUB, &daemon.publishers());

    let subscriber = connected(&daemon.context, zmq::SUB, &downstream.address);
    subscriber.set_subscribe(b"A").expect("an option");
    subscriber.set_subscribe(b"last").expect("an option");
    daemon.wait_for_subscriptions(2);
    let publisher = connected(&daemon.context, zmq::XPUB, &upstream.address);
    assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);

    let event = ["A", "", "three frames"];
    publisher.send_multipart(event, 0).expect("a send");
    publish(&publisher, "B", "nobody wants it");
    publish(&publisher, "last", "1");
    let got = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(got, event.map(|frame| frame.as_bytes().to_vec()));
    assert_eq!(received(&subscriber), "1");

    subscriber.set_unsubscribe(b"A").expect("an option");
    daemon.wait_for_subscriptions(1);
    publish(&publisher, "A", "2");
    publish(&publisher, "last", "3");
    assert_eq!(received(&subscriber), "3");
}

#[test]
fn zmtp_3_0_peers_subscribe_by_messages() {
    let daemon = TestDaemon::with(|config| {
        config.heartbeat_interval = Duration::from_millis(20);
    });
    let mut publisher = RawPeer::met_as(&daemon.publishers(), "PUB", "", 0);
    assert_eq!(publisher.read_frame(), (0, vec![1]));
    let mut subscriber = RawPeer::met_as(&daemon.subscribers(), "SUB", "", 0);
    subscriber.send(&message(&["\u{1}A"]));
    subscriber.send(&message(&["\u{1}last"]));
    daemon.wait_for_subscriptions(2);
    publisher.send(&message(&["A", "1"]));
    publisher.send(&message(&["B", "2"]));
    assert_eq!(subscriber.read_message(), [b"A", b"1"]);
    subscriber.send(&message(&["\0A"]));
    daemon.wait_for_subscriptions(1);
    publisher.send(&message(&["A", "3"]));
    publisher.send(&message(&["last"]));
    assert_eq!(subscriber.read_message(), [b"last"]);
    // ZMTP 3.0 has no PING: such a peer is not asked for signs of life, nor given up.
    assert!(subscriber.is_silent(150) && publisher.is_silent(1));
    publisher.send(&message(&["last"]));
    assert_eq!(subscriber.read_message(), [b"last"]);
}

#[test]
fn zmtp_3_1_peers_subscribe_by_commands() {
    let daemon = TestDaemon::start();
    let mut publisher = RawPeer::met(&daemon.publishers(), "XPUB");
    assert_eq!(publisher.read_frame(), (COMMAND, b"\x09SUBSCRIBE".to_vec()));
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", b"A"));
    subscriber.send(&message(&["\u{1}last"]));
    daemon.wait_for_subscriptions(2);
    publisher.send(&message(&["A", "1"]));
    assert_eq!(subscriber.read_message(), [b"A", b"1"]);
    subscriber.send(&command("CANCEL", b"A"));
    daemon.wait_for_subscriptions(1);
    publisher.send(&message(&["A", "2"]));
    publisher.send(&message(&["last"]));
    assert_eq!(subscriber.read_message(), [b"last"]);
}

#[test]
fn a_ping_gets_a_pong_with_its_context() {
    let daemon = TestDaemon::start();
    let service = daemon.subscribe("sub-1", "Billing", &["A"]);
    let sockets = [
        (daemon.subscribers(), "SUB"),
        (service.pull_address, "DEALER"),
        (daemon.requests(), "REQ"),
        (daemon.publishers(), "PUB"),
    ];
    for (address, kind) in sockets {
        let mut peer = RawPeer::met(&address, kind);
        if kind == "PUB" {
            peer.read_frame();
        }
        for context in [&b""[..], b"c", b"sixteen bytes!!!"] {
            peer.send(&command("PING", &[&[0, 10], context].concat()));
            let pong = [b"\x04PONG", context].concat();
            assert_eq!(peer.read_frame(), (COMMAND, pong));
        }
    }
}

#[test]
fn a_ping_between_the_frames_of_a_message_leaves_it_whole() {
    let daemon = TestDaemon::start();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["A"]);
    let mut worker = RawPeer::met(&subscribed.pull_address, "DEALER");
    let ping = command("PING", b"\0\x0Aabc");
    let pong = (COMMAND, b"\x04PONGabc".to_vec());
    worker.send(&[frame(MORE, b""), ping.clone(), frame(0, b"READY")].concat());
    assert_eq!(worker.read_frame(), pong);
    daemon.wait_for_ready("Billing", 1);
    let subscriber = daemon.subscriber(&["A"]);

    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    publisher.read_frame();
    publisher.send(&[frame(MORE, b"A"), ping.clone()].concat());
    assert_eq!(publisher.read_frame(), pong);
    publisher.send(&[frame(MORE, b"2"), ping.clone(), ping, frame(0, b"3")].concat());
    publisher.send(&message(&["A", "4"]));
    assert_eq!(publisher.read_frame(), pong);
    assert_eq!(publisher.read_frame(), pong);
    assert_eq!(
        subscriber.recv_multipart(0).expect("an event"),
        [b"A", b"2", b"3"]
    );
    assert_eq!(received(&subscriber), "4");
    assert_eq!(worker.read_message(), [&b""[..], b"A", b"2", b"3"]);
    assert_eq!(worker.read_message(), [&b""[..], b"A", b"4"]);
}

/// A publisher that binds. Nobody else uses this address of the machine, so its ports are free again
/// after it ended.
fn bound_publisher(context: &zmq::Context, port: &str) -> (zmq::Socket, Endpoint) {
    let publisher = socket(context, zmq::PUB);
    publisher
        .bind(&format!("tcp://127.0.0.2:{port}"))
        .expect("a free port");
    let endpoint = publisher.get_last_endpoint().expect("it is bound");
    let endpoint = endpoint.expect("text").parse().expect("an endpoint");
    (publisher, endpoint)
}

#[test]
fn a_dialled_publisher_that_restarts_is_found_again() {
    let context = zmq::Context::new();
    let (publisher, endpoint) = bound_publisher(&context, "*");
    let daemon =
        TestDaemon::with(|config| config.connect_publishers = vec![endpoint.clone().into()]);
    let subscriber = daemon.subscriber(&["A"]);
    probe(&publisher, &subscriber, "A");
    publish(&publisher, "A", "before");
    assert_eq!(received(&subscriber), "before");
    drop((publisher, context));
    daemon.wait_for("the end", |status| status.publishers.connected == 0);
    let port = endpoint.port().expect("a TCP port").to_string();
    let context = zmq::Context::new();
    let (publisher, _) = bound_publisher(&context, &port);
    probe(&publisher, &subscriber, "A");
    publish(&publisher, "A", "after");
    assert_eq!(received(&subscriber), "after");
}

#[test]
fn a_publisher_that_is_not_there_yet_is_dialled_until_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let late = ipc(directory.path(), "late");
    let context = zmq::Context::new();
    let (early, endpoint) = bound_publisher(&context, "*");
    let daemon = TestDaemon::with(|config| {
        config.connect_publishers = vec![late.clone().into(), endpoint.into()];
    });
    let subscriber = daemon.subscriber(&["A"]);
    probe(&early, &subscriber, "A");
    let publisher = socket(&context, zmq::PUB);
    publisher.bind(&late.to_string()).expect("a free path");
    probe(&publisher, &subscriber, "A");
    for publisher in [&early, &publisher] {
        publish(publisher, "A", "both are heard");
        assert_eq!(received(&subscriber), "both are heard");
    }
    daemon.stop();
}

#[test]
fn schedulers_that_bind_hear_each_other_through_the_hub() {
    let context = zmq::Context::new();
    let (publishers, endpoints): (Vec<_>, Vec<_>) =
        (0..3).map(|_| bound_publisher(&context, "*")).unzip();
    let daemon = TestDaemon::with(|config| {
        config.connect_publishers = endpoints.iter().cloned().map(Into::into).collect()
    });
    let subscribers: Vec<_> = (0..3).map(|_| daemon.subscriber(&[""])).collect();
    let probed = daemon.subscriber(&["probe"]);
    publishers
        .iter()
        .for_each(|publisher| probe(publisher, &probed, "probe"));
    let heartbeats: Vec<_> = (0..3).map(heartbeat).collect();
    for (publisher, heartbeat) in publishers.iter().zip(&heartbeats) {
        publisher.send(heartbeat, 0).expect("a send");
    }
    for subscriber in &subscribers {
        let mut heard = vec![];
        while heard.len() < 3 {
            let event = subscriber.recv_multipart(0).expect("an event");
            if event[0] != b"probe" {
                assert_eq!(event.len(), 1);
                heard.push(String::from_utf8(event[0].clone()).expect("text"));
            }
        }
        heard.sort();
        assert_eq!(heard, heartbeats);
    }
}

fn heartbeat(instance: usize) -> String {
    let address = &config().public_hostname;
    format!(
        r#"{{"type": "heartbeat", "instance_id": "{instance}", "pid": 1, "address": "{address}"}}"#
    )
}

/// A slip in the configuration must not cost anybody a file.
#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notes");
    std::fs::write(&path, "precious").expect("a file");
    let mut config = config();
    config.pub_addresses = vec![Endpoint::Ipc(path.clone())];
    assert!(Daemon::start(config).is_err());
    assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
}
