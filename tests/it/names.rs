//! Clients that are known by other things than keys: PLAIN passwords, and users of this machine.

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::manager::Manager;
use super::support::peers::{connected, publish, received, socket};
use super::support::process::settings;
use super::support::program::{Site, wait_until};

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
}

/// Without its file a daemon would have the defaults, and be open to everybody.
#[test]
fn a_configuration_that_is_gone_changes_nothing() {
    let site = Site::configured(&json!({
        "httpAddress": "127.0.0.1:0",
        "security": {"from": ["127.0.0.0/8"]},
    }));
    let daemon = TestDaemon::serving(&site);
    std::fs::remove_file(site.path("config.json")).expect("a file");
    daemon.program().signal("HUP");
    let refused = wait_until(|| {
        let noted = daemon.http_get("/events").body;
        noted.contains("config.json is gone").then_some(noted)
    });
    let noted = refused.expect("EM-0008");
    assert!(!noted.contains("EM-0007"), "{noted}");
    site.write("config.json", "{}");
    daemon.program().signal("HUP");
    wait_until(|| {
        daemon
            .http_get("/events")
            .body
            .contains("EM-0007")
            .then_some(())
    });
}

/// What keeps the daemon from starting, and what is likely a slip.
#[test]
fn check_knows_what_serve_would_say() {
    let site = Site::configured(&json!({"httpTokenFile": "token"}));
    assert!(
        site.run(&["check"])
            .failed(78)
            .contains("httpTokenFile token")
    );
    let secret = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6";
    let site = Site::configured(&json!({
        "security": {"mechanisms": "curve", "secretKey": secret, "keysDir": "."},
    }));
    for command in ["check", "serve"] {
        let said = site.run(&[command]).failed(78);
        assert!(
            said.contains("is a key itself") && !said.contains(secret),
            "{said}"
        );
    }
    let site = Site::new();
    site.run(&["keys", "init", "--dir", "made"]).done();
    let fifo = std::process::Command::new("mkfifo")
        .arg(site.path("made/keys/pipe.key"))
        .status();
    assert!(fifo.expect("mkfifo").success());
    site.run(&["keys", "new", "billing", "--dir", "made/keys"])
        .done();
    let keys = json!({"security": {
        "mechanisms": "curve", "secretKey": "made/server.key_secret", "keysDir": "made/keys",
        "clients": {"billing": {}, "billling": {"publish": ["x"]}},
    }});
    site.write("config.json", &settings(&keys).to_string());
    let said = site.run(&["check"]).stderr;
    assert!(
        said.contains("security.clients.billling: nobody is this client"),
        "{said}"
    );
    assert!(
        said.contains("pipe.key: it is not a regular file"),
        "{said}"
    );
    assert!(!said.contains("clients.billing:"), "{said}");
}
