//! Who is there, who leads, and where that is told.

use event_manager_wire::api::InstanceState;
use serde_json::json;

use super::super::support::TestDaemon;
use super::super::support::http::HttpClient;
use super::super::support::peers::publish;
use super::super::support::program::Site;
use super::{find, heartbeat, observing, page, said, send, settings, state_of, turns, wait_for};

#[test]
fn who_is_there_and_who_leads_is_told_everywhere() {
    let daemon = TestDaemon::with(|config| {
        observing(config);
        // None is silent before the other has spoken, also on a slow machine.
        config.instances.timeout = std::time::Duration::from_secs(1);
        config.http_address = Some(event_manager_wire::model::Endpoint::tcp("127.0.0.1", 0));
    });
    let (one, other) = (daemon.publisher(), daemon.publisher());
    send(&one, &heartbeat("a", 20));
    send(&one, &said("event", "a", 20));
    wait_for(&daemon, "a", |all| all.leaders == ["a"]);
    send(&other, &heartbeat("b", 10));
    let page = wait_for(&daemon, "b", |all| all.leaders == ["b"]);
    let a = find(&page, "a");
    assert_eq!((a.pid, a.heartbeats, a.events), (Some(20), 1, 1));
    assert!(a.linked && a.link.is_some() && !a.leads, "{a:?}");
    let address = a.address.as_deref();
    assert_eq!(address, Some("tcp://127.0.0.1:5555"), "its own host");
    let led = [("a", "elected"), ("a", "resigned"), ("b", "elected")];
    assert_eq!(turns(&page), led.map(|(id, kind)| (id.into(), kind.into())));
    // Silent, then gone with its connection; the other says that it ends.
    wait_for(&daemon, "silence", |all| {
        state_of(all, "a") == Some(InstanceState::Silent)
    });
    send(&other, &said("shutdown", "b", 10));
    drop(one);
    wait_for(&daemon, "the end", |all| all.counts.get("gone") == Some(&2));
    let events = daemon.client(super::PATIENCE).events(None, 512);
    let events = events.expect("an answer").events;
    let of = |code: &str, id: &str| {
        let mut events = events.iter();
        events.any(|event| event.code == code && event.fields["id"] == id)
    };
    for (code, id) in [
        ("EM-0701", "a"),
        ("EM-0701", "b"),
        ("EM-0703", "a"),
        ("EM-0704", "a"),
        ("EM-0704", "b"),
        ("EM-0705", "b"),
        ("EM-0706", "a"),
    ] {
        assert!(of(code, id), "{code} {id}: {events:#?}");
    }
    let mut http = HttpClient::connect(daemon.http());
    let shown = http.get("/instances?history=2").json();
    assert_eq!(shown["counts"], json!({"gone": 2}));
    assert_eq!(shown["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(http.get("/instances").json()["history"], json!([]));
    for wrong in ["history=1001", "history=x", "other=1"] {
        let refused = http.get(&format!("/instances?{wrong}"));
        assert_eq!(refused.status, 400, "{wrong}");
    }
    let metrics = daemon.metrics();
    let value = |name: &str, labels: &[(&str, &str)]| metrics.value(name, labels);
    assert_eq!(value("event_manager_instances", &[("state", "gone")]), 2.0);
    assert_eq!(value("event_manager_instance_leaders", &[]), 0.0);
    let beats = "event_manager_instance_heartbeats_total";
    assert_eq!(value(beats, &[("instance", "a")]), 1.0);
    assert_eq!(daemon.status().instances.known.len(), 2);
}

#[test]
fn equal_process_ids_are_named_by_event_and_doctor() {
    let daemon = TestDaemon::with(observing);
    let publisher = daemon.publisher();
    send(&publisher, &heartbeat("a", 7));
    send(&publisher, &heartbeat("b", 7));
    wait_for(&daemon, "both", |all| all.leaders.len() == 2);
    let events = daemon.client(super::PATIENCE).events(None, 512);
    let events = events.expect("an answer").events;
    let two = events.iter().find(|event| event.code == "EM-0702");
    assert_eq!(two.expect("it is noted").fields["ids"], "a, b");
    let site = Site::of(&daemon);
    // They go on, so that they don't become silent meanwhile.
    let doctor = std::thread::scope(|scope| {
        let examined = scope.spawn(|| site.run(&["doctor"]));
        while !examined.is_finished() {
            send(&publisher, &heartbeat("a", 7));
            send(&publisher, &heartbeat("b", 7));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        examined.join().expect("it ends")
    });
    assert!(
        doctor.stdout.contains("error EM-9034 instances: a, b"),
        "{doctor:?}"
    );
}

#[test]
fn the_command_shows_them_and_says_when_nothing_is_observed() {
    let daemon = TestDaemon::start();
    let said = Site::of(&daemon).run(&["instances"]).done();
    assert!(said.contains("set instances.heartbeat"), "{said}");
    // Nobody looks at heartbeats.
    send(&daemon.publisher(), &heartbeat("a", 7));
    assert!(!page(&daemon).instances.observed);
    let daemon = TestDaemon::with(observing);
    let publisher = daemon.publisher();
    send(&publisher, &heartbeat("a", 7));
    wait_for(&daemon, "a", |all| all.leaders == ["a"]);
    let site = Site::of(&daemon);
    let table = site.run(&["instances"]).done();
    assert!(
        table.starts_with("INSTANCE") && table.contains("tcp://127.0.0.1:5555"),
        "{table}"
    );
    let history = site.run(&["instances", "--history"]).done();
    assert!(history.contains("elected"), "{history}");
    let json = site.run(&["instances", "--json"]).done();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["known"][0]["id"], "a");
}

/// Our own broker for APScheduler has subjects, and EMIT has no connection.
#[test]
fn heartbeats_may_have_subjects_and_come_by_request() {
    let mut instances = settings();
    instances["heartbeat"] = json!("apscheduler.heartbeat");
    instances["shutdown"] = json!("apscheduler.shutdown");
    let daemon = TestDaemon::in_own_process(&json!({"instances": instances}));
    let publisher = daemon.publisher();
    publish(&publisher, "apscheduler.heartbeat", &heartbeat("a", 7));
    wait_for(&daemon, "a", |all| all.leaders == ["a"]);
    publish(&publisher, "apscheduler.shutdown", &said("x", "a", 7));
    wait_for(&daemon, "its end", |all| all.leaders.is_empty());
    let request =
        json!({"token": "emit", "subject": "apscheduler.heartbeat", "payload": heartbeat("b", 8)});
    let mut client = daemon.client(super::PATIENCE);
    client.ask_json(&request).expect("an answer");
    let page = wait_for(&daemon, "b", |all| all.leaders == ["b"]);
    let b = find(&page, "b");
    assert!(!b.linked && b.link.is_none(), "{b:?}");
}
