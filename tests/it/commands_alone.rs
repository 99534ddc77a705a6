//! What the command line does without a daemon.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use super::support::bus::{exchange, own_host};
use super::support::peers::connected;
use super::support::program::{Serving, Site, locator};
use super::support::raw::{RawPeer, greeting_of, ready};
use super::support::responder::register;
use super::support::{PATIENCE, TestDaemon, tunnel};

#[test]
fn check_shows_each_value_with_its_origin() {
    let site = Site::new()
        .with("PUBLIC_HOSTNAME", "events.example")
        .with("DIAGNOSTIC_INTERVAL", "0.5");
    site.write(
        "config.json",
        "{\n\"drainTimeout\": 2.5,\n\"log\": {\"level\": \"warn\"}\n}",
    );
    let arguments = ["check", "--embedded-locator", "--set", "locatorTtl=9"];
    let text = site.run(&arguments).done();
    let words = |key: &str| -> Vec<String> {
        let mut lines = text.lines().map(|line| line.split_whitespace());
        let line = lines.find(|line| line.clone().next() == Some(key));
        line.expect("a line").map(str::to_owned).collect()
    };
    for expected in [
        "drainTimeout 2.5 config.json:2",
        "log.level \"warn\" config.json:3",
        "publicHostname \"events.example\" environment PUBLIC_HOSTNAME",
        "diagnosticInterval 0.5 environment DIAGNOSTIC_INTERVAL",
        "embeddedLocator true command line",
        "locatorTtl 9 command line",
        "pubAddress \"tcp://*:5000\" default",
    ] {
        let key = expected.split(' ').next().expect("a word");
        assert_eq!(words(key).join(" "), expected);
    }
    let report = site.run(&[&arguments[..], &["--json"]].concat()).done();
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(
        report["drainTimeout"],
        json!({"value": 2.5, "origin": "config.json:2"})
    );
    assert_eq!(
        report.as_object().expect("keys").len(),
        text.lines().count()
    );
}

#[test]
fn check_names_everything_that_is_wrong() {
    let site = Site::new()
        .with("STARTUP_GUARD", "perhaps")
        .with("EVENT_MANAGER_DRAIN_TIMEUOT", "1");
    site.write(
        "config.json",
        "{\n\"pubAdress\": \"tcp://*:1\",\n\"drainTimeout\": -1,\n\"minStreamerPort\": 70000\n}",
    );
    let expected = [
        "config.json:2: unknown key \"pubAdress\"; did you mean \"pubAddress\"?",
        "config.json:3: drainTimeout: -1: seconds from 0 to 86400 are wanted",
        "config.json:4: minStreamerPort: 70000: a whole number from 0 to 65535 is wanted",
        "environment STARTUP_GUARD: startupGuard: \"perhaps\": true or false is wanted",
        "environment EVENT_MANAGER_DRAIN_TIMEUOT: unknown; did you mean \"EVENT_MANAGER_DRAIN_TIMEOUT\"?",
        "command line: subAddress: \"5001\": ",
    ];
    let wrong_flag = ["--sub-address", "5001"];
    for command in ["check", "serve"] {
        let complaint = site.run(&[&[command], &wrong_flag[..]].concat()).failed(78);
        for line in expected {
            assert!(complaint.contains(line), "{line:?}: {complaint}");
        }
        assert_eq!(complaint.lines().count(), expected.len(), "{complaint}");
    }
    assert!(
        site.run(&["check", "--json"])
            .failed(78)
            .contains("pubAdress")
    );
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let site = Site::new();
    let missing = site.run(&["check", "--config", "missing.json"]);
    assert!(
        missing
            .failed(78)
            .starts_with("missing.json: can't be read: ")
    );
    site.write("config.json", "{\n\"drainTimeout\": }");
    assert!(
        site.run(&["check"])
            .failed(78)
            .starts_with("config.json:2:17: ")
    );
    site.write("config.json", "{\"log\": {\"level\": \"loud\"}}");
    let complaint = site.run(&["serve"]).failed(78);
    assert!(
        complaint.starts_with("config.json:1: log.level: \"loud\": "),
        "{complaint}"
    );
    site.write("config.json", "{}");
    let site = site.with("LOG_PATH", "log.json");
    let complaint = site.run(&["check"]).failed(78);
    assert!(
        complaint.starts_with("logPath: log.json: can't be read: "),
        "{complaint}"
    );
    site.write("log.json", "{\"level\": \"loud\"}");
    let complaint = site.run(&["check"]).failed(78);
    assert!(
        complaint.starts_with("log.json:1: level: \"loud\": "),
        "{complaint}"
    );
}

#[test]
fn levels_in_the_environment_that_cannot_be_read_are_refused_at_the_start() {
    let site = Site::configured(&json!({})).with("RUST_LOG", "event_manager=loud");
    for command in ["serve", "check", "locator"] {
        let complaint = site.run(&[command]).failed(78);
        let expected = "environment RUST_LOG: \"event_manager=loud\": ";
        assert!(complaint.starts_with(expected), "{command}: {complaint}");
    }
}

/// Where the daemon is, as the locator says.
fn locate(locator: &str) -> Option<String> {
    let context = zmq::Context::new();
    let client = connected(&context, zmq::REQ, locator);
    let request = [&b"TK_SERVICE_LOCATOR_LOCATE"[..], b"PARAM", b"EventManager"];
    let answer = exchange(&client, &request);
    let address = String::from_utf8(answer[2].clone()).expect("text");
    (answer[0] == b"TK_SYS_ACK").then_some(address)
}

#[test]
fn a_locator_runs_alone_and_daemons_register_with_it() {
    let (program, address) = locator();
    register(&address, "Another", "tcp://127.0.0.1:1");
    let keys = json!({"locatorRegister": true, "locatorAddress": address});
    let serving = Serving::ready(Site::configured(&keys).start(&["serve"]));
    serving.program.logged("registered with the ServiceLocator");
    let registered = locate(&address).expect("it is registered");
    assert_eq!(registered, serving.bound().requests[0].to_string());
    assert!(serving.stop());
    assert_eq!(locate(&address), None);

    let taken = Site::new()
        .run(&["locator", "--address", &address])
        .failed(1);
    assert!(taken.contains(&format!("{address} is in use")), "{taken}");
    assert!(
        taken.contains("a ServiceLocator may already run there"),
        "{taken}"
    );
    program.signal("TERM");
    let ended = program.end();
    assert_eq!(ended.code, Some(0));
    // It has no publishers.
    assert!(!ended.stderr.contains("holding publishers"), "{ended:?}");

    let named = Site::new().with("SERVICE_LOCATOR_ADDRESS", &address);
    let again = named.start(&["locator"]);
    again.logged("the ServiceLocator is ready");
    again.signal("INT");
    assert_eq!(again.end().code, Some(0));
}

#[test]
fn commands_find_the_daemon_of_the_configuration_here() {
    let daemon = TestDaemon::start();
    let here = json!({"requestAddress": daemon.requests()});
    let site = Site::configured(&here);
    assert_eq!(site.run(&["services"]).done(), "no service is subscribed\n");
    assert_eq!(site.run(&["bridges"]).done(), "no bridge is configured\n");
    // The flag goes before the variable, that before the configuration.
    let elsewhere = Site::configured(&json!({"requestAddress": "tcp://127.0.0.1:9"}));
    let at = ["services", "--address", &daemon.requests()];
    elsewhere.run(&at).done();
    let with = elsewhere.with("EVENT_MANAGER_ADDRESS", &daemon.requests());
    with.run(&["services"]).done();
    // The configuration's own variable, and its file elsewhere.
    let by_variable = Site::new().with("EVENT_MANAGER_REQUEST_ADDRESS", &daemon.requests());
    let named = site.path("config.json").display().to_string();
    let by_path = Site::new().with("CONFIG_PATH", &named);
    for site in [by_variable, by_path] {
        site.run(&["pub", "Order", "x"]).done();
    }
    let unknown = Site::configured(&json!({"requestAddress": "tcp://*:0"}));
    let said = unknown.run(&["services"]).failed(1);
    assert!(said.contains("give it with --address"), "{said}");
    let broken = Site::new();
    broken.write("config.json", "{");
    broken.run(&["services"]).failed(78);
}

#[test]
fn without_a_daemon_commands_say_where_they_looked_and_what_to_do() {
    let address = format!("tcp://{}:9", own_host());
    let site = Site::new().with("EVENT_MANAGER_ADDRESS", &address);
    for arguments in [
        &["pub", "Order", "x"][..],
        &["sub"],
        &["worker", "Billing", "Order"],
        &["call", "Order", "x"],
        &["services"],
        &["services", "--json"],
        &["bridges"],
        &["health"],
    ] {
        let begun = Instant::now();
        let complaint = site
            .run(&[arguments, &["--wait", "0.2"]].concat())
            .failed(69);
        assert!(complaint.contains(&address), "{arguments:?}: {complaint}");
        for remedy in ["`event-manager`", "--address", "EVENT_MANAGER_ADDRESS"] {
            assert!(complaint.contains(remedy), "{arguments:?}: {complaint}");
        }
        assert!(begun.elapsed() < PATIENCE / 4, "{arguments:?}");
    }
    let nobody = [
        "pub",
        "Order",
        "x",
        "--wait",
        "0.2",
        "--pub-address",
        &address,
    ];
    assert!(site.run(&nobody).failed(69).contains(&address));
}

#[test]
fn what_is_no_daemon_is_told_as_if_nobody_were_there() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let others: [fn(TcpStream); 2] = [drop, |mut stream| {
        // It may be gone before that is written.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    }];
    let others = others.map(|serve| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("a connection"));
            }
        });
        address
    });
    let mute_address = mute.local_addr().expect("it is bound");
    for address in others.into_iter().chain([mute_address]) {
        let address = format!("tcp://{address}");
        let site = Site::new().with("EVENT_MANAGER_ADDRESS", &address);
        let publishing = ["pub", "Order", "x", "--pub-address", &address];
        for arguments in [&["services"][..], &["worker", "Billing", ""], &publishing] {
            let begun = Instant::now();
            let ended = site.run(&[arguments, &["--wait", "0.2"]].concat());
            assert!(ended.failed(69).contains(&address), "{arguments:?}");
            assert!(begun.elapsed() < PATIENCE / 4, "{arguments:?}");
        }
    }
}

#[test]
fn an_answer_without_end_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let answering = std::thread::spawn(move || {
        let mut peer = RawPeer(listener.accept().expect("a connection").0);
        peer.send(&[greeting_of(1), ready("ROUTER", "")].concat());
        peer.read_exactly(64);
        peer.read_frame();
        peer.read_message();
        let long_frame = [&[2][..], &u64::MAX.to_be_bytes()].concat();
        peer.send(&long_frame);
        peer.read_to_end()
    });
    let address = tunnel::before(&address);
    let ended = Site::new().run(&["services", "--address", &address]);
    let complaint = ended.failed(1);
    assert!(complaint.contains("the limit is"), "{complaint}");
    answering.join().expect("no panic");
}

#[test]
fn wrong_usage_is_explained() {
    let site = Site::new();
    for (arguments, explanation) in [
        (&["subscribes"][..], "unrecognized subcommand 'subscribes'"),
        (&["subscribe", "Billing"], "<SUBJECTS>"),
        (&["unsubscribe"], "<ID>"),
        (&["bench", "fly"], "publish, subscribe, work, confirm"),
        (&["pub"], "<SUBJECT>"),
        (&["worker", "Billing"], "<SUBJECTS>"),
        (&["call", "Order"], "<DATA>"),
        (&["sub", "-n", "some"], "invalid value 'some'"),
        (
            &["services", "--wait", "0"],
            "expected seconds from 0.001 to 86400",
        ),
        (&["locator", "--address", "6000"], "6000"),
        (&["--sub-adress", "x"], "--sub-address"),
        (
            &["--set", "drainTimeuot=1"],
            "did you mean \"drainTimeout\"?",
        ),
    ] {
        let complaint = site.run(arguments).failed(2);
        assert!(
            complaint.contains(explanation),
            "{arguments:?}: {complaint}"
        );
    }
}

#[test]
fn help_and_version_are_answers() {
    let site = Site::new();
    let help = site.run(&["--help"]).done().replace('\n', " ");
    for expected in [
        "Exit codes:",
        "69 no daemon answers",
        "78",
        "serve",
        "check",
        "locator",
        "pub",
        "sub",
        "worker",
        "call",
        "services",
    ] {
        assert!(help.contains(expected), "{expected:?}: {help}");
    }
    let version = format!("event-manager {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(site.run(&["--version"]).done(), version);
    for command in [
        "serve",
        "check",
        "locator",
        "pub",
        "sub",
        "worker",
        "subscribe",
        "unsubscribe",
        "bench",
        "call",
        "services",
        "bridges",
        "health",
        "completions",
        "man",
    ] {
        let help = site.run(&[command, "--help"]).done();
        assert!(help.contains("Usage: event-manager "), "{command}: {help}");
    }
}
