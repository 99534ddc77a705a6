//! Who may connect.

use std::io::Write;
use std::time::{Duration, Instant};

use event_manager::config::SecurityConfig;
use event_manager_wire::model::Endpoint;
use serde_json::json;

use super::support::TestDaemon;
use super::support::manager::Manager;
use super::support::other_machine::OtherMachine;
use super::support::peers::{probe, publish, received, socket};
use super::support::process::settings;
use super::support::program::Site;
use super::support::raw::{command, greeting, ready};

/// libzmq connects from another address of this machine.
fn from(source: &str, daemon: &str) -> String {
    let host_and_port = daemon.strip_prefix("tcp://").expect("tcp");
    format!("tcp://{source}:0;{host_and_port}")
}

fn networks(texts: &[&str]) -> SecurityConfig {
    SecurityConfig {
        from: Some(
            texts
                .iter()
                .map(|text| text.parse().expect("one"))
                .collect(),
        ),
        ..SecurityConfig::default()
    }
}

#[test]
fn who_is_not_admitted_is_refused_at_a_bounded_rate() {
    let daemon = TestDaemon::with(|config| config.security = networks(&["127.0.0.1"]));
    let start = Instant::now();
    let addresses = [daemon.publishers(), daemon.subscribers(), daemon.requests()];
    let strangers = addresses.map(|address| {
        let stranger = socket(&daemon.context, zmq::DEALER);
        stranger
            .connect(&from("127.0.0.2", &address))
            .expect("a connection");
        stranger
    });
    daemon.wait_for("each comes three times", |status| {
        status.refused("address") >= 9
    });
    // Each is kept for a second: without that it would come seven times a second.
    assert!(start.elapsed() >= Duration::from_secs(2));
    drop(strangers);
    let again = daemon.status().peers.refused_again;
    assert!(
        again.iter().any(|series| series.host == "127.0.0.2"
            && series.why == "127.0.0.2 is in none of the networks of security.from"),
        "{again:?}"
    );
    let publisher = daemon.publisher();
    let subscriber = daemon.subscriber(&["Order"]);
    publish(&publisher, "Order", "1");
    assert_eq!(received(&subscriber), "1");
}

/// 203.0.113.0/24 is for documentation: nobody's, and nothing that local networks use.
#[test]
#[ignore = "needs root: just netns"]
fn a_machine_of_the_internet_is_refused_unless_that_is_meant() {
    for (network, open, is_admitted) in [
        ("203.0.113", false, false),
        ("203.0.113", true, true),
        ("10.99.88", false, true),
        ("100.64.3", false, true),
    ] {
        let machine = OtherMachine::in_network(network);
        let daemon = TestDaemon::with(|config| {
            config.sub_addresses.push(Endpoint::tcp(&machine.ours, 0));
            config.security.open = open;
        });
        let address = daemon.bound().subscribers[1].to_string();
        let mut connection = machine.connect(&address);
        let hello = [greeting(), ready("SUB", ""), command("SUBSCRIBE", b"")].concat();
        let input = connection.stdin.as_mut().expect("it is piped");
        input.write_all(&hello).expect("a write");
        match is_admitted {
            true => daemon.wait_for_subscriptions(1),
            false => drop(daemon.wait_for("a refusal", |status| status.refused("address") == 1)),
        }
        connection.kill().expect("a child");
        connection.wait().expect("a child");
    }
}

#[test]
fn sighup_admits_and_ends_peers_that_try_again_by_themselves() {
    let admitted = json!({"security": {"from": ["127.0.0.0/8"]}});
    let refused = json!({"security": {"from": "127.0.0.1"}});
    let manager = Manager::new();
    let site = manager.site(&admitted);
    let daemon = TestDaemon::serving(&site);
    manager.ready();
    let change = |keys| {
        site.write("config.json", &settings(keys).to_string());
        manager.reload(daemon.program());
    };
    let publisher = daemon.publisher();
    let subscriber = socket(&daemon.context, zmq::SUB);
    subscriber.set_subscribe(b"Order").expect("an option");
    subscriber
        .connect(&from("127.0.0.2", &daemon.subscribers()))
        .expect("a connection");
    daemon.wait_for_subscriptions(1);
    publish(&publisher, "Order", "1");
    assert_eq!(received(&subscriber), "1");

    change(&refused);
    let status = daemon.status();
    assert_eq!(status.subscribers.connected, 0);
    let refused = status.refused("address");
    assert!(refused > 0, "and each time that it has tried again since");
    assert_eq!(status.publishers.connected, 1, "the others stay");
    daemon.wait_for("it tries again", |s| s.refused("address") > refused);

    change(&admitted);
    // libzmq says its subscriptions again in a call to the socket.
    probe(&publisher, &subscriber, "Order");
}

#[test]
fn open_listeners_are_named() {
    let everywhere = Endpoint::tcp("*", 0);
    let start = |security| {
        TestDaemon::with(|config| {
            config.sub_addresses.push(everywhere.clone());
            config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
            config.security = security;
        })
    };
    let metric = |daemon: &TestDaemon| daemon.metrics().value("event_manager_open_listeners", &[]);
    let daemon = start(SecurityConfig::default());
    let open = daemon.status().security.open_listeners;
    assert_eq!(open, [daemon.bound().subscribers[1].to_string()]);
    assert_eq!(metric(&daemon), 1.0);
    for said in [
        networks(&["127.0.0.1"]),
        SecurityConfig {
            open: true,
            ..SecurityConfig::default()
        },
    ] {
        let daemon = start(said);
        assert_eq!(daemon.status().security.open_listeners, [""; 0]);
        assert_eq!(metric(&daemon), 0.0);
    }
}

#[test]
fn each_start_says_what_is_open() {
    for (security, is_open) in [(json!({}), true), (json!({"open": true}), false)] {
        let keys = json!({"pullAddress": "tcp://*", "security": security});
        let site = Site::configured(&keys);
        let daemon = TestDaemon::serving(&site);
        let doctor = Site::configured(&keys).with("EVENT_MANAGER_ADDRESS", &daemon.requests());
        let found = doctor.run(&["doctor"]);
        assert_eq!(found.code, Some(0), "{found:?}");
        assert_eq!(
            found.stdout.contains("EM-9026 security: "),
            is_open,
            "{found:?}"
        );
        let said = daemon.program().log();
        let expected = r#"open to every machine on the local networks: tcp://*:20000-20499; restrict them with "security": {"from": ["10.1.0.0/16"]} (http:// with httpTokenFile), or confirm with "security": {"open": true}"#;
        assert_eq!(said.contains(expected), is_open, "{said}");
    }
}

#[test]
fn what_is_no_network_is_named() {
    for (from, why) in [
        (
            json!(["10.1.2.3/8"]),
            r#""10.1.2.3/8": its address has more bits than the network: did you mean 10.0.0.0/8?"#,
        ),
        (
            json!("all"),
            r#""all": an IP address or ADDRESS/BITS is wanted, such as 10.0.0.0/8"#,
        ),
        (
            json!([]),
            "at least one network is wanted: nobody could connect",
        ),
        (json!(7), "a list of networks is wanted"),
    ] {
        let site = Site::configured(&json!({"security": {"from": from}}));
        let ended = site.run(&["check"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        let said = ended.stderr;
        assert!(
            said.contains("security.from") && said.contains(why),
            "{said}"
        );
    }
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
