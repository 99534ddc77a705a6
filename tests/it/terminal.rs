//! What peers say reaches no terminal as more than text.

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::peers::{connected, publish};
use super::support::program::{Ended, Site, wait_until};
use super::support::responder::{Responder, register};

/// A name may hold no control characters, but what turns the direction of writing.
const SERVICE: &str = "Bil\u{202e}ling\u{200f}";
const EVIL: &str = "Or\u{1b}[2Jder\u{9b}31m\u{7f}\u{2066}\r";
const TERM: &str = "no\u{9b}31m\u{1b}]0;title\u{7} \u{202e}way";

/// What a terminal acts on.
fn is_unsafe(c: char) -> bool {
    let is_bidi =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_bidi || (c.is_control() && c != '\n' && c != '\t')
}

fn assert_safe(what: &[&str], ended: &Ended) {
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(is_unsafe), "{what:?}: {text:?}");
    }
}

/// A daemon whose service has such a subject, a dead letter, and a socket that answers with more.
fn nasty(site: &Site) -> (TestDaemon, zmq::Socket, Responder) {
    let daemon = TestDaemon::serving(site);
    let address = daemon
        .subscribe("sub\u{202e}-1", SERVICE, &[EVIL])
        .pull_address;
    let worker = connected(&daemon.context, zmq::DEALER, &address);
    let options = json!({"ack": true, "name": TERM, "client": EVIL});
    let ready = format!("READY {options}");
    worker.send(&ready, 0).expect("a send");
    daemon.wait_for_ready(SERVICE, 1);
    publish(&daemon.publisher(), EVIL, EVIL);
    let event = worker.recv_multipart(0).expect("an event");
    let head = String::from_utf8(event[0].clone()).expect("text");
    let id = head.split(' ').nth(1).expect("an id");
    let term = format!("TERM {id} {TERM}");
    worker.send(&term, 0).expect("a send");
    daemon.wait_for_counter(SERVICE, |c| c.dead_lettered, 1);
    let responder = Responder::new("TK_SYS_NAK", TERM);
    register(&daemon.locator(), SERVICE, &responder.address);
    (daemon, worker, responder)
}

#[test]
fn no_command_shows_what_a_terminal_acts_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let (daemon, _worker, _responder) = nasty(&Site::configured(&json!({
        "stateDir": directory.path(), "embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0",
    })));
    let site = Site::of(&daemon);
    let letters = || site.run(&["dlq", "list", SERVICE]).done();
    wait_until(|| (!letters().is_empty()).then_some(())).expect("a letter");
    let commands: [&[&str]; 16] = [
        &["services"],
        &["services", "--verbose"],
        &["services", "--json"],
        &["dlq", "list", SERVICE],
        &["dlq", "list", "--json", SERVICE],
        &["dlq", "show", SERVICE],
        &["dlq", "replay", "--dry-run", SERVICE],
        &["dlq", "list", "nobody\u{202e}\u{9b}"],
        &["events"],
        &["events", "--json"],
        &["call", EVIL, EVIL],
        &["doctor"],
        &["doctor", "--json"],
        &["top", "--plain", "-n", "1"],
        &["health"],
        &["services", "--end", SERVICE],
    ];
    for arguments in commands {
        let ended = site.run(arguments);
        assert_safe(arguments, &ended);
        if arguments.contains(&"--json") || arguments.contains(&"show") || arguments[0] == "call" {
            let values = serde_json::Deserializer::from_str(&ended.stdout).into_iter::<Value>();
            let values: Vec<_> = values.map(|value| value.expect("JSON")).collect();
            assert!(!values.is_empty(), "{arguments:?}: {ended:?}");
        }
    }
    let shown = site.run(&["dlq", "show", SERVICE]).done();
    let letter: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        (&letter["subject"], &letter["detail"]),
        (&json!(EVIL), &json!(TERM))
    );
    let called: Value = serde_json::from_str(&site.run(&["call", EVIL, "x"]).stdout).expect("JSON");
    assert_eq!(called["results"][0]["data"], TERM, "{called}");
}

#[test]
fn no_command_shows_events_as_a_terminal_acts_on_them() {
    let daemon = TestDaemon::start();
    let site = Site::of(&daemon);
    let commands: [&[&str]; 6] = [
        &["sub", "-n", "1"],
        &["sub", "-n", "1", "--json"],
        &["tail", "-n", "1", "--payload"],
        &["tail", "-n", "1", "--payload", "--json"],
        &["worker", "-n", "1", SERVICE, ""],
        &["worker", "-n", "1", "--json", "Kitchen", ""],
    ];
    let programs = commands.map(|arguments| (arguments, site.start(arguments)));
    daemon.wait_for_subscriptions(4);
    daemon.wait_for_ready(SERVICE, 1);
    daemon.wait_for_ready("Kitchen", 1);
    publish(&daemon.publisher(), EVIL, TERM);
    for (arguments, program) in programs {
        let ended = program.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("der"), "{ended:?}");
        assert_safe(arguments, &ended);
        if arguments.contains(&"--json") {
            let event: Value = serde_json::from_str(&ended.stdout).expect("JSON");
            assert_eq!(event["subject"], EVIL);
        }
    }
}

/// Nor the log, as text or JSON, nor the file of notable events.
#[test]
fn no_log_shows_what_a_terminal_acts_on() {
    for format in ["text", "json"] {
        let directory = tempfile::tempdir().expect("a directory");
        let (daemon, worker, _responder) = nasty(&Site::configured(&json!({
            "stateDir": directory.path(), "embeddedLocator": true, "locatorAddress": "tcp://127.0.0.1:0",
            "log": {"format": format, "level": "debug"},
        })));
        daemon.refusal(
            "TK_EVENT_MANAGER_SUBSCRIBE",
            &["s", &format!("A{TERM}"), "x"],
        );
        daemon.refusal("TK_EVENT_MANAGER_KEEP_ALIVE", &["no\u{202e}body"]);
        drop(worker);
        daemon.wait_for_ready(SERVICE, 0);
        let file = directory.path().join("events.jsonl");
        let program = daemon.into_program();
        program.signal("TERM");
        let ended = program.end();
        assert!(ended.stderr.contains("request refused"), "{ended:?}");
        assert_safe(&["serve"], &ended);
        let events = std::fs::read_to_string(file).expect("the event log");
        assert!(events.contains("dead-letter"), "{events}");
        assert!(!events.contains(is_unsafe), "{events:?}");
        if format == "json" {
            for line in ended.stderr.lines() {
                serde_json::from_str::<Value>(line).expect("JSON");
            }
        }
    }
}
