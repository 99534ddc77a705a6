//! Connections that the daemon opens itself, with its keys: to publishers that bind, and to a
//! ServiceLocator that is another daemon's. Calls to services: `client_keys`, `client_answers`.

use event_manager_client::ConnectionEvent;
use event_manager_zmtp::LocalSocket;
use serde_json::json;

use super::support::TestDaemon;
use super::support::keys::{Keys, Peer, SERVER, pair, publisher};
use super::support::program::Site;

/// The pair of the daemon that dials.
const DIALLER: u8 = 9;

/// Keys of a daemon that dials, and a peer 2 that it admits.
fn dialler() -> Keys {
    let keys = Keys::new();
    keys.write_secret("server", DIALLER);
    keys.admit(2);
    keys
}

fn key(number: u8) -> String {
    pair(number).public().to_string()
}

#[test]
fn a_publisher_with_keys_is_dialled_with_the_daemon_s_own() {
    let (above, below) = (Keys::new(), dialler());
    above.admit(2);
    let source = above.daemon(&["curve"]);
    let dialled = json!({"address": source.subscribers(), "serverKey": key(SERVER)});
    let daemon = TestDaemon::in_own_process(&json!({
        "security": below.security(&["curve"]), "connectPublishers": [dialled],
    }));
    // The other doesn't know it yet.
    source.wait_for("a refusal", |status| status.refused("unknown-key") > 0);
    above.admit(DIALLER);
    daemon.wait_for("a publisher", |status| {
        status.publishers.dialled[0].connected
    });
    source.wait_for("its subscription", |status| {
        status.subscribers.subscriptions == 1
    });
    let mut subscribed = subscriber_of(&daemon);
    publisher(&source, 2).publish("Order", b"1");
    assert_eq!(subscribed.message()[1], b"1");
}

/// A peer of the daemon that dials, whose server key is another than usual.
fn subscriber_of(daemon: &TestDaemon) -> Peer {
    let server = *pair(DIALLER).public();
    let opened = Peer::open(&daemon.subscribers(), LocalSocket::Sub, 2, server);
    let mut peer = opened.expect("it is admitted");
    peer.connection.subscribe(b"Order");
    while peer.next().expect("it goes on") != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(1);
    peer
}

#[test]
fn a_publisher_with_another_key_is_not_taken_for_it() {
    let (above, below) = (Keys::new(), dialler());
    above.admit(DIALLER);
    let source = above.daemon(&["null", "curve"]);
    let dialled = json!({"address": source.subscribers(), "serverKey": key(8)});
    let daemon = TestDaemon::in_own_process(&json!({
        "security": below.security(&["curve"]), "connectPublishers": [dialled],
    }));
    source.wait_for("a refusal", |status| status.refused("curve-server-key") > 0);
    daemon.wait_for("a failed try", |status| {
        let dialled = &status.publishers.dialled[0];
        !dialled.connected && dialled.failed_tries > 0
    });
    daemon.wait_for("why", |status| {
        let why = status.publishers.dialled[0].last_error.as_deref();
        why.is_some_and(|why| {
            why.contains("its serverKey in connectPublishers is none of its keys")
        })
    });
}

#[test]
fn a_publisher_that_does_not_admit_our_key_says_so_by_when_it_hangs_up() {
    let (above, below) = (Keys::new(), dialler());
    for (mechanisms, server_key, expected) in [
        (
            &["curve"][..],
            Some(key(SERVER)),
            "it doesn't admit our key",
        ),
        (
            &["curve"],
            None,
            "it wants keys (serverKey in connectPublishers)",
        ),
        (&["null"], Some(key(SERVER)), "it has no CURVE"),
    ] {
        let security = match mechanisms {
            ["null"] => json!({}),
            mechanisms => above.security(mechanisms),
        };
        let source = TestDaemon::in_own_process(&json!({ "security": security }));
        let dialled = match server_key {
            Some(key) => json!({"address": source.subscribers(), "serverKey": key}),
            None => json!(source.subscribers()),
        };
        let daemon = TestDaemon::in_own_process(&json!({
            "security": below.security(&["curve"]), "connectPublishers": [dialled],
        }));
        daemon.wait_for(expected, |status| {
            let why = status.publishers.dialled[0].last_error.as_deref();
            why.is_some_and(|why| why.contains(expected))
        });
    }
}

#[test]
fn another_s_locator_is_asked_with_its_key() {
    let (above, below) = (Keys::new(), dialler());
    above.admit(DIALLER);
    let locator = TestDaemon::in_own_process(&json!({
        "security": above.security(&["curve"]),
        "embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0",
    }));
    let daemon = TestDaemon::in_own_process(&json!({
        "security": below.security(&["curve"]), "httpAddress": "127.0.0.1:0",
        "locatorAddress": locator.locator(), "embeddedLocator": false,
        "locatorServerKey": key(SERVER),
        "locatorRegister": true, "locatorServiceName": "Below",
    }));
    daemon.wait_for_readiness("its registration", |shown| shown.ready);
}

#[test]
fn keys_of_others_need_keys_of_ours() {
    for (config, why) in [
        (
            json!({"connectPublishers": [{"address": "tcp://h:1", "serverKey": key(3)}]}),
            "connectPublishers has a server key, which needs security.secretKey",
        ),
        (
            json!({"locatorServerKey": key(3), "locatorAddress": "tcp://h:1"}),
            "locatorServerKey has a server key, which needs security.secretKey",
        ),
        (
            json!({"services": {"Billing": {"serverKey": key(3)}}}),
            "services has a server key, which needs security.secretKey",
        ),
        (
            json!({"services": {"Billing": {"serverKey": "short"}}}),
            "a public key is wanted",
        ),
    ] {
        let ended = Site::configured(&config).run(&["check"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}
