use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::config::{Config, parse};
use event_manager_core::broker::{DeliveryMode, WhenFull};
use event_manager_wire::model::ServiceName;

fn read(services: &Value, more: &Value) -> Result<Config, Vec<String>> {
    let mut config = json!({
        "stateDir": "/var/lib/event-manager",
        "engines": {
            "main": {"type": "nats", "servers": "nats://n:4222"},
            "office": {"type": "hub", "servers": "tcp://office:5101"},
            "rabbit": {"type": "rabbitmq", "servers": "amqp://r:5672"},
        },
        "services": services,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let read = parse("c.json", &config.to_string(), &BTreeMap::new(), &[]);
    read.map(|loaded| loaded.config).map_err(|errors| errors.0)
}

#[test]
fn a_service_has_its_queue_at_an_engine_and_a_spool_here() {
    let billing = json!({
        "delivery": "engine", "engine": "main", "subjects": ["Order"], "ackTimeout": 5,
        "maxInFlight": 20, "retention": {"maxBytes": 70_000_000},
    });
    let config = read(&json!({"Billing": billing}), &json!({})).unwrap();
    let name = |text| ServiceName::new(text).unwrap();
    let served: Vec<_> = config.services.served().collect();
    assert_eq!(served.len(), 1);
    assert_eq!(
        (served[0].0, served[0].1.engine),
        (&name("Billing"), "main")
    );
    assert_eq!(served[0].1.in_flight_max, 20);
    let policy = config.policy_of(&name("Billing"));
    assert_eq!(policy.delivery, DeliveryMode::Engine);
    assert_eq!(policy.backlog.when_full, WhenFull::Spill);
    assert_eq!(policy.spool, Some(name("engine.Billing")));
    let spool = config.policy_of(&name("engine.Billing"));
    assert_eq!((spool.delivery, spool.spool), (DeliveryMode::Queue, None));
    assert_eq!(spool.retention.bytes_max, 70_000_000);
    assert_eq!(spool.backlog.retry.max_deliveries, 1_000_000);
    let declared: BTreeMap<_, _> = config.services.declared().collect();
    assert_eq!(declared[&name("Billing")].len(), 1);
    assert!(declared[&name("engine.Billing")].is_empty());
}

#[test]
fn what_can_t_hold_is_refused_by_name() {
    for (services, expected) in [
        (
            json!({"a": {"delivery": "engine", "subjects": ["x"]}}),
            "services.a.delivery: \"engine\": engine is missing, the name of one of engines",
        ),
        (
            json!({"a": {"delivery": "engine", "subjects": ["x"], "engine": "offise"}}),
            "services.a.engine: \"offise\": engines has none of this name; did you mean \"office\"?",
        ),
        (
            json!({"a": {"delivery": "engine", "engine": "main"}}),
            "services.a.delivery: \"engine\": subjects is missing: what goes to its queue",
        ),
        (
            json!({"a*": {"delivery": "engine", "engine": "main"}}),
            "services.a*.delivery: \"engine\": only with an exact name, not with a glob: each has a queue of its own",
        ),
        (
            json!({"a": {"delivery": "engine", "engine": "main", "subjects": ["x"], "orderBy": "subject"}}),
            "services.a.orderBy: \"subject\": not with delivery \"engine\": daemons that share a queue keep no order by key; set it to null, or keep the queue here (delivery \"queue\")",
        ),
        (
            json!({"a": {"delivery": "engine", "engine": "office", "subjects": ["x"]}}),
            "services.a.engine: \"office\": services can't have their queue at hub: use nats, redis or rabbitmq, or delivery \"queue\" and a bridge",
        ),
        (
            json!({"a": {"delivery": "engine", "engine": "rabbit", "subjects": ["x"], "ackTimeout": 300, "retry": {"maxDeliveries": 7}}}),
            "services.a.delivery: \"engine\": ackTimeout times retry.maxDeliveries are 2100 s: RabbitMQ gives to others what is not acknowledged after 1800 s; make them shorter",
        ),
        (
            json!({"a": {"delivery": "engine", "engine": "main", "subjects": ["x"], "whenFull": "drop-oldest"}}),
            "services.a.whenFull: \"drop-oldest\": only with delivery \"live\"",
        ),
        (
            json!({"a": {"engine": "main"}}),
            "services.a.engine: \"main\": only with delivery \"engine\"",
        ),
        (
            json!({"a": {"maxInFlight": 1}}),
            "services.a.maxInFlight: 1: only with delivery \"engine\"",
        ),
    ] {
        let errors = read(&services, &json!({})).unwrap_err();
        assert_eq!(errors, [format!("c.json:1: {expected}")]);
    }
    let long = "a".repeat(245);
    let service = json!({"delivery": "engine", "engine": "main", "subjects": ["x"]});
    let errors = read(&json!({long: service.clone()}), &json!({})).unwrap_err();
    assert!(errors[0].contains("has at most 244 bytes"), "{errors:?}");
    let bridge = json!({"engine": "main", "direction": "in", "from": "A"});
    let both = json!({"bridges": {"a": bridge}});
    let errors = read(&json!({"a": service.clone()}), &both).unwrap_err();
    assert!(
        errors[0].contains("call the bridge otherwise"),
        "{errors:?}"
    );
    let errors = read(&json!({"a": service}), &json!({"stateDir": ""})).unwrap_err();
    assert!(errors[0].contains("needs a stateDir"), "{errors:?}");
}
