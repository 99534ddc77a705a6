//! Requests and their answers on the wire: every way to write them, from every kind of socket.

use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::support::bus::{Frames, Proxy, exchange, zmtp_message};
use super::support::peers::{connect, connected, socket};
use super::support::raw::{RawPeer, greeting, ready};
use super::support::{TestDaemon, tunnel};

/// A number with a name.
struct Known {
    value: u64,
    name: &'static str,
}

const SUBSCRIBE: Known = token(0x0020_0001, "TK_EVENT_MANAGER_SUBSCRIBE");
const UNSUBSCRIBE: Known = token(0x0020_0002, "TK_EVENT_MANAGER_UNSUBSCRIBE");
const KEEP_ALIVE: Known = token(0x0020_0004, "TK_EVENT_MANAGER_KEEP_ALIVE");
const STATUS: Known = token(0x0020_0100, "TK_EVENT_MANAGER_STATUS");
const ACK: Known = token(0xF010_0001, "TK_SYS_ACK");
const EMPTY: Known = token(0, "EMPTY");
const PARAM: Known = token(2, "PARAM");
const STRING: Known = token(6, "STRING");

const fn token(value: u64, name: &'static str) -> Known {
    Known { value, name }
}

/// A way to write a request, and the way in which its answer is written then.
struct Form {
    what: &'static str,
    token: fn(&Known) -> Vec<u8>,
    data_type: fn(&Known) -> Vec<u8>,
    answer_token: fn(&Known) -> Vec<u8>,
    answer_type: fn(&Known) -> Vec<u8>,
    /// How the answer's data type is written when the request has none.
    default_type: fn(&Known) -> Vec<u8>,
}

fn decimal(known: &Known) -> Vec<u8> {
    known.value.to_string().into()
}

fn dotted(known: &Known) -> Vec<u8> {
    let (group, number) = (known.value >> 20 & 0xFF, known.value & 0xFFFF);
    format!("{group:X}.{number:X}").into()
}

fn name(known: &Known) -> Vec<u8> {
    known.name.into()
}

fn short_name(known: &Known) -> Vec<u8> {
    let short = known.name.trim_start_matches("TK_EVENT_MANAGER_");
    short.to_lowercase().into()
}

fn little_4(known: &Known) -> Vec<u8> {
    known.value.to_le_bytes()[..4].into()
}

fn big_4(known: &Known) -> Vec<u8> {
    known.value.to_be_bytes()[4..].into()
}

fn little_8(known: &Known) -> Vec<u8> {
    known.value.to_le_bytes().into()
}

fn big_8(known: &Known) -> Vec<u8> {
    known.value.to_be_bytes().into()
}

fn token_hex(known: &Known) -> Vec<u8> {
    format!("{:#010x}", known.value).into()
}

fn type_hex(known: &Known) -> Vec<u8> {
    format!("{:#x}", known.value).into()
}

/// The same request with high priority, which nobody asks for.
fn high_priority_hex(known: &Known) -> Vec<u8> {
    format!("{:#010X}", known.value | 0xF000_0000)
        .replace('X', "x")
        .into()
}

const fn alike(what: &'static str, form: fn(&Known) -> Vec<u8>) -> Form {
    Form {
        what,
        token: form,
        data_type: form,
        answer_token: form,
        answer_type: form,
        default_type: form,
    }
}

const FORMS: [Form; 10] = [
    alike("decimal", decimal),
    Form {
        data_type: type_hex,
        answer_type: type_hex,
        default_type: decimal,
        ..alike("hex", token_hex)
    },
    Form {
        token: high_priority_hex,
        data_type: type_hex,
        answer_type: type_hex,
        default_type: decimal,
        ..alike("hex of high priority", token_hex)
    },
    Form {
        data_type: decimal,
        answer_type: decimal,
        default_type: decimal,
        ..alike("dotted", dotted)
    },
    alike("name", name),
    Form {
        answer_token: name,
        answer_type: name,
        default_type: name,
        ..alike("short name", short_name)
    },
    alike("4 bytes, little-endian", little_4),
    alike("4 bytes, big-endian", big_4),
    alike("8 bytes, little-endian", little_8),
    alike("8 bytes, big-endian", big_8),
];

/// Which frames a request has beside its token and its data.
const EXTRAS: [(bool, Option<&[u8]>); 5] = [
    (false, None),
    (true, None),
    (true, Some(b"-1")),
    (true, Some(b"5000000")),
    (true, Some(&[0x40, 0x4B, 0x4C, 0])),
];

impl Form {
    fn request(&self, token: &Known, data: &str, extras: (bool, Option<&[u8]>)) -> Frames {
        let mut frames = vec![(self.token)(token)];
        if extras.0 {
            frames.push((self.data_type)(&PARAM));
        }
        frames.push(data.into());
        frames.extend(extras.1.map(Vec::from));
        frames
    }

    fn header(&self, data_type: &Known, has_type: bool) -> Frames {
        let form = if has_type {
            self.answer_type
        } else {
            self.default_type
        };
        vec![(self.answer_token)(&ACK), form(data_type)]
    }
}

/// How a client's frames are wrapped, and its answers.
type Ask<'a> = &'a dyn Fn(&Frames) -> Frames;

/// Each request in each form, all of them acknowledged in kind.
fn every_request_in_every_form(daemon: &TestDaemon, ask: Ask<'_>) {
    for form in &FORMS {
        for (n, extras) in EXTRAS.iter().enumerate() {
            let what = format!("{}, {extras:?}", form.what);
            let id = format!("{}-{n}", form.what);
            let answer = |token: &Known, data: &str| ask(&form.request(token, data, *extras));
            let header = |data_type: &Known| form.header(data_type, extras.0);

            let subscribed = answer(&SUBSCRIBE, &format!("{id}\0Billing\0Order\0Refund"));
            assert_eq!(subscribed[..2], header(&PARAM), "{what}");
            let data = String::from_utf8(subscribed[2].clone()).expect("text");
            let pull_address = daemon.address_of("Billing");
            let expected = [&*id, &daemon.publishers(), &pull_address].join("\0");
            assert_eq!((data, subscribed.len()), (expected, 3), "{what}");

            let kept = answer(&KEEP_ALIVE, &id);
            assert_eq!(kept[..2], header(&EMPTY), "{what}");
            assert_eq!((kept[2].len(), kept.len()), (0, 3), "{what}");

            let status = answer(&STATUS, "");
            assert_eq!(status[..2], header(&STRING), "{what}");
            let status: Status = serde_json::from_slice(&status[2]).expect("a status");
            assert_eq!(status.services[0].subjects, ["Order", "Refund"]);

            let partly = answer(&UNSUBSCRIBE, &format!("{id}\0Refund"));
            assert_eq!(partly[..2], header(&EMPTY), "{what}");
            assert_eq!(daemon.service("Billing").subjects, ["Order"]);

            let wholly = answer(&UNSUBSCRIBE, &id);
            assert_eq!(wholly[..2], header(&EMPTY), "{what}");
            assert_eq!(daemon.find_service("Billing"), None, "{what}");
        }
    }
}

fn parts(frames: &Frames) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

#[test]
fn from_a_req() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    every_request_in_every_form(&daemon, &|frames| exchange(&client, &parts(frames)));
}

#[test]
fn from_a_dealer_without_a_delimiter() {
    let daemon = TestDaemon::start();
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    every_request_in_every_form(&daemon, &|frames| exchange(&client, &parts(frames)));
}

/// The frames behind an envelope, which must be the answer's too.
fn enveloped(envelope: &[&[u8]], frames: &Frames, ask: Ask<'_>) -> Frames {
    let all: Frames = envelope
        .iter()
        .map(|frame| frame.to_vec())
        .chain(frames.iter().cloned())
        .collect();
    let mut answer = ask(&all);
    let rest = answer.split_off(envelope.len());
    assert_eq!(parts(&answer), envelope);
    rest
}

#[test]
fn from_a_dealer_with_a_delimiter() {
    let daemon = TestDaemon::start();
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    every_request_in_every_form(&daemon, &|frames| {
        enveloped(&[b""], frames, &|all| exchange(&client, &parts(all)))
    });
}

#[test]
fn from_a_router() {
    let daemon = TestDaemon::start();
    let client = std::cell::RefCell::new(RawPeer::met(&daemon.requests(), "ROUTER"));
    every_request_in_every_form(&daemon, &|frames| {
        enveloped(&[b""], frames, &|all| {
            let mut client = client.borrow_mut();
            client.send(&zmtp_message(&parts(all)));
            client.read_message()
        })
    });
}

#[test]
fn through_a_proxy_from_a_req() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::to(&daemon.requests());
    let client = connected(&daemon.context, zmq::REQ, &proxy.address);
    every_request_in_every_form(&daemon, &|frames| exchange(&client, &parts(frames)));
}

#[test]
fn through_two_proxies_from_a_dealer_with_a_delimiter() {
    let daemon = TestDaemon::start();
    let inner = Proxy::to(&daemon.requests());
    let outer = Proxy::to(&inner.address);
    let client = connected(&daemon.context, zmq::DEALER, &outer.address);
    every_request_in_every_form(&daemon, &|frames| {
        enveloped(&[b""], frames, &|all| exchange(&client, &parts(all)))
    });
}

#[test]
fn through_a_proxy_from_a_dealer_without_a_delimiter() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::to(&daemon.requests());
    let client = connected(&daemon.context, zmq::DEALER, &proxy.address);
    every_request_in_every_form(&daemon, &|frames| exchange(&client, &parts(frames)));
}

/// Routing ids that clients choose may look like tokens.
#[test]
fn through_a_proxy_with_a_routing_id_that_reads_as_a_token() {
    let daemon = TestDaemon::start();
    for kind in [zmq::REQ, zmq::DEALER] {
        let proxy = Proxy::to(&daemon.requests());
        for identity in ["42", "cli1", "9.9", "0x17", "client01", "a"] {
            let client = socket(&daemon.context, kind);
            client.set_identity(identity.as_bytes()).expect("an option");
            connect(&client, &proxy.address);
            let answer = exchange(&client, &[b"2.1", b"2", b"s1\0Billing\0Order"]);
            assert_eq!(answer[0], b"1.1", "{identity} {kind:?}");
            let answer = exchange(&client, &[b"status", b""]);
            assert_eq!(answer[0], b"TK_SYS_ACK", "{identity} {kind:?}");
            let answer = exchange(&client, &[br#"{"token": "status"}"#]);
            assert!(answer[0].starts_with(b"{"), "{identity} {kind:?}");
        }
    }
}

pub(crate) fn ask_json(client: &zmq::Socket, request: &Value) -> Value {
    let answer = exchange(client, &[request.to_string().as_bytes()]);
    assert_eq!(answer.len(), 1);
    serde_json::from_slice(&answer[0]).expect("JSON")
}

/// ZMQ_PROBE_ROUTER: an empty message comes first, which is no request; proxies pass it on.
#[test]
fn a_probe_is_not_answered() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::to(&daemon.requests());
    let mut probes = 0;
    for address in [daemon.requests(), proxy.address.clone()] {
        for kind in [zmq::REQ, zmq::DEALER] {
            for n in 0..10 {
                let client = socket(&daemon.context, kind);
                client.set_probe_router(true).expect("an option");
                connect(&client, &address);
                probes += 1;
                daemon.wait_for("the probe", |status| status.refused("probe") == probes);
                let answer = exchange(&client, &[b"status", b""]);
                assert_eq!(answer[0], b"TK_SYS_ACK", "{kind:?} {n} at {address}");
            }
        }
    }
    // An empty message of a REQ is a request, if a wrong one.
    let client = daemon.requester();
    let answer = exchange(&client, &[b""]);
    assert!(answer[2].starts_with(b"malformed-message: "), "{answer:?}");
}

#[test]
fn a_request_that_is_too_large_is_answered() {
    const BYTES_MAX: usize = 100_000;
    const PARTS_MAX: usize = 20;
    let daemon = TestDaemon::with(|config| {
        config.limits.message_bytes_max = BYTES_MAX;
        config.limits.message_parts_max = PARTS_MAX;
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    });
    // They live to the end: libzmq aborts the process if a socket is closed in the moment in which its
    // connection ends in the middle of a message (session_base.cpp, clean_pipes).
    let (mut clients, mut proxies) = (Vec::new(), Vec::new());
    // More than the system's buffers hold.
    for size in [BYTES_MAX, 16 << 20] {
        let payload = vec![b'x'; size];
        let emit = [&b"1\0memory\0Order\0"[..], &payload].concat();
        let object = format!(r#"{{"token": "emit", "payload": "{}"}}"#, "x".repeat(size));
        let requests: [&[&[u8]]; 4] = [
            &[b"0x00200101", b"2", &emit],
            &[b"TK_EVENT_MANAGER_EMIT", b"PARAM", &emit],
            &[object.as_bytes()],
            &[b"emit", b"PARAM", &emit, b"1000"],
        ];
        // How a request begins that is in a box can't be read before it is there as a whole.
        let of_json = if tunnel::is_on() { "4027580418" } else { "{" };
        let tokens = ["0xf0100002", "TK_SYS_NAK", of_json, "TK_SYS_NAK"];
        for kind in [zmq::REQ, zmq::DEALER] {
            for (request, token) in requests.iter().zip(tokens) {
                // The connection ends, so each has its own.
                let proxy = Proxy::to(&daemon.requests());
                for address in [&daemon.requests(), &proxy.address] {
                    let client = connected(&daemon.context, kind, address);
                    let answer = exchange(&client, request);
                    let text = String::from_utf8_lossy(&answer.concat()).into_owned();
                    assert!(text.starts_with(token), "{kind:?} {token}: {text}");
                    assert!(text.contains("too-large"), "{text}");
                    assert!(text.contains("limits.maxMessageBytes"), "{text}");
                    clients.push(client);
                }
                proxies.push(proxy);
            }
        }
    }
    let answer = exchange(&daemon.requester(), &[&b"emit"[..]; PARTS_MAX]);
    assert!(answer[2].starts_with(b"too-large: "), "{answer:?}");
    let locator = connected(&daemon.context, zmq::REQ, &daemon.locator());
    let answer = exchange(&locator, &[b"3.1", b"2", &[b'x'; BYTES_MAX]]);
    assert!(answer[2].starts_with(b"too-large: "), "{answer:?}");
    assert_eq!(daemon.refused("message-too-large"), 2 * 2 * 2 * 4 + 1);
    assert_eq!(daemon.refused("too-many-parts"), 1);
}

#[test]
fn in_json() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    let id = "sub-1";
    for subscribe in [
        json!({"token": "subscribe", "id": id, "service": "Billing", "subjects": ["Order", "Refund"]}),
        json!({"token": "2.1", "sub_id": id, "service_name": "Billing", "subjects": ["Order"], "subject": "Refund"}),
        json!({"token": "TK_EVENT_MANAGER_SUBSCRIBE", "data": [id, "Billing", "Order", "Refund"]}),
        json!({"token": 0x0020_0001, "dataType": "PARAM", "data": "sub-1\0Billing\0Order\0Refund"}),
        json!({"token": "0x00200001", "data_type": 2, "data": [id, "Billing", "Order", "Refund"], "timeout": -1}),
    ] {
        let answer = ask_json(&client, &subscribe);
        let address = daemon.service("Billing").address;
        let data = json!([id, daemon.publishers(), address]);
        let expected = json!({
            "token": "TK_SYS_ACK", "dataType": "PARAM", "data": data, "ttlMs": 600_000,
            "ackTimeoutMs": 30_000, "delivery": "live", "deadLetterSubject": "Billing.DLQ",
            "version": env!("CARGO_PKG_VERSION"),
        });
        assert_eq!(answer, expected, "{subscribe}");
        let subjects = daemon.service("Billing").subjects;
        assert_eq!(subjects, ["Order", "Refund"]);

        let done = json!({"token": "TK_SYS_ACK", "dataType": "EMPTY", "data": ""});
        for keep_alive in [
            json!({"token": "keep_alive", "id": id}),
            json!({"token": "2.4", "data": id}),
            json!({"token": "2.4", "data": [id]}),
        ] {
            assert_eq!(ask_json(&client, &keep_alive), done, "{keep_alive}");
        }
        let status = ask_json(&client, &json!({"token": "status"}));
        assert_eq!(status["data"]["services"][0]["name"], "Billing");
        let partly = json!({"token": "unsubscribe", "id": id, "subjects": ["Order"]});
        assert_eq!(ask_json(&client, &partly), done);
        assert_eq!(daemon.service("Billing").subjects, ["Refund"]);
        let wholly = json!({"token": "unsubscribe", "data": [id]});
        assert_eq!(ask_json(&client, &wholly), done);
        assert_eq!(daemon.find_service("Billing"), None);
    }
}

#[test]
fn json_through_a_proxy() {
    let daemon = TestDaemon::start();
    let proxy = Proxy::to(&daemon.requests());
    let request = br#"{"token": "status"}"#;
    let client = connected(&daemon.context, zmq::DEALER, &proxy.address);
    let plain = exchange(&client, &[request]);
    assert!(plain.len() == 1 && plain[0].starts_with(b"{"));
    let delimited = exchange(&client, &[b"", request]);
    assert!(delimited.len() == 2 && delimited[0].is_empty() && delimited[1].starts_with(b"{"));
}

/// In C a text ends with a NUL, and many clients send it.
#[test]
fn a_nul_at_the_end_is_no_further_field() {
    let daemon = TestDaemon::start();
    let client = daemon.requester();
    let done = |frames: &[&[u8]]| assert_eq!(exchange(&client, frames)[0], b"1.1", "{frames:?}");
    done(&[b"2.1", b"s1\0Billing\0Order\0Refund\0"]);
    assert_eq!(daemon.service("Billing").subjects, ["Order", "Refund"]);
    done(&[b"2.4", b"s1\0"]);
    done(&[b"2.2", b"s1\0Order\0"]);
    assert_eq!(daemon.service("Billing").subjects, ["Refund"]);
    done(&[b"2.2", b"s1\0"]);
    assert_eq!(daemon.find_service("Billing"), None);
    done(&[b"2.1", b"s1\0Billing\0"]);
    assert_eq!(daemon.service("Billing").subjects, [""]);
    done(&[b"2.1", b"s1\0Billing\0Order\0\0"]);
    assert_eq!(daemon.service("Billing").subjects, ["", "Order"]);
    done(&[b"2.2", b"s1\0\0"]);
    assert_eq!(daemon.service("Billing").subjects, ["Order"]);
}

#[test]
fn a_client_that_names_no_id_is_given_one() {
    let daemon = TestDaemon::start();
    let first = daemon.subscribe("", "Billing", &["Order"]);
    let second = daemon.subscribe("", "Billing", &["Order"]);
    assert!(!first.id.is_empty() && first.id != second.id);
    for id in [first.id, second.id] {
        daemon.unsubscribe(&id);
    }
    assert_eq!(daemon.find_service("Billing"), None);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    const REQUESTS: usize = 2000;
    let daemon = TestDaemon::start();
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for n in 0..REQUESTS {
        let data = format!("sub-{n}\0Billing\0Subject{n}");
        let request = ["TK_EVENT_MANAGER_SUBSCRIBE", "PARAM", &data];
        client.send_multipart(request, 0).expect("a send");
    }
    for n in 0..REQUESTS {
        let answer = client.recv_multipart(0).expect("an answer");
        let data = String::from_utf8(answer[2].clone()).expect("text");
        assert!(data.starts_with(&format!("sub-{n}\0")), "{n}: {data}");
    }
    let subscriptions = daemon.service("Billing").subscriptions;
    assert_eq!(subscriptions.len(), REQUESTS);
}

#[test]
fn requests_right_behind_the_handshake_are_answered() {
    let daemon = TestDaemon::start();
    let mut client = RawPeer::connect(&daemon.requests());
    let requests = zmtp_message(&[b"2.100", b""]).repeat(100);
    client.send(&[greeting(), ready("DEALER", ""), requests].concat());
    client.read_exactly(64);
    let header = client.read_exactly(2);
    client.read_exactly(header[1].into());
    for _ in 0..100 {
        assert_eq!(client.read_message()[0], b"1.1");
    }
}

#[test]
fn a_client_that_never_reads_holds_a_bounded_amount() {
    const BUDGET: u64 = 64 << 10;
    const REQUESTS: usize = 8000;
    let daemon = TestDaemon::with(|config| config.budgets.request_outbox_bytes = BUDGET as usize);
    let request = zmtp_message(&[b"2.100", b""]);
    let answer_bytes = exchange(&daemon.requester(), &[b"2.100", b""])[2].len() as u64;
    let mut client = RawPeer::met(&daemon.requests(), "DEALER");
    client.send(&request.repeat(REQUESTS));
    let waiting = |status: &Status| status.connections.outbox_bytes;
    daemon.wait_for("a full outbox", |status| waiting(status) > BUDGET);
    for _ in 0..20 {
        let held = waiting(&daemon.status());
        assert!(held <= BUDGET + 2 * answer_bytes, "{held} bytes wait");
        daemon.subscribe("sub-1", "Billing", &["Order"]);
    }
    for n in 0..REQUESTS {
        let answer = client.read_message();
        assert_eq!(answer[0], b"1.1", "answer {n}");
    }
    daemon.wait_for("an empty outbox", |status| waiting(status) == 0);
}

#[test]
fn what_a_client_did_not_read_goes_with_it() {
    let daemon = TestDaemon::with(|config| config.budgets.request_outbox_bytes = 64 << 10);
    let mut client = RawPeer::met(&daemon.requests(), "DEALER");
    client.send(&zmtp_message(&[b"2.100", b""]).repeat(8000));
    daemon.wait_for("a full outbox", |status| {
        status.connections.outbox_bytes > 64 << 10
    });
    drop(client);
    daemon.wait_for("its end", |status| {
        let connections = &status.connections;
        connections.outbox_bytes == 0 && connections.open == 0
    });
}
