//! CURVE, from outside: keys in files, peers with and without them on one port. That libzmq's peers
//! understand it is tested by `just python`, with pyzmq: the tests' own libzmq has no CURVE.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use event_manager_client::{ConnectionEvent, Ended};
use event_manager_wire::api::Status;
use event_manager_zmtp::{LocalSocket, z85};
use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::keys::{Keys, NOTICED, Peer, SERVER, pair, publisher, server_key, subscriber};
use super::support::manager::Manager;
use super::support::peers::{publish, received};
use super::support::process::settings;
use super::support::program::Site;
use super::support::raw::{COMMAND, MORE, RawPeer, frame};

#[test]
fn peers_with_keys_and_without_share_their_ports() {
    let keys = Keys::new();
    keys.admit(2);
    let daemon = keys.daemon(&["null", "curve"]);
    let (mut keyed, plain) = (subscriber(&daemon, 2), daemon.subscriber(&["Order"]));
    let (mut keyed_publisher, plain_publisher) = (publisher(&daemon, 2), daemon.publisher());
    for (n, bytes) in [0, 1, 100, 220, 256, 5_000, 70_000, 5 << 20]
        .into_iter()
        .enumerate()
    {
        let body = vec![b'a' + n as u8; bytes];
        keyed_publisher.publish("Order", &body);
        let expected = [b"Order".to_vec(), body.clone()];
        assert_eq!(keyed.message(), expected, "{bytes}");
        assert_eq!(
            plain.recv_multipart(0).expect("an event"),
            expected,
            "{bytes}"
        );
        publish(
            &plain_publisher,
            "Order",
            std::str::from_utf8(&body).expect("text"),
        );
        assert_eq!(keyed.message(), expected, "{bytes}");
        assert_eq!(received(&plain).len(), bytes);
    }
}

#[test]
fn many_events_pass_in_both_directions() {
    const EVENTS: usize = 20_000;
    let keys = Keys::new();
    keys.admit(2);
    let daemon = keys.daemon(&["curve", "null"]);
    let mut subscriber = subscriber(&daemon, 2);
    let mut publisher = publisher(&daemon, 2);
    let publishing = std::thread::spawn(move || {
        for n in 0..EVENTS {
            publisher
                .connection
                .send([&b"Order"[..], n.to_string().as_bytes()]);
            if n % 100 == 0 {
                while publisher.next().expect("it goes on") != ConnectionEvent::Sent {}
            }
        }
        while publisher.next().expect("it goes on") != ConnectionEvent::Sent {}
        publisher
    });
    for n in 0..EVENTS {
        assert_eq!(subscriber.message()[1], n.to_string().as_bytes());
    }
    publishing.join().expect("it published");
}

/// As without keys: what came in front of a message that is too large is taken, and a request is answered.
#[test]
fn a_message_that_is_too_large_costs_only_itself() {
    const BYTES_MAX: usize = 100_000;
    let keys = Keys::new();
    keys.admit(2);
    let daemon = TestDaemon::in_own_process(&json!({
        "security": keys.security(&["curve"]),
        "limits": {"maxMessageBytes": BYTES_MAX},
    }));
    let mut subscriber = subscriber(&daemon, 2);
    let mut publisher = publisher(&daemon, 2);
    let body = |n: u8| vec![n; 1000];
    for n in 0..20 {
        publisher.connection.send([&b"Order"[..], &body(n)]);
    }
    publisher.connection.send([&b"Order"[..], &[0; BYTES_MAX]]);
    while publisher.next().is_ok() {}
    for n in 0..20 {
        assert_eq!(subscriber.message(), [b"Order".to_vec(), body(n)]);
    }
    for bytes in [BYTES_MAX, 16 << 20] {
        let mut client = Peer::met(&daemon.requests(), LocalSocket::Dealer, 2);
        let data = vec![b'x'; bytes];
        client.connection.send([&b"status"[..], b"PARAM", &data]);
        let answer = client.message().concat();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("too-large"), "{answer}");
        assert!(answer.contains("limits.maxMessageBytes"), "{answer}");
    }
    assert_eq!(daemon.refused("message-too-large"), 3);
}

/// What is in a box can't be read before it is there as a whole. So nobody knows that it is JSON.
#[test]
fn a_request_that_is_too_large_is_answered_in_the_layout_that_is_known() {
    const BYTES_MAX: usize = 100_000;
    let keys = Keys::new();
    keys.admit(2);
    let daemon = TestDaemon::in_own_process(&json!({
        "security": keys.security(&["curve"]),
        "limits": {"maxMessageBytes": BYTES_MAX},
    }));
    let payload = "x".repeat(BYTES_MAX);
    let object = json!({"token": "emit", "subject": "Order", "payload": payload}).to_string();
    let in_frames = ["TK_EVENT_MANAGER_EMIT", "PARAM", &payload];
    for (request, token) in [(&[&*object][..], "4027580418"), (&in_frames, "TK_SYS_NAK")] {
        let mut peer = Peer::met(&daemon.requests(), LocalSocket::Dealer, 2);
        let frames = [""].iter().chain(request).map(|frame| frame.as_bytes());
        peer.connection.send(frames.collect::<Vec<_>>());
        let answer = peer.message();
        let text = |frame: &[u8]| String::from_utf8_lossy(frame).into_owned();
        assert_eq!((answer.len(), &*text(&answer[1])), (4, token));
        let said = text(&answer[3]);
        assert!(said.starts_with("too-large: "), "{said}");
        assert!(said.contains("limits.maxMessageBytes"), "{said}");
    }
}

#[test]
fn keys_are_admitted_and_revoked_within_a_second() {
    let keys = Keys::new();
    keys.admit(2);
    let daemon = keys.daemon(&["curve"]);
    let mut stays = subscriber(&daemon, 2);
    let refused = Peer::open(
        &daemon.subscribers(),
        LocalSocket::Sub,
        3,
        server_key(SERVER),
    );
    assert!(refused.is_err());
    assert_eq!(daemon.refused("unknown-key"), 1);

    keys.admit(3);
    let mut goes = subscriber(&daemon, 3);
    let revoked = Instant::now();
    keys.revoke(3);
    let ended = goes.next();
    assert!(
        matches!(ended, Err(Ended::Closed | Ended::Io(_))),
        "{ended:?}"
    );
    assert!(revoked.elapsed() < NOTICED * 2, "{:?}", revoked.elapsed());
    let status = daemon.status();
    assert_eq!(status.subscribers.connected, 1);
    let again = |status: &Status| status.refused("unknown-key") >= 2;
    assert!(again(&status), "{:?}", status.peers);

    let mut publisher = publisher(&daemon, 2);
    publisher.publish("Order", b"1");
    assert_eq!(stays.message()[1], b"1");
}

#[test]
fn a_file_that_is_no_certificate_costs_no_other_key() {
    let keys = Keys::new();
    keys.admit(2);
    let daemon = keys.daemon(&["curve"]);
    let _stays = subscriber(&daemon, 2);
    fs::write(keys.file_of(2), "public-key = \"short\"").expect("a file");
    keys.admit(3);
    let _new = subscriber(&daemon, 3);
    assert_eq!(daemon.status().subscribers.connected, 2);
}

/// Neither at the start nor when it is told to look again.
#[test]
fn what_is_wrong_with_a_client_s_file_is_told_and_costs_no_other_key() {
    let keys = Keys::new();
    fs::write(keys.file_of(2), "public-key = \"short\"").expect("a file");
    symlink("nowhere", keys.file_of(5)).expect("a link");
    keys.admit(3);
    fs::copy(keys.file_of(3), keys.file_of(4)).expect("a file");
    keys.write_secret("client", 6);
    fs::copy(keys.secret("client"), keys.file_of(6)).expect("a file");
    let manager = Manager::new();
    let site = manager.site(
        &json!({"security": keys.security(&["null", "curve"]), "httpAddress": "127.0.0.1:0"}),
    );
    let daemon = TestDaemon::serving(&site);
    manager.ready();
    manager.reload(daemon.program());
    for number in [3, 6] {
        let _admitted = subscriber(&daemon, number);
    }
    let noted = daemon.http_get("/events").body;
    for told in [
        "client-2.key: line 1: public-key is not 40 characters of Z85",
        "client-5.key: the link leads to nowhere, which is not there",
        "\\\"client-3\\\" and \\\"client-4\\\" have the same public key",
        "client-6.key: it has the secret-key too",
    ] {
        assert!(noted.contains(told), "{told}: {noted}");
    }
    fs::remove_dir_all(keys.clients()).expect("a directory");
    daemon.wait_for("the end of all", |status| status.subscribers.connected == 0);
}

/// A FIFO waits for ever when it is opened, and a device has no end.
#[test]
fn what_is_no_regular_file_costs_no_other_key() {
    let keys = Keys::new();
    let daemon = keys.daemon(&["curve"]);
    let fifo = Command::new("mkfifo").arg(keys.file_of(4)).status();
    assert!(fifo.expect("mkfifo").success());
    symlink("/dev/zero", keys.file_of(5)).expect("a link");
    keys.admit(3);
    let mut goes = subscriber(&daemon, 3);
    keys.revoke(3);
    let ended = goes.next();
    assert!(
        matches!(ended, Err(Ended::Closed | Ended::Io(_))),
        "{ended:?}"
    );
}

#[test]
fn the_daemon_s_key_is_changed_in_steps() {
    let keys = Keys::new();
    keys.admit(2);
    keys.write_secret("next", 9);
    let mut security = keys.security(&["curve"]);
    security["secretKey"] = json!([keys.secret("server"), keys.secret("next")]);
    let daemon = TestDaemon::in_own_process(&json!({"security": security}));
    let address = daemon.subscribers();
    for server in [SERVER, 9] {
        Peer::open(&address, LocalSocket::Sub, 2, server_key(server))
            .map(drop)
            .expect("both are accepted");
    }
    let other = Peer::open(&address, LocalSocket::Sub, 2, server_key(8)).map(drop);
    assert!(other.is_err());
    assert_eq!(daemon.refused("curve-server-key"), 1);
}

/// It asks with keys of its own, so that neither a change of the files nor of the mechanisms shuts it
/// out.
#[test]
fn the_daemon_reaches_its_own_locator_whatever_changes() {
    const TTL: Duration = Duration::from_millis(300);
    let keys = Keys::new();
    keys.write_secret("next", 9);
    let mut next = keys.security(&["curve"]);
    next["secretKey"] = json!(keys.secret("next"));
    let configured = |security: Value| {
        json!({"embeddedLocator": true, "locatorRegister": true, "locatorTtl": TTL.as_secs_f64(),
            "locatorAddress": "tcp://127.0.0.1:0", "httpAddress": "127.0.0.1:0", "security": security})
    };
    let manager = Manager::new();
    let site = manager.site(&configured(json!({})));
    let daemon = TestDaemon::serving(&site);
    manager.ready();
    for security in [keys.security(&["curve"]), next, json!({"open": true})] {
        let all = settings(&configured(security)).to_string();
        site.write("config.json", &all);
        manager.reload(daemon.program());
        // The registration that was there is gone by then. A call that a reload cuts off is made again.
        let until = Instant::now() + TTL * 3;
        while Instant::now() < until {
            daemon.wait_for_readiness("its registration", |shown| shown.ready);
        }
    }
}

#[test]
fn without_null_everything_needs_a_key_and_the_daemon_has_its_own() {
    let keys = Keys::new();
    let daemon = TestDaemon::in_own_process(&json!({
        "security": keys.security(&["curve"]),
        "embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0", "locatorRegister": true,
        "httpAddress": "127.0.0.1:0",
    }));
    daemon.wait_for_readiness("its registration", |shown| shown.ready);
    let _plain = super::support::peers::connected(&daemon.context, zmq::SUB, &daemon.subscribers());
    daemon.wait_for("a refusal", |status| status.refused("mechanism") > 0);
}

/// Whoever is no client of CURVE is told nothing, harms nobody, and leaves nothing.
#[test]
fn attacks_on_the_handshake_end_in_silence() {
    let keys = Keys::new();
    keys.admit(2);
    let daemon = keys.daemon(&["curve"]);
    let mut stays = subscriber(&daemon, 2);
    let mut publisher = publisher(&daemon, 2);
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xFF, 0x7F, 3, 1);
    greeting[12..17].copy_from_slice(b"CURVE");
    let hello = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = [&b"\x05HELLO\x01\0"[..], &[0; 192]].concat();
        change(&mut body);
        frame(COMMAND, &body)
    };
    let attacks = [
        ("too short", "curve-malformed", frame(COMMAND, b"\x05HELLO")),
        (
            "another name",
            "curve-malformed",
            hello(&|body| body[5] = b'X'),
        ),
        (
            "another version",
            "curve-malformed",
            hello(&|body| body[6] = 2),
        ),
        ("a key of zeros", "curve-low-order", hello(&|_| {})),
        (
            "a key that opens nothing",
            "curve-server-key",
            hello(&|body| body[80] = 9),
        ),
        (
            "INITIATE first",
            "curve-malformed",
            frame(COMMAND, &[&b"\x08INITIATE"[..], &[0; 300]].concat()),
        ),
        ("a message", "malformed", frame(0, b"sneaky")),
        (
            "READY of NULL",
            "curve-malformed",
            frame(COMMAND, b"\x05READY\x0bSocket-Type\0\0\0\x03PUB"),
        ),
        (
            "a huge command",
            "handshake-too-long",
            [&[6][..], &[0xFF; 8]].concat(),
        ),
        ("reserved flags", "malformed", frame(MORE | COMMAND, b"x")),
    ];
    for address in [daemon.publishers(), daemon.requests()] {
        for (what, reason, bytes) in &attacks {
            let before = daemon.refused(reason);
            let mut peer = RawPeer::connect(&address);
            peer.send(&greeting);
            peer.send(bytes);
            let said = peer.read_to_end();
            assert_eq!(said.len(), 64, "{what}: only our greeting");
            assert_eq!(daemon.refused(reason), before + 1, "{what}");
        }
    }
    publisher.publish("Order", b"after all that");
    assert_eq!(stays.message()[1], b"after all that");
}

#[test]
fn secrets_that_others_can_read_are_refused_with_what_mends_it() {
    let keys = Keys::new();
    let site = Site::configured(&json!({"security": keys.security(&["curve"])}));
    let path = keys.secret("server");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a file");
    let ended = site.run(&["serve"]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let mend = format!("run chmod 600 {}", path.display());
    assert!(ended.stderr.contains(&mend), "{}", ended.stderr);
    assert!(!ended.stderr.contains(&z85::encode(pair(SERVER).secret())));
}

#[test]
fn curve_without_keys_is_refused_by_its_configuration() {
    for (security, why) in [
        (json!({"mechanisms": "curve"}), "needs security.secretKey"),
        (
            json!({"mechanisms": ["curve"], "secretKey": "x"}),
            "needs security.keysDir",
        ),
        (
            json!({"secretKey": "x"}),
            "security.secretKey has no effect",
        ),
        (
            json!({"mechanisms": ["gssapi"]}),
            "\"null\" or \"plain\" or \"curve\" is wanted",
        ),
        (
            json!({"mechanisms": []}),
            "at least one mechanism is wanted",
        ),
    ] {
        let ended = Site::configured(&json!({"security": security})).run(&["check"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}
