#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

use super::*;
use crate::broker::{BindFailure, BrokerConfig, Policies, QueueLimits, ServiceKey};
use crate::messagebus::{DataType, decode};
use crate::model::ServiceName;
use bytes::Bytes;

struct Willing;

impl Streamers for Willing {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

struct Fixture {
    broker: Broker,
    settings: Settings,
    now: Instant,
    happened: Vec<Happening>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            broker: Broker::new(BrokerConfig {
                streamer_ports: 5002..=5002,
                subscription_ttl: Duration::from_secs(60),
                subscriptions_max: 10,
                patterns_per_service_max: 10,
                policies: Policies::live(QueueLimits {
                    bytes_max: 1000,
                    events_max: 10,
                }),
            }),
            settings: Settings {
                id_prefix: "sub".into(),
                pub_address: "tcp://host:5000".into(),
                pull_address_prefix: "tcp://host:".into(),
                limits: Limits {
                    subject_bytes_max: 20,
                    ..Limits::default()
                },
                has_store: false,
                publish_timeout: Duration::from_secs(30),
            },
            now: Instant::now(),
            happened: vec![],
        }
    }

    fn ask(&mut self, request: &Message) -> Outcome {
        let mut ended = vec![];
        handle(
            request,
            &mut Context {
                broker: &mut self.broker,
                streamers: &mut Willing,
                ended: &mut ended,
                happened: &mut self.happened,
                now: self.now,
                settings: &self.settings,
            },
        )
    }

    fn reply(&mut self, request: &Message) -> (Token, String) {
        match self.ask(request) {
            Outcome::Reply(reply) => (reply.token, String::from_utf8(reply.data.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn json(&mut self, text: &str) -> (Token, String) {
        let (request, _) = decode(&[Bytes::copy_from_slice(text.as_bytes())]).unwrap();
        self.reply(&request)
    }
}

fn ack(data: &str) -> (Token, String) {
    (Token::ACK, data.to_owned())
}

#[test]
fn a_subscription_lives_and_ends() {
    let mut fixture = Fixture::new();
    let subscribe = Message::param(Token::SUBSCRIBE, ["s1", "Billing", "Order"]);
    assert_eq!(
        fixture.reply(&subscribe),
        ack("s1\0tcp://host:5000\0tcp://host:5002")
    );
    assert_eq!(
        fixture.reply(&Message::param(Token::KEEP_ALIVE, ["s1"])),
        ack("")
    );
    assert_eq!(
        fixture.reply(&Message::param(Token::UNSUBSCRIBE, ["s1", "Order"])),
        ack("")
    );
    let (token, data) = fixture.reply(&Message::param(Token::KEEP_ALIVE, ["s1"]));
    assert_eq!(
        (token, &data[..]),
        (
            Token::NAK,
            "unknown-subscription: no subscription \"s1\"; subscribe again"
        )
    );
}

#[test]
fn names_may_be_made_up_or_named() {
    let mut fixture = Fixture::new();
    for expected in ["sub-1\0", "sub-2\0"] {
        let reply = fixture.reply(&Message::param(Token::SUBSCRIBE, ["", "Billing", ""]));
        assert!(
            reply.0 == Token::ACK && reply.1.starts_with(expected),
            "{reply:?}"
        );
    }
    let reply = fixture.json(
        r#"{"token": "subscribe", "id": "x", "service": "Billing", "subjects": ["a", "glob:b.*"]}"#,
    );
    assert_eq!(reply, ack("x\0tcp://host:5000\0tcp://host:5002"));
    assert_eq!(
        fixture.json(r#"{"token": "unsubscribe", "id": "x"}"#),
        ack("")
    );
}

#[test]
fn wrong_requests_are_answered_with_a_code() {
    let mut fixture = Fixture::new();
    let long = "x".repeat(256);
    let endless = "\0".repeat(Limits::default().subscriptions_per_peer_max + 3);
    let param = |token, fields: &[&str]| Message::param(token, fields.iter().copied());
    for (request, code) in [
        (param(Token::SUBSCRIBE, &["s1"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", "", "A"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", "Billing"]), "missing-field"),
        (param(Token::SUBSCRIBE, &["s1", &long, "A"]), "invalid-name"),
        (
            param(Token::SUBSCRIBE, &[&long, "Billing", "A"]),
            "invalid-name",
        ),
        (
            param(Token::SUBSCRIBE, &["s1", "Billing", &long]),
            "invalid-subject",
        ),
        (
            param(Token::SUBSCRIBE, &["s1", "Billing", "glob:"]),
            "invalid-subject",
        ),
        (
            Message::new(Token::SUBSCRIBE, DataType::Param, endless.clone()),
            "too-many-subjects",
        ),
        (
            Message::new(Token::UNSUBSCRIBE, DataType::Param, endless),
            "too-many-subjects",
        ),
        (
            Message::new(Token::SUBSCRIBE, DataType::Param, &b"s1\0\xFF\0A"[..]),
            "invalid-utf8",
        ),
        (param(Token::KEEP_ALIVE, &[""]), "missing-field"),
        (
            param(Token::KEEP_ALIVE, &["nobody"]),
            "unknown-subscription",
        ),
        (
            param(Token::UNSUBSCRIBE, &["nobody"]),
            "unknown-subscription",
        ),
        (param(Token::PUBLISH, &["data"]), "missing-field"),
        (param(Token::PUBLISH, &["data", &long]), "invalid-subject"),
        (param(Token::LOCATE, &["Billing"]), "unknown-token"),
    ] {
        let (token, data) = fixture.reply(&request);
        assert!(
            token == Token::NAK && data.starts_with(&format!("{code}: ")),
            "{data} is not {code}"
        );
    }
    for (text, code) in [
        (
            r#"{"token": "subscribe", "service": "B", "subject": "a", "ack": true}"#,
            "unknown-field",
        ),
        (r#"{"token": "subscribe", "service": 7}"#, "invalid-field"),
        (r#"{"token": "end", "service": 7}"#, "invalid-field"),
        (r#"{"token": "publish", "payload": "x"}"#, "missing-field"),
    ] {
        assert!(fixture.json(text).1.starts_with(code), "{text}");
    }
    fixture.reply(&param(Token::SUBSCRIBE, &["s1", "A", "x"]));
    assert!(
        fixture
            .reply(&param(Token::SUBSCRIBE, &["s2", "B", "x"]))
            .1
            .starts_with("no-port: ")
    );
    assert_eq!(fixture.broker.subscription_count(), 1);
}

#[test]
fn what_has_no_meaning_is_refused_in_every_request() {
    let mut fixture = Fixture::new();
    fixture.reply(&Message::param(Token::SUBSCRIBE, ["s1", "A", "x"]));
    let of_others = [
        "id", "service", "subjects", "delivery", "payload", "answers", "level", "ttl", "op",
        "limit", "after", "max",
    ];
    for (token, names, _) in REQUESTS {
        let token = token.name().unwrap();
        let others = of_others.iter().filter(|name| !names.contains(name));
        for name in others.chain(&["nonsense", ""]) {
            let (answer, data) =
                fixture.json(&format!(r#"{{"token": "{token}", "{name}": null}}"#));
            assert_eq!(answer, Token::NAK, "{token} {name}");
            let sentence = format!("unknown-field: {name:?} is no field of this request; ");
            assert!(data.starts_with(&sentence), "{token}: {data}");
        }
    }
    // The subscription is as it was.
    let kept = r#"{"token": "keep_alive", "sub_id": "s1"}"#;
    assert_eq!(fixture.json(kept), ack(""));
}

#[test]
fn a_sync_event_goes_to_the_services_that_match_unchanged() {
    let mut fixture = Fixture::new();
    fixture.reply(&Message::param(
        Token::SUBSCRIBE,
        ["s1", "Billing", "Order"],
    ));
    let payload = "data\0OrderCreated\0type\x001\0source";
    let mut request = Message::new(Token::PUBLISH, DataType::Param, payload);
    request.timeout = Some(Duration::from_secs(1));
    let Outcome::Call(call) = fixture.ask(&request) else {
        panic!()
    };
    assert_eq!(
        call.message,
        Message::new(Token::EVENT, DataType::Param, payload)
    );
    assert_eq!(
        (&call.subject[..], call.timeout),
        ("OrderCreated", Duration::from_secs(1))
    );
    assert_eq!(call.services, [ServiceName::new("Billing").unwrap()]);
    let (request, _) = decode(&[Bytes::from_static(
        br#"{"token":"publish","subject":"Refund","payload":{"n":1}}"#,
    )])
    .unwrap();
    let Outcome::Call(call) = fixture.ask(&request) else {
        panic!()
    };
    assert_eq!(call.message.data, "{\"n\":1}\0Refund\0\0\0");
    assert!(call.services.is_empty() && call.timeout == Duration::from_secs(30));
}

#[test]
fn what_is_new_is_told_and_what_was_there_is_not() {
    let mut fixture = Fixture::new();
    let mut told = |token, fields: &[&str]| {
        fixture.ask(&Message::param(token, fields.iter().copied()));
        std::mem::take(&mut fixture.happened)
    };
    let (id, name) = (
        |id: &str| SubscriptionId::new(id).unwrap(),
        |name: &str| ServiceName::new(name).unwrap(),
    );
    let subscribed = |subscription: &str, opened| Happening::Subscribed {
        id: id(subscription),
        service: name("Billing"),
        subjects: vec!["Order".into()],
        port: 5002,
        opened,
    };
    let order = |id| [id, "Billing", "Order"];
    assert_eq!(
        told(Token::SUBSCRIBE, &order("s1")),
        [subscribed("s1", true)]
    );
    assert_eq!(told(Token::SUBSCRIBE, &order("s1")), []);
    assert_eq!(
        told(Token::SUBSCRIBE, &order("s2")),
        [subscribed("s2", false)]
    );
    assert_eq!(told(Token::KEEP_ALIVE, &["s2"]), []);
    assert_eq!(told(Token::UNSUBSCRIBE, &["s2", "Refund"]), []);
    let unsubscribed = Happening::Unsubscribed {
        id: id("s2"),
        service: name("Billing"),
    };
    assert_eq!(told(Token::UNSUBSCRIBE, &["s2", "Order"]), [unsubscribed]);
    assert_eq!(told(Token::UNSUBSCRIBE, &["s2"]), []);
    let refused = told(Token::SUBSCRIBE, &["s3", "Kitchen", "Meal"]);
    assert!(
        matches!(&refused[..], [Happening::NoPort { service, .. }] if *service == name("Kitchen"))
    );
}
