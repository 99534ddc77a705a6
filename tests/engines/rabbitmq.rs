//! Bridges to RabbitMQ: the server, and what is special there.

use std::fs;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{
    Broker, Message, conforms, daemon, first_copies, settings, wait_for, wait_until_empty,
};
use super::conformance_in::{Source, conforms_in};
use super::conformance_served::{Queues, conforms_served, goes_on_at_machines};
use super::rabbitmq_server::{BODY_BYTES_MAX, Node};
use super::server::secret;
use super::support::TestDaemon;
use super::support::peers::{probe, publish, received};

/// A virtual host of a server.
struct Rabbit {
    node: Arc<Mutex<Node>>,
    vhost: String,
}

impl Broker for Rabbit {
    const TYPE: &str = "rabbitmq";
    const TO: &str = "pos";
    const KNOWS_IDS: bool = false;

    fn new() -> Self {
        Self::at("127.0.0.1")
    }

    fn start(&mut self) {
        self.node().start();
    }

    fn kill(&mut self) {
        let mut node = self.node();
        node.remember_queues();
        node.kill();
    }

    fn stand_still(&self) {
        self.node().process().stand_still();
    }

    fn go_on(&self) {
        self.node().process().go_on();
    }

    fn url(&self) -> String {
        self.node().url(&self.vhost)
    }

    fn prepare(&self) {
        self.client(&["prepare", Self::TO, "kept", "in0", "in1"]);
    }

    fn read(&self, wanted: usize) -> Vec<Message> {
        Message::all(&self.client(&["read", "kept", &wanted.to_string()]))
    }

    fn read_out(&self, wanted: usize) -> Vec<Message> {
        Message::all(&self.client(&["read_out", "kept", &wanted.to_string()]))
    }

    fn too_many_bytes(&self) -> usize {
        BODY_BYTES_MAX + 1
    }

    fn started() -> Self {
        let mut started = Self::new();
        started.start();
        started.prepare();
        started.node().remember_queues();
        started
    }

    fn shared() -> Self {
        let shared = Self::bare();
        shared.prepare();
        shared
    }
}

impl Rabbit {
    /// One that listens at this address.
    fn at(host: &str) -> Self {
        Self {
            node: Arc::new(Mutex::new(Node::at(host))),
            vhost: "/".into(),
        }
    }

    /// One that runs and may be shared, and has nothing.
    fn bare() -> Self {
        let (node, vhost) = Node::shared();
        Self { node, vhost }
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn client(&self, arguments: &[&str]) -> Value {
        // The lock is for the moment that the address takes.
        let url = self.url();
        super::server::client("rabbitmq_client.py", &url, arguments)
    }

    fn queue(&self, name: &str, key: &str, more: &Value) {
        self.client(&["queue", name, &more.to_string()]);
        self.client(&["bind", name, Self::TO, key]);
    }
}

impl Source for Rabbit {
    fn reader(&self, reader: usize) -> Value {
        json!({"from": format!("in{reader}")})
    }

    fn give_of(&self, numbers: Range<u64>, headers: &Value, body_bytes: usize) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let (headers, bytes) = (headers.to_string(), body_bytes.to_string());
        self.client(&["give", Self::TO, &begin, &end, &headers, "a.b", &bytes]);
    }

    fn left(&self, reader: usize) -> u64 {
        self.node().left(&self.vhost, &format!("in{reader}"))
    }
}

impl Queues for Rabbit {
    fn started_at(host: &str) -> Self {
        let mut started = Self::at(host);
        started.start();
        started
    }

    fn waiting(&self, service: &str) -> u64 {
        self.node()
            .left(&self.vhost, &format!("em.service.{service}"))
    }

    fn put(&self, service: &str, numbers: Range<u64>, headers: &Value) {
        let (begin, end) = (numbers.start.to_string(), numbers.end.to_string());
        let queue = format!("em.service.{service}");
        // The server's own exchange takes the name of a queue as key.
        self.client(&["give", "", &begin, &end, &headers.to_string(), &queue]);
    }

    const FULL: &str = "it is full";

    fn fill(&self, is_full: bool) {
        let policy = r#"{"max-length": 1, "overflow": "reject-publish"}"#;
        let arguments: &[&str] = match is_full {
            true => &[
                "set_policy",
                "-p",
                &self.vhost,
                "full",
                r"^em\.service",
                policy,
            ],
            false => &["clear_policy", "-p", &self.vhost, "full"],
        };
        self.node().control(arguments);
    }
}

conforms!(Rabbit);
conforms_in!(Rabbit);
conforms_served!(Rabbit);
goes_on_at_machines!(Rabbit, after_ack_timeout: Duration::from_secs(15));

/// What the bridge of the daemon says while it doesn't work.
fn problem(daemon: &TestDaemon, state: BridgeState) -> String {
    let bridge = wait_for(daemon, "its problem", |bridge| {
        bridge.state == state && bridge.problem.is_some()
    });
    bridge.problem.expect("a sentence")
}

#[test]
fn a_message_has_its_subject_as_routing_key_and_its_id() {
    let rabbit = Rabbit::shared();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    publish(&daemon.publisher(), "Order.Created", "0");
    let message = &rabbit.client(&["read", "kept", "1"])[0];
    assert_eq!(message["key"], "Order.Created");
    assert_eq!(message["message_id"], message["headers"]["x-em-id"]);
    assert_eq!(message["delivery_mode"], 2);
}

/// `domain.action` is the routing key, and its JSON the body.
#[test]
fn events_of_the_building_blocks_pass_both_ways_as_they_are() {
    let rabbit = Rabbit::shared();
    let directory = TempDir::new().expect("a directory");
    let mut settings = settings(&directory, &rabbit, &json!({"subjects": ["order."]}));
    settings["bridges"]["in"] = json!({"engine": "main", "direction": "in", "from": "in0"});
    let daemon = TestDaemon::in_own_process(&settings);
    let event = |action: &str| {
        json!({
            "event_id": "9f1c", "domain": "order", "action": action, "version": "1.0",
            "timestamp": "2026-11-29T21:00:00+00:00",
            "data": {"order_id": "ORD-123", "customer": "J\u{e4}ger", "total": 99.99},
        })
        .to_string()
    };
    publish(&daemon.publisher(), "order.created", &event("created"));
    let message = &rabbit.client(&["read", "kept", "1"])[0];
    assert_eq!(message["key"], "order.created");
    // The client takes each byte for a character.
    let body: String = event("created").bytes().map(char::from).collect();
    assert_eq!(message["body"], body);
    let subscriber = daemon.subscriber(&["order."]);
    let publisher = daemon.publisher();
    probe(&publisher, &subscriber, "order.probe");
    // As their publisher does it, without an id.
    let body: String = event("paid").bytes().map(char::from).collect();
    let theirs = json!([{"key": "order.paid", "body": body, "content_type": "application/json"}]);
    rabbit.client(&["publish", Rabbit::TO, &theirs.to_string()]);
    let came = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(came, [b"order.paid".to_vec(), event("paid").into_bytes()]);
}

/// The daemon of a bridge in from `in0`, and its subscriber to all of that.
fn taking(directory: &TempDir, rabbit: &Rabbit) -> (TestDaemon, zmq::Socket) {
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": rabbit.engine()},
        "bridges": {"in": {"engine": "main", "direction": "in", "from": "in0"}},
    }));
    let subscriber = daemon.subscriber(&["a.", "probe"]);
    probe(&daemon.publisher(), &subscriber, "probe");
    (daemon, subscriber)
}

/// The library would end the process.
#[test]
fn a_header_of_lists_within_lists_harms_nobody() {
    let rabbit = Rabbit::shared();
    let directory = TempDir::new().expect("a directory");
    let (daemon, subscriber) = taking(&directory, &rabbit);
    rabbit.client(&["nest", Rabbit::TO, "20000"]);
    let came = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(came, [b"a.b".to_vec(), b"harmless".to_vec()]);
    assert!(daemon.stop());
}

#[test]
fn a_queue_that_is_missing_or_deleted_is_named_and_brings_events_once_it_is_there() {
    let rabbit = Rabbit::bare();
    rabbit.client(&["exchange", Rabbit::TO]);
    let directory = TempDir::new().expect("a directory");
    let (daemon, subscriber) = taking(&directory, &rabbit);
    let said = problem(&daemon, BridgeState::Connecting);
    let wanted = format!(
        "the virtual host {} has no queue in0: declare it",
        rabbit.vhost
    );
    assert!(said.contains(&wanted), "{said}");
    rabbit.queue("in0", "#", &json!({}));
    rabbit.give(0..1, &json!({}));
    assert_eq!(received(&subscriber), "0");
    rabbit.client(&["delete", "in0"]);
    let deleted = |bridge: &Bridge| bridge.state != BridgeState::Running;
    wait_for(&daemon, "its loss", deleted);
    rabbit.queue("in0", "#", &json!({}));
    rabbit.give(1..2, &json!({}));
    assert_eq!(received(&subscriber), "1");
}

#[test]
fn a_server_that_stands_still_is_noticed_while_nothing_passes() {
    let rabbit = Rabbit::started();
    let directory = TempDir::new().expect("a directory");
    let mut settings = settings(&directory, &rabbit, &json!({}));
    settings["bridges"]["in"] = json!({"engine": "main", "direction": "in", "from": "in0"});
    let daemon = TestDaemon::in_own_process(&settings);
    let all = |state: BridgeState| {
        daemon.wait_for("all bridges", |status| {
            status.bridges.iter().all(|bridge| bridge.state == state)
        })
    };
    all(BridgeState::Running);
    rabbit.node().process().stand_still();
    let begun = Instant::now();
    all(BridgeState::Connecting);
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(16), "{taken:?}");
    rabbit.go_on();
    all(BridgeState::Running);
    let subscriber = daemon.subscriber(&["a."]);
    rabbit.give(0..1, &json!({}));
    assert_eq!(received(&subscriber), "0");
}

/// It would give nothing of what came while nobody was there.
#[test]
fn a_stream_is_no_queue() {
    let rabbit = Rabbit::bare();
    rabbit.client(&["exchange", Rabbit::TO]);
    rabbit.queue("in0", "#", &json!({"x-queue-type": "stream"}));
    let directory = TempDir::new().expect("a directory");
    let (daemon, _) = taking(&directory, &rabbit);
    wait_for(&daemon, "a connection", |bridge| {
        bridge.state == BridgeState::Running
    });
    rabbit.give(0..1, &json!({}));
    let said = problem(&daemon, BridgeState::Failing);
    assert!(said.contains("in0 is a stream"), "{said}");
    assert_eq!(daemon.status().bridges[0].events, 0);
}

/// A user who may make no queue uses the one that is there, whatever it is like.
#[test]
fn a_service_s_queue_that_is_there_is_taken_as_it_is() {
    let rabbit = Rabbit::bare();
    let bounds = json!({"x-max-length": 100, "x-overflow": "reject-publish"});
    rabbit.client(&["queue", "em.service.Billing", &bounds.to_string()]);
    let (node, vhost) = (rabbit.node(), &rabbit.vhost);
    let rights = ["reader", "^$", r"^amq\.default$", r"^em\.service\."];
    node.control(&[&["set_permissions", "-p", vhost][..], &rights].concat());
    let directory = TempDir::new().expect("a directory");
    drop(node);
    let mut engine = rabbit.engine();
    engine["user"] = json!("reader");
    engine["passwordFile"] = json!(secret(directory.path(), "reader"));
    let service = |name: &str| json!({"delivery": "engine", "engine": "main", "subjects": [name]});
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": engine},
        "services": {"Billing": service("Order"), "Other": service("Other")},
    }));
    let worker = daemon.worker("Billing", &daemon.address_of("Billing"));
    publish(&daemon.publisher(), "Order", "0");
    assert_eq!(received(&worker), "0");
    let status = daemon.wait_for("the other's problem", |status| {
        status
            .bridges
            .iter()
            .filter(|way| way.problem.is_some())
            .count()
            == 2
    });
    for way in status.bridges.iter().filter(|way| way.problem.is_some()) {
        let said = way.problem.clone().expect("a sentence");
        let wanted = "the user reader has no right to queue em.service.Other";
        assert!(said.contains(wanted), "{said}");
    }
}

/// The library tells of what was returned with another's confirmation.
#[test]
fn an_event_that_no_queue_takes_waits_and_has_nothing_behind_it_stored_twice() {
    let rabbit = Rabbit::bare();
    rabbit.client(&["exchange", Rabbit::TO]);
    rabbit.queue("kept", "OrderX", &json!({}));
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    let publisher = daemon.publisher();
    publish(&publisher, "OrderX", "0");
    publish(&publisher, "OrderY", "nobody takes it");
    (1..200).for_each(|n| publish(&publisher, "OrderX", &n.to_string()));
    wait_for(&daemon, "some tries", |bridge| bridge.failures >= 4);
    let bridge = daemon.status().bridges[0].clone();
    assert_eq!(bridge.state, BridgeState::Failing);
    let problem = bridge.problem.expect("a sentence");
    assert!(
        problem.contains("no queue takes the routing key OrderY: bind one to the exchange pos"),
        "{problem}"
    );
    rabbit.client(&["wait_for_count", "kept", &bridge.events.to_string()]);
    rabbit.queue("other", "OrderY", &json!({}));
    wait_until_empty(&daemon);
    assert_eq!(rabbit.read(200).len(), 200);
    assert_eq!(rabbit.client(&["count", "other"]), 1);
    let bridge = wait_for(&daemon, "all", |bridge| bridge.events == 201);
    assert_eq!(bridge.state, BridgeState::Running);
}

#[test]
fn a_subject_that_is_no_routing_key_is_a_dead_letter() {
    let rabbit = Rabbit::shared();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    let publisher = daemon.publisher();
    publish(&publisher, &format!("Order{}", "a".repeat(251)), "long");
    let longest = format!("Order{}", "a".repeat(250));
    publish(&publisher, &longest, "goes");
    let message = &rabbit.client(&["read", "kept", "1"])[0];
    assert_eq!(
        (&message["key"], &message["body"]),
        (&longest.into(), &"goes".into())
    );
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
}

/// A frame that is larger than the server wants costs the connection, again and again.
#[test]
fn an_event_of_so_many_frames_that_its_header_is_too_long_is_a_dead_letter() {
    let rabbit = Rabbit::shared();
    let directory = TempDir::new().expect("a directory");
    let mut settings = settings(&directory, &rabbit, &json!({}));
    settings["limits"] = json!({"maxMessageParts": 100_000});
    let daemon = TestDaemon::in_own_process(&settings);
    let publisher = daemon.publisher();
    let mut frames = vec!["Order"];
    frames.resize(80_000, "");
    publisher.send_multipart(frames, 0).expect("a send");
    publish(&publisher, "Order", "goes");
    assert_eq!(first_copies::<Rabbit>(&rabbit.read(1)), ["goes"]);
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
}

#[test]
fn a_queue_that_is_full_is_named_and_gets_the_rest_once_it_is_not() {
    let rabbit = Rabbit::bare();
    rabbit.client(&["exchange", Rabbit::TO]);
    let full = json!({"x-max-length": 10, "x-overflow": "reject-publish"});
    rabbit.queue("kept", "#", &full);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    let publisher = daemon.publisher();
    // It looks at its length from time to time only.
    (0..20).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    wait_for(&daemon, "the first", |bridge| bridge.events == 20);
    (0..20).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let problem = problem(&daemon, BridgeState::Failing);
    assert!(problem.contains("it is full"), "{problem}");
    daemon.wait_for_counter("bridge.orders", |c| c.in_flight, 20);
    rabbit.client(&["purge", "kept"]);
    wait_until_empty(&daemon);
    wait_for(&daemon, "all", |bridge| bridge.events == 40);
}

#[test]
fn a_server_without_memory_is_named_and_gets_what_waits_once_it_has_some() {
    let rabbit = Rabbit::started();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    rabbit
        .node()
        .control(&["set_vm_memory_high_watermark", "0.00001"]);
    publish(&daemon.publisher(), "Order", "0");
    let problem = problem(&daemon, BridgeState::Failing);
    assert!(
        problem.contains("its memory or its disk is nearly full"),
        "{problem}"
    );
    // Also on the next connections, and no thread of one that was given up stays.
    wait_for(&daemon, "more tries", |bridge| bridge.failures >= 3);
    assert!(threads(&daemon, "lapin-io-loop") <= 2);
    rabbit
        .node()
        .control(&["set_vm_memory_high_watermark", "0.8"]);
    assert_eq!(first_copies::<Rabbit>(&rabbit.read(1)), ["0"]);
    wait_until_empty(&daemon);
}

/// How many threads of the daemon have this name.
fn threads(daemon: &TestDaemon, name: &str) -> usize {
    let tasks =
        fs::read_dir(format!("/proc/{}/task", daemon.process().pid())).expect("its threads");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == name).count()
}

#[test]
fn a_server_that_never_answers_costs_no_thread() {
    let rabbit = Rabbit::started();
    rabbit.stand_still();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &rabbit);
    wait_for(&daemon, "some tries", |bridge| bridge.failures >= 2);
    assert!(threads(&daemon, "lapin-io-loop") <= 2);
    rabbit.go_on();
    wait_for(&daemon, "a connection", |bridge| {
        bridge.state == BridgeState::Running
    });
    assert!(threads(&daemon, "lapin-io-loop") <= 2);
}

#[test]
fn what_is_wrong_in_the_configuration_is_said_with_what_to_do() {
    let (node, _) = Node::shared();
    let [url, missing] = {
        let node = node.lock().expect("it started");
        node.client("/", &["exchange", "there"]);
        ["/", "missing"].map(|vhost| node.url(vhost))
    };
    let directory = TempDir::new().expect("a directory");
    let [wrong, reader, nobody] = ["guess", "reader", "nobody"].map(|text| {
        let directory = directory.path().join(text);
        fs::create_dir(&directory).expect("a directory");
        secret(&directory, text)
    });
    let table = [
        (
            json!({"user": "guest", "passwordFile": wrong}),
            &url,
            "there",
            "refuses the user guest",
        ),
        (
            json!({"user": "nobody", "passwordFile": nobody}),
            &url,
            "there",
            "may not use the virtual host /",
        ),
        (
            json!({}),
            &missing,
            "there",
            "no virtual host missing: create it",
        ),
        (
            json!({}),
            &url,
            "elsewhere",
            "the virtual host / has no exchange elsewhere: declare it",
        ),
        (
            json!({"user": "reader", "passwordFile": reader}),
            &url,
            "there",
            "the user reader has no right to exchange there",
        ),
    ];
    for (engine, url, to, wanted) in table {
        let directory = TempDir::new().expect("a directory");
        let mut engine = engine;
        engine["type"] = "rabbitmq".into();
        engine["servers"] = json!([url]);
        let daemon = TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "engines": {"main": engine},
            "bridges": {"orders": {
                "engine": "main", "direction": "out", "subjects": ["Order"], "to": to, "stallTimeout": 1,
            }},
        }));
        publish(&daemon.publisher(), "Order", "waits");
        let bridge = wait_for(&daemon, wanted, |bridge| bridge.problem.is_some());
        let problem = bridge.problem.expect("a sentence");
        assert!(problem.contains(wanted), "{wanted}: {problem}");
        assert!(!problem.contains("guess"), "{problem}");
        daemon.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
    }
}

#[test]
fn over_tls_a_certificate_is_checked() {
    let mut rabbit = Rabbit::new();
    let directory = TempDir::new().expect("a directory");
    let tls = {
        let node = rabbit.node();
        node.certify();
        json!({
            "type": "rabbitmq",
            "servers": [format!("amqps://localhost:{}", node.tls_port)],
            "caFile": node.directory.path().join("ca.pem"),
        })
    };
    rabbit.start();
    rabbit.prepare();
    let mut settings = settings(&directory, &rabbit, &json!({}));
    settings["engines"]["main"] = tls;
    let daemon = TestDaemon::in_own_process(&settings);
    publish(&daemon.publisher(), "Order", "0");
    assert_eq!(first_copies::<Rabbit>(&rabbit.read(1)), ["0"]);
    drop(daemon);
    let engine = settings["engines"]["main"]
        .as_object_mut()
        .expect("an object");
    engine.remove("caFile");
    let daemon = TestDaemon::in_own_process(&settings);
    let bridge = wait_for(&daemon, "its problem", |bridge| bridge.problem.is_some());
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("certificate"), "{problem}");
}
