//! What is refused over the wire, and with which code.

use event_manager_wire::api::{ServiceStatus, Status};
use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::bus::{code_of, exchange, own_host, services_on, zmtp_message};
use super::support::peers::connected;
use super::support::raw::{RawPeer, frame};

/// The code of the answer to frames, which must be a NAK in decimal or by name.
fn code(client: &zmq::Socket, frames: &[&[u8]]) -> String {
    let answer = exchange(client, frames);
    let text = |frame: &[u8]| String::from_utf8_lossy(frame).into_owned();
    let is_nak = ["4027580418", "TK_SYS_NAK", "1.2", "0xf0100002"].contains(&&*text(&answer[0]));
    assert!(is_nak, "{answer:?}");
    let is_string = ["6", "STRING", "0x6"].contains(&&*text(&answer[1]));
    assert!(is_string, "{answer:?}");
    code_of(&text(&answer[2])).to_owned()
}

#[test]
fn each_wrong_request_has_its_code() {
    let daemon = TestDaemon::start();
    daemon.subscribe("known", "Billing", &["Order"]);
    let before = daemon.status().services;
    let client = daemon.requester();
    let long_name = ["s1\0", &"n".repeat(256), "\0Order"].concat();
    let long_id = ["i".repeat(256), "\0Billing\0Order".into()].concat();
    let long_subject = ["s1\0Billing\0", &"s".repeat(1025)].concat();
    let cases: [(&str, &[&[u8]]); 34] = [
        ("unknown-token", &[b"9.9", b"2", b"x"]),
        ("unknown-token", &[b"2.99", b"2", b""]),
        ("unknown-token", &[b"1234", b"x"]),
        ("unknown-token", &[b"TK_SERVICE_LOCATOR_LOCATE", b"Billing"]),
        ("unknown-token", &[b"TK_SYS_ACK", b"2", b""]),
        ("missing-field", &[b"2.1", b"2", b""]),
        ("missing-field", &[b"2.1", b"2", b"s1"]),
        ("missing-field", &[b"2.1", b"2", b"s1\0"]),
        ("missing-field", &[b"2.1", b"2", b"s1\0\0Order"]),
        ("missing-field", &[b"2.1", b"2", b"s1\0Billing"]),
        ("missing-field", &[b"2.2", b"2", b""]),
        ("missing-field", &[b"2.4", b"2", b""]),
        ("invalid-utf8", &[b"2.1", b"2", b"\xFF\0Billing\0Order"]),
        ("invalid-utf8", &[b"2.1", b"2", b"s1\0\xC3\x28\0Order"]),
        ("invalid-utf8", &[b"2.1", b"2", b"s1\0Billing\0\xFF"]),
        ("invalid-utf8", &[b"2.4", b"2", b"\xFF"]),
        ("invalid-utf8", &[b"2.2", b"2", b"known\0\xFF"]),
        ("invalid-name", &[b"2.1", b"2", long_name.as_bytes()]),
        ("invalid-name", &[b"2.1", b"2", long_id.as_bytes()]),
        ("invalid-name", &[b"2.1", b"2", b"s1\0Bil\nling\0Order"]),
        ("invalid-name", &[b"2.4", b"2", b"a\tb"]),
        ("invalid-subject", &[b"2.1", b"2", long_subject.as_bytes()]),
        ("invalid-subject", &[b"2.1", b"2", b"s1\0Billing\0exact:"]),
        (
            "invalid-subject",
            &[b"2.1", b"2", b"s1\0Billing\0Order\0glob:"],
        ),
        ("unknown-subscription", &[b"2.4", b"2", b"nobody"]),
        ("unknown-subscription", &[b"2.2", b"2", b"nobody"]),
        ("unknown-subscription", &[b"2.2", b"2", b"nobody\0Order"]),
        ("malformed-token", &[b"nonsense", b"2", b"x"]),
        ("malformed-token", &[b"\xFF\xFE\xFD", b"2", b"x"]),
        ("malformed-data-type", &[b"2.1", b"no name", b"x"]),
        ("malformed-data-type", &[b"2.1", b"\xFF\xFE", b"x"]),
        ("malformed-timeout", &[b"2.4", b"2", b"known", b"soon"]),
        ("malformed-message", &[b"2.4"]),
        ("malformed-message", &[b"2.4", b"2", b"known", b"-1", b"x"]),
    ];
    for (expected, frames) in cases {
        let shown: Vec<_> = frames
            .iter()
            .map(|frame| frame.escape_ascii().to_string())
            .collect();
        assert_eq!(code(&client, frames), expected, "{shown:?}");
    }
    let services = daemon.status().services;
    assert_eq!(services.len(), 1);
    let unchanged = |all: &[ServiceStatus]| {
        let service = all[0].clone();
        (service.name, service.port, service.subjects)
    };
    assert_eq!(unchanged(&services), unchanged(&before));
}

#[test]
fn wrong_json_is_answered_in_json() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    for (expected, request) in [
        ("malformed-json", "{"),
        ("malformed-json", r#"{"token": "2.1",}"#),
        ("malformed-token", "{}"),
        ("malformed-token", r#"{"token": "nonsense"}"#),
        ("malformed-token", r#"{"token": -1}"#),
        ("malformed-data-type", r#"{"token": "2.1", "dataType": -1}"#),
        ("malformed-data", r#"{"token": "2.1", "data": [["s1"]]}"#),
        (
            "malformed-timeout",
            r#"{"token": "2.1", "timeout": "soon"}"#,
        ),
        ("unknown-token", r#"{"token": "9.9"}"#),
        ("missing-field", r#"{"token": "subscribe"}"#),
        (
            "missing-field",
            r#"{"token": "subscribe", "service": "Billing"}"#,
        ),
        (
            "missing-field",
            r#"{"token": "subscribe", "service": "Billing", "subjects": []}"#,
        ),
        ("missing-field", r#"{"token": "keep_alive"}"#),
        (
            "invalid-field",
            r#"{"token": "subscribe", "service": 7, "subject": "a"}"#,
        ),
        (
            "invalid-field",
            r#"{"token": "subscribe", "service": "B", "subjects": "a"}"#,
        ),
        (
            "invalid-field",
            r#"{"token": "subscribe", "service": "B", "subjects": [1]}"#,
        ),
        (
            "unknown-field",
            r#"{"token": "subscribe", "service": "B", "subject": "a", "ackk": 1}"#,
        ),
        (
            "unknown-subscription",
            r#"{"token": "unsubscribe", "id": "nobody"}"#,
        ),
        (
            "invalid-name",
            r#"{"token": "keep_alive", "id": "a\u0000b"}"#,
        ),
        (
            "invalid-subject",
            r#"{"token": "subscribe", "service": "B", "subject": "a\u0000b"}"#,
        ),
    ] {
        let answer = exchange(&client, &[request.as_bytes()]);
        let answer: Value = serde_json::from_slice(&answer[0]).expect("JSON");
        assert_eq!(answer["token"], "TK_SYS_NAK", "{request}");
        assert_eq!(answer["dataType"], "STRING", "{request}");
        assert_eq!(answer["code"], expected, "{request}");
        let sentence = answer["error"].as_str().expect("a sentence");
        assert_eq!(answer["data"], format!("{expected}: {sentence}"));
    }
    assert_eq!(daemon.status().services, []);
}

/// Named fields and `data` are two ways to say the same; of both at once one would be lost.
#[test]
fn json_says_each_thing_once() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    let request = br#"{"token": "subscribe", "data": ["s1"], "service": "B", "subject": "a"}"#;
    let answer = exchange(&client, &[request]);
    let answer: Value = serde_json::from_slice(&answer[0]).expect("JSON");
    assert_eq!(
        (&answer["token"], &answer["code"]),
        (&json!("TK_SYS_NAK"), &json!("malformed-data"))
    );
    assert_eq!(daemon.status().services, []);
}

#[test]
fn a_refusal_names_what_and_how_to_mend_it() {
    let daemon = TestDaemon::start();
    let (_, data) = daemon.ask("TK_EVENT_MANAGER_KEEP_ALIVE", &["sub-1"]);
    assert_eq!(
        data,
        "unknown-subscription: no subscription \"sub-1\"; subscribe again"
    );
}

#[test]
fn subscriptions_are_limited() {
    let daemon = TestDaemon::with(|config| config.subscriptions_max = 2);
    daemon.subscribe("s1", "A", &["x"]);
    daemon.subscribe("s2", "B", &["x"]);
    let subscribe = "TK_EVENT_MANAGER_SUBSCRIBE";
    assert_eq!(
        daemon.refusal(subscribe, &["s3", "A", "y"]),
        "too-many-subscriptions"
    );
    assert_eq!(
        daemon.refusal(subscribe, &["", "C", "y"]),
        "too-many-subscriptions"
    );
    assert_eq!(daemon.status().services.len(), 2);
    daemon.subscribe("s2", "C", &["z"]);
    daemon.unsubscribe("s1");
    daemon.subscribe("s3", "A", &["y"]);
}

#[test]
fn subjects_of_a_service_are_limited() {
    let daemon = TestDaemon::with(|config| config.limits.subscriptions_per_peer_max = 3);
    daemon.subscribe("s1", "A", &["a", "b"]);
    let subscribe = "TK_EVENT_MANAGER_SUBSCRIBE";
    assert_eq!(
        daemon.refusal(subscribe, &["s2", "A", "c", "d"]),
        "too-many-subjects"
    );
    assert_eq!(
        daemon.refusal(subscribe, &["s2", "B", "a", "b", "c", "d"]),
        "too-many-subjects"
    );
    assert_eq!(daemon.service("A").subjects, ["a", "b"]);
    assert_eq!(daemon.find_service("B"), None);
    daemon.subscribe("s2", "A", &["b", "c"]);
}

/// A subscription may replace its own subjects by as many as the limit allows.
#[test]
fn replaced_subjects_don_t_count() {
    let daemon = TestDaemon::with(|config| config.limits.subscriptions_per_peer_max = 3);
    daemon.subscribe("s1", "A", &["a", "b", "c"]);
    daemon.subscribe("s1", "A", &["d", "e", "f"]);
    assert_eq!(daemon.service("A").subjects, ["d", "e", "f"]);
}

#[test]
fn no_port_is_a_nak() {
    let host = own_host();
    let daemon = TestDaemon::with(|config| {
        services_on(&host)(config);
        let port = std::net::TcpListener::bind((&*host, 0)).expect("a port");
        let port = port.local_addr().expect("it is bound").port();
        config.streamer_ports = port..=port;
    });
    daemon.subscribe("s1", "A", &["x"]);
    let (token, data) = daemon.ask("TK_EVENT_MANAGER_SUBSCRIBE", &["s2", "B", "x"]);
    assert_eq!((&*token, code_of(&data)), ("TK_SYS_NAK", "no-port"));
    let port = daemon.service("A").port.expect("a port");
    assert!(
        data.contains(&format!("{port}-{port}")) && data.contains("\"B\""),
        "{data}"
    );
}

/// While it stops it takes on nothing new, says so, and still answers the rest.
#[test]
fn a_daemon_that_stops_says_so() {
    let daemon = TestDaemon::with(|config| {
        config.budgets.subscriber_outbox_bytes = 64 << 20;
        config.drain_timeout = super::support::PATIENCE;
    });
    daemon.subscribe("s1", "Billing", &["Order"]);
    let mut stalled = RawPeer::met(&daemon.subscribers(), "SUB");
    stalled.send(&frame(0, b"\x01Big"));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    for _ in 0..4 {
        publisher
            .send_multipart([b"Big".to_vec(), vec![0; 4 << 20]], 0)
            .expect("a send");
    }
    daemon.wait_for("a stalled subscriber", |status| {
        status.subscribers.counters.matched == 4
    });
    let client = connected(&daemon.context, zmq::REQ, &daemon.requests());
    let ask = |frames: &[&[u8]]| exchange(&client, frames);
    assert_eq!(ask(&[b"status", b""])[0], b"TK_SYS_ACK");
    let stopping = std::thread::spawn(move || daemon.stop());
    let is_draining = || {
        let status = ask(&[b"status", b""]);
        let status: Status = serde_json::from_slice(&status[2]).expect("a status");
        status.draining
    };
    while !is_draining() {}
    assert_eq!(
        code(&client, &[b"subscribe", b"s2\0Kitchen\0Order"]),
        "stopping"
    );
    assert_eq!(code(&client, &[b"publish", b"data\0Order"]), "stopping");
    assert_eq!(ask(&[b"keep_alive", b"s1"])[0], b"TK_SYS_ACK");
    assert_eq!(ask(&[b"unsubscribe", b"s1"])[0], b"TK_SYS_ACK");
    drop(stalled);
    assert!(stopping.join().expect("it stops"));
}

/// What has no form at all ends in an answer or in nothing, never in harm.
#[test]
fn nonsense_is_counted_and_answered() {
    let daemon = TestDaemon::start();
    let mut client = RawPeer::met(&daemon.requests(), "DEALER");
    let noise: [&[&[u8]]; 4] = [
        &[b"", b""],
        &[b"", b"", b"", b""],
        &[b"x"],
        &[&b"\0"[..]; 1000],
    ];
    for frames in noise {
        client.send(&zmtp_message(frames));
        let answer = client.read_message();
        let data = String::from_utf8_lossy(&answer[answer.len() - 1]).into_owned();
        assert!(
            code_of(&data).starts_with("malformed-"),
            "{frames:?}: {data}"
        );
    }
    let counted = daemon.refused("malformed-message") + daemon.refused("malformed-token");
    assert_eq!(counted, 4);
    daemon.subscribe("s1", "Billing", &["Order"]);
}
