//! `event-manager bench`, as its users run it.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::program::{Site, wait_until};

fn durable(directory: &TempDir) -> (TestDaemon, Site) {
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": directory.path()}));
    let site = Site::of(&daemon);
    (daemon, site)
}

#[test]
fn each_measurement_has_its_figures_and_leaves_nothing_behind() {
    let directory = TempDir::new().expect("a directory");
    let (daemon, site) = durable(&directory);
    let all = ["bench", "-n", "3000", "--json", "--size", "100"];
    for durable in [&[][..], &["--durable"]] {
        let printed = site.run(&[&all, durable].concat()).done();
        let found: Value = serde_json::from_str(&printed).expect("JSON");
        let results = found["results"].as_array().expect("a list");
        let names: Vec<_> = results.iter().map(|result| &result["what"]).collect();
        assert_eq!(names, ["publish", "subscribe", "work", "confirm"]);
        for result in results {
            assert_eq!(
                (&result["events"], &result["bodyBytes"]),
                (&json!(3000), &json!(100))
            );
            let figure = |value: &Value| value.as_f64().expect("a figure");
            let per_second = 3000.0 / figure(&result["seconds"]);
            assert!((figure(&result["eventsPerSecond"]) / per_second - 1.0).abs() < 1e-6);
            assert!(figure(&result["clientCpuMicros"]) > 0.0, "{result}");
            let latency = &result["latencyMs"];
            if result["what"] == "publish" {
                assert_eq!(*latency, Value::Null);
                continue;
            }
            let [p50, p99, max] = ["p50", "p99", "max"].map(|name| figure(&latency[name]));
            assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{result}");
            assert!(max <= 1000.0 * figure(&result["seconds"]), "{result}");
        }
        let status = daemon.status();
        assert_eq!(status.services, [], "it ends its services");
        let dropped = &status.retired_services.dropped;
        assert!(
            dropped.keys().all(|why| why == "service-ended"),
            "{dropped:?}"
        );
        let queues = directory.path().join("queues");
        let left = std::fs::read_dir(queues).map_or(0, |queues| queues.count());
        assert_eq!(left, 0, "and their queues");
    }
    let table = site
        .run(&["bench", "work", "-n", "100", "--rate", "10000"])
        .done();
    let words: Vec<_> = table
        .lines()
        .last()
        .expect("a row")
        .split_whitespace()
        .collect();
    assert_eq!(
        (words[0], words[1], words.len()),
        ("work", "100", 9),
        "{table}"
    );
}

#[test]
fn who_interrupts_it_finds_its_services_ended() {
    let directory = TempDir::new().expect("a directory");
    let (daemon, site) = durable(&directory);
    for durable in [&[][..], &["--durable"]] {
        let slow = ["bench", "work", "--rate", "10", "--json"];
        let bench = site.start(&[&slow, durable].concat());
        daemon.wait_for("an event", |status| {
            let services = &status.services;
            services
                .iter()
                .any(|service| service.counters.delivered > 0)
        });
        bench.signal("INT");
        let complaint = bench.end().failed(1);
        assert_eq!(complaint, "event-manager: interrupted\n");
        assert_eq!(daemon.status().services, []);
    }
}

#[test]
fn on_a_terminal_it_shows_how_far_it_is() {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    let bench = ["bench", "subscribe", "-n", "400", "--rate", "200"];
    let terminal = site.start_in_terminal(&bench);
    let shown = wait_until(|| {
        let output = terminal.output();
        output.contains("subscribe [##").then_some(output)
    });
    assert!(shown.is_some_and(|shown| shown.contains("] ") && shown.contains(" of 400, ")));
    let ended = terminal.end();
    assert!(ended.stdout.contains("code=0"), "{ended:?}");
    // Where no terminal is, nothing but the table.
    let ended = site.run(&["bench", "subscribe", "-n", "10"]).done();
    assert!(
        !ended.contains('\r') && ended.lines().count() == 3,
        "{ended}"
    );
}

#[test]
fn what_can_not_be_measured_is_said() {
    let daemon = TestDaemon::with(|config| config.state_dir = "".into());
    let site = Site::of(&daemon);
    for (arguments, code, why) in [
        (&["-n", "0"][..], 2, "0 is not in 1..=10000000"),
        (&["--size", "15"], 2, "15 is not in 16..=1048576"),
        (&["--rate", "0"], 2, "expected events a second"),
        (&["--window", "0"], 2, "0 is not in 1..=100000"),
        (&["fly"], 2, "publish, subscribe, work, confirm"),
        (&["work", "--durable"], 1, "no-store"),
        (&["confirm", "--durable"], 1, "no-store"),
        (
            &["--address", "tcp://127.0.0.1:1", "--wait", "0.1"],
            69,
            "no event manager answers",
        ),
    ] {
        let ended = site.run(&[&["bench"], arguments].concat());
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(why), "{arguments:?}: {ended:?}");
    }
    // Events that the daemon gives up don't come.
    let daemon = TestDaemon::with(|config| {
        config.budgets.subscriber_outbox_bytes = 1024;
        config.limits.message_bytes_max = 4096;
    });
    let large = ["bench", "subscribe", "-n", "5", "--size", "5000"];
    let complaint = Site::of(&daemon).run(&large).failed(1);
    assert!(complaint.contains("of 5 events have come"), "{complaint}");
}
