#![allow(clippy::disallowed_methods, reason = "tests have a clock")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use bytes::BytesMut;

use super::*;
use event_manager_zmtp::{Handshake, Mechanism, encode_message};

const PATIENCE: Duration = Duration::from_secs(20);

fn bound(context: &zmq::Context, kind: zmq::SocketType) -> (zmq::Socket, Endpoint) {
    let socket = context.socket(kind).unwrap();
    socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
    socket.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = socket
        .get_last_endpoint()
        .unwrap()
        .unwrap()
        .parse()
        .unwrap();
    (socket, endpoint)
}

/// A REP service that answers so many requests with what it was asked.
fn echo(context: &zmq::Context, answers: usize) -> (Endpoint, JoinHandle<()>) {
    let (socket, endpoint) = bound(context, zmq::REP);
    let thread = std::thread::spawn(move || {
        for _ in 0..answers {
            let frames = socket.recv_multipart(0).unwrap();
            socket.send_multipart(frames, 0).unwrap();
        }
    });
    (endpoint, thread)
}

fn caller() -> Caller {
    let limits = Limits {
        message_bytes_max: 1 << 20,
        ..Limits::default()
    };
    Caller::new(limits)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn request(n: usize) -> Vec<Bytes> {
    vec![Bytes::from_static(b"2.4"), n.to_string().into()]
}

#[test]
fn a_call_is_answered_by_rep_and_by_router() {
    let context = zmq::Context::new();
    let (rep, echoing) = echo(&context, 3);
    let (router, router_address) = bound(&context, zmq::ROUTER);
    let routing = std::thread::spawn(move || {
        let frames = router.recv_multipart(0).unwrap();
        assert_eq!(frames.len(), 4, "routing id, delimiter, two frames");
        router.send_multipart(frames, 0).unwrap();
    });
    let caller = caller();
    run(async {
        for n in 0..3 {
            let answer = caller
                .call(&rep, request(n), Instant::now() + PATIENCE)
                .await;
            assert_eq!(answer, Ok(request(n)));
        }
        let answer = caller
            .call(&router_address, request(7), Instant::now() + PATIENCE)
            .await;
        assert_eq!(answer, Ok(request(7)));
    });
    echoing.join().unwrap();
    routing.join().unwrap();
}

#[test]
fn nobody_there_is_told_at_once() {
    let caller = caller();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nobody = Endpoint::tcp("127.0.0.1", free);
    let answer = run(caller.call(&nobody, request(0), Instant::now() + PATIENCE));
    assert!(
        matches!(answer, Err(CallError::Unreachable(_))),
        "{answer:?}"
    );
}

#[test]
fn a_thousand_calls_to_a_hung_service_hold_up_nobody_else() {
    let context = zmq::Context::new();
    let (_hung, hung_address) = bound(&context, zmq::ROUTER);
    let (healthy, echoing) = echo(&context, 100);
    let caller = caller();
    run(async {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut hung = tokio::task::JoinSet::new();
        for n in 0..1000 {
            let (caller, address) = (caller.clone(), hung_address.clone());
            hung.spawn(async move { caller.call(&address, request(n), deadline).await });
        }
        tokio::task::yield_now().await;
        for n in 0..100 {
            let answer = caller
                .call(&healthy, request(n), Instant::now() + PATIENCE)
                .await;
            assert_eq!(answer, Ok(request(n)));
        }
        assert!(
            Instant::now() < deadline,
            "the healthy service had to wait for the hung one"
        );
        let answers = hung.join_all().await;
        assert!(
            answers
                .iter()
                .all(|answer| *answer == Err(CallError::Timeout))
        );
    });
    echoing.join().unwrap();
}

#[test]
fn a_late_answer_is_nobodys() {
    let context = zmq::Context::new();
    let (service, address) = bound(&context, zmq::ROUTER);
    let caller = caller();
    run(async {
        let soon = Instant::now() + Duration::from_millis(50);
        assert_eq!(
            caller.call(&address, request(1), soon).await,
            Err(CallError::Timeout)
        );
        let late = service.recv_multipart(0).unwrap();
        let second = caller.call(&address, request(2), Instant::now() + PATIENCE);
        let answering = async {
            // What a ROUTER sends to a peer that is gone is dropped.
            let _ = service.send_multipart(late, 0);
            loop {
                if let Ok(frames) = service.recv_multipart(zmq::DONTWAIT) {
                    return service.send_multipart(frames, 0).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(tokio::join!(second, answering).0, Ok(request(2)));
    });
}

#[test]
fn an_address_that_is_left_is_not_called_any_more() {
    let context = zmq::Context::new();
    let (service, address) = bound(&context, zmq::ROUTER);
    let caller = caller();
    run(async {
        let under_way = |n| {
            let (caller, address) = (caller.clone(), address.clone());
            let deadline = Instant::now() + PATIENCE;
            tokio::spawn(async move { caller.call(&address, request(n), deadline).await })
        };
        let calls: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX + 1)
            .map(under_way)
            .collect();
        let asked = tokio::task::spawn_blocking(move || {
            let asked =
                (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| service.recv_multipart(0).unwrap());
            (asked.collect::<Vec<_>>(), service)
        });
        let (asked, service) = asked.await.unwrap();
        let leaving = caller.leave(&address);
        tokio::pin!(leaving);
        let has_left = tokio::time::timeout(Duration::from_millis(20), &mut leaving).await;
        assert!(has_left.is_err(), "calls are under way");
        for frames in asked {
            service.send_multipart(frames, 0).unwrap();
        }
        leaving.await;
        let mut closed = 0;
        for (n, call) in calls.into_iter().enumerate() {
            match call.await.unwrap() {
                Err(CallError::Closed) => closed += 1,
                answer => assert_eq!(answer, Ok(request(n))),
            }
        }
        assert_eq!(closed, 1, "the one that waited");
        let deadline = Instant::now() + PATIENCE;
        let answer = caller.call(&address, request(0), deadline).await;
        assert_eq!(answer, Err(CallError::Closed));
    });
}

#[test]
fn more_addresses_than_connections_are_all_called() {
    let context = zmq::Context::new();
    let router = context.socket(zmq::ROUTER).unwrap();
    router.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
    router.bind("tcp://0.0.0.0:*").unwrap();
    let bound: Endpoint = router
        .get_last_endpoint()
        .unwrap()
        .unwrap()
        .parse()
        .unwrap();
    let calls = CONNECTIONS_MAX + 20;
    let echoing = std::thread::spawn(move || {
        for _ in 0..=calls {
            let Ok(frames) = router.recv_multipart(0) else {
                return;
            };
            router.send_multipart(frames, 0).unwrap();
        }
    });
    let caller = caller();
    run(async {
        let mut under_way = tokio::task::JoinSet::new();
        for n in 0..calls {
            let (caller, host) = (caller.clone(), format!("127.1.{}.{}", n / 250, n % 250 + 1));
            let address = Endpoint::tcp(&host, bound.port().unwrap());
            under_way.spawn(async move {
                let deadline = Instant::now() + PATIENCE;
                caller.call(&address, request(n), deadline).await == Ok(request(n))
            });
        }
        assert!(
            under_way
                .join_all()
                .await
                .into_iter()
                .all(|answered| answered)
        );
        // One of those that are kept makes room.
        let elsewhere = Endpoint::tcp("127.2.0.1", bound.port().unwrap());
        let answer = caller.call(&elsewhere, request(calls), Instant::now() + PATIENCE);
        assert_eq!(answer.await, Ok(request(calls)));
    });
    echoing.join().unwrap();
}

/// A service over plain TCP, which does this with each connection after the handshake.
fn service(serve: impl Fn(TcpStream) + Send + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            meet(&mut stream);
            serve(stream);
        }
    });
    Endpoint::tcp("127.0.0.1", port)
}

fn meet(stream: &mut TcpStream) {
    // Byte by byte: the request may come in one piece with the end of the handshake.
    let (mut out, mut chunk) = (BytesMut::new(), [0]);
    let local = LocalSocket::Requests;
    let mut handshake = Handshake::start(local, vec![Mechanism::Null], 8192, &mut out);
    loop {
        stream.write_all(&out).unwrap();
        out.clear();
        let n = stream.read(&mut chunk).unwrap();
        let met = handshake.receive(&chunk[..n], &mut out).unwrap();
        if met.is_some() {
            assert_eq!(
                handshake.finish(&mut out).0.len(),
                0,
                "the client waits for us"
            );
            return stream.write_all(&out).unwrap();
        }
    }
}

/// Reads request `n` of these tests, with its delimiter.
fn read_request(stream: &mut TcpStream, n: usize) {
    let expected = encode_message(&[vec![Bytes::new()], request(n)].concat());
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(read, expected);
}

fn answer(n: usize) -> Bytes {
    encode_message(&[vec![Bytes::new()], request(n)].concat())
}

#[test]
fn one_that_accepts_and_never_speaks_costs_its_own_calls() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = Endpoint::tcp("127.0.0.1", mute.local_addr().unwrap().port());
    let (healthy, echoing) = echo(&zmq::Context::new(), 1);
    let caller = caller();
    run(async {
        let deadline = Instant::now() + Duration::from_millis(200);
        let (unheard, heard) = tokio::join!(
            caller.call(&mute, request(0), deadline),
            caller.call(&healthy, request(1), Instant::now() + PATIENCE),
        );
        assert_eq!(heard, Ok(request(1)));
        assert!(unheard.is_err(), "{unheard:?}");
    });
    echoing.join().unwrap();
}

#[test]
fn one_that_is_no_peer_is_told_from_one_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Endpoint::tcp("127.0.0.1", listener.local_addr().unwrap().port());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let mut said = vec![];
        stream.read_to_end(&mut said).unwrap();
        assert!(said.len() < 64, "no request was sent");
    });
    let answer = run(caller().call(&address, request(0), Instant::now() + PATIENCE));
    assert!(matches!(answer, Err(CallError::NoPeer(_))), "{answer:?}");
    answering.join().unwrap();
}

#[test]
fn an_answer_that_is_too_large_or_garbled_ends_its_call_alone() {
    // Commands have flag 4, long frames flag 2.
    let too_large = [&[2][..], &(2u64 << 20).to_be_bytes()].concat();
    let garbled = vec![0xFF; 64];
    let too_many = [1, 0].repeat(100_000);
    for said in [too_large, garbled, too_many] {
        let address = service(move |mut stream| {
            read_request(&mut stream, 1);
            // It may hang up before all is written.
            let _ = stream.write_all(&said);
            assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "nothing follows");
        });
        let answer = run(caller().call(&address, request(1), Instant::now() + PATIENCE));
        assert!(matches!(answer, Err(CallError::Ended(_))), "{answer:?}");
    }
}

#[test]
fn an_answer_as_large_as_the_limit_is_taken() {
    let data = vec![b'x'; 1 << 20];
    let expected = vec![Bytes::from("1.1"), Bytes::from("6"), Bytes::from(data)];
    let said = encode_message(&[vec![Bytes::new()], expected.clone()].concat());
    let address = service(move |mut stream| {
        read_request(&mut stream, 1);
        stream.write_all(&said).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let answer = run(caller().call(&address, request(1), Instant::now() + PATIENCE));
    assert_eq!(answer, Ok(expected));
}

#[test]
fn a_half_open_connection_is_found_before_the_deadline() {
    let (hangs, hung) = std::sync::mpsc::channel();
    let address = service(move |mut stream| {
        read_request(&mut stream, 1);
        // It neither answers PINGs nor closes the connection.
        hangs.send(stream).unwrap();
    });
    let mut caller = caller();
    let options = Options {
        heartbeat: Duration::from_millis(50),
        ..(*caller.options).clone()
    };
    caller.options = options.into();
    let answer = run(caller.call(&address, request(1), Instant::now() + PATIENCE));
    assert!(matches!(answer, Err(CallError::Ended(_))), "{answer:?}");
    let mut stream = hung.recv().unwrap();
    let mut pings = vec![];
    stream.read_to_end(&mut pings).unwrap();
    assert!(pings.windows(5).any(|bytes| bytes == b"\x04PING"));
}

#[test]
fn a_service_that_pings_is_answered_also_between_calls() {
    let address = service(|mut stream| {
        for n in [1, 2] {
            read_request(&mut stream, n);
            stream.write_all(&answer(n)).unwrap();
            stream.write_all(b"\x04\x09\x04PING\0\0me").unwrap();
            let mut pong = [0; 9];
            stream.read_exact(&mut pong).unwrap();
            assert_eq!(pong, *b"\x04\x07\x04PONGme");
        }
    });
    let caller = caller();
    run(async {
        for n in [1, 2] {
            let answer = caller.call(&address, request(n), Instant::now() + PATIENCE);
            assert_eq!(answer.await, Ok(request(n)));
            // Until it is answered, nothing else turns the runtime.
            sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn what_nobody_asked_for_is_no_answer() {
    let (connected, connections) = std::sync::mpsc::channel();
    let address = service(move |mut stream| {
        connected.send(()).unwrap();
        let mut n = [0; 1];
        // The first connection is asked 1 and answers twice, the second is asked 2.
        let head = answer(1).len() - 1;
        stream.read_exact(&mut vec![0; head]).unwrap();
        stream.read_exact(&mut n).unwrap();
        let n = usize::from(n[0] - b'0');
        stream.write_all(&[answer(n), answer(7)].concat()).unwrap();
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
    });
    let caller = caller();
    run(async {
        for n in [1, 2] {
            let answer = caller.call(&address, request(n), Instant::now() + PATIENCE);
            assert_eq!(answer.await, Ok(request(n)));
        }
    });
    assert_eq!(connections.try_iter().count(), 2);
}

#[test]
fn a_service_that_was_restarted_is_called_again() {
    let context = zmq::Context::new();
    let (first, address) = bound(&context, zmq::REP);
    let (stop, stopped) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        let frames = first.recv_multipart(0).unwrap();
        first.send_multipart(frames, 0).unwrap();
        stopped.recv().unwrap();
    });
    let caller = caller();
    run(async {
        let call = |n| caller.call(&address, request(n), Instant::now() + PATIENCE);
        assert_eq!(call(1).await, Ok(request(1)));
        stop.send(()).unwrap();
        serving.join().unwrap();
        // Until its port is closed.
        while call(2).await.is_ok() {}
        let again = context.socket(zmq::REP).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while again.bind(&address.to_string()).is_err() {
            assert!(Instant::now() < deadline, "the port is not free");
            tokio::task::yield_now().await;
        }
        let echoing = std::thread::spawn(move || {
            let frames = again.recv_multipart(0).unwrap();
            again.send_multipart(frames, 0).unwrap();
        });
        assert_eq!(call(3).await, Ok(request(3)));
        echoing.join().unwrap();
    });
}

#[test]
fn connections_end_with_their_caller() {
    let (ended, is_ended) = std::sync::mpsc::channel();
    let address = service(move |mut stream| {
        read_request(&mut stream, 1);
        stream.write_all(&answer(1)).unwrap();
        ended.send(stream.read(&mut [0]).unwrap()).unwrap();
    });
    run(async {
        let caller = caller();
        let answer = caller.call(&address, request(1), Instant::now() + PATIENCE);
        assert_eq!(answer.await, Ok(request(1)));
        drop(caller);
        let ended = tokio::task::spawn_blocking(move || is_ended.recv_timeout(PATIENCE));
        assert_eq!(ended.await.unwrap(), Ok(0));
    });
}
