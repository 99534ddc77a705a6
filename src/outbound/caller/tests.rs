#![allow(clippy::disallowed_methods, reason = "tests have a clock")]

use super::*;

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
    let (caller, thread) = Caller::start(1 << 20).unwrap();
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
    drop(thread);
    echoing.join().unwrap();
    routing.join().unwrap();
}

#[test]
fn nobody_there_is_told_at_once() {
    let (caller, _thread) = Caller::start(1 << 20).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
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
    let (caller, thread) = Caller::start(1 << 20).unwrap();
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
    drop(thread);
    echoing.join().unwrap();
}

#[test]
fn a_late_answer_is_nobodys() {
    let context = zmq::Context::new();
    let (service, address) = bound(&context, zmq::ROUTER);
    let (caller, _thread) = Caller::start(1 << 20).unwrap();
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
fn the_end_answers_calls_under_way() {
    let context = zmq::Context::new();
    let (_hung, address) = bound(&context, zmq::ROUTER);
    let (caller, thread) = Caller::start(1 << 20).unwrap();
    run(async {
        let call = tokio::spawn({
            let caller = caller.clone();
            async move {
                caller
                    .call(&address, request(1), Instant::now() + PATIENCE)
                    .await
            }
        });
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(move || drop(thread))
            .await
            .unwrap();
        assert_eq!(call.await.unwrap(), Err(CallError::Closed));
        let nobody = Endpoint::Ipc("/nonexistent".into());
        assert!(
            caller
                .call(&nobody, request(1), Instant::now() + PATIENCE)
                .await
                .is_err()
        );
    });
}

#[test]
fn more_addresses_than_sockets_are_all_called() {
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
    let calls = SOCKETS_MAX + 20;
    let echoing = std::thread::spawn(move || {
        for _ in 0..calls {
            let Ok(frames) = router.recv_multipart(0) else {
                return;
            };
            router.send_multipart(frames, 0).unwrap();
        }
    });
    let (caller, thread) = Caller::start(1 << 20).unwrap();
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
    });
    drop(thread);
    echoing.join().unwrap();
}
