use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Config, ConfigErrors, parse};
use event_manager_core::broker::{ServiceOptions, WhenFull};

const BUDGET: QueueLimits = QueueLimits {
    bytes_max: 5000,
    events_max: 7,
};

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn file(services: &str) -> Result<Config, ConfigErrors> {
    let json = format!("{{\n\"services\": {services}}}");
    parse("c.json", &json, &BTreeMap::new(), &[]).map(|loaded| loaded.config)
}

fn errors(services: &str) -> Vec<String> {
    file(services).unwrap_err().0
}

fn policy(services: &str, service: &str) -> ServicePolicy {
    file(services).unwrap().policy_of(&name(service))
}

#[test]
fn without_an_entry_all_is_as_it_was() {
    let expected = ServicePolicy {
        delivery: DeliveryMode::Live,
        spool: None,
        backlog: Policy::live(BUDGET),
        order_by: None,
        dead_letter_subject: None,
        retention: Retention {
            bytes_max: 10 << 30,
            age_max: None,
        },
    };
    assert_eq!(
        Services::default().policy_of(&name("x"), None, &ServiceOptions::default(), BUDGET),
        expected
    );
    let config = parse(
        "c",
        r#"{"budgets": {"serviceQueueEvents": 3}, "services": {"y": {"queueEvents": 4}}}"#,
        &BTreeMap::new(),
        &[],
    );
    let config = config.unwrap().config;
    assert_eq!(config.policy_of(&name("x")).backlog.limits.events_max, 3);
    assert_eq!(config.policy_of(&name("y")).backlog.limits.events_max, 4);
}

#[test]
fn every_field_is_read() {
    let services = r#"{
        "Billing": {"delivery": "queue", "subjects": ["Order", "exact:x"], "whenFull": "spill",
            "queueBytes": 67108864, "queueEvents": 1000, "ackTimeout": 0.5,
            "retry": {"initialMs": 10, "multiplier": 1.5, "maxMs": 2000, "maxDeliveries": 3},
            "orderBy": 1023, "deadLetterSubject": "failed.bills", "retention": {"maxBytes": 67108865, "maxAge": 60}}}"#;
    let expected = ServicePolicy {
        delivery: DeliveryMode::Queue,
        spool: None,
        backlog: Policy {
            limits: QueueLimits {
                bytes_max: 67_108_864,
                events_max: 1000,
            },
            when_full: WhenFull::Spill,
            ack_timeout: Duration::from_millis(500),
            retry: Retry {
                initial: Duration::from_millis(10),
                multiplier: 1.5,
                max: Duration::from_secs(2),
                max_deliveries: 3,
            },
        },
        order_by: Some(OrderBy::Frame(1023)),
        dead_letter_subject: Some(EventSubject::new("failed.bills", 100).unwrap()),
        retention: Retention {
            bytes_max: 67_108_865,
            age_max: Some(Duration::from_secs(60)),
        },
    };
    assert_eq!(policy(services, "Billing"), expected);
    let config = file(services).unwrap();
    let declared: Vec<_> = config
        .services
        .declared()
        .map(|(name, subjects)| {
            (
                name.to_string(),
                json!(subjects.iter().map(ToString::to_string).collect::<Vec<_>>()),
            )
        })
        .collect();
    assert_eq!(declared, [("Billing".into(), json!(["Order", "exact:x"]))]);
}

#[test]
fn dead_letters_have_the_subject_that_the_most_specific_entry_says() {
    let services = r#"{
        "*": {"deadLetterSubject": "failed"},
        "Billing": {"deadLetterSubject": null}, "Kitchen": {"deadLetterSubject": "burnt"}}"#;
    let subject = |service| {
        let subject = policy(services, service).dead_letter_subject;
        subject.map(|subject| subject.as_str().to_owned())
    };
    assert_eq!(subject("Any"), Some("failed".into()));
    assert_eq!(subject("Kitchen"), Some("burnt".into()));
    assert_eq!(subject("Billing"), None, "null is a value");
    let long = "x".repeat(1025);
    for (wrong, why) in [
        ("7", "a subject or null is wanted"),
        (r#""""#, "the subject is empty"),
        (r#""a\u0000b""#, "the subject holds a NUL"),
        (r#""exact:x""#, "the subject is a pattern"),
        (
            &json!(long).to_string(),
            "longer than limits.maxSubjectBytes 1024",
        ),
    ] {
        let errors = errors(&format!(r#"{{"a": {{"deadLetterSubject": {wrong}}}}}"#));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains("services.a.deadLetterSubject"),
            "{errors:?}"
        );
        assert!(errors[0].contains(why), "{errors:?}");
    }
}

#[test]
fn the_delivery_decides_what_a_full_queue_does_unless_it_is_said() {
    let services = r#"{
        "*": {"whenFull": "drop-newest", "orderBy": "subject"},
        "Durable": {"delivery": "queue", "orderBy": null},
        "Oldest": {"whenFull": "drop-oldest"}}"#;
    assert_eq!(
        policy(services, "Any").backlog.when_full,
        WhenFull::DropNewest
    );
    assert_eq!(
        policy(services, "Oldest").backlog.when_full,
        WhenFull::DropOldest
    );
    let durable = policy(services, "Durable");
    assert_eq!(durable.backlog.when_full, WhenFull::Spill);
    assert_eq!(durable.order_by, None, "null is a value");
    let services =
        r#"{"*": {"delivery": "queue", "whenFull": "spill"}, "Tick": {"delivery": "live"}}"#;
    assert_eq!(
        policy(services, "Tick").backlog.when_full,
        WhenFull::DropOldest
    );
    assert_eq!(policy(services, "Any").backlog.when_full, WhenFull::Spill);
}

#[test]
fn of_equals_the_one_written_first_goes_before() {
    let services = r#"{"b*": {"ackTimeout": 1}, "*a": {"ackTimeout": 2}}"#;
    let from_file = policy(services, "ba").backlog.ack_timeout;
    assert_eq!(from_file, Duration::from_secs(1));
    let env = [("EVENT_MANAGER_SERVICES".to_owned(), services.to_owned())].into();
    let loaded = parse("c", r#"{"services": {"ba": {"ackTimeout": 9}}}"#, &env, &[]).unwrap();
    let from_env = loaded.config.policy_of(&name("ba")).backlog.ack_timeout;
    assert_eq!(from_env, Duration::from_secs(1));
    let origin = "environment EVENT_MANAGER_SERVICES".to_owned();
    assert_eq!(loaded.origins, [("services".into(), origin)].into());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let found = errors(
        "{\n\"Billing\": {\"ackTimeuot\": 1, \"delivery\": \"disk\",\n\"retry\": {\"maxMS\": 1, \"multiplier\": 0.5}},\n\
         \"b\": 7, \"c\": {\"retention\": []},\n\
         \"d\": {\"orderBy\": \"frame\", \"subjects\": []},\n\
         \"e.f\": {\"subjects\": [\"exact:\"], \"orderBy\": 1024, \"queueBytes\": 5},\n\
         \"\": {}, \"a\\nb\": {}, \"g\": {\"subjects\": [7]}}",
    );
    let mut expected = [
        "c.json:3: unknown key \"services.Billing.ackTimeuot\"; did you mean \"ackTimeout\"?",
        "c.json:3: services.Billing.delivery: \"disk\": \"live\" or \"queue\" or \"engine\" is wanted",
        "c.json:4: unknown key \"services.Billing.retry.maxMS\"; did you mean \"retry.maxMs\"?",
        "c.json:4: services.Billing.retry.multiplier: 0.5: a number from 1 to 100 is wanted",
        "c.json:5: services.b: 7: an object is wanted",
        "c.json:5: services.c.retention: []: an object is wanted",
        "c.json:6: services.d.orderBy: \"frame\": \"subject\", a frame's index from 0 to 1023 or null is wanted",
        "c.json:6: services.d.subjects: []: a list of at least one subject is wanted",
        "c.json:7: services.e.f.subjects: [\"exact:\"]: the subject \"exact:\" names a dialect but no subject",
        "c.json:7: services.e.f.orderBy: 1024: \"subject\", a frame's index from 0 to 1023 or null is wanted",
        "c.json:7: services.e.f.queueBytes: 5: a whole number from 1024 to 1099511627776 is wanted",
        "c.json:8: services.: {}: the name is empty",
        "c.json:8: services.a\nb: {}: the name contains a control character",
        "c.json:8: services.g.subjects: [7]: a list of texts is wanted",
    ];
    let mut found: Vec<_> = found.iter().map(String::as_str).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn numbers_have_bounds() {
    for (field, least, most) in [
        ("queueEvents", json!(1), json!(1_u64 << 40)),
        ("ackTimeout", json!(0.01), json!(86_400)),
        ("retry.initialMs", json!(0), json!(3_600_000)),
        ("retry.multiplier", json!(1), json!(100)),
        ("retry.maxMs", json!(0), json!(86_400_000)),
        ("retry.maxDeliveries", json!(1), json!(1_000_000)),
        ("orderBy", json!(0), json!(1023)),
        ("retention.maxAge", json!(0), json!(315_360_000)),
        ("retention.maxBytes", json!(1024), json!(1_u64 << 40)),
    ] {
        let read = |value: Value| {
            let entry = match field.split_once('.') {
                None => json!({ field: value }),
                Some((object, name)) => json!({ object: { name: value } }),
            };
            Services::read_all(&json!({ "x": entry }))
        };
        let (above, below) = (
            json!(most.as_f64().unwrap() + 1.0),
            json!(least.as_f64().unwrap() - 0.001),
        );
        assert!(read(least).is_ok() && read(most).is_ok(), "{field}");
        assert!(read(above).is_err() && read(below).is_err(), "{field}");
    }
}

#[test]
fn a_durable_name_that_is_no_file_name_is_refused() {
    let long = "a/".repeat(63);
    let queue = json!({"delivery": "queue"});
    for fine in [
        json!({"a/".repeat(62): queue}),
        json!({&*long: {"delivery": "live"}}),
        // No service yet.
        json!({"*": queue, &*long: {"ackTimeout": 1}}),
    ] {
        assert!(file(&fine.to_string()).is_ok(), "{fine}");
    }
    for (services, field) in [
        (json!({&*long: queue}), "delivery: \"queue\""),
        (
            json!({"*": queue, &*long: {"subjects": ["x"]}}),
            "subjects: [\"x\"]",
        ),
    ] {
        let [said] = &*errors(&services.to_string()) else {
            panic!("one sentence is enough");
        };
        let is = "it has 252 bytes; the limit is 251; choose a shorter one";
        let begin = format!("c.json:2: services.{long}.{field}: no durable");
        assert!(said.starts_with(&begin) && said.ends_with(is), "{said}");
    }
}

#[test]
fn what_does_not_go_together_is_named() {
    for (services, expected) in [
        (
            r#"{"a": {"whenFull": "spill"}}"#,
            "services.a.whenFull: \"spill\": only with delivery \"queue\"",
        ),
        (
            r#"{"a.DLQ": {"delivery": "queue"}}"#,
            "services.a.DLQ.delivery: \"queue\": under a name that ends with .DLQ the dead letters of another service are on disk",
        ),
        (
            r#"{"a": {"delivery": "queue", "whenFull": "drop-oldest"}}"#,
            "services.a.whenFull: \"drop-oldest\": only with delivery \"live\"",
        ),
        (
            r#"{"*": {"delivery": "queue"}, "a*": {"whenFull": "drop-newest"}}"#,
            "services.a*.whenFull: \"drop-newest\": only with delivery \"live\"",
        ),
        (
            r#"{"a*": {"delivery": "queue", "subjects": ["x"]}}"#,
            "services.a*.subjects: [\"x\"]: only with an exact name, not with a glob",
        ),
        (
            r#"{"a": {"subjects": ["x"]}}"#,
            "services.a.subjects: [\"x\"]: only with delivery \"queue\" or \"engine\"",
        ),
        (
            r#"{"a": {"queueBytes": 67108863}}"#,
            "services.a.queueBytes: 67108863: below limits.maxMessageBytes 67108864",
        ),
        (
            r#"{"a": {"retention": {"maxBytes": 67108863}}}"#,
            "services.a.retention.maxBytes: 67108863: below limits.maxMessageBytes 67108864",
        ),
        (
            r#"{"a": {"retry": {"initialMs": 30001}}}"#,
            "services.a.retry.initialMs: 30001: above retry.maxMs 30000",
        ),
        (
            r#"{"*": {"retry": {"initialMs": 5, "maxMs": 5}}, "a": {"retry": {"maxMs": 4}}}"#,
            "services.a.retry.maxMs: 4: below retry.initialMs 5",
        ),
    ] {
        assert_eq!(errors(services), [format!("c.json:2: {expected}")]);
    }
    let declared =
        r#"{"*": {"delivery": "queue"}, "a": {"subjects": ["x", "yy"], "whenFull": "spill"}}"#;
    assert!(file(declared).is_ok(), "the glob makes it durable");
    let within = |limits: Limits| {
        let services = Services::read_all(&serde_json::from_str(declared).unwrap()).unwrap();
        let wrong = services.check(&limits).into_iter();
        wrong.map(|wrong| wrong.said("")).collect::<Vec<_>>()
    };
    let one_subject = Limits {
        subscriptions_per_peer_max: 1,
        ..Limits::default()
    };
    assert!(within(one_subject)[0].ends_with("more than limits.maxSubscriptionsPerPeer 1"));
    let one_byte = Limits {
        subject_bytes_max: 1,
        ..Limits::default()
    };
    assert!(within(one_byte)[0].ends_with("one is longer than limits.maxSubjectBytes 1"));
}

#[test]
fn a_text_holds_an_object_in_which_nothing_stands_twice() {
    for (text, expected) in [
        ("{", "an object in JSON is wanted: EOF"),
        ("7", "services: \"7\": an object in JSON is wanted"),
        (r#"{"a": {}, "a": {}}"#, "\"a\" stands there twice"),
        (
            r#"{"a": {"ackTimeout": 1, "ackTimeout": 2}}"#,
            "\"a.ackTimeout\" stands there twice",
        ),
        (
            r#"{"a": {"whenFull": "spill"}}"#,
            "command line: services.a.whenFull: ",
        ),
    ] {
        let found = parse(
            "c",
            r#"{"services": {"a": {"ackTimeout": 1}}}"#,
            &BTreeMap::new(),
            &[("services", text.into())],
        );
        let found = found.unwrap_err().0;
        assert!(found[0].starts_with("command line: "), "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
    let doubled = errors("{\"a\": {},\n\"a\": {}}");
    assert_eq!(doubled, ["c.json:3: services.a stands in line 2 already"]);
    let apart = file(r#"{"a.retry": {}, "a": {"retry": {"maxMs": 9000}}}"#);
    assert!(apart.is_ok(), "a name may have dots");
}

#[test]
fn operations_list_every_field_and_show_what_is_valid() {
    const OPERATIONS: &str = include_str!("../../../docs/operations.md");
    for field in fields::names() {
        let row = format!("| `{field}` |");
        assert!(OPERATIONS.contains(&row), "no row {row}");
    }
    let start = OPERATIONS.find("\"services\": {\n").unwrap();
    let example = OPERATIONS[start..].split("\n```").next().unwrap();
    let example = format!("{{{example}}}");
    let config = parse("docs", &example, &BTreeMap::new(), &[])
        .unwrap()
        .config;
    let kitchen = config.policy_of(&name("Kitchen")).backlog;
    assert_eq!(kitchen.when_full, WhenFull::DropNewest);
    assert_eq!(kitchen.ack_timeout, Duration::from_secs(10));
}

/// The definition, as naive as it can be said.
fn glob_matches(glob: &[char], name: &[char]) -> bool {
    match glob {
        [] => name.is_empty(),
        ['*', rest @ ..] => (0..=name.len()).any(|n| glob_matches(rest, &name[n..])),
        ['?', rest @ ..] => !name.is_empty() && glob_matches(rest, &name[1..]),
        [own, rest @ ..] => name.first() == Some(own) && glob_matches(rest, &name[1..]),
    }
}

fn matches(written: &str, name: &str) -> bool {
    let characters = |text: &str| text.chars().collect::<Vec<_>>();
    glob_matches(&characters(written), &characters(name))
}

/// What one entry says of some of the fields.
#[derive(Debug, Clone)]
struct Said {
    delivery: Option<bool>,
    when_full: Option<usize>,
    deliveries: Option<u32>,
    order_by: Option<Option<usize>>,
}

const WHEN_FULL: [(&str, WhenFull); 3] = [
    ("drop-oldest", WhenFull::DropOldest),
    ("drop-newest", WhenFull::DropNewest),
    ("spill", WhenFull::Spill),
];

impl Said {
    fn written(&self) -> Value {
        let mut entry = json!({});
        if let Some(durable) = self.delivery {
            entry["delivery"] = json!(if durable { "queue" } else { "live" });
        }
        if let Some(n) = self.when_full {
            entry["whenFull"] = json!(WHEN_FULL[n].0);
        }
        if let Some(n) = self.deliveries {
            entry["retry"] = json!({ "maxDeliveries": n });
        }
        if let Some(index) = self.order_by {
            entry["orderBy"] = json!(index);
        }
        entry
    }
}

/// The value of one field: each rule in turn, over all entries in the order they were written.
fn best<T: Copy>(
    entries: &[(String, Said)],
    name: &str,
    field: impl Fn(&Said) -> Option<T>,
) -> Option<T> {
    let is_glob = |written: &str| written.contains(['*', '?']);
    let exact = entries
        .iter()
        .find_map(|(written, said)| (written == name && !is_glob(written)).then(|| field(said))?);
    let literals = |written: &str| written.chars().filter(|c| !"*?".contains(*c)).count();
    let globs = (0..=name.len()).rev().find_map(|most| {
        entries.iter().find_map(|(written, said)| {
            let fits = is_glob(written) && literals(written) == most && matches(written, name);
            if fits { field(said) } else { None }
        })
    });
    exact.or(globs)
}

fn said() -> impl Strategy<Value = Said> {
    use prop::option::of as option;
    (
        option(any::<bool>()),
        option(0..3usize),
        option(1..50u32),
        option(option(0..9usize)),
    )
        .prop_map(|(delivery, when_full, deliveries, order_by)| Said {
            delivery,
            when_full,
            deliveries,
            order_by,
        })
}

proptest! {
    #[test]
    fn globs_agree_with_the_definition(glob in "[abü*?]{1,8}", name_text in "[abü.]{1,9}") {
        let pattern = NamePattern::new(&glob).unwrap();
        prop_assert_eq!(pattern.matches(&name(&name_text)), matches(&glob, &name_text));
    }

    #[test]
    fn the_most_specific_value_of_each_field_wins(
        drawn in prop::collection::vec(("[ab*?]{1,3}", said()), 0..8),
        service in "[ab]{1,3}",
    ) {
        let mut entries: Vec<(String, Said)> = Vec::new();
        for (written, said) in drawn {
            if entries.iter().all(|(other, _)| *other != written) {
                entries.push((written, said));
            }
        }
        let members = entries.iter().map(|(name, said)| format!("{name:?}: {}", said.written()));
        let text = format!("{{{}}}", members.collect::<Vec<_>>().join(", "));
        let services = Services::read_all(&Value::String(text)).unwrap();
        let policy = services.policy_of(&name(&service), None, &ServiceOptions::default(), BUDGET);

        let durable = best(&entries, &service, |said| said.delivery).unwrap_or(false);
        prop_assert_eq!(policy.delivery == DeliveryMode::Queue, durable);
        let when_full = best(&entries, &service, |said| said.when_full).map(|n| WHEN_FULL[n].1);
        let expected = match (durable, when_full) {
            (true, _) => WhenFull::Spill,
            (false, None | Some(WhenFull::Spill)) => WhenFull::DropOldest,
            (false, Some(what)) => what,
        };
        prop_assert_eq!(policy.backlog.when_full, expected);
        let deliveries = best(&entries, &service, |said| said.deliveries);
        prop_assert_eq!(policy.backlog.retry.max_deliveries, deliveries.unwrap_or(8));
        let order_by = best(&entries, &service, |said| said.order_by).flatten();
        prop_assert_eq!(policy.order_by, order_by.map(OrderBy::Frame));
    }
}
