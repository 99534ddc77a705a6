//! The ServiceLocator in the daemon, used by the daemon itself.

use std::time::{Duration, Instant};

use event_manager::daemon::Daemon;
use event_manager::outbound::RegistrationState;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;
use serde_json::json;

use super::support::keys::{Keys, NOTICED, Peer};
use super::support::peers::connected;
use super::support::{PATIENCE, TestDaemon, config};

#[test]
fn the_daemon_registers_with_its_own_locator_on_any_interface_and_port() {
    for host in ["127.0.0.1", "*"] {
        let mut config = config();
        config.locator.embedded = true;
        config.locator.register = true;
        config.locator.address = Endpoint::tcp(host, 0);
        let daemon = Daemon::start(config).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while daemon.registration() != RegistrationState::Registered {
            assert!(Instant::now() < deadline, "not registered on {host}");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(daemon.stop());
    }
}

const REGISTER: &str = "TK_SERVICE_LOCATOR_REGISTER";
const UNREGISTER: &str = "TK_SERVICE_LOCATOR_UNREGISTER";
const LOCATE: &str = "TK_SERVICE_LOCATOR_LOCATE";

/// A locator that serves peers with keys, and without.
fn mixed(keys: &Keys) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "security": keys.security(&["null", "curve"]),
        "embeddedLocator": true,
        "locatorAddress": "tcp://127.0.0.1:0",
    }))
}

fn asked_by_key(daemon: &TestDaemon, own: u8, token: &str, fields: &[&str]) -> String {
    let mut peer = Peer::met(&daemon.locator(), LocalSocket::Dealer, own);
    let data = fields.join("\0");
    peer.connection
        .send([b"", token.as_bytes(), b"PARAM", data.as_bytes()]);
    String::from_utf8_lossy(&peer.message().concat()).into_owned()
}

fn asked(daemon: &TestDaemon, token: &str, fields: &[&str]) -> String {
    let requester = connected(&daemon.context, zmq::REQ, &daemon.locator());
    let data = fields.join("\0");
    requester
        .send_multipart([token, "PARAM", &data], 0)
        .expect("a send");
    let answer = requester.recv_multipart(0).expect("an answer");
    String::from_utf8_lossy(&answer.concat()).into_owned()
}

#[test]
fn who_has_no_key_replaces_nothing_that_a_key_has_registered() {
    let keys = Keys::new();
    keys.admit(2);
    keys.admit(3);
    let daemon = mixed(&keys);
    let (old, own, other) = ("tcp://old:1", "tcp://own:1", "tcp://other:1");
    let ack = |answer: String| assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
    ack(asked(&daemon, REGISTER, &["Billing", old]));
    ack(asked_by_key(&daemon, 2, REGISTER, &["Billing", own]));
    // What was there before lives on, behind it.
    ack(asked(&daemon, REGISTER, &["Billing", old]));
    for (token, address) in [(REGISTER, other), (REGISTER, own), (UNREGISTER, own)] {
        let answer = asked(&daemon, token, &["Billing", address]);
        assert!(answer.contains("forbidden"), "{token} {address}: {answer}");
    }
    let found = |address: &str| asked(&daemon, LOCATE, &["Billing"]).contains(address);
    assert!(found(own));
    let status = daemon.status();
    let mut clients = status.security.clients.iter();
    let anonymous = clients.find(|client| client.name == "anonymous");
    let denied = &anonymous.expect("it is known").denied;
    assert_eq!(denied.get("service"), Some(&3));
    // Another client's rights say that it may.
    ack(asked_by_key(&daemon, 3, REGISTER, &["Billing", other]));
    assert!(found(other));
    ack(asked_by_key(&daemon, 3, UNREGISTER, &["Billing", other]));
    ack(asked_by_key(&daemon, 2, UNREGISTER, &["Billing", own]));
    ack(asked(&daemon, REGISTER, &["Billing", other]));
    assert!(found(other));
}

#[test]
fn what_a_revoked_key_has_registered_is_not_found_any_more() {
    let keys = Keys::new();
    keys.admit(2);
    keys.admit(3);
    let daemon = mixed(&keys);
    for (own, name) in [(2, "Billing"), (3, "Shipping")] {
        let answer = asked_by_key(&daemon, own, REGISTER, &[name, "tcp://x:1", "3600000"]);
        assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
    }
    keys.revoke(2);
    let deadline = Instant::now() + NOTICED + PATIENCE;
    while asked(&daemon, LOCATE, &["Billing"]).starts_with("TK_SYS_ACK") {
        assert!(Instant::now() < deadline, "it is found still");
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = asked(&daemon, LOCATE, &["Shipping"]);
    assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
    // Its name is free.
    let answer = asked(&daemon, REGISTER, &["Billing", "tcp://x:1"]);
    assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
}
