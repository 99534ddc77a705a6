use super::*;
use std::time::Duration;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load(json: &str) -> Result<Loaded, ConfigErrors> {
    parse("config.json", json, &BTreeMap::new(), &[])
}

fn errors(json: &str) -> Vec<String> {
    load(json).unwrap_err().0
}

#[test]
fn the_shipped_file_is_the_defaults_and_an_embedded_locator() {
    let shipped = load(SHIPPED).unwrap().config;
    let mut expected = Config::default();
    expected.locator.embedded = true;
    assert_eq!(shipped, expected);
}

#[test]
fn an_originals_file_is_read() {
    let loaded = load(
        r#"{"pubAddress": "tcp://*:7000", "subAddress": "tcp://*:7001", "pullAddress": "tcp://*",
            "minStreamerPort": "7001", "maxStreamerPort": 7010, "publicHostname": "pos.example",
            "locatorAddress": "tcp://locator:6000"}"#,
    )
    .unwrap();
    assert_eq!(loaded.config.streamer_ports, 7001..=7010);
    assert_eq!(loaded.config.pub_addresses, [Endpoint::tcp("*", 7000)]);
    assert!(!loaded.config.locator.embedded);
    assert_eq!(
        loaded.origins["minStreamerPort"],
        Origin::File("config.json".into(), 2)
    );
}

#[test]
fn each_source_overrides_the_one_before() {
    let env = env(&[
        ("PUBLIC_HOSTNAME", "from-env"),
        ("STARTUP_GUARD", "YES"),
        ("DIAGNOSTIC_MONITOR", "1"),
        ("DIAGNOSTIC_INTERVAL", "60"),
        ("EVENT_MANAGER_SUB_ADDRESS", "tcp://*:1, tcp://*:2"),
        ("EVENT_MANAGER_BUDGETS__WORKER_OUTBOX_BYTES", "4096"),
    ]);
    let json = r#"{"publicHostname": "from-file", "subscriptionTtl": 1.5}"#;
    let loaded = parse("f", json, &env, &[("publicHostname", "from-flag".into())]).unwrap();
    let config = loaded.config;
    assert_eq!(config.public_hostname, "from-flag");
    assert_eq!(config.subscription_ttl, Duration::from_millis(1500));
    assert!(config.startup_guard.enabled);
    assert!(config.diagnostic.enabled);
    assert_eq!(config.diagnostic.interval, Duration::from_secs(60));
    assert_eq!(config.sub_addresses.len(), 2);
    assert_eq!(config.budgets.worker_outbox_bytes, 4096);
    assert_eq!(loaded.origins["publicHostname"], Origin::Flag);
    assert_eq!(
        loaded.origins["startupGuard"],
        Origin::Environment("STARTUP_GUARD")
    );
}

#[test]
fn everything_wrong_is_named_at_once() {
    let json = "{\n\"pubAdress\": \"tcp://*:1\",\n\"minStreamerPort\": 70000,\n\"limits\": {\"maxMessageByte\": 5},\n\
                \"budgets\": 7,\n\"publicHostname\": \"tcp://x\",\n\"drainTimeout\": -1,\n\"drainTimeout\": 1}";
    let env = env(&[
        ("STARTUP_GUARD", "maybe"),
        ("EVENT_MANAGER_PUB_ADRESS", "x"),
    ]);
    let errors = parse("c.json", json, &env, &[]).unwrap_err().0;
    for expected in [
        "c.json:2: unknown key \"pubAdress\"; did you mean \"pubAddress\"?",
        "c.json:4: unknown key \"limits.maxMessageByte\"; did you mean \"limits.maxMessageBytes\"?",
        "c.json:5: budgets: an object is wanted",
        "c.json:3: minStreamerPort: 70000: a whole number from 0 to 65535 is wanted",
        "c.json:6: publicHostname: \"tcp://x\": a host name or IP address is wanted, without scheme and port",
        "c.json:8: drainTimeout stands in line 7 already",
        "environment STARTUP_GUARD: startupGuard: \"maybe\": true or false is wanted (1, yes, on; 0, no, off)",
        "environment EVENT_MANAGER_PUB_ADRESS: unknown; did you mean \"EVENT_MANAGER_PUB_ADDRESS\"?",
    ] {
        assert!(
            errors.iter().any(|error| error == expected),
            "{expected}\nnot in {errors:#?}"
        );
    }
    assert_eq!(errors.len(), 8, "{errors:#?}");
}

#[test]
fn syntax_errors_have_a_place() {
    let found = errors("{\n \"a\": 1,\n}");
    assert!(found[0].starts_with("config.json:3:1: "), "{found:?}");
    assert!(errors("[]")[0].contains("expected a map"));
}

#[test]
fn values_are_checked_together() {
    let all = |json: &str| errors(json).join("\n");
    assert!(all(r#"{"minStreamerPort": 9, "maxStreamerPort": 8}"#).contains("holds no port"));
    assert!(all(r#"{"minStreamerPort": 0}"#).contains("for both or none"));
    assert!(
        all(r#"{"minStreamerPort": 5001, "maxStreamerPort": 5001}"#)
            .contains("no service could get one")
    );
    assert!(load(r#"{"minStreamerPort": 5001, "maxStreamerPort": 5002}"#).is_ok());
    assert!(
        all(r#"{"subAddress": "tcp://127.0.0.1:5000"}"#)
            .contains("subAddress tcp://127.0.0.1:5000 and pubAddress tcp://*:5000 overlap")
    );
    assert!(load(r#"{"locatorAddress": "tcp://localhost:5000"}"#).is_ok());
    assert!(
        all(r#"{"locatorAddress": "tcp://localhost:5000", "embeddedLocator": true}"#)
            .contains("overlap")
    );
    assert!(all(r#"{"pubAddress": []}"#).contains("at least one address"));
}

#[test]
fn a_switch_in_one_source_keeps_the_interval_of_another() {
    let env = env(&[("DIAGNOSTIC_MONITOR", "true")]);
    let loaded = parse("f", r#"{"diagnosticInterval": 60}"#, &env, &[]).unwrap();
    let diagnostic = loaded.config.diagnostic;
    assert!(diagnostic.enabled && diagnostic.interval == Duration::from_secs(60));
}

#[test]
fn keys_with_dots_are_not_passed_over() {
    let found = errors(r#"{"limits.maxMessageBytes": 5000}"#);
    assert!(found[0].contains("an object in an object"), "{found:?}");
}

#[test]
fn variables_that_kubernetes_sets_are_not_ours() {
    let env = env(&[
        ("EVENT_MANAGER_PORT", "tcp://10.0.0.1:5000"),
        ("EVENT_MANAGER_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("EVENT_MANAGER_SERVICE_HOST", "10.0.0.1"),
        ("EVENT_MANAGER_SERVICE_PORT_PUB", "5000"),
    ]);
    assert!(parse("f", "{}", &env, &[]).is_ok());
}

#[test]
fn what_is_dialled_has_host_and_port() {
    let all = |json: &str| errors(json).join("\n");
    assert!(all(r#"{"connectPublishers": ["tcp://*:5555"]}"#).contains("names no host"));
    assert!(all(r#"{"connectPublishers": "tcp://a:0"}"#).contains("names no port"));
    assert!(all(r#"{"locatorAddress": "tcp://*:6000"}"#).contains("locatorAddress: tcp://*:6000"));
    assert!(load(r#"{"locatorAddress": "tcp://*:0", "embeddedLocator": true}"#).is_ok());
}

#[test]
fn the_largest_message_fits_the_queue_of_a_service() {
    let found = errors(r#"{"limits": {"maxMessageBytes": 100000000}}"#);
    assert!(found[0].contains("budgets.serviceQueueBytes"), "{found:?}");
}

#[test]
fn the_largest_message_fits_the_memory_of_the_process() {
    let found = errors(r#"{"memoryLimit": 1000000}"#);
    assert!(found[0].contains("above memoryLimit 1000000"), "{found:?}");
    assert!(load(r#"{"memoryLimit": 67108864}"#).is_ok());
}

#[test]
fn a_word_that_is_not_known_is_told_the_others() {
    let found = errors(r#"{"slowSubscriber": "spill"}"#);
    assert_eq!(
        found,
        ["config.json:1: slowSubscriber: \"spill\": \"drop-oldest\" or \"disconnect\" is wanted"]
    );
}

#[test]
fn the_log_section_is_handed_on_with_its_lines() {
    let log = load("{\n\"log\": {\n\"rotate\": {\"keep\": 1}}}")
        .unwrap()
        .log
        .unwrap();
    assert_eq!((log.lines["rotate"], log.lines["rotate.keep"]), (3, 3));
    assert_eq!(log.value, serde_json::json!({"rotate": {"keep": 1}}));
    let doubled = r#"{"log": {"level": "info", "level": "warn"}}"#;
    assert!(errors(doubled)[0].contains("log.level stands in line 1 already"));
    let doubled = LogSection::parse("l", r#"{"level": "info", "level": "warn"}"#);
    assert!(doubled.unwrap_err().0[0].contains("l:1: level stands"));
}

#[test]
fn names_in_the_table_follow_one_rule() {
    let originals = [
        "PUBLIC_HOSTNAME",
        "SERVICE_LOCATOR_ADDRESS",
        "LOG_PATH",
        "STARTUP_GUARD",
        "DIAGNOSTIC_MONITOR",
        "DIAGNOSTIC_INTERVAL",
    ];
    for key in KEYS.iter().filter(|key| !originals.contains(&key.env)) {
        let mut expected = String::from("EVENT_MANAGER_");
        for character in key.name.chars() {
            match character {
                '.' => expected.push_str("__"),
                c if c.is_uppercase() => expected.extend(['_', c]),
                c => expected.push(c.to_ascii_uppercase()),
            }
        }
        assert_eq!(key.env, expected);
    }
}

#[test]
fn what_is_shown_is_read_back() {
    for json in [
        SHIPPED,
        r#"{"subAddress": ["tcp://*:1", "ipc:///x"], "pullAddress": "tcp://127.0.0.1", "diagnosticMonitor": true, "drainTimeout": 0.5}"#,
        r#"{"slowSubscriber": "disconnect", "startupGuardTimeoutAction": "proceed", "stateDir": "/x", "memoryLimit": 67108864, "dedupWindow": 0}"#,
        r#"{"subAddress": ["ipc:///a,b"], "pullAddress": "ipc:///s:0"}"#,
    ] {
        let config = load(json).unwrap().config;
        let mut again = Config::default();
        for key in KEYS {
            (key.set)(&mut again, &(key.show)(&config)).unwrap();
        }
        assert_eq!(again, config);
    }
}

#[test]
fn services_get_their_ports_from_the_range_alone() {
    let wrong = errors(r#"{"pullAddress": "tcp://127.0.0.1:77"}"#);
    assert!(
        wrong[0].contains("pullAddress") && wrong[0].contains("no port is wanted"),
        "{wrong:?}"
    );
    assert!(load(r#"{"pullAddress": "tcp://127.0.0.1:0"}"#).is_ok());
}

#[test]
fn http_is_served_at_an_address_or_off() {
    let at = |written: &str| {
        let json = serde_json::json!({"httpAddress": written}).to_string();
        load(&json).unwrap().config.http_address
    };
    for (written, host, port) in [
        ("127.0.0.1:0", "127.0.0.1", 0),
        (" [::1]:5180 ", "::1", 5180),
        ("*:80", "*", 80),
        ("http://localhost:5180/", "localhost", 5180),
    ] {
        assert_eq!(at(written), Some(Endpoint::tcp(host, port)), "{written}");
    }
    assert_eq!((at(""), at("off")), (None, None));
    let off = env(&[("EVENT_MANAGER_HTTP_ADDRESS", "off")]);
    let loaded = parse("config.json", "{}", &off, &[]).unwrap();
    assert_eq!(loaded.config.http_address, None);
    // What is shown can be written again.
    for key in KEYS.iter().filter(|key| key.name == "httpAddress") {
        for written in ["[::1]:7", "off"] {
            let json = serde_json::json!({"httpAddress": written}).to_string();
            assert_eq!((key.show)(&load(&json).unwrap().config), written);
        }
    }
}
