//! The daemon's state as JSON: which fields there are, and of which types. Clients and dashboards of
//! others read them, so `status/shape.txt` pins them.

mod documented;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

use event_manager_wire::api::{Stats, Status};
use event_manager_wire::model::Endpoint;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ports::{held_ports, range_of};
use super::support::TestDaemon;
use super::support::bus::own_host;
use super::support::peers::{connected, publish};
use super::support::program::Site;
use super::support::raw::{RawPeer, command, message};

/// Objects whose names are data, not fields.
const MAPS: &[&str] = &[
    "peers.refused",
    "peers.zmtp.versions",
    "peers.mechanisms",
    "security.clients[].mechanisms",
    "store.failed",
    "services[].counters.dropped",
    "subscribers.counters.dropped",
    "retiredServices.dropped",
];

/// The JSON types of what is at each path; `[]` is any element, `*` any name of [`MAPS`].
type Shape = BTreeMap<String, BTreeSet<&'static str>>;

fn add(shape: &mut Shape, path: &str, value: &Value) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "float",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !path.is_empty() {
        shape.entry(path.to_owned()).or_default().insert(kind);
    }
    match value {
        Value::Array(all) => all
            .iter()
            .for_each(|one| add(shape, &format!("{path}[]"), one)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = match MAPS.contains(&path) {
                    true => "*",
                    false => name,
                };
                let dot = if path.is_empty() { "" } else { "." };
                add(shape, &format!("{path}{dot}{name}"), value);
            }
        }
        _ => {}
    }
}

/// What is pinned. Without the feature there are no traces.
fn pinned() -> Shape {
    let lines = include_str!("status/shape.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    let mut shape = Shape::new();
    for line in lines {
        let (path, kinds) = line.split_once(": ").expect("a path and its types");
        shape.insert(path.to_owned(), kinds.split(' ').collect());
    }
    if !cfg!(feature = "traces") {
        shape.retain(|path, _| !path.starts_with("traces."));
        shape.insert("traces".to_owned(), BTreeSet::from(["null"]));
    }
    shape
}

/// The answer of STATUS, as it comes. Its types have all of it.
fn raw_status(daemon: &TestDaemon) -> Value {
    let (token, status) = daemon.ask("TK_EVENT_MANAGER_STATUS", &[]);
    assert_eq!(token, "TK_SYS_ACK", "{status}");
    assert_whole::<Status>(&status)
}

fn raw_stats(daemon: &TestDaemon) -> Value {
    assert_whole::<Stats>(&daemon.http_get("/stats").body)
}

fn assert_whole<T: Serialize + DeserializeOwned>(text: &str) -> Value {
    let typed: T = serde_json::from_str(text).expect("JSON that the types can read");
    let value: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(serde_json::to_value(&typed).expect("JSON"), value);
    value
}

fn free_address(host: &str) -> String {
    let listener = TcpListener::bind((host, 0)).expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    format!("tcp://{host}:{port}")
}

/// Publishes until both kinds of peers that don't read are slow.
fn have_slow_peers(daemon: &TestDaemon) {
    let publisher = daemon.publisher();
    let data = "x".repeat(1 << 20);
    daemon.wait_for("peers that are slow", |_| {
        publish(&publisher, "Order", &data);
        let status = raw_status(daemon);
        let slow = status["peers"]["slow"].as_array().expect("a list");
        let of = |role: &str| slow.iter().any(|peer| peer["role"] == role);
        of("subscriber") && of("worker")
    });
}

/// A daemon with services and peers of every kind; the shapes of its STATUS and its `/stats`.
fn busy(shapes: &mut [Shape; 2]) {
    let directory = TempDir::new().expect("a directory");
    let queues = directory.path().join("queues");
    std::fs::create_dir(&queues).expect("a directory");
    std::fs::write(queues.join("Broken"), "").expect("a file in the way");
    let host = own_host();
    let own = free_address(&host);
    let hub = TestDaemon::with(|config| {
        let own = own.parse::<Endpoint>().expect("an address");
        config.mesh.peers = vec![own.into()];
    });
    let mut settings = json!({
        "stateDir": directory.path(),
        "httpAddress": "127.0.0.1:0",
        "subAddress": own,
        "connectPublishers": [own, free_address(&host)],
        "mesh": {"peers": [hub.subscribers(), free_address(&host)]},
        "locatorAddress": "tcp://127.0.0.1:0",
        "locatorRegister": true,
        "embeddedLocator": true,
        "services": {
            "Billing": {"delivery": "queue", "subjects": ["Order"]},
            "Broken": {"delivery": "queue", "subjects": ["Order"]},
        },
    });
    if cfg!(feature = "traces") {
        settings["traces"] = json!({"endpoint": "http://127.0.0.1:9"});
    }
    let daemon = TestDaemon::in_own_process(&settings);
    let live = daemon.subscribe("sub-1", "Live", &["Order"]);
    let mut worker = RawPeer::met(&live.pull_address, "DEALER");
    worker.send(&message(&[r#"READY {"name": "till-1"}"#]));
    daemon.wait_for_ready("Live", 1);
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    let acknowledging = daemon.subscribe("sub-2", "Acknowledging", &["Order"]);
    let acknowledging = connected(&daemon.context, zmq::DEALER, &acknowledging.pull_address);
    acknowledging
        .send(r#"READY {"ack": true, "client": "c/1"}"#, 0)
        .expect("a send");
    daemon.wait_for_ready("Acknowledging", 1);
    let old = RawPeer::connect(&live.pull_address).meet_old("DEALER", "", 0);
    let older = RawPeer::connect(&daemon.requests()).meet_old("REQ", "", 0);
    for _ in 0..5 {
        RawPeer::connect(&daemon.requests()).send_while_heard(b"GET / HTTP/1.1\r\n\r\n");
    }
    daemon.wait_for("peers and a ring", |_| {
        let status = raw_status(&daemon);
        let dialled = &status["publishers"]["dialled"];
        dialled[0]["ring"].is_object()
            && dialled[1]["lastError"].is_string()
            && status["mesh"]["links"][0]["hub"].is_string()
            && status["mesh"]["links"][1]["lastError"].is_string()
            && status["mesh"]["hubs"][0].is_object()
            && status["peers"]["refusedAgain"][0].is_object()
            && status["peers"]["zmtp"]["versions"]["2.0"] == 2
    });
    have_slow_peers(&daemon);
    add(&mut shapes[0], "", &raw_status(&daemon));
    add(&mut shapes[1], "", &raw_stats(&daemon));
    drop((worker, subscriber, acknowledging, old, older));
}

/// One that waits for the subscribers of the run before, and has no port for its service.
fn held(shapes: &mut [Shape; 2]) {
    let directory = TempDir::new().expect("a directory");
    let host = own_host();
    let ports = held_ports(&host, 1);
    let settings = json!({
        "stateDir": directory.path(),
        "httpAddress": "127.0.0.1:0",
        "subscriberGrace": 60,
        "publicHostname": host,
        "pullAddress": format!("tcp://{host}"),
        "minStreamerPort": range_of(&ports).start(),
        "maxStreamerPort": range_of(&ports).end(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    });
    let daemon = TestDaemon::in_own_process(&settings);
    add(&mut shapes[0], "", &raw_status(&daemon));
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    daemon.wait_for("a state that is written", |_| {
        raw_status(&daemon)["state"]["written"] == true
    });
    assert!(daemon.stop());
    let daemon = TestDaemon::in_own_process(&settings);
    add(&mut shapes[0], "", &raw_status(&daemon));
    add(&mut shapes[1], "", &raw_stats(&daemon));
}

/// One that serves because a person says so.
fn led(shapes: &mut [Shape; 2]) {
    let directory = TempDir::new().expect("a directory");
    let site = Site::configured(&json!({
        "stateDir": directory.path(),
        "httpAddress": "127.0.0.1:0",
        "lease": {"source": "hand"},
    }));
    site.run(&["promote"]).done();
    let daemon = TestDaemon::serving(&site);
    add(&mut shapes[0], "", &raw_status(&daemon));
    add(&mut shapes[1], "", &raw_stats(&daemon));
}

/// Lines of the pinned file that are not found, and lines that are found and not in it.
fn differences(found: &Shape, pinned: &Shape) -> Vec<String> {
    let lines = |shape: &Shape| -> BTreeSet<String> {
        let lines = shape.iter().map(|(path, kinds)| {
            let kinds: Vec<_> = kinds.iter().copied().collect();
            format!("{path}: {}", kinds.join(" "))
        });
        lines.collect()
    };
    let (found, pinned) = (lines(found), lines(pinned));
    let gone = pinned.difference(&found).map(|line| format!("-{line}"));
    let new = found.difference(&pinned).map(|line| format!("+{line}"));
    gone.chain(new).collect()
}

#[test]
fn status_and_stats_have_the_fields_and_types_that_they_always_had() {
    let mut shapes = [Shape::new(), Shape::new()];
    busy(&mut shapes);
    held(&mut shapes);
    led(&mut shapes);
    let [of_status, mut of_stats] = shapes;
    let added = |path: &str| {
        let first = path.split('.').next().unwrap_or_default();
        [
            "instance",
            "takenAtMs",
            "registration",
            "readiness",
            "process",
        ]
        .contains(&first)
    };
    // One of both has seen all that may be null.
    for (path, kinds) in &of_status {
        of_stats.entry(path.clone()).or_default().extend(kinds);
    }
    let mut pinned = pinned();
    assert_eq!(differences(&of_stats, &pinned), Vec::<String>::new());
    pinned.retain(|path, _| !added(path));
    assert_eq!(differences(&of_status, &pinned), Vec::<String>::new());
}

/// The reactor looks at some of them in a turn.
#[test]
fn all_services_are_told_once_however_many() {
    const SERVICES: usize = 60;
    let daemon = TestDaemon::start();
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    let ask = |token: &str, fields: &str| {
        let request = ["", token, "PARAM", fields];
        requester.send_multipart(request, 0).expect("a send");
    };
    let answered = || {
        let answer = requester.recv_multipart(0).expect("an answer");
        assert_eq!(answer[1], b"TK_SYS_ACK", "{answer:?}");
        String::from_utf8(answer[3].clone()).expect("text")
    };
    // More than are answered in a turn, and all in their order.
    for n in 0..SERVICES {
        let fields = format!("sub-{n:02}\0Service{n:02}\0subject");
        ask("TK_EVENT_MANAGER_SUBSCRIBE", &fields);
    }
    for n in 0..SERVICES {
        let data = answered();
        assert!(data.starts_with(&format!("sub-{n:02}\0")), "{data}");
    }
    let told = |daemon: &TestDaemon| -> Vec<String> {
        let services = daemon.status().services.into_iter();
        services.map(|service| service.name).collect()
    };
    let mut expected: Vec<_> = (0..SERVICES).map(|n| format!("Service{n:02}")).collect();
    assert_eq!(told(&daemon), expected);
    ask("TK_EVENT_MANAGER_UNSUBSCRIBE", "sub-30");
    answered();
    expected.remove(30);
    assert_eq!(told(&daemon), expected);
}
