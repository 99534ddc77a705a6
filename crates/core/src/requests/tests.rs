#![allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]

mod refusals;
mod rights;

use std::collections::BTreeSet;

use super::*;
use crate::broker::{BindFailure, BrokerConfig, Policies, QueueLimits, ServiceKey};
use crate::event_id::Emitter;
use crate::security::{Grant, Identity, RequestKinds};
use bytes::Bytes;
use event_manager_wire::messagebus::{DataType, decode};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

struct Willing;

impl Streamers for Willing {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

/// A daemon that does nothing but decide, and tells what it was to do besides.
struct Fixture {
    broker: Broker,
    willing: Willing,
    settings: Settings,
    now: Instant,
    ended: Vec<EndedService>,
    happened: Vec<Happening>,
    stopping: bool,
    full: bool,
    called: Vec<SyncEvent>,
    emitted: Vec<Emission>,
    asked_for: Vec<LettersRequest>,
    grant: Grant,
    claimed: Vec<SubscriptionId>,
}

impl Host for Fixture {
    fn context(&mut self) -> Context<'_> {
        Context {
            broker: &mut self.broker,
            streamers: &mut self.willing,
            ended: &mut self.ended,
            happened: &mut self.happened,
            now: self.now,
            settings: &self.settings,
        }
    }

    fn judge(&mut self, deed: Deed<'_>) -> Result<(), Nak> {
        let granted = self.grant.judge(&Identity::Anonymous, deed, 255);
        granted.map_err(Nak::from)
    }

    fn event_id(&self, said: Bytes) -> EventId {
        EventId::of(Emitter::Client("till"), said)
    }

    fn claim(&mut self, subscription: &SubscriptionId) {
        self.claimed.push(subscription.clone());
    }

    fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn is_full(&self) -> Option<Nak> {
        self.full.then(|| too_many_wait(7))
    }

    fn status(&mut self) -> Answer {
        Answer::ack(DataType::String, "{}")
    }

    fn events(&mut self, after: Option<u64>, max: usize) -> String {
        format!("{after:?} {max}")
    }

    fn instances(&mut self, history: usize) -> String {
        history.to_string()
    }

    fn lease(&mut self, request: LeaseRequest) -> Result<Answer, Nak> {
        Ok(Answer::ack(DataType::String, format!("{request:?}")))
    }

    fn call(&mut self, event: SyncEvent) -> Answer {
        self.called.push(event);
        Answer::Later
    }

    fn emit(&mut self, emission: &Emission) -> Answer {
        self.emitted.push(emission.clone());
        Answer::Later
    }

    fn letters(&mut self, request: LettersRequest) -> Answer {
        self.asked_for.push(request);
        Answer::Later
    }

    fn promise(&mut self, _: &SubscriptionId, _: Message) -> Answer {
        Answer::Later
    }

    fn end(&mut self, service: &ServiceName) -> Result<Answer, EndError> {
        self.broker.end_service(service).map(|_| Answer::Later)
    }
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
            willing: Willing,
            settings: Settings {
                id_prefix: "sub".into(),
                pub_address: "tcp://host:5000".into(),
                pull_address_prefix: "tcp://host:".into(),
                limits: Limits {
                    subject_bytes_max: 20,
                    ..Limits::default()
                },
                has_store: false,
                version: env!("CARGO_PKG_VERSION"),
                publish_timeout: Duration::from_secs(30),
            },
            now: Instant::now(),
            ended: vec![],
            happened: vec![],
            stopping: false,
            full: false,
            called: vec![],
            emitted: vec![],
            asked_for: vec![],
            grant: Grant::everything("security.anonymous"),
            claimed: vec![],
        }
    }

    fn ask(&mut self, request: &Message) -> Answer {
        match find(request.token) {
            Ok(row) => row.answer(request, self),
            Err(nak) => Answer::Now(nak.into()),
        }
    }

    fn reply(&mut self, request: &Message) -> (Token, String) {
        match self.ask(request) {
            Answer::Now(reply) => (reply.token, String::from_utf8(reply.data.to_vec()).unwrap()),
            Answer::Later => panic!("{request:?} is answered later"),
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

/// A message with fields by name.
fn named(token: Token, fields: Map<String, Value>) -> Message {
    Message {
        named: Some(fields),
        ..Message::new(token, DataType::Param, "")
    }
}

#[test]
fn what_has_no_meaning_is_refused_in_every_request() {
    let mut fixture = Fixture::new();
    fixture.reply(&Message::param(Token::SUBSCRIBE, ["s1", "A", "x"]));
    let long = "x".repeat(1 << 20);
    for row in REQUESTS {
        for name in ["nonsense", "", "Id", "ack", &long] {
            for value in [json!(null), json!("x"), json!([])] {
                let fields = Map::from_iter([(name.to_owned(), value)]);
                let (answer, data) = fixture.reply(&named(row.token, fields));
                assert_eq!(answer, Token::NAK, "{} {name}", row.token);
                let shown = &name[..name.len().min(40)];
                let sentence = format!("unknown-field: unknown field \"{shown}");
                assert!(data.starts_with(&sentence), "{}: {data}", row.token);
                // Those that it has are named.
                for known in row
                    .positions
                    .names()
                    .iter()
                    .filter(|name| **name != "options")
                {
                    assert!(data.contains(&format!("{known:?}")), "{known}: {data}");
                }
            }
        }
    }
    // The subscription is as it was.
    let kept = r#"{"token": "keep_alive", "sub_id": "s1"}"#;
    assert_eq!(fixture.json(kept), ack(""));
}

/// The table of fields in docs/protocol.md has those of every request.
#[test]
fn the_documentation_names_all_fields() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
    let quoted = |text: &str, quote| {
        let names = text.split(quote).skip(1).step_by(2);
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (_, table) = text.split_once("| Request | By position |").unwrap();
    for row in REQUESTS {
        let token = row.token.name().unwrap();
        let name = token.trim_start_matches("TK_EVENT_MANAGER_");
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("| {name} |")));
        let (in_order, others) = line
            .unwrap()
            .split_once(" | ")
            .unwrap()
            .1
            .split_once(" |")
            .unwrap();
        let (positions, mut documented) = (quoted(in_order, '`'), quoted(others, '`'));
        assert_eq!(
            positions,
            row.positions
                .names()
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            "{name}"
        );
        documented.extend(positions);
        documented.remove("options");
        let unknown = named(row.token, Map::from_iter([("?".to_owned(), json!(1))]));
        let known = (row.read)(&unknown).unwrap_err().to_string();
        let known = quoted(known.split_once("expected").unwrap().1, '"');
        assert_eq!(documented, known, "{name}");
    }
}

#[test]
fn a_row_says_when_its_request_is_refused() {
    let mut fixture = Fixture::new();
    let fields = |row: &Row| match row.token {
        Token::SUBSCRIBE => "s1\0A\0x",
        Token::PUBLISH => "data\0x",
        Token::EMIT => "\0\0x\0data",
        Token::DLQ => "list\0A",
        Token::STATUS | Token::EVENTS => "",
        _ => "A",
    };
    for (stopping, full, code) in [(true, true, "stopping: "), (false, true, "busy: ")] {
        (fixture.stopping, fixture.full) = (stopping, full);
        for row in REQUESTS {
            let request = Message::new(row.token, DataType::Param, fields(row));
            let answer = match row.answer(&request, &mut fixture) {
                Answer::Now(answer) => String::from_utf8(answer.data.to_vec()).unwrap(),
                Answer::Later => String::new(),
            };
            let refused = if stopping { row.adds } else { row.waits };
            assert_eq!(answer.starts_with(code), refused, "{}: {answer}", row.token);
        }
    }
}

/// What fields are made of: names, numbers, nothing, words that mean something somewhere.
fn field() -> impl Strategy<Value = String> {
    const WORDS: [&str; 9] = [
        "", "memory", "disk", "list", "purge", "Billing", "exact:é", "7", "600",
    ];
    prop_oneof![4 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned), 1 => "[^\0]{0,6}"]
}

/// Fields by position and the same by name: as texts, and with numbers where they could be some and
/// nothing where they are empty.
fn both_forms(row: &Row, mut fields: Vec<String>) -> (Message, [Message; 2]) {
    let names = row.positions.names();
    match row.positions.rest() {
        // A NUL at the end would only end the list.
        Rest::List(_) => fields.push("end".into()),
        // Not all of them may be missing; nobody looks at those behind.
        _ => fields.resize(names.len(), String::new()),
    }
    if row.positions.rest() == Rest::Options {
        fields.pop();
    }
    let (mut as_texts, mut as_numbers) = (Map::new(), Map::new());
    for (at, (name, field)) in names.iter().zip(&fields).enumerate() {
        let is_list = matches!(row.positions.rest(), Rest::List(_)) && at + 1 == names.len();
        let text = match is_list {
            true => json!(fields[at..]),
            false => json!(field),
        };
        let number = field
            .parse::<u64>()
            .map_or(json!(null), |number| json!(number));
        let absent = (field.is_empty() && !is_list).then_some(Value::Null);
        let number = match number {
            Value::Number(_) if !is_list => number,
            _ => absent.unwrap_or_else(|| text.clone()),
        };
        as_texts.insert((*name).to_owned(), text);
        as_numbers.insert((*name).to_owned(), number);
    }
    let by_name = [as_texts, as_numbers].map(|fields| named(row.token, fields));
    let by_position = Message::new(row.token, DataType::Param, fields.join("\0"));
    (by_position, by_name)
}

proptest! {
    #[test]
    fn both_forms_of_a_request_are_read_alike(fields in prop::collection::vec(field(), 0..7)) {
        for row in REQUESTS {
            let (by_position, by_name) = both_forms(row, fields.clone());
            let code = |nak: Nak| nak.to_string().split_once(':').unwrap().0.to_owned();
            let read = |message| (row.read)(message).map_err(code);
            let by_position = read(&by_position);
            let [as_texts, as_numbers] = by_name.each_ref().map(read);
            let agrees = match as_texts.as_ref().or(as_numbers.as_ref()) {
                Ok(_) => by_position == as_texts.clone().or(as_numbers.clone()),
                Err(_) => [&as_texts, &as_numbers].contains(&&by_position),
            };
            prop_assert!(agrees, "{}: {by_position:?}, {as_texts:?}, {as_numbers:?}", row.token);
        }
    }
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
    assert!(matches!(fixture.ask(&request), Answer::Later));
    let call = fixture.called.pop().unwrap();
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
    assert!(matches!(fixture.ask(&request), Answer::Later));
    let call = fixture.called.pop().unwrap();
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
