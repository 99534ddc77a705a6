//! The embedded ServiceLocator on the wire.

use std::collections::BTreeSet;

use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::bus::{code_of, exchange};
use super::support::peers::{connected, is_silent, publish, received, socket};

const REGISTER: &str = "TK_SERVICE_LOCATOR_REGISTER";
const LOCATE: &str = "TK_SERVICE_LOCATOR_LOCATE";
const UNREGISTER: &str = "TK_SERVICE_LOCATOR_UNREGISTER";
const LIST: &str = "TK_SERVICE_LOCATOR_LIST";

fn with_locator(address: Endpoint) -> TestDaemon {
    TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = address;
    })
}

struct Client(zmq::Socket);

impl Client {
    fn of(daemon: &TestDaemon) -> Self {
        Self(connected(&daemon.context, zmq::REQ, &daemon.locator()))
    }

    /// The answer's token, data type and data.
    fn ask(&self, token: &str, fields: &[&str]) -> [String; 3] {
        let data = fields.join("\0");
        let answer = exchange(&self.0, &[token.as_bytes(), b"PARAM", data.as_bytes()]);
        let text = |frame: Vec<u8>| String::from_utf8(frame).expect("text");
        let answer: Vec<String> = answer.into_iter().map(text).collect();
        answer.try_into().expect("three frames")
    }

    fn done(&self, token: &str, fields: &[&str], data: &str) {
        let [token, _, got] = self.ask(token, fields);
        assert_eq!((&*token, &*got), ("TK_SYS_ACK", data));
    }

    fn refusal(&self, token: &str, fields: &[&str]) -> String {
        let [token, kind, data] = self.ask(token, fields);
        assert_eq!((&*token, &*kind), ("TK_SYS_NAK", "STRING"), "{data}");
        code_of(&data).to_owned()
    }

    fn list(&self) -> Vec<Value> {
        let [token, kind, data] = self.ask(LIST, &[]);
        assert_eq!((&*token, &*kind), ("TK_SYS_ACK", "STRING"));
        serde_json::from_str(&data).expect("a JSON list")
    }
}

#[test]
fn a_service_is_registered_found_listed_and_unregistered() {
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = Client::of(&daemon);
    assert_eq!(client.list(), [] as [Value; 0]);
    assert_eq!(client.refusal(LOCATE, &["Billing"]), "unknown-service");

    client.done(REGISTER, &["Billing", "tcp://one:7001"], "30000");
    client.done(REGISTER, &["Billing", "tcp://two:7002", "5000"], "5000");
    client.done(REGISTER, &["Kitchen", "tcp://three:7003"], "30000");
    let [token, kind, address] = client.ask(LOCATE, &["Billing"]);
    assert_eq!(
        [&*token, &*kind, &*address],
        ["TK_SYS_ACK", "ADDR_PORT", "tcp://two:7002"]
    );

    let another = Client::of(&daemon);
    let mut listed = another.list();
    for entry in &mut listed {
        let expires_in = entry["expiresInMs"].take().as_u64().expect("milliseconds");
        assert!(expires_in > 0 && expires_in <= 30_000);
    }
    let entry =
        |service, address| json!({"service": service, "address": address, "expiresInMs": null});
    assert_eq!(
        listed,
        [
            entry("Billing", "tcp://one:7001"),
            entry("Billing", "tcp://two:7002"),
            entry("Kitchen", "tcp://three:7003"),
        ]
    );

    another.done(UNREGISTER, &["Billing", "tcp://two:7002"], "");
    assert_eq!(client.ask(LOCATE, &["Billing"])[2], "tcp://one:7001");
    client.done(UNREGISTER, &["Billing", "tcp://one:7001"], "");
    assert_eq!(client.refusal(LOCATE, &["Billing"]), "unknown-service");
    assert_eq!(
        client.refusal(UNREGISTER, &["Billing", "tcp://one:7001"]),
        "unknown-service"
    );
    assert_eq!(client.list().len(), 1);
}

#[test]
fn a_registration_expires_unless_it_is_refreshed() {
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = Client::of(&daemon);
    client.done(REGISTER, &["Left", "tcp://one:7001", "100"], "100");
    client.done(REGISTER, &["Kept", "tcp://two:7002", "100"], "100");
    daemon.wait_for("the end of a registration", |_| {
        client.done(REGISTER, &["Kept", "tcp://two:7002", "100000"], "100000");
        client.ask(LOCATE, &["Left"])[0] == "TK_SYS_NAK"
    });
    assert_eq!(client.refusal(LOCATE, &["Left"]), "unknown-service");
    client.done(LOCATE, &["Kept"], "tcp://two:7002");
    assert_eq!(client.list().len(), 1);
    client.done(REGISTER, &["Left", "tcp://one:7001"], "30000");
    client.done(LOCATE, &["Left"], "tcp://one:7001");
}

#[test]
fn wrong_requests_have_their_codes() {
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = Client::of(&daemon);
    let long = "n".repeat(256);
    for (code, token, fields) in [
        ("missing-field", REGISTER, &[][..]),
        ("missing-field", REGISTER, &["A"]),
        ("missing-field", REGISTER, &["", "tcp://x:1"]),
        ("missing-field", LOCATE, &[]),
        ("missing-field", UNREGISTER, &["A"]),
        ("invalid-name", LOCATE, &[&*long]),
        ("invalid-address", REGISTER, &["A", "x:1"]),
        ("invalid-ttl", REGISTER, &["A", "tcp://x:1", "soon"]),
        ("invalid-ttl", REGISTER, &["A", "tcp://x:1", "0"]),
        ("invalid-ttl", REGISTER, &["A", "tcp://x:1", "-1"]),
        (
            "unknown-token",
            "TK_EVENT_MANAGER_SUBSCRIBE",
            &["s", "A", "x"],
        ),
        ("unknown-token", "TK_EVENT_MANAGER_STATUS", &[]),
    ] {
        assert_eq!(client.refusal(token, fields), code, "{token} {fields:?}");
    }
    assert_eq!(client.list(), [] as [Value; 0]);
}

#[test]
fn it_answers_in_kind() {
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = connected(&daemon.context, zmq::DEALER, &daemon.locator());
    let answer = exchange(&client, &[b"3.1", b"2", b"A\0tcp://x:1"]);
    assert_eq!(answer, [&b"1.1"[..], b"2", b"30000"]);
    let answer = exchange(&client, &[b"", b"0x00300002", b"0x2", b"A"]);
    assert_eq!(answer, [&b""[..], b"0xf0100001", b"0x3", b"tcp://x:1"]);
    let answer = exchange(&client, &[&[0, 0x30, 0, 2], b"A"]);
    assert_eq!(
        answer,
        [&[0xF0, 0x10, 0, 1][..], &[0, 0, 0, 3], b"tcp://x:1"]
    );
    let answer = exchange(&client, &[br#"{"token": "locate", "data": ["A"]}"#]);
    let answer: Value = serde_json::from_slice(&answer[0]).expect("JSON");
    assert_eq!(
        answer,
        json!({"token": "TK_SYS_ACK", "dataType": "ADDR_PORT", "data": "tcp://x:1"})
    );
}

#[test]
fn without_one_there_is_none() {
    let daemon = TestDaemon::start();
    assert_eq!(daemon.status().addresses.locator, None);
    assert_eq!(daemon.refusal(LOCATE, &["A"]), "unknown-token");
}

/// Two daemons with the shipped configuration on one machine: the second uses the first's.
#[test]
fn a_daemon_starts_though_the_address_is_another_locator_s() {
    let first = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let address = first.locator();
    let second = with_locator(address.parse().expect("an address"));
    assert_eq!(second.status().addresses.locator, None);
    let subscribed = second.subscribe("s1", "Billing", &["Order"]);
    let worker = second.worker("Billing", &subscribed.pull_address);
    publish(&second.publisher(), "Order", "1");
    assert_eq!(received(&worker), "1");
    assert!(second.stop());
    let client = Client::of(&first);
    client.done(REGISTER, &["A", "tcp://x:1"], "30000");
}

/// It is registered there while it runs.
#[test]
fn a_daemon_registers_with_the_locator_that_is_there() {
    let first = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let second = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.register = true;
        config.locator.address = first.locator().parse().expect("an address");
    });
    let client = Client::of(&first);
    first.wait_for("a registration", |_| !client.list().is_empty());
    client.done(LOCATE, &["EventManager"], &second.requests());
    assert!(second.stop());
    assert_eq!(client.refusal(LOCATE, &["EventManager"]), "unknown-service");
}

/// The same if what listens there isn't ours, and doesn't answer.
#[test]
fn a_daemon_starts_though_the_address_is_a_stranger_s() {
    let context = zmq::Context::new();
    let stranger = socket(&context, zmq::ROUTER);
    stranger.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = stranger
        .get_last_endpoint()
        .expect("it is bound")
        .expect("a text");
    let daemon = with_locator(address.parse().expect("an address"));
    daemon.subscribe("s1", "Billing", &["Order"]);
    assert!(is_silent(&stranger, 50));
}

#[test]
fn a_long_address_is_refused_and_not_echoed() {
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = Client::of(&daemon);
    let host = ["tcp://", &"h".repeat(1 << 20), ":1"].concat();
    let path = ["ipc://", &"p".repeat(1 << 20)].concat();
    for address in [&host, &path, &"x".repeat(1 << 20)] {
        for token in [REGISTER, UNREGISTER] {
            let [token, _, said] = client.ask(token, &["Billing", address]);
            assert_eq!((&*token, code_of(&said)), ("TK_SYS_NAK", "invalid-address"));
            assert!(said.len() < 2048, "{} bytes are echoed", said.len());
        }
    }
    assert_eq!(client.list(), [] as [Value; 0]);
}

#[test]
fn the_list_is_given_in_parts_that_are_bounded() {
    const NAMES: usize = 1100;
    let daemon = with_locator(Endpoint::tcp("127.0.0.1", 0));
    let client = Client::of(&daemon);
    for n in 0..NAMES {
        let name = format!("S{n:04}");
        client.done(REGISTER, &[&name, "tcp://one:7001"], "30000");
        // One has many addresses: a list by names alone could not go on within it.
        client.done(REGISTER, &["Many", &format!("tcp://one:{n}")], "30000");
    }
    let mut listed = BTreeSet::new();
    let mut after: Vec<String> = vec![];
    for part in 0.. {
        let fields: Vec<&str> = after.iter().map(String::as_str).collect();
        let [_, _, data] = client.ask(LIST, &fields);
        let mut entries: Vec<Value> = serde_json::from_str(&data).expect("a JSON list");
        let more = entries.pop_if(|entry| entry["more"] == true);
        assert!(entries.len() <= 1000 && part < 10);
        for entry in entries {
            let text = |name: &str| entry[name].as_str().expect("a text").to_owned();
            let is_new = listed.insert((text("service"), text("address")));
            assert!(is_new, "{entry} came twice");
        }
        let Some(more) = more else { break };
        assert_eq!(more["registrations"], 2 * NAMES);
        let text = |name: &str| more["after"][name].as_str().expect("a text").to_owned();
        after = vec![text("service"), text("address")];
    }
    assert_eq!(listed.len(), 2 * NAMES);
}

#[test]
fn the_name_of_the_daemon_is_its_own() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.register = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    });
    let client = Client::of(&daemon);
    let own = daemon.requests();
    for stranger in ["tcp://stranger:7001", "tcp://127.0.0.1:1"] {
        let fields = ["EventManager", stranger];
        assert_eq!(client.refusal(REGISTER, &fields), "reserved");
        assert_eq!(client.refusal(UNREGISTER, &fields), "reserved");
    }
    daemon.wait_for("its registration", |_| {
        client.ask(LOCATE, &["EventManager"])[0] == "TK_SYS_ACK"
    });
    // Nobody ends it, nor makes it end sooner.
    client.done(REGISTER, &["EventManager", &own, "1"], "1");
    assert_eq!(
        client.refusal(UNREGISTER, &["EventManager", &own]),
        "reserved"
    );
    client.done(LOCATE, &["EventManager"], &own);
    let listed = client.list();
    assert_eq!((listed.len(), &listed[0]["address"]), (1, &json!(own)));
    assert!(listed[0]["expiresInMs"].as_u64() > Some(1000), "{listed:?}");
}
