//! PUBLISH: every subscribed service is called at the same time.

mod hostile;

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager_wire::api::{CallResult, CallResults, CallStatus};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::bus::exchange;
use super::support::keys::{Keys, Peer};
use super::support::peers::{connected, publish, received, socket};
use super::support::responder::Responder;
use super::support::{TestDaemon, tunnel};

const PUBLISH: &str = "TK_EVENT_MANAGER_PUBLISH";
const PAYLOAD: [&str; 5] = ["{\"n\":1}", "OrderCreated", "type", "1", "till-7"];

fn with_locator() -> TestDaemon {
    TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    })
}

/// Tells the daemon's locator where a service is.
fn register(daemon: &TestDaemon, service: &str, address: &str) {
    let locator = connected(&daemon.context, zmq::REQ, &daemon.locator());
    let data = [service, address].join("\0");
    locator
        .send_multipart(["3.1", "2", &data], 0)
        .expect("a send");
    assert_eq!(locator.recv_multipart(0).expect("an answer")[0], b"1.1");
}

/// A service with a socket of its own that gives one answer to everybody.
struct Service {
    address: String,
    requests: mpsc::Receiver<Vec<Vec<u8>>>,
    stop: zmq::Socket,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn answering(context: &zmq::Context, kind: zmq::SocketType, token: &str, data: &[u8]) -> Self {
        Self::typed(context, kind, [token.as_bytes(), b"6", data])
    }

    /// Answers with these frames: token, data type, data.
    fn typed(context: &zmq::Context, kind: zmq::SocketType, answer: [&[u8]; 3]) -> Self {
        let service = socket(context, kind);
        service.bind("tcp://127.0.0.1:*").expect("a free port");
        let address = service
            .get_last_endpoint()
            .expect("it is bound")
            .expect("a text");
        let address = tunnel::before(&address);
        let (told, requests) = mpsc::channel();
        let (stop, stopped) = (socket(context, zmq::PAIR), socket(context, zmq::PAIR));
        stopped
            .bind(&format!("inproc://{address}"))
            .expect("a free name");
        stop.connect(&format!("inproc://{address}"))
            .expect("a name");
        let answer = answer.map(<[u8]>::to_vec);
        let thread = std::thread::spawn(move || {
            loop {
                let mut items = [
                    service.as_poll_item(zmq::POLLIN),
                    stopped.as_poll_item(zmq::POLLIN),
                ];
                zmq::poll(&mut items, -1).expect("a poll");
                if items[1].is_readable() {
                    return;
                }
                let mut frames = service.recv_multipart(0).expect("a request");
                let envelope = frames.iter().position(Vec::is_empty).map_or(0, |at| at + 1);
                let request = frames.split_off(envelope);
                told.send(request).expect("somebody listens");
                frames.extend(answer.clone());
                service.send_multipart(frames, 0).expect("a send");
            }
        });
        Self {
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.send("stop", 0).expect("a send");
        let ended = self.thread.take().expect("it runs").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// A service that takes requests and never answers.
fn hung(daemon: &TestDaemon) -> (zmq::Socket, String) {
    let service = socket(&daemon.context, zmq::ROUTER);
    service.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = service
        .get_last_endpoint()
        .expect("it is bound")
        .expect("a text");
    (service, tunnel::before(&address))
}

/// The answer's token and its results by service.
fn call(daemon: &TestDaemon, timeout: Duration) -> (String, Vec<CallResult>) {
    let requester = daemon.requester();
    let timeout = timeout.as_micros().to_string();
    requester
        .send_multipart([PUBLISH, "PARAM", &PAYLOAD.join("\0"), &timeout], 0)
        .expect("a send");
    let answer = requester.recv_multipart(0).expect("an answer");
    let data: CallResults = serde_json::from_slice(&answer[2]).expect("results");
    assert_eq!(data.subject, "OrderCreated");
    (
        String::from_utf8_lossy(&answer[0]).into_owned(),
        data.results,
    )
}

const LONG: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn nobody_to_call_is_an_ack_without_results() {
    let daemon = with_locator();
    daemon.subscribe("sub-1", "Billing", &["Refund"]);
    assert_eq!(call(&daemon, LONG), ("TK_SYS_ACK".into(), vec![]));
}

#[test]
fn every_subscribed_service_gets_the_payload_unchanged() {
    let daemon = with_locator();
    let rep = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"billed");
    let router = Service::answering(&daemon.context, zmq::ROUTER, "4027580417", b"\xFF\x00");
    let other = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"");
    for (service, at, subject) in [
        ("Billing", &rep, "Order"),
        ("Kitchen", &router, "glob:Order*"),
        ("Audit", &other, "exact:Order"),
    ] {
        daemon.subscribe(&format!("sub-{service}"), service, &[subject, "Else"]);
        register(&daemon, service, &at.address);
    }
    let (token, results) = call(&daemon, LONG);
    assert_eq!(token, "TK_SYS_ACK");
    let expected = json!([
        {"service": "Billing", "status": "ack", "data": "billed"},
        {"service": "Kitchen", "status": "ack", "dataBase64": "/wA="},
    ]);
    assert_eq!(json!(results), expected);
    for service in [&rep, &router] {
        let request = service.requests.recv().expect("a request");
        let event = 0xF040_0001u32.to_string();
        assert_eq!(
            request,
            [event.as_bytes(), b"2", PAYLOAD.join("\0").as_bytes()]
        );
    }
    assert!(
        other.requests.try_recv().is_err(),
        "its subject doesn't match"
    );
}

#[test]
fn data_types_that_nobody_knows_pass_through() {
    let daemon = with_locator();
    let types: [(&str, &[u8], Value); 4] = [
        ("A", b"json", json!("json")),
        ("B", b"77", json!(77)),
        ("C", b"PARAM", json!(null)),
        ("D", b"\xFF\xFE\xFD", json!(null)),
    ];
    let services: Vec<_> = types
        .iter()
        .map(|(name, kind, _)| {
            let answer = [b"TK_SYS_ACK", *kind, b"{}"];
            let service = Service::typed(&daemon.context, zmq::REP, answer);
            daemon.subscribe(&format!("sub-{name}"), name, &["Order"]);
            register(&daemon, name, &service.address);
            service
        })
        .collect();
    for (asked, sent) in [("json", "json"), ("4711", "4711"), ("STRING", "2")] {
        let request = [PUBLISH, asked, &PAYLOAD.join("\0")];
        let answer = exchange(&daemon.requester(), &request.map(str::as_bytes));
        let data: Value = serde_json::from_slice(&answer[2]).expect("JSON");
        assert_eq!(answer[0], b"TK_SYS_ACK", "{data}");
        for (at, (_, _, shown)) in types.iter().enumerate() {
            assert_eq!(data["results"][at]["status"], "ack");
            assert_eq!(data["results"][at]["data"], "{}");
            assert_eq!(data["results"][at]["dataType"], *shown);
            let request = services[at].requests.recv().expect("a request");
            assert_eq!(request[1], sent.as_bytes());
        }
    }
}

#[test]
fn one_that_refuses_hangs_or_is_gone_leaves_the_others_results() {
    let daemon = with_locator();
    let ack = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"yes");
    let nak = Service::answering(&daemon.context, zmq::REP, "TK_SYS_NAK", b"full: no");
    let (_hung, hung_address) = hung(&daemon);
    let gone = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    for (service, address) in [
        ("Ack", ack.address.clone()),
        ("Gone", format!("tcp://{gone}")),
        ("Hung", hung_address),
        ("Nak", nak.address.clone()),
    ] {
        daemon.subscribe(&format!("sub-{service}"), service, &["Order"]);
        register(&daemon, service, &address);
    }
    daemon.subscribe("sub-unknown", "Unknown", &["Order"]);
    let (token, results) = call(&daemon, SHORT);
    assert_eq!(token, "TK_SYS_NAK");
    let statuses: Vec<_> = results
        .iter()
        .map(|r| (&*r.service, r.status.name()))
        .collect();
    let expected = [
        ("Ack", "ack"),
        ("Gone", "unreachable"),
        ("Hung", "timeout"),
        ("Nak", "nak"),
        ("Unknown", "unreachable"),
    ];
    assert_eq!(statuses.len(), expected.len());
    for expected in expected {
        assert!(statuses.contains(&expected), "{expected:?} in {results:?}");
    }
}

#[test]
fn a_service_that_moved_is_found_again() {
    let daemon = with_locator();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    for n in 0..2 {
        let data = n.to_string();
        let service = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", data.as_bytes());
        register(&daemon, "Billing", &service.address);
        let (token, results) = call(&daemon, LONG);
        assert_eq!(
            (&token[..], results[0].data.as_deref()),
            ("TK_SYS_ACK", Some(&*data))
        );
    }
}

#[test]
fn calls_beyond_the_limit_are_refused_as_busy() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        // Where clients have names, as in a tunnel, one has no more than half.
        config.pending_calls_max = if tunnel::is_on() { 4 } else { 2 };
    });
    let (_hung, address) = hung(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &address);
    let dealer = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for _ in 0..3 {
        dealer
            .send_multipart([PUBLISH, "PARAM", &PAYLOAD.join("\0"), "1000000"], 0)
            .expect("a send");
    }
    let first = dealer.recv_multipart(0).expect("an answer");
    assert!(first[2].starts_with(b"busy: 2 requests"), "{first:?}");
    for _ in 0..2 {
        assert_eq!(
            dealer.recv_multipart(0).expect("an answer")[0],
            b"TK_SYS_NAK"
        );
    }
    assert_eq!(daemon.status().pending_calls, 0);
}

#[test]
fn who_waits_for_many_answers_keeps_no_other_from_asking() {
    const GREEDY: u8 = 2;
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    keys.admit(GREEDY);
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "maxPendingCalls": 8,
        "embeddedLocator": true,
        "locatorAddress": "tcp://127.0.0.1:0",
        "services": {"Kept": {"delivery": "queue"}},
        "security": keys.security(&["null", "curve"]),
    }));
    let (_hung, address) = hung(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &address);
    daemon.subscribe("sub-2", "Kept", &["kept."]);
    let mut greedy = Peer::met(&daemon.requests(), LocalSocket::Dealer, GREEDY);
    for _ in 0..5 {
        let event = [PUBLISH, "PARAM", &PAYLOAD.join("\0"), "4000000"];
        greedy.connection.send(event);
    }
    let refused = greedy.message();
    let said = String::from_utf8_lossy(&refused[2]);
    assert!(
        said.starts_with("busy: 4 requests of this client"),
        "{said}"
    );
    let (token, said) = daemon.ask("TK_EVENT_MANAGER_EMIT", &["", "disk", "kept.1", "x"]);
    assert_eq!(token, "TK_SYS_ACK", "{said}");
    assert_eq!(daemon.status().pending_calls, 4);
}

/// The median time of an event's way and of a keep-alive's.
fn latencies(daemon: &TestDaemon, publisher: &zmq::Socket, worker: &zmq::Socket) -> [Duration; 2] {
    let requester = daemon.requester();
    let mut times = [vec![], vec![]];
    for n in 0..100 {
        let begun = Instant::now();
        publish(publisher, "Live", &n.to_string());
        assert_eq!(received(worker), n.to_string());
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        requester
            .send_multipart(["2.4", "2", "live"], 0)
            .expect("a send");
        assert_eq!(requester.recv_multipart(0).expect("an answer")[0], b"1.1");
        times[1].push(begun.elapsed());
    }
    times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}

#[test]
fn a_thousand_calls_to_a_dead_service_hold_up_nothing_else() {
    let daemon = with_locator();
    let (_hung, address) = hung(&daemon);
    daemon.subscribe("dead", "Dead", &["Order"]);
    register(&daemon, "Dead", &address);
    let live = daemon.subscribe("live", "Live", &["Live"]);
    let worker = daemon.worker("Live", &live.pull_address);
    let publisher = daemon.publisher();
    let before = latencies(&daemon, &publisher, &worker);
    let calls = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for _ in 0..1000 {
        calls
            .send_multipart([PUBLISH, "PARAM", &PAYLOAD.join("\0"), "4000000"], 0)
            .expect("a send");
    }
    daemon.wait_for("a thousand calls", |status| status.pending_calls == 1000);
    let during = latencies(&daemon, &publisher, &worker);
    assert_eq!(
        daemon.status().pending_calls,
        1000,
        "all calls were under way to the end"
    );
    for (before, during) in before.into_iter().zip(during) {
        println!("median {before:?} before, {during:?} during");
        assert!(
            during <= before * 5 + Duration::from_millis(5),
            "{before:?} became {during:?}"
        );
    }
    for _ in 0..1000 {
        let answer = calls.recv_multipart(0).expect("an answer");
        let data: Value = serde_json::from_slice(&answer[2]).expect("JSON");
        assert_eq!(data["results"][0]["status"], "timeout");
    }
}

#[test]
fn who_is_not_there_is_unreachable_long_before_the_timeout() {
    let daemon = with_locator();
    let gone = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    daemon.subscribe("sub-1", "Gone", &["Order"]);
    register(&daemon, "Gone", &format!("tcp://{gone}"));
    daemon.subscribe("sub-2", "Unknown", &["Order"]);
    let begun = Instant::now();
    let (token, results) = call(&daemon, LONG);
    assert!(begun.elapsed() < LONG / 3);
    assert_eq!((&*token, results.len()), ("TK_SYS_NAK", 2));
    assert!(results.iter().all(|r| r.status == CallStatus::Unreachable));
}

#[test]
fn without_a_timeout_of_its_own_the_configured_one_counts() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.publish_timeout = SHORT;
    });
    let (_hung, address) = hung(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &address);
    for timeout in [&[][..], &[&b"-1"[..]]] {
        let mut request = vec![PUBLISH.as_bytes(), b"PARAM", b"data\0OrderCreated"];
        request.extend(timeout);
        let begun = Instant::now();
        let answer = exchange(&daemon.requester(), &request);
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
        let data: Value = serde_json::from_slice(&answer[2]).expect("JSON");
        assert_eq!(data["results"][0]["status"], "timeout");
    }
}

#[test]
fn named_fields_become_the_payload_and_the_answer_is_json() {
    let daemon = with_locator();
    let service = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"billed");
    daemon.subscribe("sub-1", "Billing", &["exact:OrderCreated"]);
    register(&daemon, "Billing", &service.address);
    let request = json!({
        "token": "publish", "payload": {"n": 1}, "subject": "OrderCreated", "type": "type",
        "sync": 1, "source_id": "till-7", "timeout": 15_000_000,
    });
    let answer = exchange(&daemon.requester(), &[request.to_string().as_bytes()]);
    let answer: Value = serde_json::from_slice(&answer[0]).expect("JSON");
    let result = json!({"service": "Billing", "status": "ack", "data": "billed"});
    let data = json!({"subject": "OrderCreated", "results": [result]});
    let expected = json!({"token": "TK_SYS_ACK", "dataType": "STRING", "data": data});
    assert_eq!(answer, expected);
    let sent = service.requests.recv().expect("a request");
    assert_eq!(sent[2], PAYLOAD.join("\0").as_bytes());
}

#[test]
fn the_answer_is_written_like_the_request_though_it_comes_later() {
    let daemon = with_locator();
    let service = Service::answering(&daemon.context, zmq::REP, "TK_SYS_ACK", b"yes");
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &service.address);
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    type Parts = &'static [&'static [u8]];
    let forms: [(Parts, Parts); 4] = [
        (&[b"2.3", b"2"], &[b"1.1", b"6"]),
        (&[b"", b"0x00200003", b"0x2"], &[b"", b"0xf0100001", b"0x6"]),
        (
            &[&[3, 0, 0x20, 0], &[2, 0, 0, 0]],
            &[&[1, 0, 0x10, 0xF0], &[6, 0, 0, 0]],
        ),
        (
            &[&[0, 0x20, 0, 3], &[0, 0, 0, 2]],
            &[&[0xF0, 0x10, 0, 1], &[0, 0, 0, 6]],
        ),
    ];
    for (request, expected) in forms {
        let answer = exchange(&client, &[request, &[b"data\0OrderCreated"]].concat());
        assert_eq!(answer[..expected.len()], *expected);
        assert_eq!(answer.len(), expected.len() + 1);
    }
}

#[test]
fn an_answer_whose_client_is_gone_is_nobodys() {
    let daemon = with_locator();
    let (hung, address) = hung(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &address);
    let client = daemon.requester();
    client
        .send_multipart([PUBLISH, "PARAM", &PAYLOAD.join("\0"), "15000000"], 0)
        .expect("a send");
    let request = hung.recv_multipart(0).expect("a request");
    assert_eq!(daemon.status().pending_calls, 1);
    drop(client);
    let answer: Vec<&[u8]> = vec![&request[0], b"", b"1.1", b"6", b"late"];
    hung.send_multipart(answer, 0).expect("a send");
    daemon.wait_for("the call's end", |status| status.pending_calls == 0);
    let keep_alive: [&[u8]; 3] = [b"2.4", b"2", b"sub-1"];
    assert_eq!(exchange(&daemon.requester(), &keep_alive)[0], b"1.1");
}

#[test]
fn a_call_that_the_end_overtakes_is_answered() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.drain_timeout = SHORT;
    });
    let (_hung, address) = hung(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    register(&daemon, "Billing", &address);
    let requester = daemon.requester();
    requester
        .send_multipart([PUBLISH, "PARAM", &PAYLOAD.join("\0"), "15000000"], 0)
        .expect("a send");
    daemon.wait_for("the call", |status| status.pending_calls == 1);
    assert!(daemon.stop());
    let answer = requester.recv_multipart(0).expect("an answer");
    assert_eq!(answer[0], b"TK_SYS_NAK");
    assert!(answer[2].starts_with(b"stopping: "), "{answer:?}");
}

#[test]
fn the_first_ack_is_enough_if_it_is_asked_for() {
    let daemon = with_locator();
    let quick = Responder::new("TK_SYS_ACK", "done");
    let refusing = Responder::new("TK_SYS_NAK", "no");
    let (_silent, silent) = hung(&daemon);
    for (service, address) in [
        ("Quick", &quick.address),
        ("Refusing", &refusing.address),
        ("Silent", &silent),
    ] {
        daemon.subscribe(service, service, &["Order"]);
        register(&daemon, service, address);
    }
    let requester = daemon.requester();
    let begun = Instant::now();
    let request = r#"{"token": "publish", "subject": "Order", "payload": "x", "answers": "first"}"#;
    requester.send(request, 0).expect("a send");
    let answer: Value =
        serde_json::from_slice(&requester.recv_bytes(0).expect("an answer")).expect("JSON");
    assert_eq!(answer["token"], "TK_SYS_ACK");
    // The configured timeout, for which the silent one would have been waited.
    assert!(begun.elapsed() < Duration::from_secs(10));
    let results = answer["data"]["results"].as_array().expect("a list");
    assert!(
        results.iter().any(|result| result["status"] == "ack"),
        "{results:?}"
    );
    assert!(
        results.iter().all(|result| result["service"] != "Silent"),
        "{results:?}"
    );
    let wrong = request.replace("first", "some");
    requester.send(&wrong, 0).expect("a send");
    let answer: Value =
        serde_json::from_slice(&requester.recv_bytes(0).expect("an answer")).expect("JSON");
    assert_eq!(answer["code"], "invalid-field");
}
