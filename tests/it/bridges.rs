//! Bridges to other brokers, as operators see them. What goes over them, `tests/engines` shows.

#![cfg(feature = "nats")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use event_manager_wire::api::{BridgeState, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::peers::publish;
use super::support::program::Site;
use super::support::{PATIENCE, TestDaemon};

/// A daemon with a bridge whose server isn't there.
struct Away {
    daemon: TestDaemon,
    url: String,
    _directory: TempDir,
}

/// A port on which nothing listens.
fn nobody() -> String {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("nats://{}", taken.local_addr().expect("an address"))
}

fn away(bridge: &Value) -> Away {
    let (directory, url) = (TempDir::new().expect("a directory"), nobody());
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [url]}},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.",
        }},
    });
    for (key, value) in bridge.as_object().expect("an object") {
        settings["bridges"]["orders"][key] = value.clone();
    }
    let daemon = TestDaemon::in_own_process(&settings);
    daemon.wait_for("a problem", |status| {
        let mut bridges = status.bridges.iter();
        bridges.any(|bridge| bridge.problem.is_some())
    });
    Away {
        daemon,
        url,
        _directory: directory,
    }
}

impl Away {
    /// With so many events that wait.
    fn publish(&self, events: u64) -> Status {
        let publisher = self.daemon.publisher();
        (0..events).for_each(|n| publish(&publisher, "Order", &n.to_string()));
        self.daemon.wait_for("all events", |status| {
            let service = status.service("bridge.orders");
            service.is_some_and(|found| found.counters.queued + found.counters.in_flight == events)
        })
    }
}

#[test]
fn a_queue_that_the_configuration_needs_is_not_ended_and_says_for_what() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [nobody()]}},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.",
        }},
        "services": {"Billing": {"delivery": "engine", "engine": "main", "subjects": ["Order"]}},
    }));
    let site = Site::of(&daemon);
    for (service, key) in [
        ("bridge.orders", "bridges.orders"),
        ("engine.Billing", "services.Billing"),
        ("Billing", "services.Billing"),
    ] {
        let said = site.run(&["services", "--end", service]).failed(1);
        let wanted =
            format!("the configuration needs it for {key}; take that out of it and restart first");
        assert!(said.contains(&wanted), "{said}");
    }
}

#[test]
fn bridges_are_shown_with_what_waits_and_why() {
    let away = away(&json!({}));
    away.publish(3);
    let site = Site::of(&away.daemon);
    let printed = site.run(&["bridges"]).done();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    let headings =
        "BRIDGE ENGINE DIRECTION STATE EVENTS REFUSED KNOWN LEFT OUT FAILURES WAITING PROBLEM";
    assert_eq!(words(lines[0]).join(" "), headings);
    let row = words(lines[1]);
    assert_eq!(
        row[..8],
        ["orders", "main", "out", "connecting", "0", "0", "0", "0"]
    );
    assert!(row[8].parse::<u64>().expect("a number") > 0, "{printed}");
    assert_eq!(row[9], "3");
    assert!(lines[1].contains(&away.url), "{printed}");

    let told: Value = serde_json::from_str(&site.run(&["bridges", "--json"]).done()).expect("JSON");
    let told = &told["bridges"][0];
    assert_eq!(
        (&told["name"], &told["waiting"]),
        (&json!("orders"), &json!(3))
    );
    let bridge = away.daemon.status().bridges[0].clone();
    assert_eq!(bridge.state, BridgeState::Connecting);
    assert_eq!(told["problem"], json!(bridge.problem));
}

/// The findings of a doctor with this code. It waits no longer for those who aren't there.
fn findings(site: &Site, code: &str) -> Vec<String> {
    let told = site.run(&["doctor", "--json", "--wait", "1"]);
    let report: Value = serde_json::from_str(&told.stdout).expect("JSON");
    let all = report["findings"].as_array().expect("a list").iter();
    let such = all.filter(|finding| finding["code"] == code);
    let said = such.map(|finding| {
        let parts = ["severity", "about", "text", "mend"];
        parts
            .map(|key| finding[key].as_str().expect("a text"))
            .join(" | ")
    });
    said.collect()
}

#[test]
fn the_doctor_knows_a_bridge_that_does_not_work() {
    for (required, severity) in [(false, "warning"), (true, "error")] {
        let away = away(&json!({"required": required}));
        away.publish(3);
        let site = Site::of(&away.daemon);
        let [found] = &findings(&site, "EM-9031")[..] else {
            panic!("one finding")
        };
        assert!(
            found.starts_with(&format!("{severity} | bridges.orders | ")),
            "{found}"
        );
        // When it was noted, to the millisecond.
        let mut noted = away
            .daemon
            .client(PATIENCE)
            .events(None, 512)
            .expect("events")
            .events;
        noted.retain(|event| event.name == "bridge-down");
        for part in [
            "main is not reached since",
            &noted[0].ts,
            &away.url,
            "3 events wait",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert_eq!(
            found.contains("is not ready without it"),
            required,
            "{found}"
        );
        // Nobody is told to start a worker for it.
        assert_eq!(findings(&site, "EM-9007"), Vec::<String>::new());
    }
}

#[test]
fn the_doctor_knows_a_bridge_whose_events_soon_have_no_room() {
    let away = away(&json!({"retention": {"maxBytes": 70_000_000}}));
    let publisher = away.daemon.publisher();
    let large = "x".repeat(1_000_000);
    (0..60).for_each(|_| publish(&publisher, "Order", &large));
    away.daemon
        .wait_for_service("bridge.orders", "60 MB on disk", |service| {
            let disk = service.durable.as_ref().expect("a queue on disk");
            disk.pending_events == 0 && disk.bytes > 60_000_000
        });
    let site = Site::of(&away.daemon);
    let found = findings(&site, "EM-9032");
    assert!(
        found[0].contains("of 70000000 bytes wait on disk"),
        "{found:?}"
    );
}

/// A configuration with an engine that has these keys, too.
fn with_engine(more: &Value, required: bool) -> Site {
    let mut keys = json!({
        "stateDir": "state",
        "engines": {"main": {"type": "nats", "servers": [nobody()]}},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.", "required": required,
        }},
    });
    for (key, value) in more.as_object().expect("an object") {
        keys["engines"]["main"][key] = value.clone();
    }
    Site::configured(&keys)
}

#[test]
fn check_looks_at_the_files_of_engines_and_says_what_confirmed_means() {
    let table = [
        (
            json!({"user": "em", "passwordFile": "secret"}),
            None,
            "passwordFile secret: No such file",
        ),
        (
            json!({"tokenFile": "secret"}),
            Some((0o644, "token")),
            "tokenFile secret: others may read this secret (mode 0644); run chmod 600 secret",
        ),
        (
            json!({"tokenFile": "secret"}),
            Some((0o600, " \n")),
            "tokenFile secret is empty",
        ),
        (
            json!({"credentialsFile": "secret"}),
            Some((0o600, "a token")),
            "credentialsFile secret holds no credentials as nsc writes them",
        ),
        (
            json!({"caFile": "secret"}),
            Some((0o644, "no PEM")),
            "caFile secret has no certificate in PEM",
        ),
        (
            json!({"caFile": "secret"}),
            None,
            "caFile secret: No such file",
        ),
    ];
    for (keys, file, wanted) in table {
        // The daemon starts with it, but would never be ready if it is required.
        for required in [false, true] {
            let site = with_engine(&keys, required);
            if let Some((mode, text)) = file {
                site.write("secret", text);
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(site.path("secret"), mode).expect("a mode");
            }
            let told = site.run(&["check"]);
            let wanted = format!("engines.main: {wanted}");
            assert!(told.stderr.contains(&wanted), "{wanted}: {}", told.stderr);
            // The daemon starts with it, but would never be ready.
            assert_eq!(told.code, Some(if required { 78 } else { 0 }), "{wanted}");
            let severity = if required { "error" } else { "warning" };
            let found = findings(&site, "EM-9033");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].starts_with(severity) && found[0].contains(&wanted),
                "{found:?}"
            );
        }
    }
    let site = with_engine(&json!({"tokenFile": "secret"}), true);
    site.write("secret", "token");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(site.path("secret"), mode).expect("a mode");
    let text = site.run(&["check"]).done();
    assert!(
        text.contains("bridges.orders: confirmed means that the stream has it"),
        "{text}"
    );
    let told: Value = serde_json::from_str(&site.run(&["check", "--json"]).done()).expect("JSON");
    let said = told["bridges"]["confirmed"]["orders"]
        .as_str()
        .expect("a text");
    assert!(said.contains("the stream has it"), "{said}");
}

/// A daemon whose service has its queue at a server that isn't there.
fn served() -> Away {
    let (directory, url) = (TempDir::new().expect("a directory"), nobody());
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [url]}},
        "services": {"Billing": {"delivery": "engine", "engine": "main", "subjects": ["Order"]}},
    }));
    daemon.wait_for("both problems", |status| {
        let bridges = status.bridges.iter();
        bridges.filter(|bridge| bridge.problem.is_some()).count() == 2
    });
    Away {
        daemon,
        url,
        _directory: directory,
    }
}

#[test]
fn the_doctor_knows_both_ways_of_a_service_whose_queue_is_not_reached() {
    let away = served();
    let publisher = away.daemon.publisher();
    (0..3).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    away.daemon
        .wait_for_counter("engine.Billing", |c| c.matched, 3);
    let found = findings(&Site::of(&away.daemon), "EM-9031");
    assert_eq!(found.len(), 2, "{found:?}");
    for one in &found {
        assert!(one.starts_with("warning | services.Billing | "), "{one}");
        assert!(one.contains(&away.url), "{one}");
    }
    let out = found.iter().find(|one| one.contains("3 events wait"));
    assert!(out.is_some(), "{found:?}");
}

#[test]
fn check_says_of_a_service_at_an_engine_when_an_event_is_in_its_queue() {
    let site = Site::configured(&json!({
        "stateDir": "state",
        "engines": {"main": {"type": "nats", "servers": [nobody()], "tokenFile": "secret"}},
        "services": {"Billing": {"delivery": "engine", "engine": "main", "subjects": ["Order"]}},
    }));
    let told = site.run(&["check"]);
    let wanted = "engines.main: tokenFile secret: No such file";
    assert!(told.stderr.contains(wanted), "{}", told.stderr);
    let text = &told.stdout;
    let wanted = "services.Billing: an event is in the queue when the stream has it";
    assert!(text.contains(wanted), "{text}");
    let told: Value = serde_json::from_str(&site.run(&["check", "--json"]).stdout).expect("JSON");
    let said = told["services"]["confirmed"]["Billing"].as_str();
    assert!(
        said.is_some_and(|said| said.contains("until then")),
        "{told}"
    );
}

/// Something listens there that is no such engine: it speaks first, or answers.
fn stranger() -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            let _ = stream.read(&mut [0; 1000]);
        }
    });
    address
}

#[cfg(all(feature = "redis", feature = "rabbitmq"))]
#[test]
fn what_is_no_such_engine_is_named_with_what_to_do() {
    let address = stranger();
    for (kind, scheme, wanted) in [
        (
            "nats",
            "nats",
            "doesn't answer as a NATS does: is it a NATS server? Correct servers",
        ),
        (
            "redis",
            "redis",
            "doesn't answer as a Redis does: is it a Redis, without TLS",
        ),
        (
            "rabbitmq",
            "amqp",
            "doesn't speak AMQP 0-9-1: is it a RabbitMQ, without TLS",
        ),
    ] {
        let url = format!("{scheme}://{address}");
        let directory = TempDir::new().expect("a directory");
        let daemon = TestDaemon::in_own_process(&json!({
            "stateDir": directory.path(),
            "engines": {"main": {"type": kind, "servers": [url]}},
            "bridges": {"orders": {"engine": "main", "direction": "in", "from": "orders"}},
        }));
        let status = daemon.wait_for("its problem", |status| {
            status.bridges.iter().any(|bridge| bridge.problem.is_some())
        });
        let said = status.bridges[0].problem.clone().unwrap_or_default();
        assert!(said.contains(&url) && said.contains(wanted), "{said}");
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn the_queue_of_a_bridge_that_is_gone_is_told_from_one_that_lacks_workers() {
    let away = away(&json!({}));
    away.publish(3);
    let Away {
        daemon,
        _directory: directory,
        ..
    } = away;
    assert!(daemon.stop());
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": directory.path()}));
    let report = Site::of(&daemon).run(&["doctor"]).stdout;
    assert!(
        report.contains("put bridges.orders back to send what waits"),
        "{report}"
    );
    assert!(!report.contains("start a worker"), "{report}");
    assert!(!report.contains("let workers drain"), "{report}");
}
