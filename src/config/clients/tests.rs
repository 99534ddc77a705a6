use std::collections::BTreeMap;

use event_manager_core::security::{Access, Grant, Identity};
use event_manager_wire::messagebus::Token;
use serde_json::{Value, json};

use crate::config::{Config, ConfigErrors, Loaded, parse};

const KEY: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";

fn load(security: &Value) -> Result<Loaded, ConfigErrors> {
    let text = serde_json::to_string_pretty(&json!({"security": security})).unwrap();
    parse("c.json", &text, &BTreeMap::new(), &[])
}

fn access(security: &Value) -> Access {
    let config = load(security).unwrap().config;
    config.security.access(&config.limits)
}

fn of(access: &Access, name: &str) -> Grant {
    let grant = access.of(&Identity::Client(name.into()));
    (**grant).clone()
}

fn may_publish(grant: &Grant, subject: &str) -> bool {
    grant.rights.publish.have(subject.as_bytes(), 1024)
}

#[test]
fn who_is_not_mentioned_may_do_everything() {
    let access = Config::default().security.access(&Config::default().limits);
    for identity in [Identity::Anonymous, Identity::Client("x".into())] {
        assert!(may_publish(access.of(&identity), "anything"));
    }
}

#[test]
fn rights_of_a_role_and_of_a_client_add_up() {
    let access = access(&json!({
        "roles": {
            "default": {"publish": ["public."], "quotas": {"connections": 5}},
            "orders": {"publish": ["order."], "requests": ["emit"], "quotas": {"connections": 3}},
        },
        "clients": {
            "shop": {"role": "orders", "publish": "invoice.", "requests": ["dlq"],
                "quotas": {"eventsPerSecond": 9}},
            "plain": {},
            "own": {"subscribe": [""]},
        },
        "anonymous": {},
    }));
    let shop = of(&access, "shop");
    assert!(may_publish(&shop, "order.x") && may_publish(&shop, "invoice.x"));
    assert!(!may_publish(&shop, "public.x"));
    assert!(shop.rights.requests.have(Token::EMIT) && shop.rights.requests.have(Token::DLQ));
    assert!(!shop.rights.requests.have(Token::SUBSCRIBE));
    assert_eq!(
        (shop.quotas.connections, shop.quotas.events_per_second),
        (Some(3), Some(9))
    );
    // Who names no right has the default role, in the directory of keys or not.
    for name in ["plain", "elsewhere"] {
        let grant = of(&access, name);
        assert!(may_publish(&grant, "public.x") && !may_publish(&grant, "order.x"));
        assert_eq!(grant.quotas.connections, Some(5));
    }
    let own = of(&access, "own");
    assert!(!may_publish(&own, "public.x") && own.rights.subscribe.have(b"x", 1024));
    assert_eq!(own.said_in, "security.clients.own");
    let anonymous = access.of(&Identity::Anonymous);
    assert!(!may_publish(anonymous, "public.x") && !anonymous.rights.services.have("x"));
}

#[test]
fn everything_wrong_is_said_at_once_with_its_line() {
    let wrong = load(&json!({
        "roles": {"a": {"publish": ["glob:"], "quotas": {"connection": 1}}},
        "clients": {
            "b": {"roel": "a", "requests": ["subscirbe"], "services": ["A*B"], "keys": ["x"]},
            "anonymous": {},
        },
        "anonymous": {"keys": [KEY], "from": ["10.0.0.0/33"]},
    }));
    let errors = wrong.unwrap_err().0;
    for expected in [
        "security.roles.a.publish: [\"glob:\"]: the subject \"glob:\" names a dialect",
        "unknown key \"security.roles.a.quotas.connection\"; did you mean \"quotas.connections\"?",
        "unknown key \"security.clients.b.roel\"; did you mean \"role\"?",
        "\"subscirbe\" is no request; did you mean \"subscribe\"?",
        "a star stands only at the end",
        "security.clients.b.keys: \"…\": each is to be a public key",
        "security.anonymous.keys",
        "10.0.0.0/33",
    ] {
        let found = errors.iter().find(|error| error.contains(expected));
        let found = found.unwrap_or_else(|| panic!("{expected} is not in {errors:#?}"));
        assert!(
            found.starts_with("c.json:") && !found.starts_with("c.json:1:"),
            "{found}"
        );
    }
    let taken = load(&json!({"clients": {"anonymous": {}}})).unwrap_err().0;
    assert!(
        taken[0].contains("peers without a key are security.anonymous"),
        "{taken:?}"
    );
}

#[test]
fn what_does_not_go_together_is_said() {
    let wrong = load(&json!({
        "roles": {"orders": {"subscribe": ["x".repeat(2000)]}},
        "clients": {"a": {"role": "oders", "keys": [KEY]}, "b": {"keys": KEY}},
    }));
    let errors = wrong.unwrap_err().0;
    for expected in [
        "security.clients.a.role: \"oders\": security.roles has no role of this name; did you mean \"orders\"?",
        "\"a\" has the same key",
        "longer than limits.maxSubjectBytes 1024",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{expected}: {errors:#?}"
        );
    }
}

#[test]
fn doubts_are_warnings() {
    let doubts = |security: Value| load(&security).unwrap().warnings;
    assert!(doubts(json!({"roles": {"a": {}}}))[0].contains("add \"curve\""));
    let mixed =
        json!({"mechanisms": ["null", "curve"], "secretKey": "s", "clients": {"a": {"keys": KEY}}});
    assert!(doubts(mixed.clone())[0].contains("peers without a key may do everything"));
    let mut said = mixed;
    said["anonymous"] = json!({});
    assert!(doubts(said).is_empty());
}

#[test]
fn what_is_shown_is_read_back() {
    let security = json!({
        "roles": {"r": {"publish": [], "requests": ["*"]}},
        "clients": {"c.d": {"keys": [KEY], "role": "r", "from": ["10.0.0.0/8"], "services": ["A-*"],
            "requests": ["keep-alive"], "quotas": {"bytesPerSecond": 7}}},
        "anonymous": {"subscribe": ["exact:a"]},
    });
    let loaded = load(&security).unwrap();
    let shown = loaded.config.shown();
    for key in ["roles", "clients", "anonymous"] {
        assert_eq!(shown["security"][key], security[key], "{key}");
    }
    let lines = &loaded.origins;
    assert!(lines["security.clients.c.d.services"].starts_with("c.json:"));
    let again: Config = serde_json::from_value(shown).unwrap();
    assert_eq!(again.security, loaded.config.security);
    // In an environment it is a text.
    let text = [(
        "EVENT_MANAGER_SECURITY__CLIENTS".to_owned(),
        security["clients"].to_string(),
    )];
    let mut file = json!({"security": security});
    file["security"]["clients"] = json!({"other": {}});
    let loaded = parse("c.json", &file.to_string(), &text.into(), &[]).unwrap();
    assert_eq!(
        loaded.config.shown()["security"]["clients"],
        security["clients"]
    );
    assert!(!lines.contains_key("security.clients.other"));
}
