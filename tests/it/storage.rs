//! How much the services of a client may keep on disk.

use event_manager_wire::api::{Counters, Status};
use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::notable::{noted, with_code};
use super::rights::Changing;
use super::support::TestDaemon;
use super::support::keys::{Keys, Peer, server_key};
use super::support::peers::{publish, received};

/// One event of three takes between a quarter and a third of that.
const QUOTA: u64 = 2000;
const BODY: [u8; 500] = [b'x'; 500];

fn keys(directory: &TempDir, quota: Option<u64>) -> Value {
    let quotas = quota.map_or(json!({}), |quota| json!({"storedBytes": quota}));
    json!({
        "stateDir": directory.path(),
        "services": {
            "Billing": {"delivery": "queue"},
            "Shipping": {"delivery": "queue"},
            "Declared": {"delivery": "queue", "subjects": ["declared."]},
        },
        "security": {"anonymous": {
            "publish": [""], "subscribe": [""], "services": ["*"], "requests": ["*"],
            "quotas": quotas,
        }},
    })
}

/// The answer's token, and what it says.
fn emit(daemon: &TestDaemon, subject: &str) -> (String, String) {
    let body = String::from_utf8_lossy(&BODY);
    let (token, said) = daemon.ask("TK_EVENT_MANAGER_EMIT", &["", "disk", subject, &body]);
    (token, said)
}

fn accepted(daemon: &TestDaemon, subject: &str) {
    let (token, said) = emit(daemon, subject);
    assert_eq!(token, "TK_SYS_ACK", "{said}");
}

fn stored(status: &Status) -> u64 {
    let mut clients = status.security.clients.iter();
    let anonymous = clients.find(|client| client.name == "anonymous");
    anonymous.map_or(0, |client| client.stored_bytes)
}

fn dropped(status: &Status, service: &str) -> u64 {
    let service = status.service(service).expect("it is there");
    service.counters.dropped.get("quota").copied().unwrap_or(0)
}

#[test]
fn services_of_a_client_keep_as_much_as_it_may() {
    let directory = TempDir::new().expect("a directory");
    let keys = |quota| keys(&directory, quota);
    let changing = Changing::new(&keys(Some(QUOTA)));
    let daemon = &changing.daemon;
    let billing = daemon.subscribe("1", "Billing", &["order."]);
    daemon.subscribe("2", "Shipping", &["order.sent", "parcel."]);
    let subscriber = daemon.subscriber(&["order."]);
    for subject in ["order.1", "order.2", "parcel.1"] {
        accepted(daemon, subject);
    }
    let held = stored(&daemon.status());
    assert!(held > 3 * BODY.len() as u64 && held <= QUOTA, "{held}");
    for subject in ["order.3", "parcel.2", "order.sent"] {
        let (token, said) = emit(daemon, subject);
        assert_eq!(token, "TK_SYS_NAK", "{said}");
        assert!(said.starts_with("busy: "), "{said}");
        assert!(
            said.contains("security.anonymous.quotas.storedBytes"),
            "{said}"
        );
    }
    // What is declared is nobody's.
    accepted(daemon, "declared.1");
    // Publishers aren't asked: others get the event, and what is dropped is counted.
    let publisher = daemon.publisher();
    publish(&publisher, "order.sent", &String::from_utf8_lossy(&BODY));
    for _ in 0..2 {
        received(&subscriber);
    }
    assert_eq!(received(&subscriber).len(), BODY.len());
    let status = daemon.wait_for("a drop", |status| dropped(status, "Shipping") == 1);
    assert_eq!(dropped(&status, "Billing"), 1);
    // It may be a few bytes less: what was about that is known by now.
    assert!(stored(&status) <= held);

    let worker = daemon.worker("Billing", &billing.pull_address);
    for _ in 0..2 {
        received(&worker);
    }
    daemon.wait_for("room", |status| stored(status) < held / 2);
    accepted(daemon, "order.4");
    received(&worker);
    daemon.wait_for("room", |status| stored(status) < held / 2);
    // Less than there is: nothing is dropped for that.
    changing.change(&keys(Some(100)));
    let (token, said) = emit(daemon, "parcel.3");
    assert_eq!(token, "TK_SYS_NAK", "{said}");
    assert_eq!(daemon.service("Shipping").counters.queued, 1);
    changing.change(&keys(None));
    for _ in 0..9 {
        accepted(daemon, "parcel.4");
    }
    changing.change(&keys(Some(QUOTA)));
    assert!(stored(&daemon.status()) > QUOTA);
    assert_eq!(emit(daemon, "order.5").0, "TK_SYS_NAK");
}

#[test]
fn what_services_keep_counts_after_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let first = TestDaemon::in_own_process(&keys(&directory, Some(QUOTA)));
    first.subscribe("1", "Billing", &["order."]);
    for _ in 0..3 {
        accepted(&first, "order.1");
    }
    first.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["1"]);
    first.wait_for("what is kept", |status| status.state.written);
    first.kill();
    let second = TestDaemon::in_own_process(&keys(&directory, Some(QUOTA)));
    second.wait_for("what is there", |status| {
        stored(status) > 3 * BODY.len() as u64
    });
    assert_eq!(emit(&second, "order.2").0, "TK_SYS_NAK");
    let publisher = second.publisher();
    publish(&publisher, "order.2", &String::from_utf8_lossy(&BODY));
    second.wait_for("a drop", |status| dropped(status, "Billing") == 1);
}

/// A client with this key asks in JSON.
fn asks(daemon: &TestDaemon, own: u8, request: &Value) -> Value {
    let mut peer = Peer::met(&daemon.requests(), LocalSocket::Dealer, own);
    peer.connection.send([b"", request.to_string().as_bytes()]);
    serde_json::from_slice(&peer.message()[1]).expect("JSON")
}

fn counters(status: &Status, service: &str) -> Counters {
    status
        .service(service)
        .expect("it is there")
        .counters
        .clone()
}

fn is_balanced(of: &Counters) -> bool {
    let waiting = of.queued + of.in_flight;
    of.matched == of.delivered + waiting + of.dead_lettered + of.expired + of.dropped_total()
}

#[test]
fn who_keeps_as_much_as_it_may_stops_nobody_else_s_events() {
    const GREEDY: u8 = 2;
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let mut security = keys.security(&["null", "curve"]);
    let everything = json!({
        "publish": [""], "subscribe": [""], "services": ["*"], "requests": ["*"],
    });
    security["anonymous"] = everything.clone();
    security["clients"] = json!({"greedy": everything});
    security["clients"]["greedy"]["keys"] = json!([server_key(GREEDY).to_string()]);
    security["clients"]["greedy"]["quotas"] = json!({"storedBytes": QUOTA});
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Greedy*": {"delivery": "queue"}, "Billing": {"delivery": "queue"}},
        "security": security,
    }));
    for service in ["Greedy", "Greedy-2"] {
        let subscribe = json!({
            "token": "subscribe", "sub_id": service, "service": service, "subjects": [""],
        });
        let answer = asks(&daemon, GREEDY, &subscribe);
        assert_eq!(answer["token"], "TK_SYS_ACK", "{answer}");
    }
    daemon.subscribe("1", "Billing", &["order."]);
    let subscriber = daemon.subscriber(&["order."]);
    let body = String::from_utf8_lossy(&BODY);
    let emitted = |id: &str, subject: &str, level: &str| {
        let (token, said) = daemon.ask("TK_EVENT_MANAGER_EMIT", &[id, level, subject, &body]);
        assert_eq!(token, "TK_SYS_ACK", "{said}");
        let answer: Value = serde_json::from_str(&said).expect("JSON");
        (answer["services"].clone(), answer["level"].clone())
    };
    // There is room for three: two in one service, and one in the other.
    for (id, subject, level, services, confirmed) in [
        ("1", "order.1", "disk", 3, "disk"),
        ("2", "order.2", "disk", 2, "disk"),
        ("3", "order.3", "disk", 1, "disk"),
        ("4", "order.4", "memory", 1, "memory"),
        ("5", "other", "disk", 0, "memory"),
    ] {
        let answer = emitted(id, subject, level);
        assert_eq!(answer, (json!(services), json!(confirmed)), "{subject}");
    }
    for _ in 1..=4 {
        assert_eq!(received(&subscriber).len(), BODY.len());
    }
    // So it was before with what is published.
    publish(&daemon.publisher(), "order.5", &body);
    assert_eq!(received(&subscriber).len(), BODY.len());
    let status = daemon.wait_for("all of it", |status| {
        counters(status, "Billing").queued == 5 && dropped(status, "Greedy-2") == 5
    });
    assert_eq!(dropped(&status, "Greedy"), 4);
    for (service, matched) in [("Greedy", 6), ("Greedy-2", 6), ("Billing", 5)] {
        let counters = counters(&status, service);
        assert_eq!(counters.matched, matched, "{service}");
        assert!(is_balanced(&counters), "{service}: {counters:?}");
    }
    assert_eq!(status.publishers.unmatched, 0);
    for service in ["Greedy", "Greedy-2"] {
        let all = noted(&daemon);
        let mut dropped = with_code(&all, "EM-0301").into_iter();
        let named = dropped.find(|event| event.fields["service"] == service);
        assert_eq!(named.expect("it is noted").fields["reason"], "quota");
    }
    // What was accepted counts as such, though not all got it.
    let again = json!({"id": "3", "level": "disk", "subject": "order.3", "payload": body});
    let again = super::emit::emit(&daemon, again).expect("an ACK");
    assert_eq!(
        (&again["duplicate"], &again["services"]),
        (&json!(true), &json!(1))
    );
    // Its own events are refused, so that it knows.
    let own = json!({"token": "emit", "level": "disk", "subject": "order.6", "payload": body});
    let refused = asks(&daemon, GREEDY, &own);
    assert_eq!(refused["code"], "busy", "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("security.clients.greedy.quotas.storedBytes"),
        "{said}"
    );
    assert_eq!(counters(&daemon.status(), "Billing").queued, 5);
}
