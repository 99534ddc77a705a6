use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::config::{Key, parse};
use event_manager_core::broker::DeliveryMode;
use event_manager_wire::model::ServiceName;

fn config(json: &Value) -> Config {
    let parsed = parse("c.json", &json.to_string(), &BTreeMap::new(), &[]);
    parsed.unwrap().config
}

/// A file in which every key has another value than its default.
fn all_others() -> Value {
    let file = r#"{
        "pubAddress": "tcp://*:7000", "subAddress": ["tcp://*:7001", "ipc://a,b"],
        "requestAddress": "tcp://*:7002", "connectPublishers": ["tcp://h:1"],
        "mesh": {"peers": ["tcp://h:2", "tcp://h:3"], "subjects": ["a"]},
        "instances": {"heartbeat": "h ", "event": "e", "shutdown": "s", "id": "i", "pid": "p",
            "address": "a", "interval": 7, "timeout": 80, "fence": "minority", "discover": ["tcp://10.0.0.0/8:1"], "forgetAfter": 9},
        "pullAddress": "tcp://127.0.0.1", "minStreamerPort": 8000, "maxStreamerPort": 8001,
        "publicHostname": "h", "locatorAddress": "tcp://h:6001", "locatorServerKey": "0101010101010101010101010101010101010101010101010101010101010101", "embeddedLocator": false,
        "locatorRegister": false, "locatorServiceName": "x", "locatorTtl": 0.3,
        "locatorTokens": {"register": 1, "locate": 2, "unregister": 3, "list": 4},
        "startupGuard": true, "startupGuardTimeout": 61.1,
        "startupGuardTimeoutAction": "proceed", "diagnosticMonitor": true, "diagnosticInterval": 7,
        "subscriptionTtl": 1.7, "drainTimeout": 7, "publishTimeout": 7, "heartbeatInterval": 7,
        "handshakeTimeout": 7,
        "limits": {"maxMessageBytes": 2000, "maxMessageParts": 7, "maxSubjectBytes": 17,
            "maxSubscriptionsPerPeer": 7},
        "budgets": {"subscriberOutboxBytes": 7777, "subscriptionBytes": 7777, "workerOutboxBytes": 7777,
            "serviceQueueBytes": 7777, "serviceQueueEvents": 7},
        "security": {"open": true, "from": ["10.0.0.0/8"], "mechanisms": ["null", "curve"],
            "secretKey": "a", "keysDir": "b", "secretFileMode": "any", "plainInClear": true,
            "roles": {"default": {"publish": ["a."]}}, "clients": {"b": {"role": "default"}}, "anonymous": {}}, "maxConnections": 7, "maxPendingCalls": 7, "maxSubscriptions": 7,
        "services": {"Billing": {"ackTimeout": 7}}, "memoryLimit": 7777,
        "slowSubscriber": "disconnect", "stateDir": "elsewhere", "dedupWindow": 7, "dedupIdsMax": 7,
        "restartGrace": 7, "requirePublishers": true, "subscriberGrace": 7, "logPath": "log.json", "httpAddress": "off", "httpHosts": ["h.example"], "httpTokenFile": "tokens",
        "log": {"level": "debug", "modules": {"a": "off"}, "format": "json", "file": "x",
            "rotate": {"maxBytes": 5000, "keep": 7}},
        "eventLog": {"path": "x", "maxBytes": 7777, "files": 7}
    }"#;
    let mut all: Value = serde_json::from_str(file).unwrap();
    if cfg!(feature = "traces") {
        all["traces"] = json!({"endpoint": "http://h:4318", "traceparent": "json:tp"});
    }
    if cfg!(feature = "nats") {
        all["engines"] = json!({"main": {"type": "nats", "servers": "nats://h:1"}});
        all["bridges"] =
            json!({"b": {"engine": "main", "direction": "out", "subjects": ["a"], "to": "a."}});
    }
    if cfg!(feature = "tls") {
        (all["httpTlsCertificate"], all["httpTlsKey"]) = (json!("c"), json!("k"));
    }
    all
}

/// Whether this binary takes another value than the key's default.
fn can_differ(key: &Key) -> bool {
    let of = |prefix: &str| key.name.starts_with(prefix);
    let is_of_engines = of("engines") || of("bridges");
    (cfg!(feature = "traces") || !of("traces."))
        && (cfg!(feature = "tls") || !of("httpTls"))
        && (cfg!(feature = "nats") || !is_of_engines)
        // It doesn't go together with startupGuard.
        && !of("lease.")
        // It takes no other.
        && !of("cluster.")
}

#[cfg(feature = "nats")]
#[test]
fn a_lease_needs_a_restart() {
    let lease =
        json!({"source": "main", "name": "x", "ttl": 7, "onLead": ["a"], "onResign": ["b"]});
    let engines = json!({"main": {"type": "nats", "servers": "nats://h:1"}});
    let new = config(&json!({"lease": lease, "engines": engines}));
    let reload = Config::default().reload(new);
    assert_eq!(reload.config.lease, Config::default().lease);
    let needed = reload
        .need_restart
        .iter()
        .filter(|key| key.starts_with("lease."));
    assert_eq!(needed.count(), 5);
}

#[test]
fn live_keys_change_and_the_others_stay() {
    let (old, new) = (Config::default(), config(&all_others()));
    let reload = old.reload(new.clone());
    for key in KEYS.iter().filter(|key| can_differ(key)) {
        let pointer = format!("/{}", key.name.replace('.', "/"));
        let shown = |config: &Config| config.shown().pointer(&pointer).cloned();
        let [before, wanted, after] = [&old, &new, &reload.config].map(shown);
        assert_ne!(before, wanted, "{} has its default here", key.name);
        let expected = if key.is_live { wanted } else { before };
        assert_eq!(after, expected, "{}", key.name);
        let named = |keys: &[String]| keys.contains(&key.name);
        assert_eq!(named(&reload.changed), key.is_live, "{}", key.name);
        assert_eq!(named(&reload.need_restart), !key.is_live, "{}", key.name);
    }
    let back = reload.config.reload(Config::default());
    assert_eq!(
        (back.config, back.need_restart),
        (Config::default(), vec![])
    );
}

#[test]
fn nothing_new_changes_nothing() {
    for same in [Config::default(), config(&all_others())] {
        let reload = same.reload(same.clone());
        assert_eq!(reload.config, same);
        assert!(reload.changed.is_empty() && reload.need_restart.is_empty());
    }
}

fn delivery(config: &Config, service: &str) -> DeliveryMode {
    config
        .policy_of(&ServiceName::new(service).unwrap())
        .delivery
}

#[test]
fn where_events_are_kept_needs_a_restart() {
    let old = config(&json!({"services": {
        "Billing": {"delivery": "queue", "subjects": ["Order"]},
        "Kit*": {"delivery": "queue", "ackTimeout": 1},
    }}));
    let wanted = config(&json!({"services": {
        "Billing": {"subjects": ["Order", "Paid"], "delivery": "queue", "ackTimeout": 5},
        "Kitchen": {"whenFull": "drop-newest", "delivery": "live"},
        "*": {"delivery": "queue"},
    }}));
    let reload = old.reload(wanted.clone());
    assert_eq!(reload.changed, ["services"]);
    let mut restart = reload.need_restart;
    restart.sort();
    assert_eq!(
        restart,
        [
            "services.*.delivery",
            "services.Billing.subjects",
            "services.Kit*.delivery",
            "services.Kitchen.delivery"
        ]
    );
    let in_force = reload.config;
    for (service, mode) in [
        ("Billing", DeliveryMode::Queue),
        ("Kitchen", DeliveryMode::Queue),
        ("Other", DeliveryMode::Live),
    ] {
        assert_eq!(delivery(&in_force, service), mode, "{service}");
    }
    let declared: Vec<_> = in_force.services.declared().collect();
    assert_eq!(declared[0].1.len(), 1);
    let billing = in_force.policy_of(&ServiceName::new("Billing").unwrap());
    assert_eq!(billing.backlog.ack_timeout.as_secs(), 5);
    // As long as it is not restarted, it is told again; a change back is none.
    let again = in_force.reload(wanted);
    assert_eq!((again.changed.len(), again.need_restart.len()), (0, 4));
    assert_eq!(again.config, in_force);
    let back = in_force.reload(old.clone());
    assert_eq!((back.config, back.need_restart.len()), (old, 0));
}
