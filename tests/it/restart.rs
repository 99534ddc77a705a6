//! A restart: clients whose sockets connect again by themselves go on without a new request.

mod database;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager::state::{self};
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::requests::ask_json;
use super::support::bus::own_host;
use super::support::peers::{connect, connected, is_silent, publish, received, socket};
use super::support::program::{Program, Site};
use super::support::{PATIENCE, TestDaemon};

pub const KEEP_ALIVE: &str = "TK_EVENT_MANAGER_KEEP_ALIVE";
pub const KILL: &str = "KILL";
pub const TERM: &str = "TERM";

/// The program in a directory of its own, which keeps its state there. From its second start on it
/// has the ports of the first.
pub struct Home {
    pub site: Site,
    pub host: String,
    addresses: Value,
    /// Keys of `config.json` beside those that each daemon here has; they hold from the next start on.
    pub keys: Value,
}

impl Home {
    pub fn new() -> Self {
        Self::with(json!({}))
    }

    /// With settings of single services.
    pub fn with_services(services: &Value) -> Self {
        Self::with(json!({ "services": services }))
    }

    /// With these keys.
    pub fn with(keys: Value) -> Self {
        // Nothing else on this address takes a port that is free for a moment.
        let host = own_host();
        let any = format!("tcp://{host}:0");
        Self {
            site: Site::new(),
            host,
            addresses: json!({
                "pubAddress": any, "subAddress": any, "requestAddress": any,
            }),
            keys,
        }
    }

    fn configure(&self) {
        let mut keys = super::support::process::settings(&self.addresses);
        keys["pullAddress"] = json!(format!("tcp://{}", self.host));
        keys["publicHostname"] = json!(self.host);
        keys["stateDir"] = json!("state");
        for (key, value) in self.keys.as_object().expect("an object") {
            keys[key] = value.clone();
        }
        self.site.write("config.json", &keys.to_string());
    }

    pub fn start(&mut self) -> TestDaemon {
        self.configure();
        let daemon = TestDaemon::serving(&self.site);
        let bound = daemon.bound();
        let first = |all: &[Endpoint]| json!(all[0].to_string());
        self.addresses = json!({
            "pubAddress": first(&bound.publishers),
            "subAddress": first(&bound.subscribers),
            "requestAddress": first(&bound.requests),
        });
        daemon
    }

    /// Ends the daemon by this signal, when all it keeps is on disk, and starts it again.
    pub fn restart(&mut self, daemon: TestDaemon, signal: &str) -> TestDaemon {
        end(daemon, signal);
        self.start()
    }

    fn database(&self) -> PathBuf {
        self.site.path("state").join(state::FILE_NAME)
    }
}

pub fn end(daemon: TestDaemon, signal: &str) {
    daemon.wait_for("state on disk", |status| status.state.written);
    if signal == TERM {
        assert!(daemon.stop());
    } else {
        let program = daemon.into_program();
        program.signal(signal);
        assert_eq!(program.end().code, None, "a signal ended it");
    }
}

pub fn assert_kept_alive(daemon: &TestDaemon, id: &str) {
    let (token, data) = daemon.ask(KEEP_ALIVE, &[id]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
}

/// Publishes numbers, about 5,000 in a second, whether anybody hears or not.
struct Stream {
    sent: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(address: &str, subjects: Vec<String>) -> Self {
        let (sent, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let context = zmq::Context::new();
        let publisher = connected(&context, zmq::PUB, address);
        let thread = std::thread::spawn({
            let (sent, ends) = (Arc::clone(&sent), Arc::clone(&ends));
            move || {
                while !ends.load(Ordering::Relaxed) {
                    for _ in 0..5 {
                        let number = sent.load(Ordering::Relaxed) + 1;
                        for subject in &subjects {
                            publish(&publisher, subject, &number.to_string());
                        }
                        sent.store(number, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            sent,
            ends,
            thread: Some(thread),
        }
    }

    /// Waits until the receiver hears an event that was sent after this call.
    fn assert_heard_by(&self, who: &str, receiver: &zmq::Socket) {
        let sent = self.sent.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while received(receiver).parse::<u64>().expect("a number") <= sent {
            assert!(Instant::now() < deadline, "{who} hears nothing new");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

#[test]
fn the_worker_of_the_command_line_goes_on() {
    let mut home = Home::new();
    let first = home.start();
    let site = Site::of(&first);
    let worker = site.start(&["worker", "Billing", "Order", "-n", "2"]);
    first.wait_for_ready("Billing", 1);
    publish(&first.publisher(), "Order", "before");
    worker.printed(1);
    first.wait_for_ready("Billing", 1);
    let second = home.restart(first, KILL);
    second.wait_for_ready("Billing", 1);
    publish(&second.publisher(), "Order", "after");
    let ended = worker.end();
    assert_eq!(ended.stdout, "Order\tbefore\nOrder\tafter\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn subscribers_and_workers_go_on_under_load() {
    let mut home = Home::new();
    let mut daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order", "glob:x.*"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    let stream = Stream::start(&daemon.publishers(), vec!["OrderCreated".into()]);
    for signal in [KILL, TERM, KILL] {
        stream.assert_heard_by("the worker", &worker);
        stream.assert_heard_by("the subscriber", &subscriber);
        daemon = home.restart(daemon, signal);
        stream.assert_heard_by("the worker", &worker);
        stream.assert_heard_by("the subscriber", &subscriber);
        let service = daemon.service("Billing");
        assert_eq!(service.address, Some(billing.pull_address.clone()));
        assert_eq!(service.subjects, ["Order", "glob:x.*"]);
        assert_eq!(service.workers.ready, 1);
        assert_kept_alive(&daemon, "sub-1");
    }
}

#[test]
fn fifty_services_come_back() {
    let mut home = Home::new();
    let daemon = home.start();
    let names: Vec<String> = (0..50).map(|n| format!("Service-{n}")).collect();
    let workers: Vec<zmq::Socket> = names
        .iter()
        .map(|name| {
            let subscribed = daemon.subscribe(name, name, &[&format!("exact:{name}")]);
            daemon.worker(name, &subscribed.pull_address)
        })
        .collect();
    let stream = Stream::start(&daemon.publishers(), names.clone());
    let daemon = home.restart(daemon, KILL);
    for (name, worker) in names.iter().zip(&workers) {
        stream.assert_heard_by(name, worker);
        assert_kept_alive(&daemon, name);
    }
}

/// A word of an acknowledging worker that puts an empty frame before each.
fn say(worker: &zmq::Socket, word: &str) {
    worker.send_multipart(["", word], 0).expect("a send");
}

/// An event of a worker that acknowledges: its delivery's number, and its data.
fn held(worker: &zmq::Socket) -> (u64, String) {
    let frames = worker.recv_multipart(0).expect("an event");
    let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
    let (delimiter, word) = (&frames[0], text(&frames[1]));
    assert!(delimiter.is_empty());
    let number = word.split(' ').nth(1).expect("EVENT <id> <attempt>");
    (number.parse().expect("a number"), text(&frames[3]))
}

#[test]
fn a_worker_that_acknowledges_goes_on_as_it_began() {
    let mut home = Home::new();
    let daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    say(&worker, r#"READY {"ack": true, "credit": 1}"#);
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "before");
    let (before, _) = held(&worker);

    let daemon = home.restart(daemon, KILL);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "after");
    publish(&publisher, "Order", "beyond its credit");
    let (after, data) = held(&worker);
    assert_eq!(data, "after");
    say(&worker, &format!("ACK {before}"));
    daemon.wait_for("the ACK of an earlier run", |status| {
        status.refused("unknown-delivery") == 1
    });
    assert_eq!(daemon.service("Billing").counters.in_flight, 1);
    say(&worker, &format!("ACK {after}"));
    let (_, data) = held(&worker);
    assert_eq!(data, "beyond its credit");
    // READY again is harmless.
    say(&worker, r#"READY {"ack": true, "credit": 2}"#);
    publish(&publisher, "Order", "more");
    assert_eq!(held(&worker).1, "more");
}

#[test]
fn a_worker_s_own_ready_goes_before_what_was_presumed() {
    let mut home = Home::new();
    let daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let former = daemon.worker("Billing", &billing.pull_address);
    end(daemon, KILL);
    drop(former);
    let daemon = home.start();
    let newcomer = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    daemon.wait_for_ready("Billing", 1);
    say(&newcomer, r#"READY {"ack": true}"#);
    let publisher = daemon.publisher();
    // What it is given until then has the form that was presumed.
    daemon.wait_for("its own READY", |_| {
        publish(&publisher, "Order", "x");
        newcomer.recv_multipart(0).expect("an event").len() == 4
    });
}

#[test]
fn nothing_is_presumed_of_workers_that_differed_nor_without_any() {
    let mut home = Home::new();
    let daemon = home.start();
    let subscribed =
        ["Mixed", "None", "Left"].map(|name| daemon.subscribe(name, name, &[name]).pull_address);
    let [mixed, none, left] = &subscribed;
    let plain = daemon.worker("Mixed", mixed);
    let acknowledging = connected(&daemon.context, zmq::DEALER, mixed);
    say(&acknowledging, r#"READY {"ack": true}"#);
    daemon.wait_for_ready("Mixed", 2);
    let silent = connected(&daemon.context, zmq::DEALER, none);
    let gone = connected(&daemon.context, zmq::DEALER, left);
    say(&gone, r#"READY {"ack": true}"#);
    daemon.wait_for_ready("Left", 1);
    say(&gone, "BYE");
    daemon.wait_for_ready("Left", 0);

    let daemon = home.restart(daemon, KILL);
    daemon.wait_for("connections", |status| {
        let services = status.services.iter();
        services.map(|s| s.workers.connected).sum::<u64>() == 4
    });
    let publisher = daemon.publisher();
    for name in ["Mixed", "None", "Left"] {
        publish(&publisher, name, name);
    }
    assert!(is_silent(&plain, 500));
    for worker in [&acknowledging, &silent, &gone] {
        assert!(is_silent(worker, 0));
    }
    for (worker, name) in [(&plain, "Mixed"), (&silent, "None"), (&gone, "Left")] {
        worker.send("READY", 0).expect("a send");
        assert_eq!(received(worker), name);
    }
}

#[test]
fn a_durable_service_that_is_declared_has_its_port_and_its_workers_again() {
    let mut home = Home::with_services(&json!({
        "Billing": {"delivery": "queue", "subjects": ["Order"]},
        "Kitchen": {"delivery": "queue", "subjects": ["Order"]},
    }));
    let mut daemon = home.start();
    let names = ["Kitchen", "Billing"];
    let before = names.map(|name| daemon.address_of(name));
    let workers = [0, 1].map(|n| daemon.worker(names[n], &before[n]));
    for signal in [KILL, TERM] {
        daemon = home.restart(daemon, signal);
        assert_eq!(names.map(|name| daemon.address_of(name)), before);
        publish(&daemon.publisher(), "Order", signal);
        for worker in &workers {
            assert_eq!(received(worker), signal);
        }
    }
}

#[test]
fn a_durable_service_without_subscriptions_wants_on_after_a_restart() {
    let mut home = Home::with_services(&json!({"Kit*": {"delivery": "queue"}}));
    let daemon = home.start();
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["exact:Order", "Refund"]);
    daemon.unsubscribe("sub-1");
    let daemon = home.restart(daemon, KILL);
    let daemon = home.restart(daemon, KILL);
    let service = daemon.service("Kitchen");
    assert_eq!(service.address, Some(kitchen.pull_address.clone()));
    assert_eq!(service.subscriptions, []);
    let publisher = daemon.publisher();
    for subject in ["Order", "OrderCreated", "Refund"] {
        publish(&publisher, subject, subject);
    }
    let worker = daemon.worker("Kitchen", &kitchen.pull_address);
    assert_eq!([received(&worker), received(&worker)], ["Order", "Refund"]);
    // With its next subscription it wants what that asks for, and no more.
    daemon.subscribe("sub-2", "Kitchen", &["Return"]);
    let daemon = home.restart(daemon, KILL);
    assert_eq!(daemon.service("Kitchen").subjects, ["Return"]);
}

#[test]
fn a_req_socket_asks_anew() {
    let mut home = Home::new();
    let daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let daemon = home.restart(daemon, KILL);
    daemon.wait_for_ready("Billing", 1);
    let asking = socket(&daemon.context, zmq::REQ);
    connect(&asking, &billing.pull_address);
    daemon.wait_for("two connections", |status| {
        status.services[0].workers.connected == 2
    });
    let publisher = daemon.publisher();
    for n in 0..3 {
        publish(&publisher, "Order", &n.to_string());
        assert_eq!(received(&worker), n.to_string());
    }
    assert!(is_silent(&worker, 300));
    assert_eq!(daemon.service("Billing").workers.ready, 1);
}

/// Their connections come back, and what they wait for is said again.
#[test]
fn the_commands_go_on_after_a_restart() {
    let mut home = Home::new();
    let daemon = home.start();
    let site = Site::of(&daemon);
    let sub = site.start(&["sub", "Order"]);
    let worker = site.start(&["worker", "Billing", "Order"]);
    let mut publisher = site.start(&["pub", "Order"]);
    let publish = |daemon: &TestDaemon, publisher: &mut Program, data: &str| {
        daemon.wait_for_subscriptions(1);
        daemon.wait_for_ready("Billing", 1);
        publisher.types(data);
    };
    publish(&daemon, &mut publisher, "1\n");
    assert_eq!(sub.printed(1), "Order\t1\n");
    assert_eq!(worker.printed(1), "Order\t1\n");
    drop(daemon);
    let daemon = home.start();
    publish(&daemon, &mut publisher, "2\n");
    assert_eq!(sub.printed(2), "Order\t1\nOrder\t2\n");
    assert_eq!(worker.printed(2), "Order\t1\nOrder\t2\n");
    publisher.ends_input();
    assert_eq!(publisher.end().done(), "");
    for command in [sub, worker] {
        command.signal("TERM");
        assert_eq!(command.end().code, Some(0));
    }
}

#[test]
fn a_client_that_was_idle_over_a_restart_asks_again() {
    let mut home = Home::new();
    let daemon = home.start();
    let mut client = daemon.client(PATIENCE);
    let mut service = || client.status().expect("an answer").pid;
    let first = service();
    assert_eq!(first, service());
    drop(daemon);
    let _daemon = home.start();
    assert_ne!(first, service());
}

#[test]
fn what_a_subscription_asked_of_its_service_holds_over_a_restart() {
    let mut home = Home::with_services(&json!({
        "N*": {"ackTimeout": 7, "retry": {"maxDeliveries": 7}}, "Named": {"ackTimeout": 8},
        "Quick*": {"retry": {"initialMs": 5, "maxMs": 10}}, "Slow*": {"retry": {"maxMs": 60_000}},
    }));
    let daemon = home.start();
    let ask = |daemon: &TestDaemon, request: &Value| ask_json(&daemon.requester(), request);
    let subscribe = |id: &str, service: &str, options: Value| {
        let mut request = options;
        request["token"] = json!("subscribe");
        request["subjects"] = json!(["Order"]);
        (request["id"], request["service"]) = (json!(id), json!(service));
        request
    };
    let options = json!({
        "ackTimeout": 2.5, "retry": {"initialMs": 0, "maxDeliveries": 2}, "orderBy": "subject",
        "whenFull": "drop-newest",
    });
    for (id, service, ack_timeout_ms) in [
        ("sub-1", "Billing", 2_500),
        // It goes before globs, and after what the configuration says of this name.
        ("sub-2", "Nobody", 2_500),
        ("sub-3", "Named", 8_000),
    ] {
        let answer = ask(&daemon, &subscribe(id, service, options.clone()));
        assert_eq!(answer["ackTimeoutMs"], ack_timeout_ms, "{answer}");
    }
    for wrong in [
        json!({"ackTimeout": 0}),
        json!({"ackTimeout": "soon"}),
        json!({"retry": {"maxDeliveries": 0}}),
        json!({"retry": {"colour": 1}}),
        json!({"retry": {"initialMs": 40_000}}),
        json!({"retry": 3}),
        json!({"orderBy": "colour"}),
        json!({"orderBy": 1024}),
        json!({"whenFull": "explode"}),
        json!({"whenFull": "spill"}),
    ] {
        let answer = ask(&daemon, &subscribe("sub-4", "Other", wrong.clone()));
        let code = match wrong["retry"]["colour"].is_null() {
            true => "invalid-field",
            false => "unknown-field",
        };
        assert_eq!(answer["code"], code, "{wrong}: {answer}");
    }
    assert_eq!(daemon.find_service("Other"), None);
    // What goes together is what is in force, whoever said it.
    for (service, retry, is_right) in [
        ("Quick", json!({"initialMs": 10}), true),
        ("Quick", json!({"initialMs": 11}), false),
        ("Slow", json!({"initialMs": 60_000}), true),
        ("Slow", json!({"maxMs": 59_999}), false),
        ("Slow", json!({"initialMs": 50_000, "maxMs": 59_999}), true),
        ("Slow", json!({"initialMs": 60_000}), false),
    ] {
        let answer = ask(
            &daemon,
            &subscribe("sub-4", service, json!({"retry": retry})),
        );
        let code = if is_right {
            Value::Null
        } else {
            json!("invalid-field")
        };
        assert_eq!(answer["code"], code, "{service} {retry}: {answer}");
        if !is_right {
            let sentence = answer["error"].to_string();
            assert!(sentence.contains("is above maxMs"), "{sentence}");
        }
    }
    daemon.unsubscribe("sub-4");

    let daemon = home.restart(daemon, KILL);
    let again = ask(&daemon, &subscribe("sub-1", "Billing", json!({})));
    assert_eq!(again["ackTimeoutMs"], 2_500, "{again}");
    let address = again["data"][2].as_str().expect("an address");
    let worker = connected(&daemon.context, zmq::DEALER, address);
    worker.send("READY {\"ack\": true}", 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "x");
    for attempt in ["1", "2"] {
        let event = worker.recv_multipart(0).expect("an event");
        let word = String::from_utf8(event[0].clone()).expect("a text");
        let words: Vec<_> = word.split(' ').collect();
        assert_eq!(words[2], attempt);
        worker
            .send(&format!("NAK {} 0", words[1]), 0)
            .expect("a send");
    }
    daemon.wait_for_counter("Billing", |c| c.dead_lettered, 1);
}
