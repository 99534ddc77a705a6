use super::*;
use std::time::Duration;

use crate::config::{LogConfig, LogFormat, Rotation};
use event_manager_wire::model::Endpoint;
use tracing::level_filters::LevelFilter;

const SHIPPED: &str = include_str!("../../../config.json");

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
fn the_shipped_file_is_the_defaults() {
    assert_eq!(load(SHIPPED).unwrap().config, Config::default());
    assert_eq!(load("{}").unwrap().config, Config::default());
}

#[test]
fn a_file_of_one_key_is_the_shipped_one_with_that_key() {
    let shipped = load(SHIPPED).unwrap().config.shown();
    // Who names another ServiceLocator means one that is there.
    for key in KEYS.iter().filter(|key| key.name != "locatorAddress") {
        let value = shipped.pointer(&format!("/{}", key.name.replace('.', "/")));
        let value = value.unwrap().clone();
        let nested = key
            .name
            .rsplit('.')
            .fold(value, |inner, name| json!({ name: inner }));
        let loaded = load(&nested.to_string()).unwrap();
        assert_eq!(loaded.config.shown(), shipped, "{}", key.name);
        assert!(loaded.config.locator.embedded, "{}", key.name);
        assert_eq!(loaded.origins.keys().collect::<Vec<_>>(), [&key.name]);
    }
    let elsewhere = load(r#"{"locatorAddress": "tcp://locator:6000"}"#).unwrap();
    assert!(!elsewhere.config.locator.embedded);
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
    assert_eq!(loaded.origins["minStreamerPort"], "config.json:2");
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
    assert_eq!(loaded.origins["publicHostname"], "command line");
    assert_eq!(loaded.origins["startupGuard"], "environment STARTUP_GUARD");
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
        "c.json:5: budgets: 7: an object is wanted",
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
fn syntax_errors_have_a_position() {
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
    for (mesh, wrong) in [
        (r#"{"mesh": {"peers": ["tcp://*:1"]}}"#, "names no host"),
        (
            r#"{"mesh": {"peers": ["tcp://a:1", "tcp://a:1"]}}"#,
            "stands there twice",
        ),
        (
            r#"{"mesh": {"peers": ["tcp://a:1"]}, "connectPublishers": ["tcp://a:1"]}"#,
            "its events would come twice",
        ),
        (
            r#"{"mesh": {"peers": ["tcp://127.0.0.1:5001"]}}"#,
            "own subAddress",
        ),
        (
            r#"{"mesh": {"peers": ["tcp://localhost:5001"]}}"#,
            "own subAddress",
        ),
        (
            r#"{"mesh": {"subjects": []}}"#,
            "a list of prefixes is wanted",
        ),
        (
            r#"{"mesh": {"peers": [{"address": "tcp://a:1", "serverKey": "0101010101010101010101010101010101010101010101010101010101010101"}]}}"#,
            "needs security.secretKey",
        ),
    ] {
        let said = all(mesh);
        assert!(said.contains(wrong), "{said}");
    }
    assert!(all(r#"{"locatorAddress": "tcp://*:6000"}"#).contains("locatorAddress: tcp://*:6000"));
    assert!(load(r#"{"locatorAddress": "tcp://*:0", "embeddedLocator": true}"#).is_ok());
}

#[test]
fn instances_and_their_fence_fit_together() {
    let with = |instances: &str, rest: &str| {
        format!(r#"{{"instances": {{"heartbeat": "{{\"h\"", {instances}}}{rest}}}"#)
    };
    let mesh = |peers: &str, heartbeat: u32| {
        format!(r#", "heartbeatInterval": {heartbeat}, "mesh": {{"peers": [{peers}]}}"#)
    };
    let (one, two) = (r#""tcp://h:1""#, r#""tcp://h:1", "tcp://h:2""#);
    let fence = r#""fence": "minority""#;
    for (file, named) in [
        (
            with(r#""interval": 5, "timeout": 5"#, ""),
            "instances.timeout",
        ),
        (with(r#""id": """#, ""), "instances.id"),
        (with(r#""event": "{\"h\": 1""#, ""), "instances.event"),
        (with(fence, &mesh(one, 1)), "at least two mesh.peers"),
        (with(fence, ""), "at least two mesh.peers"),
        (with(fence, &mesh(two, 5)), "three heartbeatInterval"),
        (with(fence, &mesh(two, 0)), "three heartbeatInterval"),
        (
            with(&format!(r#"{fence}, "shutdown": """#), &mesh(two, 1)),
            "needs instances.shutdown",
        ),
        (
            with(r#""fence": "standby""#, ""),
            "needs lease.source with an engine, and lease.role \"active\"",
        ),
        (with(r#""fence": "elsewhere""#, ""), "\"off\""),
        (
            with(r#""discover": ["10.0.0.0/8"]"#, ""),
            "tcp://NETWORK:PORT",
        ),
        (
            with(r#""discover": "tcp://10.0.0.0/8:1-17""#, ""),
            "1 to 16 ports",
        ),
        (with(r#""heartbeat2": 1"#, ""), "instances.heartbeat2"),
    ] {
        let errors = errors(&file);
        assert!(
            errors.len() == 1 && errors[0].contains(named),
            "{file}: {errors:?}"
        );
    }
    load(&with(fence, &mesh(two, 1))).unwrap();
    // Where nothing is observed, the rest means nothing.
    load(r#"{"instances": {"fence": "minority", "event": ""}}"#).unwrap();
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
fn variables_follow_from_the_names_of_keys() {
    for (key, variable) in [
        ("pubAddress", "EVENT_MANAGER_PUB_ADDRESS"),
        (
            "limits.maxSubjectBytes",
            "EVENT_MANAGER_LIMITS__MAX_SUBJECT_BYTES",
        ),
        (
            "log.rotate.maxBytes",
            "EVENT_MANAGER_LOG__ROTATE__MAX_BYTES",
        ),
        ("publicHostname", "PUBLIC_HOSTNAME"),
        ("locatorAddress", "SERVICE_LOCATOR_ADDRESS"),
        ("logPath", "LOG_PATH"),
        ("startupGuard", "STARTUP_GUARD"),
        ("startupGuardTimeout", "EVENT_MANAGER_STARTUP_GUARD_TIMEOUT"),
        ("diagnosticMonitor", "DIAGNOSTIC_MONITOR"),
        ("diagnosticInterval", "DIAGNOSTIC_INTERVAL"),
    ] {
        let found = KEYS.iter().find(|found| found.name == key);
        assert_eq!(found.unwrap().env, variable);
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
        let shown = config.shown().to_string();
        assert_eq!(load(&shown).unwrap().config, config);
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
        let json = json!({"httpAddress": written}).to_string();
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
    for written in ["[::1]:7", "off"] {
        let json = json!({"httpAddress": written}).to_string();
        assert_eq!(load(&json).unwrap().config.shown()["httpAddress"], written);
    }
}

fn log(json: &str) -> Result<Loaded, ConfigErrors> {
    parse(
        "c.json",
        &format!("{{\n\"log\": {json}}}"),
        &BTreeMap::new(),
        &[],
    )
}

#[test]
fn the_log_is_read_and_knows_its_origins() {
    let loaded = log(
        "{\"level\": \"WARN\", \"modules\": {\"em.worker\": \"debug\", \"event_manager::reactor\": \"warn\"},\n\
         \"format\": \"json\", \"file\": \"x.log\",\n\"rotate\": {\"maxBytes\": 5000, \"keep\": 0}}",
    )
    .unwrap();
    let expected = LogConfig {
        level: LevelFilter::WARN,
        modules: [
            ("em.worker".into(), LevelFilter::DEBUG),
            ("event_manager::reactor".into(), LevelFilter::WARN),
        ]
        .into(),
        format: LogFormat::Json,
        file: Some("x.log".into()),
        rotate: Rotation {
            bytes_max: 5000,
            keep: 0,
        },
    };
    assert_eq!(loaded.config.log, expected);
    assert_eq!(loaded.origins["log.rotate.keep"], "c.json:4");
    assert_eq!(loaded.origins["log.modules"], "c.json:2");
    assert_eq!(loaded.origins.len(), 6);
    let again = load(&loaded.config.shown().to_string()).unwrap();
    assert_eq!(again.config.log, expected, "what is shown is read back");
}

#[test]
fn everything_wrong_with_the_log_is_named_at_once() {
    let errors = log(
        "{\"levle\": \"info\",\n\"level\": \"3\", \"modules\": {\"a b\": \"info\"},\n\
         \"format\": \"xml\", \"file\": 5, \"rotate\": {\"keep\": -1, \"size\": 5}}",
    )
    .unwrap_err()
    .0;
    for expected in [
        "c.json:2: unknown key \"log.levle\"; did you mean \"log.level\"?",
        "c.json:3: log.level: \"3\": off, error, warn, info, debug or trace is wanted",
        "\"a b\" is not a log target",
        "c.json:4: log.format: \"xml\": \"text\" or \"json\" is wanted",
        "c.json:4: log.file: 5: a path or null is wanted",
        "c.json:4: log.rotate.keep: -1: a whole number from 0 to 1000 is wanted",
        "c.json:4: unknown key \"log.rotate.size\"",
    ] {
        assert!(
            errors.iter().any(|e| e.contains(expected)),
            "{expected}\n{errors:#?}"
        );
    }
    assert_eq!(errors.len(), 7, "{errors:#?}");
    assert!(log("7").unwrap_err().0[0].contains("log: 7: an object is wanted"));
    assert!(log("{\"rotate\": 7}").unwrap_err().0[0].contains("log.rotate: 7: an object"));
    let doubled = log(r#"{"level": "info", "level": "warn"}"#).unwrap_err().0;
    assert!(doubled[0].contains("log.level stands in line 2 already"));
}

/// A directory with a configuration, which may name a file of the log.
fn in_directory(config: &str, log: Option<&str>) -> (tempfile::TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    std::fs::write(&path, config).unwrap();
    if let Some(log) = log {
        std::fs::write(directory.path().join("log.json"), log).unwrap();
    }
    let log_path = directory.path().join("log.json").display().to_string();
    let sources = Sources {
        path: Some(path),
        env: env(&[("LOG_PATH", &log_path)]),
        ..Sources::default()
    };
    (directory, sources)
}

#[test]
fn a_file_of_its_own_goes_before_the_log_of_the_configuration() {
    let config = r#"{"log": {"level": "warn", "format": "json"}}"#;
    let (_directory, sources) = in_directory(config, Some("{\n\"level\": \"debug\"}"));
    let loaded = Loaded::load(&sources).unwrap();
    assert_eq!(loaded.config.log.level, LevelFilter::DEBUG);
    assert_eq!(loaded.config.log.format, LogFormat::Text, "it replaces all");
    assert!(loaded.origins["log.level"].ends_with("log.json:2"));
    let level = ("log.level", "error".to_owned());
    let with_flag = Sources {
        flags: vec![level],
        ..sources
    };
    let loaded = Loaded::load(&with_flag).unwrap();
    assert_eq!(loaded.config.log.level, LevelFilter::ERROR);
}

#[test]
fn what_is_wrong_in_the_file_of_the_log_is_named_with_all_else() {
    let config = "{\"drainTimeout\": -1,\n\"log\": {\"nonsense\": 1}}";
    let (_directory, sources) = in_directory(config, Some("{\n\"levle\": 1, \"rotate\": 7}"));
    let found = Loaded::load(&sources).unwrap_err().0.join("\n");
    for expected in [
        "c.json:1: drainTimeout: -1: ",
        "log.json:2: unknown key \"levle\"; did you mean \"level\"?",
        "log.json:2: rotate: 7: an object is wanted",
    ] {
        assert!(found.contains(expected), "{expected}\n{found}");
    }
    // Nothing reads that.
    assert!(!found.contains("nonsense"), "{found}");
    let (_directory, sources) = in_directory("{\"drainTimeout\": -1", None);
    let found = Loaded::load(&sources).unwrap_err().0.join("\n");
    assert!(found.contains("c.json:1:19: EOF"), "{found}");
    assert!(
        found.contains("logPath: ") && found.contains("can't be read"),
        "{found}"
    );
}

#[test]
fn a_path_to_the_configuration_means_its_own_log() {
    let (_directory, mut sources) =
        in_directory(r#"{"log": {"level": "warn"}, "drainTimeout": 1}"#, None);
    let own = sources.path.as_ref().unwrap().display().to_string();
    sources.env.insert("LOG_PATH".into(), own);
    let loaded = Loaded::load(&sources).unwrap();
    assert_eq!(loaded.config.log.level, LevelFilter::WARN);
}

#[test]
fn a_wrong_value_leads_to_no_other_error() {
    let found =
        errors(r#"{"limits": {"maxMessageBytes": "x"}, "budgets": {"serviceQueueBytes": 2000}}"#);
    assert_eq!(found.len(), 1, "{found:?}");
    let found =
        errors(r#"{"minStreamerPort": -1, "maxStreamerPort": 4000, "subAddress": "tcp://*:5000"}"#);
    assert!(found[0].contains("minStreamerPort: -1"), "{found:?}");
    assert!(
        found[1].contains("overlap") && found.len() == 2,
        "{found:?}"
    );
}

#[test]
fn a_key_that_is_gone_is_taken_with_a_warning() {
    let json = "{\"startupGuardInterval\": 1,\n\"budgets\": {\"requestOutboxBytes\": 1}}";
    let env = env(&[("EVENT_MANAGER_BUDGETS__REQUEST_OUTBOX_BYTES", "5000")]);
    let flags = [("limits.maxHandshakeBytes", "5000".to_owned())];
    let loaded = parse("c.json", json, &env, &flags).unwrap();
    assert_eq!(loaded.config, Config::default());
    let warnings = loaded.warnings.join("\n");
    for said in [
        "c.json:1: startupGuardInterval is no longer a key and is ignored",
        "c.json:2: budgets.requestOutboxBytes is no longer a key",
        "environment EVENT_MANAGER_BUDGETS__REQUEST_OUTBOX_BYTES: budgets.requestOutboxBytes is no longer a key",
        "command line: limits.maxHandshakeBytes is no longer a key and is ignored: it is always 8192; remove it",
    ] {
        assert!(warnings.contains(said), "{said}\n{warnings}");
    }
    assert_eq!(loaded.warnings.len(), 4, "{warnings}");
}

#[test]
fn what_retired_keys_say_is_what_holds() {
    let config = Config::default();
    for (key, value) in [
        (
            "limits.maxHandshakeBytes",
            config.limits.handshake_bytes_max,
        ),
        (
            "budgets.requestOutboxBytes",
            config.budgets.request_outbox_bytes,
        ),
    ] {
        let (_, said) = RETIRED.iter().find(|(retired, _)| *retired == key).unwrap();
        assert_eq!(*said, format!("it is always {value}"));
    }
}
