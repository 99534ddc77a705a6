use std::collections::BTreeMap;

use crate::config::{Config, ConfigErrors, parse};

fn read(json: &str) -> Result<Config, ConfigErrors> {
    parse("config.json", json, &BTreeMap::new(), &[]).map(|loaded| loaded.config)
}

#[cfg(not(feature = "nats"))]
#[test]
fn without_the_feature_the_type_says_how_to_get_it() {
    let refused = read(r#"{"engines": {"main": {"type": "nats", "servers": "nats://a:1"}}}"#);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("config.json:1: engines.main.type"), "{said}");
    assert!(said.contains("--features nats"), "{said}");
}

#[cfg(feature = "redis")]
#[test]
fn what_redis_has_none_of_is_refused() {
    for (fields, wanted) in [
        (r#""servers": "redis://a/x""#, "a database's number"),
        (
            r#""servers": "redis://a:1/0?protocol=resp2""#,
            "a database's number",
        ),
        (
            r#""servers": "rediss://a:1/0#insecure""#,
            "a database's number",
        ),
        (r#""servers": "nats://a:1""#, "redis:// or rediss://"),
        (
            r#""servers": ["redis://a:1", "redis://b:1"]"#,
            "redis has one",
        ),
        (
            r#""servers": "redis://a:1", "tokenFile": "t""#,
            "tokenFile has no meaning for an engine of type \"redis\"",
        ),
        (
            r#""servers": "redis://a:1", "caFile": "ca.pem""#,
            "begins with rediss://",
        ),
    ] {
        let json = format!(r#"{{"engines": {{"main": {{"type": "redis", {fields}}}}}}}"#);
        let said = read(&json).unwrap_err().to_string();
        assert!(said.contains(wanted), "{json}: {said}");
    }
    for url in ["redis://a", "redis://a:1/", "rediss://[::1]:1/15"] {
        let json = format!(r#"{{"engines": {{"main": {{"type": "redis", "servers": {url:?}}}}}}}"#);
        assert!(read(&json).is_ok(), "{url}");
    }
}

#[cfg(feature = "rabbitmq")]
#[test]
fn what_is_wrong_about_rabbitmq_says_what_is_wanted() {
    let engine = |url: &str, more: &str| {
        format!(r#""engines": {{"mq": {{"type": "rabbitmq", "servers": "{url}"{more}}}}}"#)
    };
    let main = engine("amqp://mq/pos", "");
    for (json, wanted) in [
        (engine("amqp://mq/a/b", ""), "%2f"),
        (engine("nats://mq", ""), "amqp:// or amqps://"),
        (
            engine("amqp://mq", r#", "tokenFile": "t""#),
            "tokenFile has no meaning for an engine of type",
        ),
        (
            engine("amqp://mq", r#", "caFile": "c""#),
            "begins with amqps://",
        ),
        (
            format!(
                r#"{main}, "bridges": {{"b": {{"engine": "mq", "direction": "in", "from": "q", "group": "g"}}}}"#
            ),
            "group has no meaning for rabbitmq",
        ),
        (
            format!(
                r#"{main}, "bridges": {{"b": {{"engine": "mq", "direction": "out", "subjects": ["a"]}}}}"#
            ),
            "to is missing: the name of the exchange",
        ),
    ] {
        let said = read(&format!("{{{json}}}")).unwrap_err().to_string();
        assert!(said.contains(wanted), "{json}: {said}");
    }
}

#[cfg(feature = "nats")]
mod with_nats {
    use std::time::Duration;

    use super::read;
    use crate::config::{Bridge, Login};
    use event_manager_core::broker::DeliveryMode;

    const ENGINE: &str = r#""engines": {"main": {"type": "nats", "servers": "nats://a:1"}}"#;

    #[test]
    fn a_bridge_out_brings_a_durable_service() {
        let bridge = r#""bridges": {"orders": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.", "retention": {"maxAge": 60}}}"#;
        let config = read(&format!("{{{ENGINE}, {bridge}}}")).unwrap();
        let service = Bridge::service("orders").unwrap();
        let declared: Vec<_> = config.services.declared().collect();
        assert_eq!(declared.len(), 1);
        assert_eq!((declared[0].0, declared[0].1.len()), (&service, 1));
        let policy = config.policy_of(&service);
        assert_eq!(policy.delivery, DeliveryMode::Queue);
        assert_eq!(policy.retention.age_max, Some(Duration::from_secs(60)));
        // An engine that is away for days costs no event.
        assert_eq!(policy.backlog.retry.max_deliveries, 1_000_000);
        let engine = config.engines.get("main").unwrap();
        assert_eq!(
            (engine.servers(), engine.login()),
            (&["nats://a:1".to_owned()][..], Login::None)
        );
    }

    #[test]
    fn what_its_service_says_in_vain_is_refused() {
        let bridge = r#""bridges": {"orders": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos."}}"#;
        let with = |fields: &str| {
            read(&format!(
                r#"{{{ENGINE}, {bridge}, "services": {{"bridge.orders": {fields}}}}}"#
            ))
        };
        for (fields, field, value) in [
            (r#"{"delivery": "live"}"#, "delivery", "\"live\""),
            (r#"{"subjects": ["Refund"]}"#, "subjects", "[\"Refund\"]"),
            (r#"{"orderBy": "subject"}"#, "orderBy", "\"subject\""),
            (
                r#"{"retry": {"maxDeliveries": 3}}"#,
                "retry",
                "{\"maxDeliveries\":3}",
            ),
        ] {
            let said = with(fields).map(drop).unwrap_err().to_string();
            let wanted = format!(
                "config.json:1: services.bridge.orders.{field}: {value}: has no meaning for the queue"
            );
            assert!(said.contains(&wanted), "{said}");
        }
        let more = r#"{"ackTimeout": 5, "queueEvents": 10, "deadLetterSubject": "Lost"}"#;
        let config = with(more).unwrap();
        let policy = config.policy_of(&Bridge::service("orders").unwrap());
        assert_eq!(policy.backlog.limits.events_max, 10);
        assert_eq!(policy.delivery, DeliveryMode::Queue);
        // What is said for all services by a glob is said for others.
        let all = r#""services": {"*": {"delivery": "queue", "orderBy": "subject"}}"#;
        assert!(read(&format!("{{{ENGINE}, {bridge}, {all}}}")).is_ok());
    }

    #[test]
    fn what_is_wrong_says_what_is_wanted() {
        let main = |more: &str| {
            format!(r#""engines": {{"main": {{"type": "nats", "servers": "nats://a:1"{more}}}}}"#)
        };
        let bridge = |fields: &str| format!(r#"{ENGINE}, "bridges": {{"b": {{{fields}}}}}"#);
        let table = [
            (
                r#""engines": {"main": {"type": "kafka", "servers": "a"}}"#.into(),
                "\"nats\" or \"redis\" or \"rabbitmq\" or \"hub\" or \"etcd\" is wanted",
            ),
            (
                r#""engines": {"main": {"servers": "nats://a:1"}}"#.into(),
                "type is missing",
            ),
            (
                r#""engines": {"main": {"type": "nats"}}"#.into(),
                "servers are missing",
            ),
            (
                r#""engines": {"main": {"type": "nats", "servers": []}}"#.into(),
                "at least one URL",
            ),
            (
                r#""engines": {"main": {"type": "nats", "servers": "http://a"}}"#.into(),
                "nats:// or tls://",
            ),
            (r#""engines": {"main": 1}"#.into(), "an object is wanted"),
            (
                main(r#", "user": "em""#),
                "user and passwordFile belong together",
            ),
            (
                main(r#", "tokenFile": "t", "credentialsFile": "c""#),
                "not several",
            ),
            (main(r#", "shards": 3"#), "unknown key"),
            (
                main(r#", "replicas": 6"#),
                "a whole number from 1 to 5 is wanted",
            ),
            (
                bridge(r#""direction": "out", "subjects": ["a"]"#),
                "engine, the name of one of engines, is missing",
            ),
            (
                bridge(r#""engine": "main", "subjects": ["a"]"#),
                "direction, \"out\" or \"in\", is missing",
            ),
            (
                bridge(r#""engine": "main", "direction": "in", "subjects": ["a"]"#),
                "subjects has no meaning for this direction",
            ),
            (
                bridge(r#""engine": "main", "direction": "in""#),
                "from, where the events come from there, is missing",
            ),
            (
                bridge(r#""engine": "main", "direction": "in", "from": "A", "subject": "{x}""#),
                "in which {subject} stands for",
            ),
            (
                bridge(r#""engine": "main", "direction": "sideways", "from": "A""#),
                "\"out\" or \"in\" is wanted",
            ),
            (
                bridge(
                    r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "a.", "group": "g""#,
                ),
                "group has no meaning for this direction",
            ),
            (
                bridge(r#""engine": "main", "direction": "in", "from": "A", "layout": "dotmac""#),
                "dotmac is for redis",
            ),
            (
                bridge(r#""engine": "main", "direction": "in", "from": "A", "claimAfter": 60"#),
                "claimAfter and delete are for redis",
            ),
            (
                bridge(
                    r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "a.", "delete": true"#,
                ),
                "delete has no meaning for this direction",
            ),
            (
                r#""engines": {"b": {"type": "hub", "servers": "nats://a:1"}}"#.into(),
                "begins with tcp://",
            ),
            (
                bridge(r#""engine": "main", "direction": "out""#),
                "subjects, what goes out, is missing",
            ),
            (
                bridge(r#""engine": "main", "direction": "out", "subjects": ["a"]"#),
                "to is missing",
            ),
            (
                bridge(
                    r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "$JS.API.""#,
                ),
                "words of letters",
            ),
            (
                bridge(r#""engine": "mian", "direction": "out", "subjects": ["a"], "to": "a.""#),
                "did you mean \"main\"?",
            ),
            (
                bridge(
                    r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "a.", "maxInFlight": 0"#,
                ),
                "1 to 100000",
            ),
        ];
        for (json, wanted) in table {
            let said = read(&format!("{{{json}}}")).unwrap_err().to_string();
            assert!(said.contains(wanted), "{json}: {said}");
        }
    }

    #[test]
    fn all_that_is_amiss_is_said_at_once() {
        let bridge = r#""b": {"direction": "in", "subjects": ["a"], "to": "a.", "group": "g"}"#;
        let said = read(&format!("{{{ENGINE}, \"bridges\": {{{bridge}}}}}"));
        let said = said.unwrap_err().to_string();
        for wanted in [
            "engine, the name of one of engines, is missing",
            "from, where the events come from there, is missing",
            "to has no meaning",
            "subjects has no meaning",
        ] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }

    #[test]
    fn a_bridge_to_the_daemon_itself_is_refused() {
        for (own, server) in [
            ("tcp://*:5002", "tcp://localhost:5002"),
            ("tcp://10.0.0.1:5002", "tcp://10.0.0.1:5002"),
        ] {
            let json = format!(
                r#"{{"requestAddress": "{own}", "engines": {{"other": {{"type": "hub", "servers": "{server}"}}}}}}"#
            );
            let said = read(&json).unwrap_err().to_string();
            let wanted = format!("engines.other: {server} is this daemon's own requestAddress");
            assert!(said.contains(&wanted), "{said}");
        }
    }

    #[test]
    fn every_wrong_server_is_named() {
        let json = r#"{"engines": {"main": {"type": "nats", "servers": ["nats://a:1", "http://b", "c", "x://d"]}}}"#;
        let said = read(json).unwrap_err().to_string();
        assert!(said.contains("\"c\""), "{said}");
        let json = json.replace("\"c\", ", "");
        let said = read(&json).unwrap_err().to_string();
        assert!(
            said.contains("http://b") && said.contains("x://d"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn a_name_that_no_service_can_have_is_the_bridges_fault() {
        let (long, escaped) = ("x".repeat(250), "a/".repeat(70));
        for (name, why) in [
            ("o.DLQ", "ends with .DLQ"),
            (&*long, "is longer than 244 bytes"),
            (
                &*escaped,
                "is longer than 244 bytes, where each / and % is three",
            ),
        ] {
            let bridge = format!(
                "\"bridges\": {{\n\"{name}\": {{\"engine\": \"main\", \"direction\": \"out\", \"subjects\": [\"a\"], \"to\": \"a.\"}}}}"
            );
            let said = read(&format!("{{{ENGINE}, {bridge}}}"))
                .unwrap_err()
                .to_string();
            assert_eq!(said.lines().count(), 1, "{said}");
            let begin = format!("config.json:2: bridges.{name}: ");
            assert!(said.starts_with(&begin), "{said}");
            let wanted = format!("the name of this bridge {why}");
            assert!(said.contains(&wanted), "{said}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let json = r#"{"engines": {"main": {"type": "nats", "servers": "nats://em:s3cret@a:1"}}}"#;
        let said = read(json).unwrap_err().to_string();
        assert!(
            said.contains("passwordFile") && !said.contains("s3cret"),
            "{said}"
        );
    }
}
