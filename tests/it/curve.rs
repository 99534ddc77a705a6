//! CURVE, from outside: keys in files, peers with and without them on one port. That libzmq's peers
//! understand it is tested by `just python`, with pyzmq: the tests' own libzmq has no CURVE.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use event_manager_client::{ClientKeys, Connection, ConnectionEvent, Ended, OpenError, Options};
use event_manager_wire::api::Status;
use event_manager_zmtp::curve::{KeyPair, PublicKey};
use event_manager_zmtp::{Limits, LocalSocket, frames, z85};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::manager::Manager;
use super::support::peers::{publish, received};
use super::support::process::settings;
use super::support::program::Site;
use super::support::raw::{COMMAND, MORE, RawPeer, frame};
use super::support::{PATIENCE, TestDaemon};

/// Longer than the daemon takes to see that files are others.
const NOTICED: Duration = Duration::from_secs(1);

/// Keys in a directory, as an administrator has them.
struct Keys {
    directory: TempDir,
}

fn pair(number: u8) -> KeyPair {
    KeyPair::from_secret([number; 32])
}

const SERVER: u8 = 1;

impl Keys {
    /// The daemon's, and no client's.
    fn new() -> Self {
        let keys = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        fs::create_dir(keys.clients()).expect("a directory");
        keys.write_secret("server", SERVER);
        keys
    }

    fn clients(&self) -> PathBuf {
        self.directory.path().join("clients")
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.key_secret"))
    }

    fn write_secret(&self, name: &str, number: u8) {
        let pair = pair(number);
        let (public, secret) = (pair.public(), z85::encode(pair.secret()));
        let text = format!("curve\n    public-key = \"{public}\"\n    secret-key = \"{secret}\"\n");
        fs::write(self.secret(name), text).expect("a file");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.secret(name), mode).expect("a file");
    }

    fn admit(&self, number: u8) {
        let text = format!(
            "metadata\ncurve\n    public-key = \"{}\"\n",
            pair(number).public()
        );
        // As a whole, as a copy of a file comes.
        let partial = self.directory.path().join("partial");
        fs::write(&partial, text).expect("a file");
        fs::rename(partial, self.file_of(number)).expect("a file");
    }

    fn file_of(&self, number: u8) -> PathBuf {
        self.clients().join(format!("client-{number}.key"))
    }

    fn revoke(&self, number: u8) {
        fs::remove_file(self.file_of(number)).expect("a file");
    }

    /// The configuration with these.
    fn security(&self, mechanisms: &[&str]) -> Value {
        json!({"mechanisms": mechanisms, "secretKey": self.secret("server"), "keysDir": self.clients()})
    }

    fn daemon(&self, mechanisms: &[&str]) -> TestDaemon {
        TestDaemon::in_own_process(&json!({"security": self.security(mechanisms)}))
    }
}

/// A client of ours on a runtime of its own.
struct Peer {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

fn server_key(number: u8) -> PublicKey {
    *pair(number).public()
}

impl Peer {
    fn open(
        address: &str,
        role: LocalSocket,
        own: u8,
        server: PublicKey,
    ) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut options = Options::new(role, Limits::default());
        options.keys = Some(ClientKeys {
            own: pair(own),
            server,
        });
        let address = address.parse().expect("an address");
        let connection = runtime.block_on(Connection::open(&address, &options))?;
        Ok(Self {
            runtime,
            connection,
        })
    }

    /// Tries until it is admitted.
    fn met(address: &str, role: LocalSocket, own: u8) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::open(address, role, own, server_key(SERVER)) {
                Ok(peer) => return peer,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    fn next(&mut self) -> Result<ConnectionEvent, Ended> {
        let next = async { tokio::time::timeout(PATIENCE, self.connection.next()).await };
        self.runtime.block_on(next).expect("something happens")
    }

    /// The next message's frames.
    fn message(&mut self) -> Vec<Vec<u8>> {
        loop {
            if let ConnectionEvent::Message(message) = self.next().expect("it goes on") {
                return frames(&message).map(<[u8]>::to_vec).collect();
            }
        }
    }

    fn publish(&mut self, subject: &str, body: &[u8]) {
        self.connection.send([subject.as_bytes(), body]);
        while self.next().expect("it goes on") != ConnectionEvent::Sent {}
    }
}

fn subscriber(daemon: &TestDaemon, own: u8) -> Peer {
    let before = daemon.status().subscribers.subscriptions;
    let mut peer = Peer::met(&daemon.subscribers(), LocalSocket::Sub, own);
    peer.connection.subscribe(b"Order");
    while peer.next().expect("it goes on") != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(before + 1);
    peer
}

fn publisher(daemon: &TestDaemon, own: u8) -> Peer {
    let mut peer = Peer::met(&daemon.publishers(), LocalSocket::Pub, own);
    assert_eq!(
        peer.next().expect("it goes on"),
        ConnectionEvent::Wanted(true)
    );
    peer
}

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
        // The registration that was there is gone by then.
        let until = Instant::now() + TTL * 3;
        while Instant::now() < until {
            daemon.wait_for_readiness("its registration", |shown| shown.ready);
        }
    }
    let noted = daemon.http_get("/events").body;
    assert!(
        noted.contains("EM-0401") && !noted.contains("EM-0402"),
        "{noted}"
    );
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
            json!({"mechanisms": ["plain"]}),
            "\"null\" or \"curve\" is wanted",
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
