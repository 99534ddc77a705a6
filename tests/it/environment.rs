//! Variables, flags and files that say little, or nothing that can be read; output that can't be written.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::program::Site;

/// Every variable that any command reads, but paths.
const VARIABLES: [&str; 7] = [
    "EVENT_MANAGER_ADDRESS",
    "EVENT_MANAGER_KEY",
    "EVENT_MANAGER_SERVER_KEY",
    "EVENT_MANAGER_PUB_ADDRESS",
    "SERVICE_LOCATOR_ADDRESS",
    "PUBLIC_HOSTNAME",
    "RUST_LOG",
];

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let daemon = TestDaemon::start();
    let mut site = Site::new().with("CONFIG_PATH", "");
    for name in VARIABLES {
        site = site.with(name, "");
    }
    let checked = site.run(&["check"]).done();
    assert!(!checked.contains("environment"), "{checked}");
    // It asks where a daemon is by default, or would be by the configuration.
    for arguments in [
        &["services"][..],
        &["health"],
        &["doctor"],
        &["top", "-n", "1"],
    ] {
        let ended = site.run(&[arguments, &["--wait", "0.1"]].concat());
        let said = [ended.stdout, ended.stderr].concat();
        assert!(said.contains(":5101"), "{arguments:?}: {said}");
        assert!(
            matches!(ended.code, Some(0 | 1 | 69)),
            "{arguments:?}: {said}"
        );
    }
    let address = daemon.requests();
    let asked = site.run(&["health", "--address", &address]).done();
    assert!(asked.contains(&address), "{asked}");
    let config = json!({"requestAddress": address}).to_string();
    site.write("c.json", &config);
    let asked = site.run(&["health", "--config", "c.json"]).done();
    assert!(asked.contains(&address), "{asked}");
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    let site = Site::new();
    let no_text = OsStr::from_bytes(b"tcp://\xff:1");
    for (name, arguments, code) in [
        ("EVENT_MANAGER_PUB_ADDRESS", &["check"][..], 78),
        ("PUBLIC_HOSTNAME", &["check"], 78),
        ("EVENT_MANAGER_NONSENSE", &["check"], 78),
        ("RUST_LOG", &["check"], 78),
        ("RUST_LOG", &["serve"], 78),
        ("RUST_LOG", &["locator"], 78),
        ("EVENT_MANAGER_STATE_DIR", &["serve"], 78),
        ("EVENT_MANAGER_REQUEST_ADDRESS", &["health"], 78),
        ("EVENT_MANAGER_ADDRESS", &["services"], 2),
        ("EVENT_MANAGER_ADDRESS", &["health"], 2),
        ("SERVICE_LOCATOR_ADDRESS", &["locator"], 2),
    ] {
        let ended = site.command(arguments).env(name, no_text).output();
        let ended = ended.expect("a process");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(
            ended.status.code(),
            Some(code),
            "{name} {arguments:?}: {said}"
        );
        let sentence = format!("environment {name}: its value is not UTF-8");
        assert!(said.contains(&sentence), "{said}");
    }
    // Others are not ours, and a path may be anything.
    let others = ["HOME", "EVENT_MANAGER_CLIENT_NAME"];
    let mut command = site.command(&["check"]);
    command.envs(others.map(|name| (name, no_text)));
    assert!(command.output().expect("a process").status.success());
    let mut path = site.path("").into_os_string();
    path.push(OsStr::from_bytes(b"\xff.json"));
    std::fs::write(&path, r#"{"drainTimeout": 7}"#).expect("a file");
    let read = site.command(&["check"]).env("CONFIG_PATH", &path).output();
    let read = String::from_utf8(read.expect("a process").stdout).expect("text");
    let line = read.lines().find(|line| line.starts_with("drainTimeout"));
    assert!(line.expect("a line").contains(" 7 "), "{read}");
}

#[test]
fn a_wrong_address_of_the_daemon_is_explained_with_where_it_comes_from() {
    for (wrong, why) in [
        ("foo", "\"foo\" is not an address; write tcp://HOST:PORT"),
        ("tcp://localhost", "has no port"),
        ("tcp://*:5101", "names no host"),
        ("tcp://localhost:0", "names no port"),
    ] {
        let site = Site::new().with("EVENT_MANAGER_ADDRESS", wrong);
        for command in [
            &["services"][..],
            &["health"],
            &["doctor"],
            &["pub", "x", "y"],
        ] {
            let said = site.run(command).failed(2);
            assert!(said.contains(why), "{command:?} {wrong}: {said}");
            let source = "environment EVENT_MANAGER_ADDRESS: the value comes from there";
            assert!(said.contains(source), "{command:?} {wrong}: {said}");
        }
        for flag in ["--address", "--pub-address"] {
            let said = Site::new().run(&["pub", "x", "y", flag, wrong]).failed(2);
            assert!(said.contains(flag) && said.contains(why), "{wrong}: {said}");
            assert!(!said.contains("environment"), "{said}");
        }
    }
    let site = Site::new().with("SERVICE_LOCATOR_ADDRESS", "localhost:6000");
    let said = site.run(&["locator"]).failed(2);
    assert!(
        said.contains("environment SERVICE_LOCATOR_ADDRESS: the value comes from there"),
        "{said}"
    );
}

#[test]
fn all_stages_of_the_configuration_are_reported_at_once() {
    let site = Site::new()
        .with("RUST_LOG", "em.worker=loud")
        .with("LOG_PATH", "log.json")
        .with("STARTUP_GUARD", "perhaps");
    site.write("config.json", "{\n\"drainTimeout\": -1,\n\"pubAdress\": 1}");
    site.write("log.json", "{\n\"level\": \"loud\"}");
    for command in ["check", "serve"] {
        let said = site.run(&[command]).failed(78);
        for wrong in [
            "config.json:2: drainTimeout: -1: ",
            "config.json:3: unknown key \"pubAdress\"",
            "log.json:2: level: \"loud\": ",
            "environment STARTUP_GUARD: ",
            "environment RUST_LOG: ",
        ] {
            assert!(said.contains(wrong), "{command} {wrong}: {said}");
        }
        assert_eq!(said.lines().count(), 5, "{said}");
    }
}

#[test]
fn variables_of_other_programs_stop_nobody() {
    let site = Site::new()
        .with("EVENT_MANAGER_CLIENT_TIMEOUT", "5")
        .with("EVENT_MANAGER_DOWNSTREAM_TEAM", "pos");
    let ended = site.run(&["check"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("environment EVENT_MANAGER_DOWNSTREAM_TEAM: unknown")
    );
    assert!(!ended.stderr.contains("_TIMEOUT"), "{ended:?}");
    // What looks like a slip of the finger would otherwise go unnoticed.
    let site = Site::new().with("EVENT_MANAGER_PUB_ADRESS", "tcp://*:1");
    let complaint = site.run(&["check"]).failed(78);
    assert!(complaint.contains("did you mean \"EVENT_MANAGER_PUB_ADDRESS\"?"));
}

fn checked(site: &Site, arguments: &[&str]) -> Value {
    let report = site.run(&[&["check", "--json"], arguments].concat()).done();
    serde_json::from_str(&report).expect("JSON")
}

#[test]
fn a_file_of_one_key_is_the_shipped_one_with_that_key() {
    let site = Site::new();
    let without = checked(&site, &[]);
    for file in [
        "{}",
        r#"{"drainTimeout": 7}"#,
        r#"{"log": {"level": "warn"}}"#,
    ] {
        site.write("config.json", file);
        let with = checked(&site, &[]);
        let keys = with.as_object().expect("an object").iter();
        for (key, row) in keys.filter(|(key, _)| !file.contains(key.trim_start_matches("log."))) {
            assert_eq!(row["value"], without[key]["value"], "{file}: {key}");
        }
    }
    // Who names another ServiceLocator has that.
    site.write("config.json", r#"{"locatorAddress": "tcp://locator:6000"}"#);
    assert_eq!(checked(&site, &[])["embeddedLocator"]["value"], false);
}

#[test]
fn every_key_of_the_log_may_be_set_on_the_command_line() {
    let site = Site::new();
    site.write(
        "config.json",
        r#"{"log": {"level": "warn", "format": "text"}}"#,
    );
    for (set, key, value) in [
        ("log.format=json", "log.format", json!("json")),
        ("log.level=debug", "log.level", json!("debug")),
        ("log.file=/tmp/x.log", "log.file", json!("/tmp/x.log")),
        ("log.file=null", "log.file", json!(null)),
        ("log.rotate.keep=3", "log.rotate.keep", json!(3)),
        (
            "log.rotate.maxBytes=5000",
            "log.rotate.maxBytes",
            json!(5000),
        ),
        (
            r#"log.modules={"em.worker": "trace"}"#,
            "log.modules",
            json!({"em.worker": "trace"}),
        ),
    ] {
        let row = checked(&site, &["--set", set])[key].clone();
        assert_eq!(
            row,
            json!({"value": value, "origin": "command line"}),
            "{set}"
        );
    }
    let wrong = site.run(&["check", "--set", "log.format=xml"]).failed(78);
    assert!(
        wrong.contains("command line: log.format: \"xml\": \"text\" or \"json\""),
        "{wrong}"
    );
    let wrong = site.run(&["check", "--set", "log.formt=json"]).failed(2);
    assert!(wrong.contains("did you mean \"log.format\"?"), "{wrong}");
}

/// A report that is lost must not look like one that was written.
#[test]
fn output_that_can_not_be_written_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": directory.path()}));
    let site = Site::of(&daemon);
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let commands: [&[&str]; 18] = [
        &["--help"],
        &["--version"],
        &["check"],
        &["check", "--json"],
        &["completions", "bash"],
        &["man"],
        &["services"],
        &["services", "--json"],
        &["events"],
        &["events", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["health"],
        &["call", "Order", "x", "--timeout", "0.1"],
        &["top", "-n", "1"],
        &["sub", "-n", "1"],
        &["tail", "-n", "1"],
        &["worker", "-n", "1", "Kitchen", ""],
    ];
    let publisher = daemon.publisher();
    for arguments in commands {
        let full = OpenOptions::new().write(true).open("/dev/full");
        let mut command = site.command(arguments);
        command
            .stdout(full.expect("it is there"))
            .stdin(Stdio::null());
        let child = command.spawn().expect("a process");
        match arguments[0] {
            "sub" | "tail" => daemon.wait_for_subscriptions(1),
            "worker" => daemon.wait_for_ready("Kitchen", 1),
            _ => {}
        }
        publish(&publisher, "Order", "x");
        let ended = child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("No space left"), "{arguments:?}: {said}");
        daemon.wait_for("its end", |status| status.subscribers.subscriptions == 0);
    }
}
