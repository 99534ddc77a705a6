//! Ids of confirmed events belong to who emits them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::support::TestDaemon;
use super::support::keys::{Keys, Peer, server_key};

/// Who emits: by a key, or without one.
#[derive(Clone, Copy, Debug)]
enum Who {
    Key(u8),
    Anonymous,
}

const BILLING: Who = Who::Key(2);
/// Another key of the same client.
const BILLING_NEXT: Who = Who::Key(3);
const DESK: Who = Who::Key(4);

fn started(directory: &TempDir, security: Value) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue"}},
        "security": security,
    }))
}

fn security(keys: &Keys) -> Value {
    let mut security = keys.security(&["null", "curve"]);
    let pairs = [2, 3].map(|number| server_key(number).to_string());
    security["clients"] = json!({
        "billing": {"keys": pairs},
        "desk": {"keys": server_key(4).to_string()},
    });
    security
}

/// Whether it was a duplicate.
fn is_known(daemon: &TestDaemon, who: Who, id: &str, level: &str) -> bool {
    let mut request = json!({"id": id, "level": level, "subject": "Order", "payload": "x"});
    let answer = match who {
        Who::Anonymous => emit(daemon, request).expect("an ACK"),
        Who::Key(own) => {
            request["token"] = "emit".into();
            let mut peer = Peer::met(&daemon.requests(), LocalSocket::Dealer, own);
            peer.connection.send([b"", request.to_string().as_bytes()]);
            let answer: Value = serde_json::from_slice(&peer.message()[1]).expect("JSON");
            answer["data"].clone()
        }
    };
    assert_eq!(answer["id"], id, "as it was said: {answer}");
    assert_eq!(answer["services"], 1, "{answer}");
    answer["duplicate"].as_bool().expect("true or false")
}

fn queued(daemon: &TestDaemon, events: u64) {
    daemon.wait_for_counter("Billing", |counters| counters.queued, events);
}

#[test]
fn nobody_takes_the_id_of_another_client() {
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let mut daemon = started(&directory, security(&keys));
    daemon.subscribe("1", "Billing", &["Order"]);
    for level in ["memory", "disk"] {
        for who in [Who::Anonymous, BILLING, DESK] {
            assert!(!is_known(&daemon, who, level, level), "{who:?} {level}");
        }
    }
    queued(&daemon, 6);
    let all = [BILLING_NEXT, Who::Anonymous, DESK, BILLING];
    for who in all {
        assert!(is_known(&daemon, who, "memory", "memory"), "{who:?}");
        assert!(is_known(&daemon, who, "disk", "disk"), "{who:?}");
    }
    // Ids are on disk, whoever has them.
    for is_killed in [true, false] {
        queued(&daemon, 6);
        match is_killed {
            true => daemon.kill(),
            false => assert!(daemon.stop()),
        }
        daemon = started(&directory, security(&keys));
        for who in all {
            assert!(is_known(&daemon, who, "disk", "disk"), "{who:?}");
            // It is answered before the queue has told that it has it.
            is_known(&daemon, who, "memory", "memory");
        }
    }
    for who in [BILLING, DESK, Who::Anonymous] {
        assert!(!is_known(&daemon, who, "new", "disk"), "{who:?}");
    }
    queued(&daemon, 9);
    // A queue that begins anew has none of them.
    daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["1"]);
    let (ended, why) = daemon.ask("TK_EVENT_MANAGER_END", &["Billing"]);
    assert_eq!(ended, "TK_SYS_ACK", "{why}");
    daemon.kill();
    let daemon = started(&directory, security(&keys));
    daemon.subscribe("1", "Billing", &["Order"]);
    for who in [BILLING, DESK, Who::Anonymous] {
        assert!(!is_known(&daemon, who, "disk", "disk"), "{who:?}");
        assert!(is_known(&daemon, who, "disk", "disk"), "{who:?}");
    }
    queued(&daemon, 3);
}

/// As earlier releases wrote all of them.
#[test]
fn ids_from_before_there_were_names_are_known_to_all() {
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let daemon = started(&directory, json!({}));
    daemon.subscribe("1", "Billing", &["Order"]);
    assert!(!is_known(&daemon, Who::Anonymous, "old", "disk"));
    daemon.kill();
    let daemon = started(&directory, security(&keys));
    for who in [BILLING, DESK, Who::Anonymous] {
        assert!(is_known(&daemon, who, "old", "disk"), "{who:?}");
        assert!(!is_known(&daemon, who, "new", "disk"), "{who:?}");
    }
    queued(&daemon, 4);
}

#[test]
fn a_client_with_many_ids_pushes_out_no_other_s() {
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let start = || {
        TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "dedupIdsMax": 6,
            "services": {"Billing": {"delivery": "queue"}},
            "security": security(&keys),
        }))
    };
    let first = start();
    first.subscribe("1", "Billing", &["Order"]);
    for id in ["a", "b"] {
        assert!(!is_known(&first, BILLING, id, "disk"));
    }
    for n in 0..20 {
        assert!(!is_known(&first, DESK, &n.to_string(), "disk"));
    }
    assert!(is_known(&first, BILLING, "a", "disk"));
    first.kill();
    // On disk there are as many.
    let second = start();
    for id in ["a", "b"] {
        assert!(is_known(&second, BILLING, id, "disk"));
    }
    assert!(!is_known(&second, DESK, "0", "disk"), "it has most");
}

#[test]
fn who_has_many_events_wait_for_their_time_leaves_room_for_others() {
    const MANY: usize = 5000;
    let (keys, directory) = (Keys::new(), TempDir::new().expect("a directory"));
    let daemon = started(&directory, security(&keys));
    let _subscriber = daemon.subscriber(&["Order"]);
    let later = SystemTime::now() + Duration::from_secs(3600);
    let later = later
        .duration_since(UNIX_EPOCH)
        .expect("a time")
        .as_millis() as u64;
    let request = json!({"token": "emit", "subject": "Order", "payload": "x", "deliverAt": later});
    let mut peer = Peer::met(&daemon.requests(), LocalSocket::Dealer, 4);
    for n in 0..=MANY {
        peer.connection.send([b"", request.to_string().as_bytes()]);
        let answer: Value = serde_json::from_slice(&peer.message()[1]).expect("JSON");
        let expected = if n < MANY { Value::Null } else { json!("busy") };
        assert_eq!(answer["code"], expected, "{n}: {answer}");
    }
    for _ in 0..10 {
        emit(&daemon, request.clone()).expect("an ACK");
    }
}
