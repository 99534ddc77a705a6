//! What each engine has to pass, with its own server and a public client at the other end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::faults;
use super::support::peers::{connected, probe, publish, received};
use super::support::{TestDaemon, assert_law};

/// A server of an engine, with a directory of its own that outlives its process.
pub trait Broker: Sized {
    /// What `type` says.
    const TYPE: &str;
    /// Where the bridge of these tests sends.
    const TO: &str;
    /// Whether the engine knows what it has already, so that nothing is there twice.
    const KNOWS_IDS: bool;

    /// One that has its own process, and doesn't run yet.
    fn new() -> Self;

    /// Starts it; when this returns, it takes connections.
    fn start(&mut self);

    /// Ends it as kill -9 does. What it has confirmed is there when it starts again.
    fn kill(&mut self);

    /// Its process stands still: it accepts connections, and never answers.
    fn stand_still(&self);

    /// It goes on.
    fn go_on(&self);

    /// Where it is.
    fn url(&self) -> String;

    /// While it runs: what is sent to [`Self::TO`] is kept from now on.
    fn prepare(&self);

    /// What is kept there, in its order, by a public client, once there are so many; they stay there.
    fn read(&self, wanted: usize) -> Vec<Message>;

    /// The same, when it has more than a client may keep open at once: they need not stay.
    fn read_out(&self, wanted: usize) -> Vec<Message> {
        self.read(wanted)
    }

    /// How many bytes are more than it takes.
    fn too_many_bytes(&self) -> usize;

    /// What `engines` says of it.
    fn engine(&self) -> Value {
        json!({"type": Self::TYPE, "servers": [self.url()]})
    }

    /// One that runs and is prepared, for a test that neither ends it nor has it stand still: tests may
    /// share one if each has a place of its own there.
    fn shared() -> Self {
        Self::started()
    }

    /// One that has its own process, runs, and is prepared.
    fn started() -> Self {
        let mut broker = Self::new();
        broker.start();
        broker.prepare();
        broker
    }
}

/// What a public client has read.
#[derive(Debug, Clone)]
pub struct Message {
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Message {
    /// From a list of objects with `headers` and `body`.
    pub fn all(read: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let message = |message: &Value| Self {
            headers: message["headers"]
                .as_object()
                .expect("headers")
                .iter()
                .map(|(name, value)| (name.clone(), text(value)))
                .collect(),
            body: text(&message["body"]),
        };
        read.as_array()
            .expect("a list")
            .iter()
            .map(message)
            .collect()
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
    }
}

/// The bodies in their order, each once: a copy has the same id as the first, and is only there if the
/// engine can't know it.
pub fn first_copies<B: Broker>(messages: &[Message]) -> Vec<&str> {
    let mut seen = BTreeMap::new();
    let mut bodies = vec![];
    for message in messages {
        match seen.insert(message.header("x-em-id"), &*message.body) {
            None => bodies.push(&*message.body),
            Some(before) => {
                assert_eq!(before, message.body, "one id of two events");
                assert!(!B::KNOWS_IDS, "there twice: {message:?}");
            }
        }
    }
    bodies
}

/// What the events of tests with kills have, which is what figures are given for.
pub const BODY_BYTES: usize = 1024;

pub fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// One bridge, `orders`, out; `more` is said of it too.
pub fn settings<B: Broker>(directory: &TempDir, broker: &B, more: &Value) -> Value {
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"main": broker.engine()},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": B::TO, "stallTimeout": 1,
        }},
    });
    for (key, value) in more.as_object().expect("an object") {
        settings["bridges"]["orders"][key] = value.clone();
    }
    settings
}

pub fn daemon<B: Broker>(directory: &TempDir, broker: &B) -> TestDaemon {
    TestDaemon::in_own_process(&settings(directory, broker, &json!({})))
}

pub fn wait_for(daemon: &TestDaemon, what: &str, wanted: impl Fn(&Bridge) -> bool) -> Bridge {
    let status = daemon.wait_for(what, |status| status.bridges.iter().any(&wanted));
    status.bridges[0].clone()
}

pub fn wait_until_empty(daemon: &TestDaemon) {
    daemon.wait_for_service("bridge.orders", "all of it gone", |found| {
        let counters = &found.counters;
        counters.queued + counters.in_flight == 0 && counters.matched > 0
    });
    assert_law(&daemon.status());
}

/// All of it as tests of one engine.
macro_rules! conforms {
    ($broker:ty) => {
        conforms! { $broker:
            events_arrive_in_order_with_ids_of_their_own
            what_waits_while_the_server_is_away_goes_when_it_is_there
            what_the_server_never_takes_is_a_dead_letter_and_holds_up_nobody
            a_server_that_stands_still_is_named_and_left_for_another_try
            a_lost_server_is_noticed_while_nothing_is_sent_and_holds_up_no_stop
            nobody_else_is_a_worker_of_a_bridge_or_says_what_it_gets
            of_two_hubs_of_a_mesh_with_the_same_bridge_one_sends_an_event
            kills_of_the_server_and_of_the_daemon_lose_nothing
        }
    };
    ($broker:ty: $($name:ident)+) => {
        mod conformance {
            use super::*;
            $(
                #[test]
                fn $name() {
                    crate::conformance::$name::<$broker>();
                }
            )+
        }
    };
}
pub(crate) use conforms;

pub fn events_arrive_in_order_with_ids_of_their_own<B: Broker>() {
    let broker = B::shared();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let publisher = daemon.publisher();
    (0..1000).for_each(|n| publish(&publisher, "Order.Created", &n.to_string()));
    publish(&publisher, "Refund", "stays here");
    let messages = broker.read(1000);
    assert_eq!(messages.len(), 1000);
    assert_eq!(first_copies::<B>(&messages), numbers(1000));
    assert_eq!(messages[0].header("x-em-subject"), "Order.Created");
    assert_eq!(messages[0].header("x-em-hops"), "1");
    assert_eq!(messages[0].header("x-em-origin").len(), 16);
    wait_until_empty(&daemon);
    let bridge = wait_for(&daemon, "its count", |bridge| bridge.events == 1000);
    assert_eq!((bridge.state, bridge.problem), (BridgeState::Running, None));
    assert!(daemon.stop());
}

pub fn what_waits_while_the_server_is_away_goes_when_it_is_there<B: Broker>() {
    let mut broker = B::new();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "its problem", |bridge| bridge.problem.is_some());
    assert_eq!(bridge.state, BridgeState::Connecting);
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains(&broker.url()), "{problem}");
    daemon.wait_for_counter("bridge.orders", |c| c.matched, 100);
    broker.start();
    broker.prepare();
    assert_eq!(first_copies::<B>(&broker.read(100)), numbers(100));
    wait_until_empty(&daemon);
    let bridge = wait_for(&daemon, "its count", |bridge| bridge.events == 100);
    assert_eq!((bridge.state, bridge.problem), (BridgeState::Running, None));
}

pub fn what_the_server_never_takes_is_a_dead_letter_and_holds_up_nobody<B: Broker>() {
    let broker = B::shared();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let publisher = daemon.publisher();
    let large = "x".repeat(broker.too_many_bytes());
    for n in 0..10 {
        publish(&publisher, "Order", &n.to_string());
        publish(&publisher, "Order", &large);
    }
    assert_eq!(first_copies::<B>(&broker.read(10)), numbers(10));
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 10);
    wait_until_empty(&daemon);
    // The bridge's counts are told a moment after its queue is empty.
    wait_for(&daemon, "its counts", |bridge| {
        (bridge.events, bridge.refused) == (10, 10)
    });
}

pub fn a_server_that_stands_still_is_named_and_left_for_another_try<B: Broker>() {
    let broker = B::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "0");
    wait_for(&daemon, "the first", |bridge| bridge.events == 1);
    broker.stand_still();
    publish(&publisher, "Order", "1");
    let begun = Instant::now();
    wait_for(&daemon, "its problem", |bridge| {
        bridge.state != BridgeState::Running
    });
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(8), "{taken:?}");
    broker.go_on();
    wait_until_empty(&daemon);
    assert_eq!(first_copies::<B>(&broker.read(2)), ["0", "1"]);
}

pub fn a_lost_server_is_noticed_while_nothing_is_sent_and_holds_up_no_stop<B: Broker>() {
    let mut broker = B::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    wait_for(&daemon, "a connection", |bridge| {
        bridge.state == BridgeState::Running
    });
    broker.kill();
    wait_for(&daemon, "its loss", |bridge| {
        bridge.state == BridgeState::Connecting
    });
    publish(&daemon.publisher(), "Order", "waits");
    daemon.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
    let begun = Instant::now();
    assert!(daemon.stop());
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}

pub fn nobody_else_is_a_worker_of_a_bridge_or_says_what_it_gets<B: Broker>() {
    let broker = B::new();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &broker);
    let (token, why) = daemon.ask(
        "TK_EVENT_MANAGER_SUBSCRIBE",
        &["x", "bridge.orders", "Secret"],
    );
    assert_eq!(token, "TK_SYS_NAK", "{why}");
    assert!(why.contains("is a bridge's"), "{why}");
    let before = daemon.refused("forbidden");
    let worker = connected(
        &daemon.context,
        zmq::DEALER,
        &daemon.address_of("bridge.orders"),
    );
    worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
    daemon.wait_for("a refusal", |status| status.refused("forbidden") > before);
}

/// Each event goes out where it was published.
pub fn of_two_hubs_of_a_mesh_with_the_same_bridge_one_sends_an_event<B: Broker>() {
    let broker = B::shared();
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let first = daemon(&directories[0], &broker);
    let mut second = settings(&directories[1], &broker, &json!({}));
    second["mesh"] = json!({"peers": [first.subscribers()]});
    let second = TestDaemon::in_own_process(&second);
    // One that wants the same, so that it comes over the link.
    let subscriber = second.subscriber(&["Order"]);
    let publisher = first.publisher();
    probe(&publisher, &subscriber, "Order");
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    for _ in 0..100 {
        received(&subscriber);
    }
    // With those by which it was found that the link is there.
    let sent = usize::try_from(first.status().publishers.events).expect("it fits");
    wait_until_empty(&first);
    assert_eq!(broker.read(sent).len(), sent);
    assert_eq!(second.service("bridge.orders").counters.matched, 0);
}

/// [`faults::kills`] of each.
#[expect(clippy::print_stderr, reason = "a figure for people")]
pub fn kills_of_the_server_and_of_the_daemon_lose_nothing<B: Broker>() {
    let mut broker = B::started();
    let directory = TempDir::new().expect("a directory");
    let (rounds, events) = (faults::kills(4), faults::events(1500) as u64);
    let mut published = 0;
    for round in 0..rounds {
        let daemon = daemon(&directory, &broker);
        let publisher = daemon.publisher();
        for n in 0..events {
            let body = format!("{:<BODY_BYTES$}", published + n);
            publish(&publisher, "Order", &body);
            if n == events / 2 {
                broker.kill();
                broker.start();
            }
        }
        published += events;
        // What it was sent is on disk; some of it is on its way out.
        daemon.wait_for("all of it on disk", |status| {
            let found = status.service("bridge.orders").expect("a service");
            let disk = found.durable.as_ref().expect("a queue on disk");
            status.publishers.events == events && disk.pending_events == 0
        });
        if round + 1 < rounds {
            daemon.kill();
        } else {
            wait_until_empty(&daemon);
        }
    }
    let messages = broker.read_out(usize::try_from(published).expect("it fits"));
    let bodies = first_copies::<B>(&messages).into_iter().map(|body| {
        assert_eq!(body.len(), BODY_BYTES);
        body.trim_end()
    });
    assert!(bodies.eq(numbers(published)), "not all, or not in order");
    eprintln!(
        "{}: {rounds} kills of each, {published} events of 1 KiB, {} of them twice there",
        B::TYPE,
        messages.len() as u64 - published
    );
}
