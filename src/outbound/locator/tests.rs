#![allow(clippy::disallowed_methods, reason = "tests have a clock")]

use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::*;
use event_manager_wire::messagebus::DataType;
use event_manager_zmtp::Limits;

const PATIENCE: Duration = Duration::from_secs(20);

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// Gives these answers, one after the other, and tells the data of what it was asked.
fn locator(answers: Vec<Message>) -> (Endpoint, mpsc::Receiver<Bytes>, JoinHandle<()>) {
    let socket = zmq::Context::new().socket(zmq::REP).unwrap();
    socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
    socket.bind("tcp://127.0.0.1:*").unwrap();
    let address = socket.get_last_endpoint().unwrap().unwrap();
    let (told, asked) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let frames = socket.recv_multipart(0).unwrap();
            let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
            let (request, layout) = decode(&frames).unwrap();
            told.send(request.data).unwrap();
            let frames = encode(&answer, layout);
            socket
                .send_multipart(frames.iter().map(|frame| &frame[..]), 0)
                .unwrap();
        }
    });
    (address.parse().unwrap(), asked, thread)
}

fn client(address: Endpoint, caller: &Caller) -> LocatorClient {
    let config = LocatorConfig {
        address,
        ..LocatorConfig::default()
    };
    LocatorClient::new(caller.clone(), config)
}

fn found(address: &str) -> Message {
    Message::ack(DataType::AddrPort, address.to_owned())
}

#[test]
fn an_address_is_asked_for_once_until_it_is_forgotten() {
    let answers = vec![
        found("tcp://one:1"),
        found("tcp://b:2"),
        found("tcp://two:3"),
    ];
    let (address, asked, thread) = locator(answers);
    let caller = Caller::new(Limits::default());
    let client = client(address, &caller);
    let locate = |service| run(client.locate(&name(service), Instant::now() + PATIENCE));
    for _ in 0..3 {
        assert_eq!(locate("A"), Ok(Endpoint::tcp("one", 1)));
    }
    assert_eq!(locate("B"), Ok(Endpoint::tcp("b", 2)));
    client.forget(&name("A"));
    assert_eq!(locate("A"), Ok(Endpoint::tcp("two", 3)));
    assert_eq!(locate("B"), Ok(Endpoint::tcp("b", 2)));
    thread.join().unwrap();
    assert!(asked.iter().eq(["A", "B", "A"].map(Bytes::from)));
}

#[test]
fn what_is_believed_too_long_is_asked_for_again() {
    let (address, _asked, thread) = locator(vec![found("tcp://new:1")]);
    let caller = Caller::new(Limits::default());
    let client = client(address, &caller);
    client.with_known(|known| known.insert(name("A"), (Endpoint::tcp("old", 1), Instant::now())));
    let located = run(client.locate(&name("A"), Instant::now() + PATIENCE));
    assert_eq!(located, Ok(Endpoint::tcp("new", 1)));
    thread.join().unwrap();
}

#[test]
fn no_more_than_so_many_are_remembered() {
    let (address, _asked, thread) = locator(vec![found("tcp://last:1")]);
    let caller = Caller::new(Limits::default());
    let client = client(address, &caller);
    let until = Instant::now() + PATIENCE;
    client.with_known(|known| {
        for n in 0..REMEMBERED_MAX {
            known.insert(name(&n.to_string()), (Endpoint::tcp("x", 1), until));
        }
    });
    run(client.locate(&name("Last"), until)).unwrap();
    let remembered = client.with_known(|known| known.len());
    assert!(remembered <= REMEMBERED_MAX, "{remembered}");
    thread.join().unwrap();
}

#[test]
fn what_is_no_address_is_not_remembered() {
    let unknown = Message::nak("unknown-service", "no");
    let answers = vec![unknown, found("nowhere"), found(" tcp://a:1\0")];
    let (address, asked, thread) = locator(answers);
    let caller = Caller::new(Limits::default());
    let client = client(address, &caller);
    let locate = || run(client.locate(&name("A"), Instant::now() + PATIENCE));
    assert_eq!(
        locate(),
        Err(LocateError::Unknown("unknown-service: no".into()))
    );
    assert_eq!(locate(), Err(LocateError::Garbled("nowhere".into())));
    assert_eq!(locate(), Ok(Endpoint::tcp("a", 1)));
    thread.join().unwrap();
    assert_eq!(asked.iter().count(), 3);
}

#[test]
fn our_registration_says_how_long_it_lives() {
    let full = Message::nak("full", "no room");
    let answers = vec![Message::ack(DataType::Param, "1500"), full];
    let (address, asked, thread) = locator(answers);
    let caller = Caller::new(Limits::default());
    let config = LocatorConfig {
        address,
        ttl: Duration::from_millis(1500),
        ..LocatorConfig::default()
    };
    let client = LocatorClient::new(caller.clone(), config);
    let register = || run(client.register("tcp://us:1", Instant::now() + PATIENCE));
    assert_eq!(register(), Ok(()));
    assert_eq!(
        register(),
        Err(LocateError::Refused("full: no room".into()))
    );
    thread.join().unwrap();
    assert!(
        asked
            .iter()
            .all(|data| data == "EventManager\0tcp://us:1\x001500")
    );
}
