use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::{Disk, Facts, Locator};
use super::finding::{Code, Finding, Severity};
use super::listeners::Listening;
use super::{as_text, bridges, check, configuration, lease, machine, services, subscriptions};
use crate::config::{Loaded, parse};
use event_manager_wire::api::Status;

fn loaded(json: &str) -> Loaded {
    parse("config.json", json, &BTreeMap::new(), &[]).unwrap()
}

/// A daemon that is as it should be, with a configuration of its own.
fn facts(config: &str) -> Facts {
    Facts {
        config: Ok(loaded(config)),
        address: "tcp://localhost:5101".into(),
        status: Ok(status(
            json!({"pid": 7, "addresses": {"publishers": ["tcp://localhost:5000"]}}),
        )),
        listening: vec![],
        locator: Locator::Registered,
        letters: vec![],
        bridges_down_since: BTreeMap::new(),
        disk: None,
        turned_away: None,
        standby: None,
        is_forbidden: false,
        disk_free_min: None,
    }
}

/// As a daemon sends it that keeps what it should; what else is left out has its default.
fn status(mut json: Value) -> Status {
    for kept in ["state", "store"] {
        if json[kept].is_null() {
            json[kept] = json!({"kept": true});
        }
    }
    serde_json::from_value(json).unwrap()
}

fn codes(findings: &[Finding]) -> Vec<(Code, Severity)> {
    findings.iter().map(|f| (f.code, f.severity)).collect()
}

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn is_taken(host: &str, listening: Listening) -> bool {
    let mut facts = facts(&format!(
        r#"{{"pubAddress": "tcp://{host}:5000", "subAddress": "ipc://x", "minStreamerPort": 6, "maxStreamerPort": 7}}"#
    ));
    facts.listening = vec![listening];
    let found = configuration::check(&facts);
    assert!(
        found.iter().all(|f| f.code == Code::AddressTaken),
        "{found:?}"
    );
    !found.is_empty()
}

#[test]
fn addresses_clash_on_the_same_host_or_on_all() {
    let other = Some((8, "python3"));
    for (host, ip, clash) in [
        ("*", IP, true),
        ("0.0.0.0", IP, true),
        ("[::]", IP, true),
        ("10.0.0.1", IP, true),
        ("10.0.0.1", ANY, true),
        ("10.0.0.2", IP, false),
        ("localhost", LOOPBACK, true),
        ("localhost", IP, false),
        ("a-name", IP, true),
    ] {
        let listening = Listening::new(ip, 5000, other);
        assert_eq!(is_taken(host, listening), clash, "{host} and {ip}");
    }
    assert!(!is_taken("*", Listening::new(IP, 5003, other)));
    // The daemon itself, also where its process can't be seen.
    assert!(!is_taken(
        "*",
        Listening::new(ANY, 5000, Some((7, "event-manager")))
    ));
    assert!(!is_taken("*", Listening::new(ANY, 5000, None)));
}

#[test]
fn the_shipped_defaults_are_worth_a_note_and_no_more() {
    let found = configuration::check(&facts("{}"));
    assert_eq!(codes(&found), [(Code::RangeOverlap, Severity::Note)]);
    assert!(
        found[0]
            .text
            .contains("includes 5001 of subAddress, which are skipped: 99 ports")
    );
    assert_eq!(found[0].about, "minStreamerPort (default)");
    let apart = r#"{"minStreamerPort": 5200, "maxStreamerPort": 5300}"#;
    assert_eq!(configuration::check(&facts(apart)), []);
    let chosen = r#"{"minStreamerPort": 0, "maxStreamerPort": 0, "pubAddress": "tcp://*:0"}"#;
    assert_eq!(configuration::check(&facts(chosen)), []);
    let embedded = r#"{"minStreamerPort": 6000, "maxStreamerPort": 6001, "embeddedLocator": true}"#;
    let found = configuration::check(&facts(embedded));
    assert!(
        found[0].text.contains("6000 of locatorAddress"),
        "{found:?}"
    );
}

fn service(fields: Value) -> Value {
    let mut service = json!({
        "name": "Billing", "port": 5002, "address": "tcp://localhost:5002",
        "subjects": [], "subscriptions": [], "durable": null,
        "workers": {"connected": 1, "ready": 1, "stalled": 0},
        "queue": {"events": 0, "budgetEvents": 10, "bytes": 0, "budgetBytes": 100},
        "counters": {"queued": 0},
    });
    for (key, value) in fields.as_object().unwrap() {
        service[key] = value.clone();
    }
    service
}

fn of_service(fields: Value) -> Vec<(Code, Severity)> {
    let status = status(json!({"services": [service(fields)]}));
    codes(&services::check(&status, &[]))
}

#[test]
fn services_are_judged_by_their_bounds() {
    assert_eq!(of_service(json!({})), []);
    let nobody = json!({"connected": 0, "ready": 0, "stalled": 0});
    let nobody_ready = |severity| vec![(Code::NobodyReady, severity)];
    assert_eq!(
        of_service(json!({"workers": nobody})),
        nobody_ready(Severity::Warning)
    );
    let dispatch =
        json!({"dueEvents": 3, "freeWorkers": 1, "waitsForDisk": false, "stuckMs": 4000});
    assert_eq!(
        of_service(json!({"dispatch": dispatch})),
        [(Code::ServiceStuck, Severity::Error)]
    );
    // A durable service may wait for nobody, but not with events.
    let durable = json!({"state": "ok"});
    let quiet = json!({"workers": nobody, "durable": durable});
    assert_eq!(of_service(quiet), nobody_ready(Severity::Note));
    let waiting = json!({"workers": nobody, "durable": durable, "counters": {"queued": 1}});
    assert_eq!(of_service(waiting), nobody_ready(Severity::Warning));
    let queue = |events: u64, bytes: u64| {
        let queue =
            json!({"events": events, "budgetEvents": 10, "bytes": bytes, "budgetBytes": 100});
        of_service(json!({"queue": queue}))
    };
    assert_eq!(queue(7, 79), []);
    assert_eq!(queue(8, 0), [(Code::QueueNearBudget, Severity::Warning)]);
    assert_eq!(queue(8, 80), [(Code::QueueNearBudget, Severity::Warning)]);
    // What has no room in memory stays on disk.
    let full = json!({"events": 10, "budgetEvents": 10, "bytes": 100, "budgetBytes": 100});
    assert_eq!(of_service(json!({"queue": full, "durable": durable})), []);
    let failed = json!({"state": "failed", "reason": "no space"});
    assert_eq!(
        of_service(json!({"durable": failed})),
        [(Code::QueueFailed, Severity::Error)]
    );
    let many = services::check(&Status::default(), &[("Bob's".into(), 1000)]);
    assert!(many[0].text.contains("at least 1000"), "{many:?}");
    assert!(many[0].mend.contains(r"dlq list 'Bob'\''s'"), "{many:?}");
}

#[test]
fn bridges_are_judged_by_their_state_and_what_waits() {
    let found = |state: &str, required: bool, bytes: u64| {
        let nobody = json!({"connected": 0, "ready": 0, "stalled": 0});
        let durable = json!({"state": "ok", "bytes": bytes, "retentionBytes": 100});
        let service = service(json!({
            "name": "bridge.orders", "workers": nobody, "durable": durable,
            "counters": {"queued": 5, "inFlight": 2},
        }));
        let bridge = json!({"name": "orders", "engine": "main", "direction": "out", "state": state,
            "required": required, "problem": "no stream"});
        let mut facts = facts("{}");
        facts.status = Ok(status(json!({"services": [service], "bridges": [bridge]})));
        let since = [("orders".to_owned(), "yesterday".to_owned())];
        facts.bridges_down_since = BTreeMap::from(since);
        let mut found = check(&facts);
        found.retain(|finding| finding.code != Code::RangeOverlap);
        found
    };
    assert_eq!(found("running", true, 79), []);
    let down = |severity| (Code::BridgeDown, severity);
    let failing = found("failing", false, 0);
    assert_eq!(codes(&failing), [down(Severity::Warning)]);
    let said =
        "main is reached, and doesn't do what it should since yesterday: no stream; 7 events wait";
    assert_eq!(failing[0].text, said);
    let required = found("connecting", true, 0);
    assert_eq!(codes(&required), [down(Severity::Error)]);
    assert!(
        required[0].text.contains("is not ready without it"),
        "{required:?}"
    );
    assert!(required[0].mend.contains("engines.main"), "{required:?}");
    let near = (Code::BridgeNearRetention, Severity::Warning);
    assert_eq!(codes(&found("running", false, 80)), [near]);
}

#[test]
fn a_bridge_is_down_since_it_last_worked() {
    let event = |ts: &str, name: &str, bridge: &str| {
        serde_json::from_value(json!({"ts": ts, "type": name, "bridge": bridge})).unwrap()
    };
    let events = [
        event("1", "bridge-down", "a"),
        event("2", "bridge-up", "a"),
        event("3", "bridge-down", "a"),
        event("4", "bridge-down", "a"),
        event("5", "bridge-down", "b"),
        event("6", "bridge-up", "b"),
        event("7", "subscribed", "a"),
    ];
    let since = bridges::down_since(&events);
    assert_eq!(since, BTreeMap::from([("a".to_owned(), "3".to_owned())]));
}

fn prefixes(subjects: &[&str]) -> Vec<Severity> {
    let status = status(json!({"services": [service(json!({"subjects": subjects}))]}));
    subscriptions::check(&status)
        .iter()
        .map(|f| f.severity)
        .collect()
}

#[test]
fn prefixes_are_judged_by_how_subjects_go_on() {
    use Severity::{Note, Warning};
    for (subjects, expected) in [
        (&["POS1", "POS10"][..], &[Warning][..]),
        (&["POS1", "glob:POS1?.open"], &[]),
        (&["POS1", "glob:POS12.*"], &[Warning]),
        (&["exact:POS1", "POS10"], &[]),
        (&["Order", "OrderCreated"], &[Note]),
        (&["Order", "Order.created", "Order-x", "Order/y"], &[]),
        (&["", "POS1"], &[]),
        (&["order.", "order.created"], &[]),
        (&["ü", "üb"], &[Note]),
        (&["POS1"], &[]),
        (&["A", "A1", "A10"], &[Warning, Note]),
    ] {
        let mut found = prefixes(subjects);
        found.sort_by_key(|severity| std::cmp::Reverse(*severity));
        assert_eq!(found, expected, "{subjects:?}");
    }
}

#[test]
fn a_prefix_that_catches_many_names_a_few() {
    let text = |last: u32| {
        let subjects: Vec<String> = (1..=last).map(|n| format!("POS{n}")).collect();
        let status = status(json!({"services": [service(json!({"subjects": subjects}))]}));
        subscriptions::check(&status)[0].text.clone()
    };
    assert!(
        text(12).ends_with(r#"it also matches "POS10", "POS11", "POS12""#),
        "{}",
        text(12)
    );
    let many = r#"it also matches "POS10", "POS11", "POS12" and others"#;
    assert!(text(13).ends_with(many), "{}", text(13));
}

proptest! {
    /// A prefix is named exactly if another subject goes on in the middle of a word or number.
    #[test]
    fn prefixes_agree_with_the_definition(
        subjects in prop::collection::btree_set("[a1.]{1,4}", 1..8),
    ) {
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        let goes_on = |prefix: &str, other: &str| {
            let next = other.strip_prefix(prefix).and_then(|rest| rest.chars().next());
            next.is_some_and(|next| next != '.') && !prefix.ends_with('.')
        };
        let wide = |prefix: &&&str| subjects.iter().any(|other| goes_on(prefix, other));
        let expected = subjects.iter().filter(wide).count();
        prop_assert_eq!(prefixes(&subjects).len(), expected, "{:?}", subjects);
    }
}

#[test]
fn a_lease_that_is_renewed_late_is_named() {
    let found = |engine: &str, ago: u64, problem: Value| {
        lease::check(&status(json!({"lease": {
            "source": "main", "engine": engine, "name": "x", "ttlMs": 3000,
            "expiresInMs": 2700_u64.saturating_sub(ago), "renewedAgoMs": ago, "problem": problem,
        }})))
    };
    // It is asked each third of its time, and may take a while to be answered.
    assert_eq!(found("nats", 1500, Value::Null), []);
    let [silent] = &found("nats", 1501, Value::Null)[..] else {
        panic!("one is wanted");
    };
    assert_eq!(
        (silent.code, silent.severity),
        (Code::LeaseLate, Severity::Warning)
    );
    assert!(silent.text.contains("1501 ms ago"), "{silent:?}");
    assert!(silent.text.contains("ends in 1199 ms"), "{silent:?}");
    assert!(silent.text.contains("has not answered yet"), "{silent:?}");
    let failed = &found("nats", 2000, json!("no route"))[0];
    assert!(failed.text.contains("main says: no route"), "{failed:?}");
    let kept = found("redis", 0, Value::Null);
    assert_eq!(codes(&kept), [(Code::LeaseForgotten, Severity::Note)]);
    // A person's has no time; and without any there is nothing to say.
    let by_hand = json!({"lease": {"source": "hand", "renewedAgoMs": 999_999}});
    assert_eq!(lease::check(&status(by_hand)), []);
    assert_eq!(lease::check(&status(json!({}))), []);
}

#[test]
fn leases_are_near_their_end_in_the_last_third() {
    let expiring = |left: f64| {
        let subscription = json!({"id": "sub-1", "expiresInSeconds": left});
        let service = service(json!({"subscriptions": [subscription]}));
        let status = status(json!({"subscriptionTtlSeconds": 60.0, "services": [service]}));
        subscriptions::check(&status).len()
    };
    assert_eq!([60.0, 20.0, 19.9, 0.0].map(expiring), [0, 0, 1, 1]);
}

#[test]
fn the_process_is_judged_by_its_bounds() {
    let found = |json: Value| codes(&machine::check(&status(json)));
    let of_connections = |open: u64, max: u64, fds_max: Value| {
        found(json!({"connections": {"open": open, "max": max, "fdsMax": fds_max}}))
    };
    assert_eq!(of_connections(79, 100, json!(132)), []);
    assert_eq!(
        of_connections(79, 100, json!(131)),
        [(Code::FewDescriptors, Severity::Warning)]
    );
    assert_eq!(
        of_connections(80, 100, Value::Null),
        [(Code::ManyConnections, Severity::Warning)]
    );
    let memory = |waiting: u64, limit: u64| {
        found(json!({"memory": {"waitingBytes": waiting, "limitBytes": limit}}))
    };
    assert_eq!(memory(79, 100), []);
    assert_eq!(
        memory(80, 100),
        [(Code::MemoryNearLimit, Severity::Warning)]
    );
    // Zero is no limit.
    assert_eq!(memory(80, 0), []);
    let clock = |now_ms: u64| {
        found(json!({"startedAtMs": 100_000, "wallClockMs": now_ms, "uptimeSeconds": 20.0}))
    };
    assert_eq!(clock(124_900), []);
    assert_eq!(clock(115_100), []);
    assert_eq!(clock(125_000), [(Code::ClockJumped, Severity::Warning)]);
    assert_eq!(clock(90_000), [(Code::ClockJumped, Severity::Warning)]);
    // An older daemon tells neither.
    assert_eq!(found(json!({"uptimeSeconds": 1e9})), []);
}

#[test]
fn a_disk_is_judged_by_its_size() {
    let found = |free: u64, total: u64, free_min| {
        let disk = Disk {
            path: PathBuf::from("/var/lib/x"),
            free,
            total,
        };
        machine::check_disk(&disk, free_min).map(|finding| finding.severity)
    };
    const MIB: u64 = 1 << 20;
    assert_eq!(found(100 * MIB, 1000 * MIB, None), None);
    assert_eq!(found(99 * MIB, 1000 * MIB, None), Some(Severity::Warning));
    assert_eq!(found(1024 * MIB, 1 << 50, None), None);
    assert_eq!(found(1023 * MIB, 1 << 50, None), Some(Severity::Warning));
    assert_eq!(found(MIB, 1000 * MIB, None), Some(Severity::Error));
    assert_eq!(found(99 * MIB, 1000 * MIB, Some(98 * MIB)), None);
    assert_eq!(found(0, 0, Some(0)), None);
}

#[test]
fn the_worst_comes_first_and_nothing_moves_the_cursor() {
    let mut facts = facts("{}");
    let hostile = service(json!({"name": "\u{1b}[2J\u{202e}", "durable": {"state": "failed"}}));
    facts.status = Ok(status(json!({"services": [hostile]})));
    let found = check(&facts);
    assert_eq!(found.first().unwrap().code, Code::QueueFailed);
    assert!(found.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)));
    let text = as_text(&facts, &found);
    assert!(
        text.chars()
            .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
        "{text:?}"
    );
}

#[test]
fn each_code_is_documented() {
    let operations = include_str!("../../../docs/operations.md");
    let pages: Vec<_> = operations.split("\n#### ").collect();
    for code in Code::ALL {
        let page = pages
            .iter()
            .find(|page| page.starts_with(&format!("{}:", code.text())));
        let page = page.unwrap_or_else(|| panic!("docs/operations.md has no page {}", code.text()));
        for part in ["**Means**", "**Check**", "**Fix**"] {
            assert!(page.contains(part), "{} has no {part}", code.text());
        }
    }
    let documented = pages
        .iter()
        .filter(|page| page.starts_with("EM-90"))
        .count();
    assert_eq!(documented, Code::ALL.len());
}
