//! What clients may do: what is denied to them, what they get, and what a reload changes.

use std::time::{Duration, Instant};

use event_manager::config::SecurityConfig;
use event_manager_client::ConnectionEvent;
use event_manager_wire::api::{ClientStatus, Status};
use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};

use super::requests::ask_json;
use super::support::keys::{Keys, Peer, server_key};
use super::support::manager::Manager;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::process::settings;
use super::support::program::Site;
use super::support::raw::{RawPeer, command};
use super::support::{PATIENCE, TestDaemon};

const SUBSCRIBE: &str = "TK_EVENT_MANAGER_SUBSCRIBE";
const KEEP_ALIVE: &str = "TK_EVENT_MANAGER_KEEP_ALIVE";
const EMIT: &str = "TK_EVENT_MANAGER_EMIT";

/// A daemon where peers without a key may do this.
fn daemon(anonymous: Value) -> TestDaemon {
    TestDaemon::with(|config| config.security = security(json!({"anonymous": anonymous})))
}

fn security(value: Value) -> SecurityConfig {
    serde_json::from_value(value).expect("a configuration")
}

fn client(status: &Status, name: &str) -> ClientStatus {
    let mut clients = status.security.clients.iter();
    let found = clients.find(|client| client.name == name);
    found.cloned().unwrap_or_default()
}

pub(super) fn denied(status: &Status, name: &str, what: &str) -> u64 {
    client(status, name).denied.get(what).copied().unwrap_or(0)
}

#[test]
fn events_that_may_not_be_published_are_discarded_and_counted() {
    let daemon = daemon(json!({"publish": ["order.", "exact:end"], "subscribe": [""]}));
    let (publisher, subscriber) = (daemon.publisher(), daemon.subscriber(&[""]));
    for n in 0..100 {
        // One or several in a run, and such as nobody has sent before.
        for subject in ["order.a", "invoice", "invoice", "order", "order.b", "end.x"] {
            publish(&publisher, subject, &n.to_string());
        }
        publish(&publisher, &format!("other{n}"), "");
    }
    publish(&publisher, "end", "end");
    for n in 0..100 {
        assert_eq!(received(&subscriber), n.to_string());
        assert_eq!(received(&subscriber), n.to_string());
    }
    assert_eq!(received(&subscriber), "end");
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "publish"), 500);
    assert_eq!(
        status.publishers.events, 201,
        "what is denied is not published"
    );
    let subjects = status.publishers.subjects.named;
    assert!(
        subjects.iter().all(|named| named.subject != "invoice"),
        "{subjects:?}"
    );
}

#[test]
fn a_subscription_to_everything_gets_what_it_may() {
    let daemon = daemon(json!({"publish": [""], "subscribe": ["order.", "glob:invoice.*d"]}));
    let (publisher, subscriber) = (daemon.publisher(), daemon.subscriber(&[""]));
    for (n, subject) in [
        "order.a",
        "invoice.open",
        "invoice.paid",
        "a.b.paid",
        "order",
        "order.b",
    ]
    .iter()
    .enumerate()
    {
        publish(&publisher, subject, &n.to_string());
    }
    for expected in ["0", "2", "5"] {
        assert_eq!(received(&subscriber), expected);
    }
    assert!(is_silent(&subscriber, 50));
    // Of this there is nothing that it may get, which is told.
    let _vain = daemon.subscriber(&["shipping."]);
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "subscribe"), 1);
}

#[test]
fn requests_that_need_rights_are_refused_without_them() {
    let daemon = daemon(json!({
        "publish": ["order."], "subscribe": ["order."], "services": ["Billing"],
    }));
    for (token, fields) in [
        (SUBSCRIBE, &["1", "Shipping", "order."][..]),
        (SUBSCRIBE, &["1", "Billing", "invoice."]),
        (SUBSCRIBE, &["1", "Billing", ""]),
        (EMIT, &["", "memory", "invoice.", "x"]),
        ("TK_EVENT_MANAGER_PUBLISH", &["x", "invoice."]),
        ("TK_EVENT_MANAGER_STATUS", &[]),
        ("TK_EVENT_MANAGER_EVENTS", &[]),
        ("TK_EVENT_MANAGER_DLQ", &["list", "Billing"]),
        ("TK_EVENT_MANAGER_END", &["Billing"]),
    ] {
        assert_eq!(
            daemon.refusal(token, fields),
            "forbidden",
            "{token} {fields:?}"
        );
    }
    let (_, said) = daemon.ask(EMIT, &["", "memory", "invoice.x", "x"]);
    assert_eq!(
        said,
        r#"forbidden: peers without a key may not publish "invoice.x"; what it may is in security.anonymous.publish"#
    );
    let billing = daemon.subscribe("1", "Billing", &["order.a", "glob:order.*.b"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let (token, data) = daemon.ask(EMIT, &["", "memory", "order.a", "x"]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    assert_eq!(received(&worker), "x");
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "service"), 1);
    assert_eq!(denied(&status, "anonymous", "publish"), 3);
    assert_eq!(denied(&status, "anonymous", "subscribe"), 2);
    assert_eq!(denied(&status, "anonymous", "request"), 4);
}

#[test]
fn the_locator_takes_only_names_of_ones_services() {
    let daemon = TestDaemon::with(|config| {
        config.security = security(json!({"anonymous": {"services": ["Billing-*"]}}));
        config.locator.embedded = true;
        config.locator.register = true;
        config.locator.address = "tcp://127.0.0.1:0".parse().expect("an address");
    });
    let locator = connected(&daemon.context, zmq::REQ, &daemon.locator());
    let ask = |token: &str, fields: &[&str]| {
        let data = fields.join("\0");
        locator
            .send_multipart([token, "PARAM", &data], 0)
            .expect("a send");
        let answer = locator.recv_multipart(0).expect("an answer");
        String::from_utf8_lossy(&answer.concat()).into_owned()
    };
    let (register, unregister) = (
        "TK_SERVICE_LOCATOR_REGISTER",
        "TK_SERVICE_LOCATOR_UNREGISTER",
    );
    for name in ["Shipping", "Billing"] {
        for token in [register, unregister] {
            let answer = ask(token, &[name, "tcp://127.0.0.1:1"]);
            assert!(answer.contains("forbidden"), "{answer}");
        }
    }
    let answer = ask(register, &["EventManager", "tcp://127.0.0.1:1"]);
    assert!(answer.contains("reserved"), "{answer}");
    for token in [register, unregister] {
        let answer = ask(token, &["Billing-1", "tcp://127.0.0.1:1"]);
        assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
    }
    // The daemon itself has none of these rights either, and is there all the same.
    let deadline = Instant::now() + PATIENCE;
    while !ask("TK_SERVICE_LOCATOR_LOCATE", &["EventManager"]).starts_with("TK_SYS_ACK") {
        assert!(Instant::now() < deadline, "the daemon registers");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ask("TK_SERVICE_LOCATOR_LIST", &[]).contains("forbidden"));
}

/// Billing may serve and hear, its colleague may do everything, others nothing.
#[test]
fn each_key_has_the_rights_of_its_name() {
    let keys = Keys::new();
    keys.admit(4);
    let mut security = keys.security(&["null", "curve"]);
    security["anonymous"] = json!({"subscribe": ["public."]});
    security["roles"] = json!({"default": {"publish": [""], "subscribe": [""], "services": ["*"], "requests": ["*"]}});
    security["clients"] = json!({"billing": {
        "keys": [server_key(2).to_string(), server_key(3).to_string()],
        "subscribe": ["order."], "services": ["Billing"],
    }});
    let daemon = TestDaemon::in_own_process(&json!({"security": security}));
    let ask = |own: u8, fields: &[&str]| {
        let mut client = Peer::met(&daemon.requests(), LocalSocket::Dealer, own);
        client.connection.send([
            b"",
            fields[0].as_bytes(),
            b"2",
            fields[1..].join("\0").as_bytes(),
        ]);
        String::from_utf8_lossy(&client.message().concat()).into_owned()
    };
    for (own, service, answer) in [
        (2, "Billing", "TK_SYS_ACK"),
        (
            3,
            "Shipping",
            "forbidden: client \"billing\" may not serve \"Shipping\"",
        ),
        (4, "Shipping", "TK_SYS_ACK"),
    ] {
        let said = ask(own, &[SUBSCRIBE, service, service, "order.a"]);
        assert!(said.contains(answer), "{own} {service}: {said}");
    }
    let said = ask(3, &[KEEP_ALIVE, "Shipping"]);
    assert!(said.contains("forbidden"), "{said}");

    // A worker's connection is refused, and nothing is sent to it.
    let shipping = daemon.address_of("Shipping");
    for own in [2, 3] {
        let opened = Peer::open(&shipping, LocalSocket::Dealer, own, server_key(1));
        assert!(opened.is_err(), "{own}");
    }
    let _anonymous = connected(&daemon.context, zmq::DEALER, &shipping);
    daemon.wait_for("it is refused", |status| {
        denied(status, "anonymous", "connect") > 0 && denied(status, "billing", "connect") == 2
    });
    let _worker = Peer::met(&daemon.address_of("Billing"), LocalSocket::Dealer, 3);

    let mut hears = Peer::met(&daemon.subscribers(), LocalSocket::Sub, 2);
    hears.connection.subscribe(b"");
    while hears.next().expect("it goes on") != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(1);
    let plain = daemon.subscriber(&[""]);
    let mut publisher = Peer::met(&daemon.publishers(), LocalSocket::Pub, 4);
    let wanted = publisher.next().expect("it goes on");
    assert_eq!(wanted, ConnectionEvent::Wanted(true));
    for subject in ["invoice.a", "public.a", "order.a"] {
        publisher.publish(subject, subject.as_bytes());
    }
    assert_eq!(hears.message()[1], b"order.a");
    assert_eq!(received(&plain), "public.a");

    let status = daemon.status();
    let billing = client(&status, "billing");
    assert_eq!(
        billing.mechanisms,
        [("curve".to_owned(), billing.connections)].into()
    );
    assert_eq!(
        billing.server_keys,
        [(server_key(1).to_string(), billing.connections)].into()
    );
    assert!(status.peers.mechanisms["null"] >= 1 && status.peers.mechanisms["curve"] >= 3);
}

/// A daemon whose configuration changes while it runs.
pub(super) struct Changing {
    manager: Manager,
    site: Site,
    pub(super) daemon: TestDaemon,
}

impl Changing {
    pub(super) fn new(keys: &Value) -> Self {
        let manager = Manager::new();
        let site = manager.site(keys);
        let daemon = TestDaemon::serving(&site);
        manager.ready();
        Self {
            manager,
            site,
            daemon,
        }
    }

    /// When it returns, the others are in force.
    pub(super) fn change(&self, keys: &Value) {
        self.site.write("config.json", &settings(keys).to_string());
        self.manager.reload(self.daemon.program());
    }
}

fn rights(publish: &[&str], subscribe: &[&str], services: &[&str]) -> Value {
    json!({"security": {"anonymous": {
        "publish": publish, "subscribe": subscribe, "services": services, "requests": ["*"],
    }}})
}

#[test]
fn a_reload_takes_rights_from_live_connections_and_gives_them_back() {
    let changing = Changing::new(&rights(&[""], &[""], &["*"]));
    let daemon = &changing.daemon;
    let publisher = daemon.publisher();
    let subscriber = daemon.subscriber(&[""]);
    let billing = daemon.subscribe("1", "Billing", &["order."]);
    let shipping = daemon.subscribe("2", "Shipping", &["invoice."]);
    let _worker = daemon.worker("Billing", &billing.pull_address);
    let _other = daemon.worker("Shipping", &shipping.pull_address);
    publish(&publisher, "any", "1");
    assert_eq!(received(&subscriber), "1");

    changing.change(&rights(&["order."], &["order."], &["Billing"]));
    publish(&publisher, "any", "2");
    publish(&publisher, "order.a", "3");
    assert_eq!(received(&subscriber), "3");
    let status = daemon.status();
    assert_eq!(denied(&status, "anonymous", "publish"), 1);
    assert!(
        status.service("Shipping").is_none(),
        "its client may not have it any more"
    );
    assert_eq!(
        status.service("Billing").expect("it stays").workers.ready,
        1
    );
    assert_eq!(daemon.refusal(KEEP_ALIVE, &["2"]), "unknown-subscription");

    // Of its service it may hear something else.
    changing.change(&rights(&["order."], &["other."], &["Billing"]));
    assert!(daemon.status().service("Billing").is_none());
    changing.change(&rights(&[""], &[""], &["*"]));
    publish(&publisher, "any", "4");
    assert_eq!(received(&subscriber), "4");
}

/// A thousand by the recipe: EVENT_MANAGER_RELOADS.
#[test]
fn no_event_comes_by_old_rights_whatever_is_reloaded() {
    let reloads = std::env::var("EVENT_MANAGER_RELOADS").ok();
    let reloads = reloads.map_or(40, |set| set.parse().expect("a number"));
    let changing = Changing::new(&rights(&[""], &["order."], &[]));
    let daemon = &changing.daemon;
    let subscriber = daemon.subscriber(&[""]);
    let publisher = daemon.publisher();
    let always = daemon.subscriber(&["order.x"]);
    let mut expected = 0;
    for reload in 0..reloads {
        let is_all = reload % 2 == 1;
        let subscribe = if is_all {
            &["order.", "invoice."][..]
        } else {
            &["order."]
        };
        changing.change(&rights(&[""], subscribe, &[]));
        for n in 0..50 {
            publish(&publisher, "invoice.x", &format!("{reload} {n}"));
            publish(&publisher, "order.x", &format!("{reload} {n}"));
        }
        for n in 0..50 {
            for _ in 0..1 + usize::from(is_all) {
                assert_eq!(received(&subscriber), format!("{reload} {n}"));
            }
            assert_eq!(received(&always), format!("{reload} {n}"));
            expected += 1;
        }
    }
    assert!(is_silent(&subscriber, 20) && is_silent(&always, 1));
    assert_eq!(expected, reloads * 50);
}

/// What waited for a subscriber when it lost the right to it never comes.
#[test]
fn what_waits_by_old_rights_is_not_sent_later() {
    let all = json!({"budgets": {"subscriberOutboxBytes": 64 << 20}});
    let with = |rights: Value| json!({"security": rights["security"], "budgets": all["budgets"]});
    let changing = Changing::new(&with(rights(&[""], &[""], &[])));
    let daemon = &changing.daemon;
    let publisher = daemon.publisher();
    // It doesn't read.
    let mut slow = RawPeer::met(&daemon.subscribers(), "SUB");
    slow.send(&command("SUBSCRIBE", b""));
    daemon.wait_for_subscriptions(1);
    let body = "x".repeat(1 << 20);
    for _ in 0..32 {
        publish(&publisher, "invoice.x", &body);
    }
    daemon.wait_for("much waits", |status| {
        status.subscribers.outbox.bytes > 8 << 20
    });
    changing.change(&with(rights(&[""], &["order."], &[])));
    assert_eq!(daemon.status().subscribers.connected, 0);
    assert_eq!(daemon.refused("rights-changed"), 1);
}

#[test]
fn connections_above_the_quota_are_refused_and_come_later() {
    let daemon = daemon(json!({"publish": [""], "subscribe": [""], "quotas": {"connections": 2}}));
    let first = daemon.publisher();
    let subscriber = daemon.subscriber(&[""]);
    let _third = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    daemon.wait_for("it is refused", |status| status.refused("quota") > 0);
    publish(&first, "order", "1");
    assert_eq!(received(&subscriber), "1");
    drop(first);
    daemon.wait_for("there is room for it", |status| {
        status.connections.requesters == 1
    });
}

/// Nothing is lost, and it goes on by itself.
#[test]
fn who_publishes_more_than_its_rate_is_read_later() {
    const EVENTS: usize = 1500;
    let daemon = daemon(json!({
        "publish": [""], "subscribe": [""], "quotas": {"eventsPerSecond": 500, "bytesPerSecond": 1 << 30},
    }));
    let (publisher, subscriber) = (daemon.publisher(), daemon.subscriber(&[""]));
    let began = Instant::now();
    for n in 0..EVENTS {
        publish(&publisher, "order", &n.to_string());
    }
    daemon.wait_for("it is paused", |status| client(status, "anonymous").paused);
    // Another connection of the same client is not read either.
    publish(&daemon.publisher(), "order", "other");
    let mut others = 0;
    for n in 0..EVENTS {
        match received(&subscriber) {
            said if said == "other" => others += 1,
            said => assert_eq!(said, (n - others).to_string()),
        }
    }
    while others == 0 || !is_silent(&subscriber, 10) {
        others += usize::from(received(&subscriber) == "other");
    }
    daemon.wait_for("it goes on", |status| !client(status, "anonymous").paused);
    // A burst of one second is free, and the rest was paid for.
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn acl_says_what_the_configuration_allows_and_where() {
    let site = Site::new();
    let text = r#"{"security": {"roles": {
  "default": {"publish": ["order."]},
  "all": {"publish": [""], "subscribe": [""]}},
 "clients": {
  "billing": {"role": "all",
   "publish": ["invoice."], "services": ["Billing-*"]},
  "few": {"subscribe": ["order."]}},
 "anonymous": {}}}"#;
    site.write("config.json", text);
    let acl = |arguments: [&str; 3]| site.run(&[&["acl"][..], &arguments].concat());
    for (arguments, said) in [
        (
            ["billing", "publish", "invoice.x"],
            "security.clients.billing.publish (config.json:6) and security.roles.all.publish (config.json:3)",
        ),
        (
            ["billing", "publish", "order.x"],
            "yes: security.roles.all.publish (config.json:3)",
        ),
        (
            ["billing", "serve", "Billing-1"],
            "yes: security.clients.billing.services (config.json:6)",
        ),
        (
            ["few", "subscribe", "glob:order.*"],
            "yes: security.clients.few.subscribe (config.json:7)",
        ),
        (
            ["elsewhere", "publish", "order.x"],
            "yes: security.roles.default.publish (config.json:2)",
        ),
        (
            ["few", "request", "emit"],
            "yes: security.clients.few.requests (not set)",
        ),
    ] {
        let printed = acl(arguments).done();
        assert!(printed.contains(said), "{arguments:?}: {printed}");
    }
    // Each says what it judged.
    for (object, judged) in [
        (
            "order.x",
            r#"events with the subject "order.x" alone; what a service gets by SUBSCRIBE order.x is "prefix:order.x""#,
        ),
        (
            "prefix:order.x",
            r#"all events whose subjects begin with "order.x""#,
        ),
        (
            "glob:order.*",
            r#"all events with subjects like "glob:order.*""#,
        ),
    ] {
        let printed = acl(["few", "subscribe", object]).done();
        assert!(printed.contains(&format!("judged: {judged}")), "{printed}");
    }
    let printed = acl(["biling", "publish", "order.x"]).done();
    assert!(printed.contains("nobody is called \"biling\""), "{printed}");
    let printed = acl(["billing", "publish", "order.x"]).done();
    assert!(!printed.contains("nobody"), "{printed}");
    for arguments in [
        ["few", "publish", "order.x"],
        ["few", "subscribe", "prefix:ord"],
        ["billing", "request", "dlq"],
        ["anonymous", "publish", "order.x"],
    ] {
        let ended = acl(arguments);
        assert!(
            ended.stdout.starts_with("no: "),
            "{arguments:?}: {}",
            ended.stdout
        );
        assert_eq!(ended.code, Some(1));
    }
    assert!(
        acl(["few", "request", "dql"])
            .failed(1)
            .contains("there are subscribe, ")
    );
}

#[test]
fn requests_have_both_spellings_of_rights_and_tokens() {
    let daemon = daemon(
        json!({"services": ["Billing"], "subscribe": [""], "requests": ["keep-alive", "SUBSCRIBE"]}),
    );
    daemon.subscribe("1", "Billing", &["order."]);
    for token in [
        "keep-alive",
        "keep_alive",
        "TK_EVENT_MANAGER_KEEP_ALIVE",
        "Keep-Alive",
    ] {
        let (answer, data) = daemon.ask(token, &["1"]);
        assert_eq!(answer, "TK_SYS_ACK", "{token}: {data}");
        let answer = ask_json(&daemon.requester(), &json!({"token": token, "id": "1"}));
        assert_eq!(answer["token"], "TK_SYS_ACK", "{token}: {answer}");
    }
}

#[test]
fn doctor_without_the_right_to_the_status_says_so() {
    let daemon = daemon(json!({"publish": [""]}));
    let site = Site::new().with("EVENT_MANAGER_ADDRESS", &daemon.requests());
    let ended = site.run(&["doctor"]);
    assert_eq!(ended.code, Some(77), "{ended:?}");
    let said = ended.stdout;
    assert!(
        said.contains("EM-9027") && said.contains("may not send the request \"status\""),
        "{said}"
    );
    assert!(
        said.contains("add \"status\" to that list") && !said.contains("start it"),
        "{said}"
    );
}

#[test]
fn clients_are_shown_with_what_was_denied() {
    let changing = Changing::new(&json!({"security": {"anonymous": {"requests": ["status"]}}}));
    let daemon = &changing.daemon;
    assert_eq!(
        daemon.refusal(SUBSCRIBE, &["1", "Shipping", ""]),
        "forbidden"
    );
    let address = daemon.requests();
    let printed = Site::new().run(&["clients", "--address", &address]).done();
    let line = printed.lines().nth(1).expect("a client");
    assert!(line.starts_with("anonymous  "), "{printed}");
    assert!(
        line.contains("  null  ") && line.contains("request 1"),
        "{printed}"
    );
}
