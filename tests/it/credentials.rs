//! Clients that are known by other things than keys: PLAIN passwords, and users of this machine.

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::manager::Manager;
use super::support::peers::{connected, publish, received, socket};
use super::support::process::settings;
use super::support::program::Site;

/// The SHA-256 digests of "first" and "second".
const FIRST: &str = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e";
const SECOND: &str = "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4";

fn with_password(
    daemon: &TestDaemon,
    kind: zmq::SocketType,
    name: &str,
    password: &str,
) -> zmq::Socket {
    let socket = socket(&daemon.context, kind);
    socket.set_plain_username(Some(name)).expect("an option");
    socket
        .set_plain_password(Some(password))
        .expect("an option");
    socket
}

fn configured(password: &str, more: &Value) -> Value {
    let mut security = json!({
        "mechanisms": ["null", "plain"],
        "anonymous": {"subscribe": [""], "requests": ["*"]},
        "clients": {"till": {"passwords": [password], "publish": ["sale."]}},
    });
    let more = more.as_object().expect("an object").clone();
    security.as_object_mut().expect("an object").extend(more);
    json!({"security": security})
}

/// Who has a password may do what its client may; another password is refused, and heals.
#[test]
fn a_password_makes_a_client() {
    let manager = Manager::new();
    let site = manager.site(&configured(FIRST, &json!({})));
    let daemon = TestDaemon::serving(&site);
    manager.ready();
    let subscriber = daemon.subscriber(&[""]);
    let till = with_password(&daemon, zmq::XPUB, "till", "first");
    till.connect(&daemon.publishers()).expect("a valid address");
    daemon.wait_for("its connection", |status| {
        status.peers.mechanisms.get("plain") == Some(&1)
    });
    assert_eq!(till.recv_bytes(0).expect("a subscription"), [1]);
    publish(&till, "other", "denied");
    publish(&till, "sale.1", "sold");
    assert_eq!(received(&subscriber), "sold");

    let late = with_password(&daemon, zmq::XPUB, "till", "second");
    late.connect(&daemon.publishers()).expect("a valid address");
    daemon.wait_for("a refusal", |status| status.refused("password") > 0);
    // A change of the password ends connections that have the one before, and admits the others.
    site.write(
        "config.json",
        &settings(&configured(SECOND, &json!({}))).to_string(),
    );
    manager.reload(daemon.program());
    daemon.wait_for("the other one", |status| status.refused("password") > 1);
    daemon.wait_for("one connection", |status| {
        status.peers.mechanisms.get("plain") == Some(&1)
    });
    assert_eq!(late.recv_bytes(0).expect("a subscription"), [1]);
    publish(&late, "sale.2", "again");
    assert_eq!(received(&subscriber), "again");
}

#[test]
fn what_is_no_digest_is_refused_and_not_shown() {
    for (security, why) in [
        (
            configured("hunter2", &json!({})),
            "64 hexadecimal digits are wanted",
        ),
        (
            configured(FIRST, &json!({"clients": {}})),
            "which needs passwords in security.clients",
        ),
        (
            configured(
                FIRST,
                &json!({"clients": {"till": {"passwords": [FIRST], "users": ["root"]}}}),
            ),
            "a list of users' numbers is wanted",
        ),
        (
            configured(FIRST, &json!({"anonymous": {"users": [0]}})),
            "what a client is known by belongs to security.clients",
        ),
    ] {
        let ended = Site::configured(&security).run(&["check"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        let said = ended.stderr;
        assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
    }
}

/// Over `ipc://` the system says who a peer is: without a key, and where others need one.
#[test]
fn a_user_of_this_machine_needs_no_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("ipc://{}", directory.path().join("requests").display());
    let user = std::fs::metadata(directory.path())
        .map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    let user = user.expect("a directory");
    let start = |users: Value| {
        TestDaemon::in_own_process(&json!({
            "requestAddress": ["tcp://127.0.0.1:0", address],
            "security": {
                "mechanisms": ["plain"],
                "clients": {
                    "till": {"passwords": [FIRST]},
                    "admin": {"users": users, "requests": ["status"]},
                },
            },
        }))
    };
    let daemon = start(json!([user]));
    let client = connected(&daemon.context, zmq::REQ, &address);
    client.send_multipart(["status", ""], 0).expect("a send");
    let answer = client.recv_multipart(0).expect("an answer");
    assert_eq!(answer[0], b"TK_SYS_ACK");
    client.send_multipart(["dlq", ""], 0).expect("a send");
    let answer = client.recv_multipart(0).expect("an answer");
    assert_eq!(answer[0], b"TK_SYS_NAK");
    drop(daemon);

    let daemon = start(json!([user + 1]));
    let _client = connected(&daemon.context, zmq::REQ, &address);
    let _remote = connected(&daemon.context, zmq::REQ, &daemon.requests());
    daemon.wait_for("refusals", |status| status.refused("mechanism") > 1);
    let why = why_refused(&daemon, "mechanism");
    let expected = format!("it has no key, and runs as user {user}, who is no client's");
    assert!(why.iter().any(|why| why.contains(&expected)), "{why:?}");
}

/// Why peers were refused again and again.
fn why_refused(daemon: &TestDaemon, reason: &str) -> Vec<String> {
    let status = daemon.wait_for("it goes on", |status| {
        let mut again = status.peers.refused_again.iter();
        again.any(|again| again.reason == reason)
    });
    let again = status.peers.refused_again.into_iter();
    again.map(|again| again.why).collect()
}

/// An address of this machine that isn't loopback, if it has one.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("10.255.255.255:1").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn a_password_from_afar_is_told_what_admits_it() {
    let Some(address) = own_address() else {
        return;
    };
    let daemon = TestDaemon::in_own_process(&json!({
        "requestAddress": format!("tcp://{address}:0"),
        "security": {"mechanisms": ["plain"], "clients": {"till": {"passwords": [FIRST]}}},
    }));
    let till = with_password(&daemon, zmq::REQ, "till", "first");
    till.connect(&daemon.requests()).expect("a valid address");
    let why = why_refused(&daemon, "mechanism");
    let expected = "if that doesn't matter, set security.plainInClear";
    assert!(why.iter().any(|why| why.contains(expected)), "{why:?}");
}
