//! What is durable stays so: without a port, below lower limits, and when only its queue is left.

use std::net::TcpListener;
use std::ops::RangeInclusive;

use event_manager::ambient::random;
use event_manager_wire::api::DurableReason;
use serde_json::{Value, json};

use super::notable::{noted, wait_for, with_code};
use super::ports::{held_ports, port, port_of, range_of};
use super::requests::ask_json;
use super::restart::{Home, KEEP_ALIVE, KILL, TERM, assert_kept_alive, end};
use super::support::peers::{Subscribed, publish, received};
use super::support::program::Site;
use super::support::{TestDaemon, disk_of};

const SUBSCRIBE: &str = "TK_EVENT_MANAGER_SUBSCRIBE";
const END: &str = "TK_EVENT_MANAGER_END";
const EMIT: &str = "TK_EVENT_MANAGER_EMIT";

/// Confirms an event on disk; in how many services.
fn emit(daemon: &TestDaemon, subject: &str, payload: &str) -> u64 {
    let (token, data) = daemon.ask(EMIT, &["", "disk", subject, payload]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    let answer: Value = serde_json::from_str(&data).expect("JSON");
    let services = answer["services"].as_u64().expect("a number");
    assert!(services == 0 || answer["level"] == "disk", "{answer}");
    services
}

/// Subscribes a service whose events are to be kept on disk.
fn subscribe_durable(daemon: &TestDaemon, id: &str, service: &str, subject: &str) -> String {
    let request = json!({
        "token": "subscribe", "id": id, "service": service, "subjects": [subject],
        "delivery": "queue",
    });
    let answer = ask_json(&daemon.requester(), &request);
    assert_eq!(answer["token"], "TK_SYS_ACK", "{answer}");
    answer["data"][2].as_str().expect("an address").to_owned()
}

fn doctor(daemon: &TestDaemon) -> String {
    let ended = Site::of(daemon).run(&["doctor"]);
    assert_eq!(ended.stderr, "");
    ended.stdout
}

/// Ports of services, all of which others hold.
fn with_ports(home: &mut Home, count: u16) -> Vec<TcpListener> {
    let held = held_ports(&home.host, count);
    let range = range_of(&held);
    home.keys["minStreamerPort"] = json!(range.start());
    home.keys["maxStreamerPort"] = json!(range.end());
    held
}

#[test]
fn a_declared_service_without_a_port_takes_events_and_gets_its_port_later() {
    let mut home = Home::with(json!({
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
        "httpAddress": "127.0.0.1:0",
    }));
    let held = with_ports(&mut home, 1);
    let daemon = home.start();
    assert_eq!(emit(&daemon, "Order", "1"), 1);
    let service = daemon.service("Billing");
    assert_eq!(
        (service.port, &service.address),
        (None, &None),
        "{service:#?}"
    );
    let why = service.no_port.expect("a sentence");
    assert!(why.contains("is free"), "{why}");
    let report = doctor(&daemon);
    assert!(report.contains("error EM-9019 Billing: "), "{report}");
    assert_eq!(wait_for(&daemon, "EM-0106").fields["service"], "Billing");
    let ready = daemon.readiness();
    let check = &ready.checks["ports"];
    assert_eq!([ready.ready, check.ok], [false, false], "{ready:?}");
    assert!(check.reason.contains("Billing"), "{ready:?}");
    let listed = Site::of(&daemon).run(&["services"]).done();
    assert!(listed.contains("Billing  -  "), "{listed}");
    // Who needs the port is told that there is none.
    assert_eq!(
        daemon.refusal(SUBSCRIBE, &["sub-1", "Billing", "Order"]),
        "no-port"
    );

    let expected = port_of(&held[0]);
    drop(held);
    daemon.wait_for_service("Billing", "its port", |found| found.port == Some(expected));
    let service = daemon.service("Billing");
    assert_eq!(service.no_port, None);
    let worker = daemon.worker("Billing", &daemon.address_of("Billing"));
    assert_eq!(received(&worker), "1");
    assert_eq!(emit(&daemon, "Order", "2"), 1);
    assert_eq!(received(&worker), "2");
    daemon.wait_for_readiness("readiness", |ready| ready.ready);
    assert_eq!(
        with_code(&noted(&daemon), "EM-0104")[0].fields["port"],
        expected
    );
    daemon.subscribe("sub-1", "Billing", &["Order"]);
}

#[test]
fn services_of_an_earlier_run_take_events_while_all_ports_are_taken() {
    let mut home = Home::new();
    drop(with_ports(&mut home, 2));
    let daemon = home.start();
    let address = subscribe_durable(&daemon, "sub-1", "Billing", "Order");
    subscribe_durable(&daemon, "sub-2", "Kitchen", "Order");
    let (token, data) = daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["sub-2"]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    let port = |name| daemon.service(name).port.expect("a port");
    let ports = ["Billing", "Kitchen"].map(port);
    end(daemon, KILL);
    let hold = || ports.map(|port| TcpListener::bind((&*home.host, port)).expect("it is free"));
    let held = hold();
    let daemon = home.start();
    assert_eq!(emit(&daemon, "Order", "1"), 2);
    // Its client has to learn where the service is.
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["sub-1"]),
        "unknown-subscription"
    );
    assert_eq!(
        daemon.refusal(SUBSCRIBE, &["sub-1", "Billing", "Order"]),
        "no-port"
    );
    let daemon = home.restart(daemon, KILL);
    assert_eq!(emit(&daemon, "Order", "2"), 2);
    drop(held);
    for (name, port) in ["Billing", "Kitchen"].iter().zip(ports) {
        daemon.wait_for_service(name, "its own port", |found| found.port == Some(port));
    }
    // It has the port that its client knows.
    assert_kept_alive(&daemon, "sub-1");
    let worker = daemon.worker("Billing", &address);
    assert_eq!([received(&worker), received(&worker)], ["1", "2"]);
    assert_eq!(daemon.service("Kitchen").counters.queued, 2);
}

#[test]
fn lower_limits_forget_nothing_that_is_there() {
    let mut home = Home::new();
    let daemon = home.start();
    let names = ["A", "B", "C"];
    for name in names {
        subscribe_durable(&daemon, name, name, "Order");
    }
    daemon.subscribe("live", "Live", &["Order", "Refund", "Return"]);
    let limits = json!({"maxSubscriptions": 1,
        "limits": {"maxSubscriptionsPerPeer": 2, "maxSubjectBytes": 16}});
    let kept = home.keys.clone();
    subscribe_durable(&daemon, "long", "Long", "a subject longer than 16 bytes");
    home.keys = limits;
    let daemon = home.restart(daemon, KILL);
    assert_eq!(emit(&daemon, "Order", "1"), 4);
    assert_eq!(
        daemon.refusal(SUBSCRIBE, &["new", "New", "Order"]),
        "too-many-subscriptions"
    );
    home.keys = kept;
    let daemon = home.restart(daemon, TERM);
    for id in ["A", "B", "C", "live", "long"] {
        assert_kept_alive(&daemon, id);
    }
    assert_eq!(emit(&daemon, "Order", "2"), 4);
    assert_eq!(emit(&daemon, "a subject longer than 16 bytes", "3"), 1);
    assert_eq!(daemon.service("Live").subjects.len(), 3);
    for name in names {
        assert_eq!(
            disk_of(&daemon.service(name)).because,
            DurableReason::Subscribed
        );
        // Without a word on its delivery it stays what it is.
        let again = daemon.subscribe(name, name, &["Order"]);
        let worker = daemon.worker(name, &again.pull_address);
        assert_eq!([received(&worker), received(&worker)], ["1", "2"]);
    }
}

#[test]
fn a_queue_on_disk_makes_its_service_durable_although_nothing_else_is_known_of_it() {
    let mut home = Home::new();
    let daemon = home.start();
    subscribe_durable(&daemon, "sub-1", "Billing", "Order");
    assert_eq!(emit(&daemon, "Order", "1"), 1);
    end(daemon, TERM);
    for entry in std::fs::read_dir(home.site.path("state")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.to_string_lossy().contains("/state.") {
            std::fs::remove_file(path).expect("it is a file");
        }
    }
    let daemon = home.start();
    let live = json!({"token": "subscribe", "id": "sub-1", "service": "Billing",
        "subjects": ["Order"], "delivery": "live"});
    let refused = ask_json(&daemon.requester(), &live);
    assert_eq!(refused["code"], "in-use", "{refused}");
    let Subscribed { pull_address, .. } = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(emit(&daemon, "Order", "2"), 1);
    let daemon = home.restart(daemon, KILL);
    let worker = daemon.worker("Billing", &pull_address);
    assert_eq!([received(&worker), received(&worker)], ["1", "2"]);
}

/// A queue of a service that the configuration made durable, and doesn't any more.
fn left_queue(home: &mut Home) -> (TestDaemon, String) {
    home.keys["services"] = json!({"Billing": {"delivery": "queue", "subjects": ["Order"]}});
    let daemon = home.start();
    let address = daemon.address_of("Billing");
    for n in ["1", "2", "3"] {
        assert_eq!(emit(&daemon, "Order", n), 1);
    }
    home.keys["services"] = json!({});
    let daemon = home.restart(daemon, KILL);
    (daemon, address)
}

#[test]
fn a_queue_whose_service_is_not_durable_any_more_is_named_listed_and_ended() {
    let mut home = Home::new();
    let (daemon, _) = left_queue(&mut home);
    let left = wait_for(&daemon, "EM-0510");
    assert_eq!(
        [&left.fields["service"], &left.fields["events"]],
        [&json!("Billing"), &json!(3)]
    );
    let service = daemon.service("Billing");
    assert_eq!(
        disk_of(&service).because,
        DurableReason::OnDisk,
        "{service:#?}"
    );
    assert!(service.subjects.is_empty(), "it wants no more");
    let report = doctor(&daemon);
    assert!(report.contains("warning EM-9020 Billing: "), "{report}");
    let listed = Site::of(&daemon).run(&["services"]).done();
    assert!(listed.contains("Billing"), "{listed}");
    assert_eq!(emit(&daemon, "Order", "4"), 0);
    let (token, data) = daemon.ask(END, &["Billing"]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    assert_eq!(daemon.find_service("Billing"), None);
    let daemon = home.restart(daemon, KILL);
    assert_eq!(daemon.find_service("Billing"), None);
    assert_eq!(daemon.refusal(END, &["Billing"]), "unknown-service");
    assert!(with_code(&noted(&daemon), "EM-0510").is_empty());
    // What the operator ended is what the configuration says again.
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(daemon.service("Billing").durable, None);
}

#[test]
fn a_queue_that_is_left_can_be_drained_at_its_old_port() {
    let mut home = Home::new();
    let (daemon, address) = left_queue(&mut home);
    daemon.wait_for_service("Billing", "its port", |found| {
        found.address.as_ref() == Some(&address)
    });
    let worker = daemon.worker("Billing", &address);
    assert_eq!([(); 3].map(|()| received(&worker)), ["1", "2", "3"]);
    daemon.wait_for_counter("Billing", |c| c.delivered, 3);
    // It can be taken up again as well.
    let again = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(again.pull_address, address);
    publish(&daemon.publisher(), "Order", "4");
    assert_eq!(received(&worker), "4");
}

#[test]
fn queues_that_are_left_and_empty_take_no_port_from_others() {
    let mut home = Home::new();
    drop(with_ports(&mut home, 2));
    home.keys["services"] = json!({"Old*": {"delivery": "queue"}});
    let mut daemon = home.start();
    for n in 0..5 {
        let name = format!("Old-{n}");
        daemon.subscribe("sub-1", &name, &["Order"]);
        daemon.unsubscribe("sub-1");
        let (token, data) = daemon.ask(END, &[&name]);
        assert_eq!(token, "TK_SYS_ACK", "{data}");
    }
    for name in ["Old-A", "Old-B"] {
        daemon.subscribe("sub-1", name, &["Order"]);
    }
    end(daemon, TERM);
    // Nothing is known of them but their queues.
    for entry in std::fs::read_dir(home.site.path("state")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.to_string_lossy().contains("/state.") {
            std::fs::remove_file(path).expect("it is a file");
        }
    }
    home.keys["services"] = json!({});
    daemon = home.start();
    assert_eq!(
        disk_of(&daemon.service("Old-A")).because,
        DurableReason::OnDisk
    );
    let ports = ["A", "B"].map(|name| port(&daemon.subscribe(name, name, &["x"]).pull_address));
    assert_ne!(ports[0], ports[1]);
    let report = doctor(&daemon);
    assert!(!report.contains("EM-9019"), "{report}");
}

#[test]
fn a_start_without_the_queues_forgets_no_service_of_theirs() {
    let mut home = Home::new();
    home.keys["services"] = json!({"Billing": {"delivery": "queue"}});
    let daemon = home.start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.unsubscribe("sub-1");
    end(daemon, TERM);
    let [queues, away] = ["state/queues", "away"].map(|name| home.site.path(name));
    std::fs::rename(&queues, &away).expect("it is there");
    std::fs::write(&queues, "in the way").expect("a file");
    home.keys["services"] = json!({});
    let daemon = home.start();
    assert!(!daemon.status().store.kept);
    assert_eq!(daemon.find_service("Billing"), None);
    end(daemon, TERM);
    std::fs::remove_file(&queues).expect("it is there");
    std::fs::rename(&away, &queues).expect("it is there");
    let daemon = home.start();
    assert_eq!(daemon.service("Billing").subjects, ["Order"]);
    assert_eq!(emit(&daemon, "Order", "1"), 1);
}

/// Starts that lack this and that, in any order: what is confirmed for a service is there in the end.
#[test]
fn no_start_forgets_what_is_durable_whatever_it_lacks() {
    const STARTS: u64 = 8;
    let seed = random();
    println!("seed {seed}");
    let mut chance = seed;
    let mut one_in = |n: u64| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (chance >> 33).is_multiple_of(n)
    };
    let mut home = Home::new();
    drop(with_ports(&mut home, 3));
    let ports = home.keys.clone();
    let mut daemon = home.start();
    let names = ["Asked", "Configured-1", "Configured-2"];
    home.keys["services"] = json!({"Configured*": {"delivery": "queue"}});
    daemon = home.restart(daemon, TERM);
    subscribe_durable(&daemon, names[0], names[0], "Order");
    daemon.subscribe(names[1], names[1], &["Order"]);
    daemon.subscribe(names[2], names[2], &["Order"]);
    daemon.unsubscribe(names[2]);
    for n in 0..STARTS {
        assert_eq!(emit(&daemon, "Order", &n.to_string()), 3, "start {n}");
        end(daemon, if one_in(2) { KILL } else { TERM });
        home.keys = ports.clone();
        if one_in(2) {
            home.keys["services"] = json!({"Configured*": {"delivery": "queue"}});
        }
        if one_in(2) {
            home.keys["maxSubscriptions"] = json!(1);
        }
        let taken: Vec<TcpListener> = range(&ports)
            .filter(|_| one_in(2))
            .map(|port| TcpListener::bind((&*home.host, port)).expect("it is free"))
            .collect();
        daemon = home.start();
        drop(taken);
    }
    for name in names {
        daemon.wait_for_service(name, "a port", |found| found.port.is_some());
        let worker = daemon.worker(name, &daemon.address_of(name));
        for n in 0..STARTS {
            assert_eq!(received(&worker), n.to_string(), "{name}");
        }
        daemon.wait_for_counter(name, |c| c.delivered, STARTS);
    }
}

fn range(keys: &Value) -> RangeInclusive<u16> {
    let port = |name: &str| {
        let port = keys[name].as_u64().expect("a port");
        u16::try_from(port).expect("a port")
    };
    port("minStreamerPort")..=port("maxStreamerPort")
}
