//! `event-manager top`, as lines and in a terminal.

use std::fs;

use event_manager_wire::model::Endpoint;

use super::support::TestDaemon;
use super::support::peers::{publish, received};
use super::support::process::signal;
use super::support::program::{Program, Site, wait_until};

/// Waits until it has printed something like this.
fn printed(program: &Program, what: &str, wanted: impl Fn(&str) -> bool) -> String {
    wait_until(|| Some(program.output()).filter(|output| wanted(output)))
        .unwrap_or_else(|| panic!("{what} does not come: {program:#?}"))
}

/// The words of the last line about a service.
fn row<'a>(output: &'a str, service: &str) -> Vec<&'a str> {
    let mut lines = output.lines().rev().map(|line| line.split_whitespace());
    let line = lines.find(|words| words.clone().next() == Some(service));
    line.expect("a line").collect()
}

#[test]
fn figures_at_rest_are_those_of_the_status() {
    let daemon = TestDaemon::with(|config| config.budgets.service_queue_events = 4);
    let site = Site::of(&daemon);
    let none = site.run(&["top", "-n", "1"]).done();
    assert!(none.contains("no service is subscribed"), "{none}");
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.subscribe("sub-2", "Kitchen", &["Order"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let publisher = daemon.publisher();
    (0..7).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    (0..7).for_each(|n| assert_eq!(received(&worker), n.to_string()));
    daemon.wait_for_counter("Billing", |c| c.delivered, 7);

    let output = site
        .run(&["top", "--plain", "--interval", "0.02", "-n", "3"])
        .done();
    let status = daemon.status();
    for (at, ready) in [(0, "1/1"), (1, "0/0")] {
        let service = &status.services[at];
        let counters = &service.counters;
        let expected = [
            service.name.clone(),
            "0".into(),
            "0".into(),
            counters.queued.to_string(),
            "0".into(),
            counters.in_flight.to_string(),
            ready.into(),
            counters.dead_lettered.to_string(),
            counters.dropped_total().to_string(),
            "0".into(),
        ];
        assert_eq!(row(&output, &expected[0]), expected, "{output}");
    }
    assert_eq!(row(&output, "Kitchen")[8], "3");
    assert_eq!(output.matches("publishers 1: ").count(), 3, "{output}");
    assert!(output.contains("publishers 1: 0/s"), "{output}");
}

#[test]
fn rates_show_what_flows() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let publisher = daemon.publisher();
    let top = Site::of(&daemon).start(&["top", "--interval", "0.05"]);
    printed(&top, "a rate", |output| {
        publish(&publisher, "Order", "x");
        received(&worker);
        let row = output.contains("Billing").then(|| row(output, "Billing"));
        let rate = |at: usize| -> f64 {
            row.as_ref()
                .and_then(|r| r.get(at)?.parse().ok())
                .unwrap_or(0.0)
        };
        rate(1) > 0.0 && rate(2) > 0.0
    });
    top.signal("TERM");
    top.end().done();
}

#[test]
fn a_daemon_may_go_and_come_back() {
    let site = Site::new();
    let address = format!("ipc://{}", site.path("requests").display());
    let daemon = || {
        let endpoint: Endpoint = address.parse().expect("an address");
        TestDaemon::with(|config| config.request_addresses = vec![endpoint])
    };
    let arguments = [
        "top",
        "--interval",
        "0.05",
        "--wait",
        "0.2",
        "--address",
        &address,
    ];
    let top = site.start(&arguments);
    let complaint = "no event manager answers at ipc:";
    printed(&top, "a complaint", |output| output.contains(complaint));
    let first = daemon();
    first.subscribe("sub-1", "Billing", &["Order"]);
    printed(&top, "its service", |output| output.contains("Billing"));
    assert!(first.stop());
    let before = top.output().matches(complaint).count();
    printed(&top, "a complaint", |output| {
        output.matches(complaint).count() > before
    });
    let second = daemon();
    second.subscribe("sub-1", "Kitchen", &["Order"]);
    let output = printed(&top, "select a service", |output| {
        output.contains("Kitchen")
    });
    let figures = output
        .split_whitespace()
        .filter_map(|word| word.trim_end_matches("/s,").parse::<f64>().ok());
    assert!(figures.into_iter().all(|figure| figure >= 0.0), "{output}");
    top.signal("TERM");
    top.end().done();
    let gone = site.run(&[
        "top",
        "-n",
        "2",
        "--interval",
        "0.01",
        "--wait",
        "0.1",
        "--address",
        "ipc://nowhere",
    ]);
    assert_eq!(gone.code, Some(69), "{gone:?}");
    assert_eq!(gone.stdout.matches("trying again").count(), 2);
}

const TO_SCREEN: &str = "\u{1b}[?1049h";
const FROM_SCREEN: &str = "\u{1b}[?1049l";

/// It gave the terminal back as it was.
fn assert_restored(site: &Site, output: &str) {
    let settings = |name| fs::read_to_string(site.path(name)).expect("it is written");
    let before = settings("before");
    assert!(before.contains("rows 30; columns 120"), "{before}");
    assert_eq!(before, settings("after"));
    assert_eq!(output.matches(TO_SCREEN).count(), 1, "{output:?}");
    assert_eq!(output.matches(FROM_SCREEN).count(), 1, "{output:?}");
    let hidden = output.rfind("\u{1b}[?25l").expect("the cursor is hidden");
    assert!(
        output[hidden..].contains("\u{1b}[?25h"),
        "the cursor is shown again: {output:?}"
    );
}

#[test]
fn in_a_terminal_it_listens_to_keys_and_leaves_no_trace() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let site = Site::of(&daemon);
    let mut top = site.start_in_terminal(&["top", "--interval", "0.1"]);
    let seen = printed(&top, "a table", |output| output.contains("Billing"));
    assert!(
        seen.contains(TO_SCREEN) && seen.contains("SERVICE"),
        "{seen:?}"
    );
    daemon.subscribe("sub-2", "Kitchen", &["Order"]);
    printed(&top, "the next answer", |output| output.contains("Kitchen"));
    top.types("?");
    printed(&top, "help", |output| output.contains("letters"));
    top.types("x/zzz");
    printed(&top, "the filter", |output| output.contains("/zzz_"));
    top.types("\u{7f}\u{7f}\u{7f}\rsq");
    let output = top.end();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("code=0"), "{output:?}");
    assert_restored(&site, &output.stdout);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    let top = site.start_in_terminal(&["top"]);
    printed(&top, "the screen", |output| output.contains("connections"));
    let pid = fs::read_to_string(site.path("pid")).expect("it is written");
    signal(pid.trim().parse().expect("a number"), "TERM");
    let output = top.end();
    assert!(output.stdout.contains("code=0"), "{output:?}");
    assert_restored(&site, &output.stdout);
}

#[test]
fn a_daemon_that_does_not_answer_holds_up_no_key() {
    let site = Site::new();
    let mut top = site.start_in_terminal(&["top", "--wait", "60", "--address", "ipc://nowhere"]);
    printed(&top, "the screen", |output| {
        output.contains("ipc://nowhere")
    });
    top.types("q");
    let output = top.end();
    assert!(output.stdout.contains("code=0"), "{output:?}");
    assert_restored(&site, &output.stdout);
}
