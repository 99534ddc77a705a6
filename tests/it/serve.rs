//! `event-manager serve`: its start, its signals, its log.

use std::time::{Duration, Instant};

use event_manager_wire::api::{Process, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::support::peers::{connected, publish, received, socket};
use super::support::program::{Program, Site, locator, wait_until};
use super::support::raw::{RawPeer, command, greeting, message};
use super::support::responder::{Responder, register};
use super::support::{TestDaemon, tunnel};

/// Peers that will do nothing any more, with events that wait for them.
struct Stuck {
    _subscriber: RawPeer,
    _worker: RawPeer,
    _half_met: RawPeer,
    _half_said: RawPeer,
    _caller: zmq::Socket,
    _hung: zmq::Socket,
    _stopped: Program,
}

impl Stuck {
    fn at(daemon: &TestDaemon) -> Self {
        let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
        subscriber.send(&command("SUBSCRIBE", b""));
        let site = Site::of(daemon);
        let stopped = site.start(&["sub"]);
        daemon.wait_for_subscriptions(2);
        stopped.signal("STOP");
        let subscribed = daemon.subscribe("1", "Stuck", &[""]);
        let mut worker = RawPeer::met(&subscribed.pull_address, "DEALER");
        worker.send(&message(&["READY"]));
        daemon.wait_for_ready("Stuck", 1);

        let hung = socket(&daemon.context, zmq::ROUTER);
        hung.bind("tcp://127.0.0.1:*").expect("a free port");
        let address = hung.get_last_endpoint().expect("it is bound");
        register(
            &daemon.locator(),
            "Stuck",
            &tunnel::before(&address.expect("a text")),
        );
        let caller = daemon.requester();
        let event = ["data", "Order", "", "1", "me"].join("\0");
        let call = ["TK_EVENT_MANAGER_PUBLISH", "PARAM", &event];
        caller.send_multipart(call, 0).expect("a send");
        daemon.wait_for("the call", |status| status.pending_calls == 1);

        let mut half_met = RawPeer::connect(&daemon.subscribers());
        half_met.send(&greeting()[..20]);
        let mut half_said = RawPeer::met(&daemon.publishers(), "PUB");
        half_said.send(&[1, 5, b'O']);
        let publisher = daemon.publisher();
        let data = "x".repeat(64 << 10);
        (0..400).for_each(|_| publish(&publisher, "Order", &data));
        daemon.wait_for("the events", |s| s.publishers.events == 400);
        Self {
            _subscriber: subscriber,
            _worker: worker,
            _half_met: half_met,
            _half_said: half_said,
            _caller: caller,
            _hung: hung,
            _stopped: stopped,
        }
    }
}

fn with_stuck_peers(drain_timeout: f64) -> (Program, Stuck) {
    let site = Site::configured(&json!({
        "drainTimeout": drain_timeout,
        "embeddedLocator": true,
        "locatorAddress": "tcp://127.0.0.1:0",
        "locatorRegister": true,
    }));
    let daemon = TestDaemon::serving(&site);
    let stuck = Stuck::at(&daemon);
    (daemon.into_program(), stuck)
}

fn ends_within_the_drain_timeout(signal: &str) {
    let drain_timeout = 0.5;
    let (program, stuck) = with_stuck_peers(drain_timeout);
    let told_at = Instant::now();
    program.signal(signal);
    let ended = program.end();
    let took = told_at.elapsed().as_secs_f64();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        (drain_timeout..drain_timeout + 1.0).contains(&took),
        "{took} s"
    );
    for expected in [
        "events not delivered to subscribers",
        "events not delivered: ",
    ] {
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
    drop(stuck);
}

#[test]
fn programs_are_told_when_it_is_ready_and_where() {
    let site = Site::configured(&json!({}));
    let file = site.path("ready.json");
    std::fs::write(&file, "left by another").expect("a file");
    std::fs::write(site.path("told"), "").expect("a file");
    let flags = "--ready-file ready.json --ready-fd 3";
    let script = format!("exec \"$0\" serve {flags} 3>>told");
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
    };
    let (input, output) = (null().expect("it is there"), null().expect("it is there"));
    let program = site.start_by_shell(&script, input.into(), output.into());
    let read = || {
        std::fs::read_to_string(&file)
            .ok()
            .filter(|text| text.ends_with('\n'))
    };
    let line = wait_until(read).expect("a line");
    let ready: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&ready["ready"], &ready["http"]),
        (&json!(true), &json!(null))
    );
    let told = std::fs::read_to_string(site.path("told")).expect("a file");
    assert_eq!(told, line);
    let requests = ready["requests"][0].as_str().expect("an address");
    site.run(&["health", "--address", requests]).done();
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    assert!(!file.exists());

    let said = site.run(&["serve", "--ready-fd", "77"]).failed(1);
    assert!(said.contains("--ready-fd 77"), "{said}");
}

#[test]
fn sigterm_ends_it_within_the_drain_timeout_whatever_peers_do() {
    ends_within_the_drain_timeout("TERM");
}

#[test]
fn sigint_ends_it_within_the_drain_timeout_whatever_peers_do() {
    ends_within_the_drain_timeout("INT");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (program, stuck) = with_stuck_peers(60.0);
    program.signal("TERM");
    program.logged("a second signal ends at once");
    let told_at = Instant::now();
    program.signal("INT");
    let ended = program.end();
    assert!(told_at.elapsed() < Duration::from_secs(2));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("stopped at once"), "{}", ended.stderr);
    drop(stuck);
}

/// Its ServiceLocator, that is, which it tells that it leaves.
#[test]
fn a_locator_that_hangs_does_not_cost_those_who_listen_their_events() {
    let (locator, address) = locator();
    let daemon = TestDaemon::serving(&Site::configured(&json!({
        "drainTimeout": 3,
        "locatorAddress": address,
        "locatorRegister": true,
    })));
    daemon
        .program()
        .logged("registered with the ServiceLocator");
    locator.signal("STOP");
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    let data = "x".repeat(64 << 10);
    (0..200).for_each(|_| publish(&publisher, "Order", &data));
    daemon.wait_for("the events", |s| s.publishers.events == 200);
    let program = daemon.into_program();
    let told_at = Instant::now();
    program.signal("TERM");
    program.logged("a second signal ends at once");
    let read = std::thread::spawn(move || {
        (0..200).for_each(|_| assert_eq!(subscriber.read_message().len(), 2));
    });
    let ended = program.end();
    assert!(told_at.elapsed() < Duration::from_secs(4));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("not delivered"), "{}", ended.stderr);
    read.join().expect("all events came");
}

#[test]
fn what_was_published_before_it_is_stopped_is_delivered() {
    let daemon = TestDaemon::serving(&Site::configured(&json!({})));
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    let publisher = daemon.publisher();
    (0..5000).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for("the events", |s| s.publishers.events == 5000);
    assert!(daemon.stop());
    for n in 0..5000 {
        assert_eq!(received(&worker), n.to_string());
        assert_eq!(received(&subscriber), n.to_string());
    }
}

fn with_level(level: &str) -> String {
    format!(
        "{:#}",
        super::support::process::settings(&json!({"log": {"level": level}}))
    )
}

#[test]
fn sighup_reloads_levels_or_nothing() {
    let site = Site::configured(&json!({}));
    let daemon = TestDaemon::serving(&site);
    let log = daemon.program();
    let debug_lines = || log.log().matches("request done").count();
    daemon.subscribe("1", "Billing", &["Order"]);
    assert_eq!(debug_lines(), 0);

    site.write("config.json", &with_level("debug"));
    log.signal("HUP");
    log.logged("configuration reloaded");
    daemon.subscribe("2", "Billing", &["Order"]);
    log.logged("request done");
    assert_eq!(debug_lines(), 1);

    for (wrong, named) in [
        (
            with_level("loud"),
            "log.level: \"loud\": off, error, warn, info, debug or trace is wanted",
        ),
        (
            with_level("info").replace("drainTimeout", "drainTime"),
            "unknown key \"drainTime\"",
        ),
        ("{".to_owned(), "config.json:1:1: "),
    ] {
        site.write("config.json", &wrong);
        log.signal("HUP");
        let complaint = log.logged(named);
        let expected = "not reloaded, the old configuration stays: config.json:";
        assert!(complaint.contains(expected), "{complaint}");
    }
    daemon.subscribe("3", "Billing", &["Order"]);
    daemon.wait_for("a line of the old level", |_| debug_lines() == 2);

    site.write("config.json", &with_level("warn"));
    log.signal("HUP");
    daemon.wait_for("its silence", |_| {
        let before = debug_lines();
        daemon.subscribe("4", "Billing", &["Order"]);
        debug_lines() == before
    });
    assert!(daemon.stop());
}

#[test]
fn an_address_in_use_is_named_with_its_key_and_a_remedy() {
    let first = TestDaemon::serving(&Site::configured(&json!({})));
    for (key, address) in [
        ("pubAddress", first.publishers()),
        ("subAddress", first.subscribers()),
        ("requestAddress", first.requests()),
    ] {
        let complaint = Site::configured(&json!({key: address}))
            .run(&["serve"])
            .failed(1);
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        for expected in [
            format!("{key} {address} can't be bound: Address already in use").as_str(),
            "another process listens there",
            "ss -ltnp",
        ] {
            assert!(complaint.contains(expected), "{expected:?}: {complaint}");
        }
    }
}

#[test]
fn an_embedded_locator_s_address_in_use_is_no_obstacle() {
    let keys = |address: &str, name: &str| {
        json!({
            "embeddedLocator": true,
            "locatorAddress": address,
            "locatorRegister": true,
            "locatorServiceName": name,
        })
    };
    let first = keys("tcp://127.0.0.1:0", "First");
    let first = TestDaemon::serving(&Site::configured(&first));
    let address = first.locator();
    let second = keys(&address, "Second");
    let second = TestDaemon::serving(&Site::configured(&second));
    let line = second.program().logged("address is in use");
    assert!(
        line.contains("using the one that runs there, embedding none"),
        "{line}"
    );
    assert!(line.contains(&address), "{line}");
    assert!(second.bound().locator.is_none());
    second
        .program()
        .logged("registered with the ServiceLocator");
    // The name of the one whose locator it is, is not to be had.
    let namesake = TestDaemon::serving(&Site::configured(&keys(&address, "First")));
    let line = namesake.program().logged("not registered, trying again");
    assert!(line.contains("refused (reserved: First is"), "{line}");
}

#[test]
fn the_original_s_environment_is_understood() {
    let site = Site::new()
        .with("CONFIG_PATH", "elsewhere.json")
        .with("PUBLIC_HOSTNAME", "localhost")
        .with("SERVICE_LOCATOR_ADDRESS", "tcp://127.0.0.1:0")
        .with("LOG_PATH", "log.json")
        .with("STARTUP_GUARD", "yes")
        .with("DIAGNOSTIC_MONITOR", "true")
        .with("DIAGNOSTIC_INTERVAL", "0.1");
    let keys = json!({"embeddedLocator": true, "log": {"level": "off"}});
    let keys = super::support::process::settings(&keys);
    site.write("elsewhere.json", &keys.to_string());
    site.write("config.json", "not this one");
    site.write("log.json", &json!({"format": "json"}).to_string());
    let daemon = TestDaemon::serving(&site);
    let record = |text| -> Value {
        serde_json::from_str(&daemon.program().logged(text)).expect("a JSON object")
    };
    let ready = record("publishers");
    assert_eq!(
        [&ready["message"], &ready["level"], &ready["config"]],
        ["ready", "INFO", "elsewhere.json"]
    );
    assert_eq!(ready["locator"], *daemon.locator());
    assert!(daemon.locator().starts_with("tcp://127.0.0.1:"));
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    assert!(subscribed.pull_address.starts_with("tcp://localhost:"));
    assert!(record("startup guard")["message"].is_string());
    let snapshot = record("snapshot")["snapshot"].clone();
    let snapshot: Value = serde_json::from_str(snapshot.as_str().expect("a text")).expect("JSON");
    assert!(snapshot["daemon"]["services"].is_array());
}

#[test]
fn the_diagnostic_monitor_tells_what_is_going_on() {
    let site = Site::configured(&json!({}))
        .with("DIAGNOSTIC_MONITOR", "1")
        .with("DIAGNOSTIC_INTERVAL", "0.2");
    let daemon = TestDaemon::serving(&site);
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    daemon.subscribe("sub-2", "Kitchen", &[""]);
    let publisher = daemon.publisher();
    (0..3).for_each(|_| publish(&publisher, "Order", "x"));
    (0..3).for_each(|_| assert_eq!(received(&worker), "x"));
    let line = daemon.program().logged("\"queued\":3");
    assert!(
        line.contains(" INFO em.diagnostics: diagnostics "),
        "{line}"
    );
    let (_, snapshot) = line.split_once("snapshot=").expect("a snapshot");
    let snapshot: Value = serde_json::from_str(snapshot).expect("JSON");
    let process = Process::deserialize(&snapshot["process"]).expect("readings");
    assert!(process.resident_bytes > Some(1 << 20));
    assert!(process.open_fds > Some(5));
    assert!(process.max_fds >= process.open_fds);
    assert!(process.threads > Some(1));
    let status = Status::deserialize(&snapshot["daemon"]).expect("a status");
    assert_eq!(status.publishers.events, 3);
    assert!(status.connections.open >= 2);
    let [billing, kitchen] = [0, 1].map(|n| &status.services[n]);
    assert_eq!([&*billing.name, &*kitchen.name], ["Billing", "Kitchen"]);
    let workers = &billing.workers;
    assert_eq!(
        (workers.connected, workers.ready, workers.stalled),
        (1, 1, 0)
    );
    assert_eq!(billing.port, daemon.service("Billing").port);
    assert_eq!(billing.subscriptions[0].id, "sub-1");
    assert_eq!(kitchen.queue.events, 3);
    assert_eq!(kitchen.counters.queued, 3);
}

#[test]
fn payloads_are_not_logged_at_any_level() {
    const SECRET: &str = "s3cr3t-payload";
    let site = Site::configured(&json!({
        "embeddedLocator": true,
        "locatorAddress": "tcp://127.0.0.1:0",
        "limits": {"maxMessageParts": 4},
        "budgets": {"serviceQueueEvents": 2},
    }))
    .with("RUST_LOG", "trace");
    let daemon = TestDaemon::serving(&site);
    let subscribed = daemon.subscribe("1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    daemon.subscribe("2", "Full", &["Order"]);
    let publisher = daemon.publisher();
    for subject in ["Order", "Order", "Order", "Nobody", "Order"] {
        publish(&publisher, subject, SECRET);
    }
    for _ in 0..4 {
        assert_eq!([received(&worker), received(&subscriber)], [SECRET; 2]);
    }
    daemon.program().logged("queue-full");
    let mut raw = RawPeer::met(&daemon.publishers(), "PUB");
    raw.send(&message(&["Order", SECRET, SECRET, SECRET, SECRET]));
    raw.read_to_end();
    let mut raw = RawPeer::connect(&daemon.subscribers());
    raw.send_while_heard(SECRET.repeat(10).as_bytes());
    raw.read_to_end();
    let says_no = Responder::new("TK_SYS_NAK", SECRET);
    register(&daemon.locator(), "Billing", &says_no.address);
    let event = [SECRET, "Order", "", "1", "me"];
    let (_, answer) = daemon.ask("TK_EVENT_MANAGER_PUBLISH", &event);
    assert!(
        answer.contains(SECRET) && answer.contains("unreachable"),
        "{answer}"
    );
    daemon.refusal("TK_EVENT_MANAGER_PUBLISH", &[SECRET]);
    assert!(
        daemon
            .ask(SECRET, &[SECRET])
            .1
            .starts_with("malformed-token: ")
    );
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for wrong in [
        format!("{{\"token\": \"publish\", \"data\": {{\"{SECRET}\": 1}}}}"),
        format!("{{\"token\": \"publish\", {SECRET}"),
        format!("{{\"token\": \"publish\", \"{SECRET}\": \"{SECRET}\"}}"),
    ] {
        requester.send(&wrong, 0).expect("a send");
        requester.recv_multipart(0).expect("an answer");
    }
    let worker = connected(&daemon.context, zmq::DEALER, &subscribed.pull_address);
    worker.send(SECRET, 0).expect("a send");
    daemon.program().logged("a message was discarded");
    let ended = {
        let program = daemon.into_program();
        program.signal("TERM");
        program.end()
    };
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("DEBUG"), "{}", ended.stderr);
    let leaks: Vec<_> = ended
        .stderr
        .lines()
        .filter(|line| line.contains(SECRET))
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

/// Configurations of earlier versions name modules, which move.
#[test]
fn log_levels_go_by_stable_targets_and_by_modules_of_earlier_versions() {
    let told = "is a module of an earlier version: use em.request, em.service";
    for (modules, is_outdated) in [
        (json!({"em.request": "debug", "em.locator": "off"}), false),
        (
            json!({"event_manager::reactor::requester": "debug", "event_manager::outbound": "off"}),
            true,
        ),
    ] {
        let site = Site::configured(&json!({"log": {"modules": modules}}));
        let daemon = TestDaemon::serving(&site);
        daemon.subscribe("sub-1", "Billing", &["Order"]);
        let done = daemon.program().logged("request done");
        assert!(done.contains("DEBUG em.request: "), "{done}");
        let log = daemon.program().log();
        assert!(!log.contains(" em.locator: "), "{log}");
        assert_eq!(log.contains(told), is_outdated, "{log}");
        let checked = site.run(&["check"]);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert_eq!(checked.stderr.contains(told), is_outdated, "{checked:?}");
    }
}
