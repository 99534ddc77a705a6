//! A restart under publishers: what they send meanwhile reaches the plain subscribers that come back.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use event_manager_wire::api::AwaitedSubscribers;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::support::bus::own_host;
use super::support::peers::{connect, connected, publish, received, socket};
use super::support::process::settings;
use super::support::program::Site;
use super::support::raw::{RawPeer, command, message};
use super::support::{PATIENCE, TestDaemon};

const EMIT: &str = "TK_EVENT_MANAGER_EMIT";

/// The program in a directory of its own. From its second start on it has the ports of the first.
struct Setup {
    site: Site,
    keys: Value,
}

impl Setup {
    fn new(keys: &Value) -> Self {
        // Nothing else on this address takes a port that is free for a moment.
        let any = format!("tcp://{}:0", own_host());
        let mut all = settings(keys);
        for key in ["pubAddress", "subAddress", "requestAddress"] {
            all[key] = json!(any);
        }
        Self {
            site: Site::new(),
            keys: all,
        }
    }

    /// Keeps its state, and would wait for subscribers for longer than any test.
    fn patient() -> Self {
        Self::new(&json!({"stateDir": "state", "subscriberGrace": 60}))
    }

    fn start(&mut self) -> TestDaemon {
        self.site.write("config.json", &self.keys.to_string());
        let daemon = TestDaemon::serving(&self.site);
        let bound = daemon.bound();
        let first = |all: &[Endpoint]| json!(all[0].to_string());
        self.keys["pubAddress"] = first(&bound.publishers);
        self.keys["subAddress"] = first(&bound.subscribers);
        self.keys["requestAddress"] = first(&bound.requests);
        daemon
    }
}

/// Ends the daemon by this signal, when all it keeps is on disk.
fn end(daemon: TestDaemon, signal: &str) {
    daemon.wait_for("state on disk", |status| status.state.written);
    let program = daemon.into_program();
    program.signal(signal);
    program.end();
}

/// A libzmq publisher that sends numbers, and sees when its connection ends.
struct Publisher {
    socket: zmq::Socket,
    monitor: zmq::Socket,
    sent: u32,
}

impl Publisher {
    fn of(daemon: &TestDaemon) -> Self {
        Self::watched(&daemon.context, daemon.publisher())
    }

    fn watched(context: &zmq::Context, socket: zmq::Socket) -> Self {
        let endpoint = "inproc://publisher";
        let disconnected = zmq::SocketEvent::DISCONNECTED as i32;
        socket.monitor(endpoint, disconnected).expect("a monitor");
        let monitor = connected(context, zmq::PAIR, endpoint);
        Self {
            socket,
            monitor,
            sent: 0,
        }
    }

    /// While the daemon was down it may have connected to whoever listened for a moment. All that is over.
    fn forgets_earlier_ends(&self) {
        while self.monitor.poll(zmq::POLLIN, 0).expect("a poll") > 0 {
            self.monitor.recv_multipart(0).expect("an earlier end");
        }
    }

    /// Waits until its connection has ended: what it sends from here on waits in libzmq.
    fn sees_the_end(&self) {
        self.monitor.recv_multipart(0).expect("it is disconnected");
    }

    fn send(&mut self, events: u32) {
        for _ in 0..events {
            self.sent += 1;
            publish(&self.socket, "Order", &self.sent.to_string());
        }
    }
}

/// A plain subscriber that connects again after this many milliseconds: long after publishers do.
fn subscriber(daemon: &TestDaemon, prefixes: &[&[u8]], again_ms: i32) -> zmq::Socket {
    let before = daemon.status().subscribers.subscriptions;
    let subscriber = socket(&daemon.context, zmq::SUB);
    subscriber.set_reconnect_ivl(again_ms).expect("an option");
    for prefix in prefixes {
        subscriber.set_subscribe(prefix).expect("an option");
    }
    let address = daemon.subscribers();
    connect(&subscriber, &address);
    daemon.wait_for_subscriptions(before + prefixes.len() as u64);
    subscriber
}

fn assert_hears(subscriber: &zmq::Socket, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        assert_eq!(received(subscriber), number.to_string());
    }
}

/// Each hears all of them and nothing else. They take turns: libzmq subscribes again only when the
/// application asks for something after the connection is back.
fn assert_all_hear(subscribers: &[zmq::Socket], numbers: RangeInclusive<u32>) {
    let mut next = vec![*numbers.start(); subscribers.len()];
    let deadline = Instant::now() + PATIENCE;
    while next.iter().any(|next| numbers.contains(next)) {
        assert!(
            Instant::now() < deadline,
            "{next:?} are missing of {numbers:?}"
        );
        for (subscriber, next) in subscribers.iter().zip(&mut next) {
            while subscriber.poll(zmq::POLLIN, 1).expect("a poll") > 0 {
                assert_eq!(received(subscriber), next.to_string());
                *next += 1;
            }
        }
    }
}

/// What STATUS says of publishers that wait.
fn held(daemon: &TestDaemon) -> Option<AwaitedSubscribers> {
    daemon.status().publishers.held
}

/// For how many subscriptions they wait.
fn awaited(daemon: &TestDaemon) -> Option<u64> {
    held(daemon)?.awaited_subscriptions
}

/// Waits until publishers don't wait any more; this subscriber's application is not idle meanwhile.
fn wait_until_let_in(daemon: &TestDaemon, subscriber: &zmq::Socket) {
    daemon.wait_for("publishers that are let in", |status| {
        subscriber.poll(zmq::POLLIN, 0).expect("a poll");
        status.publishers.held.is_none()
    });
}

#[test]
fn what_publishers_queued_meanwhile_reaches_every_subscriber_that_was_there() {
    let mut setup = Setup::patient();
    let mut daemon = setup.start();
    // The same prefix twice, several of one subscriber, one that is no text.
    let prefixes: [&[&[u8]]; 5] = [
        &[b""],
        &[b"Order"],
        &[b"Order"],
        &[b"x", b"O"],
        &[b"\xff\0", b""],
    ];
    let subscribers: Vec<_> = (200..)
        .step_by(100)
        .zip(prefixes)
        .map(|(again_ms, prefixes)| subscriber(&daemon, prefixes, again_ms))
        .collect();
    let mut publisher = Publisher::of(&daemon);
    let mut heard = 0;
    for signal in ["KILL", "TERM", "KILL"] {
        publisher.send(10);
        assert_all_hear(&subscribers, heard + 1..=publisher.sent);
        heard = publisher.sent;
        publisher.forgets_earlier_ends();
        end(daemon, signal);
        publisher.sees_the_end();
        publisher.send(500);
        daemon = setup.start();
        publisher.send(10);
        assert_all_hear(&subscribers, heard + 1..=publisher.sent);
        heard = publisher.sent;
        wait_until_let_in(&daemon, &subscribers[0]);
    }
}

#[test]
fn a_publisher_that_binds_waits_too() {
    let mut setup = Setup::patient();
    let context = zmq::Context::new();
    let publisher = socket(&context, zmq::XPUB);
    publisher.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = publisher.get_last_endpoint().expect("it is bound");
    setup.keys["connectPublishers"] = json!([address.expect("text")]);
    let daemon = setup.start();
    let subscriber = subscriber(&daemon, &[b"Order"], 500);
    assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
    end(daemon, "KILL");
    assert_eq!(publisher.recv_bytes(0).expect("its end"), [0]);
    let _daemon = setup.start();
    assert_eq!(publisher.recv_bytes(0).expect("a subscription"), [1]);
    (1..=10).for_each(|number| publish(&publisher, "Order", &number.to_string()));
    assert_hears(&subscriber, 1..=10);
}

#[test]
fn a_confirmed_event_waits_for_subscribers_and_its_publisher_does_not() {
    let mut setup = Setup::patient();
    let daemon = setup.start();
    let slow = subscriber(&daemon, &[b"Order"], 500);
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    end(daemon, "KILL");
    let daemon = setup.start();
    let gone = subscriber(&daemon, &[b"Other"], 500);
    assert_eq!(awaited(&daemon), Some(1));
    for number in ["1", "2"] {
        let (token, answer) = daemon.ask(EMIT, &["", "memory", "Order", number]);
        assert_eq!(token, "TK_SYS_ACK", "{answer}");
    }
    assert_hears(&slow, 1..=2);
    assert_hears(&worker, 1..=2);
    let counters = daemon.status().subscribers.counters;
    assert_eq!(counters.matched, 2);
    drop(gone);
}

/// The last subscription that was waited for lets events go. They may be more than its subscriber may
/// have, and end its connection in the middle of its message.
#[test]
fn a_subscriber_that_is_ended_by_what_waited_for_it_is_no_trouble() {
    let mut setup = Setup::patient();
    setup.keys["slowSubscriber"] = json!("disconnect");
    setup.keys["budgets"] = json!({"subscriberOutboxBytes": 1024});
    let daemon = setup.start();
    let mut first = RawPeer::met(&daemon.subscribers(), "SUB");
    first.send(&message(&["\x01Order"]));
    daemon.wait_for_subscriptions(1);
    end(daemon, "TERM");
    let daemon = setup.start();
    assert_eq!(awaited(&daemon), Some(1));
    let (token, answer) = daemon.ask(EMIT, &["", "memory", "Order", &"x".repeat(4096)]);
    assert_eq!(token, "TK_SYS_ACK", "{answer}");
    let mut again = RawPeer::met(&daemon.subscribers(), "SUB");
    again.send_while_heard(&message(&["\x01Order", "\x01Other"]));
    daemon.wait_for("the end of its connection", |status| {
        status.refused("slow-subscriber") == 1
    });
    let subscribers = daemon.status().subscribers;
    assert_eq!((subscribers.connected, subscribers.subscriptions), (0, 0));
}

#[test]
fn who_is_gone_for_good_holds_publishers_up_for_the_configured_time_and_then_no_more() {
    let mut setup = Setup::new(&json!({
        "stateDir": "state", "subscriberGrace": 0.5, "restartGrace": 1,
    }));
    let daemon = setup.start();
    assert_eq!(held(&daemon), None, "a fresh daemon knows nobody");
    let stays = subscriber(&daemon, &[b"Order"], 100);
    let gone = subscriber(&daemon, &[b"Order", b"x"], 100);
    let mut publisher = Publisher::of(&daemon);
    end(daemon, "KILL");
    publisher.sees_the_end();
    drop(gone);
    publisher.send(10);
    let daemon = setup.start();
    assert_hears(&stays, 1..=10);
    assert_eq!(held(&daemon), None);
    let log = daemon.program().logged("did not come back in time");
    assert!(log.contains("subscriptions=2"), "{log}");
    daemon.wait_for("those who are gone to be forgotten", |status| {
        status.subscribers.remembered == 1
    });
    end(daemon, "KILL");
    // Nobody is let in by the time now, and one comes back.
    setup.keys["subscriberGrace"] = json!(60);
    let daemon = setup.start();
    wait_until_let_in(&daemon, &stays);
    publisher.send(1);
    assert_hears(&stays, [11]);
}

#[test]
fn a_publisher_that_hangs_up_while_it_is_held_is_noticed_and_heard_later() {
    let mut setup = Setup::patient();
    let daemon = setup.start();
    let gone = subscriber(&daemon, &[b"Order"], 100);
    end(daemon, "KILL");
    drop(gone);
    let daemon = setup.start();
    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    publisher.send(&message(&["Order", "1"]));
    drop(publisher);
    daemon.wait_for("it is leaving", |status| {
        let clients = &status.security.clients;
        clients.iter().any(|client| client.leaving == 1)
    });
    let back = subscriber(&daemon, &[b"Order"], 100);
    assert_hears(&back, [1]);
}

#[test]
fn a_daemon_that_stops_lets_publishers_in() {
    let mut setup = Setup::patient();
    let daemon = setup.start();
    let gone = subscriber(&daemon, &[b"Order"], 100);
    end(daemon, "KILL");
    drop(gone);
    let daemon = setup.start();
    let publisher = daemon.publisher();
    let other = subscriber(&daemon, &[b"Other"], 100);
    assert_eq!(awaited(&daemon), Some(1));
    publish(&publisher, "Other", "1");
    daemon.program().signal("TERM");
    assert_hears(&other, [1]);
    let ended = daemon.into_program().end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn without_a_state_directory_publishers_wait_half_as_long_for_whoever_there_was() {
    let mut setup = Setup::new(&json!({"subscriberGrace": 2}));
    let daemon = setup.start();
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "1");
    let late = subscriber(&daemon, &[b"Order"], 100);
    // Unless this machine takes a second for that, the publisher is held still.
    let was_held = held(&daemon).is_some();
    wait_until_let_in(&daemon, &late);
    if was_held {
        assert_hears(&late, [1]);
    }
    let uptime = daemon.status().uptime_seconds;
    assert!(uptime >= 1.0, "{uptime}");
}

/// What another event manager emits is for our own clients only, also if it has to wait.
#[test]
fn what_another_hub_emits_goes_to_no_hub_later() {
    let mut setup = Setup::patient();
    let first = setup.start();
    let own = subscriber(&first, &[b"Order"], 100);
    end(first, "KILL");
    let daemon = setup.start();
    let mut emitting = RawPeer::met_hub(&daemon.requests(), "DEALER", "00112233445566aa");
    let mut hub = RawPeer::met_hub(&daemon.subscribers(), "XSUB", "00112233445566bb");
    let (_, told) = hub.read_frame();
    assert!(told.starts_with(b"\x05EMHUB"), "who it has dialled");
    hub.send(&command("SUBSCRIBE", b""));
    daemon.wait_for("its wish", |status| {
        status.mesh.hubs.iter().any(|hub| hub.prefixes == 1)
    });
    let in_a_moment = SystemTime::now() + Duration::from_millis(300);
    let at_ms = in_a_moment
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let held = ["held", "memory", "Order", "held"].join("\0");
    let later = json!({"token": "emit", "subject": "Order", "payload": "later",
        "deliverAt": at_ms as u64});
    emitting.send(&message(&[EMIT, "PARAM", &held]));
    emitting.send(&message(&["", &later.to_string()]));
    for _ in 0..2 {
        emitting.read_message();
    }
    assert_eq!([(); 2].map(|()| received(&own)), ["held", "later"]);
    publish(&daemon.publisher(), "Order", "of a client");
    assert_eq!(received(&own), "of a client");
    let client_s = [b"Order".to_vec(), b"of a client".to_vec()];
    assert_eq!(hub.read_message(), client_s);
}
