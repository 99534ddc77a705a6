//! Connections in numbers: idle ones, and more than there are file descriptors.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use event_manager_wire::api::Status;
use serde_json::{Value, json};

use super::crowds::connections_from;
use super::support::TestDaemon;
use super::support::healthy::Healthy;
use super::support::peers::{connect, connected, publish, received, socket};

/// Connections that send nothing, from a thread for each of the addresses; from ten addresses of this
/// machine, one of which alone may not have so many.
fn idle_connections(addresses: &[String], each: usize) -> Vec<TcpStream> {
    const HOSTS: usize = 10;
    let connect = |address: &str| {
        let hosts = (2..2 + HOSTS).map(|n| format!("127.0.0.{n}"));
        hosts
            .flat_map(|host| connections_from(&host, address, each / HOSTS))
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = addresses
            .iter()
            .map(|address| scope.spawn(move || connect(address)))
            .collect();
        let streams = threads.into_iter().map(|thread| thread.join());
        streams.flat_map(|all| all.expect("no panic")).collect()
    })
}

fn open_connections(status: &Status) -> u64 {
    status.connections.open
}

#[test]
fn nine_thousand_idle_connections_keep_nobody_out() {
    const IDLE: usize = 9000;
    const DEADLINE: Duration = Duration::from_secs(5);
    rlimit::increase_nofile_limit(20_000).expect("a limit");
    let daemon = TestDaemon::in_own_process(&json!({ "handshakeTimeout": DEADLINE.as_secs() }));
    let healthy = Healthy::start(&daemon);
    let begun = Instant::now();
    let addresses = [daemon.publishers(), daemon.requests()];
    let mut idle = idle_connections(&addresses, IDLE / 2);
    daemon.wait_for("idle connections", |status| {
        open_connections(status) >= IDLE as u64
    });
    let connected = begun.elapsed();

    let mut latencies: Vec<_> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(
                daemon.ask("TK_EVENT_MANAGER_KEEP_ALIVE", &["healthy"]).0,
                "TK_SYS_ACK"
            );
            begun.elapsed()
        })
        .collect();
    latencies.sort_unstable();
    println!("a new client is served within {latencies:?}");
    let status = daemon.status();
    assert!(open_connections(&status) >= IDLE as u64, "{status:#?}");
    assert!(latencies[2] < Duration::from_millis(100), "{latencies:?}");
    assert!(latencies[4] < Duration::from_secs(1), "{latencies:?}");

    for stream in &mut idle {
        stream
            .set_read_timeout(Some(super::support::PATIENCE))
            .expect("an option");
        let mut greeting = vec![];
        stream.read_to_end(&mut greeting).expect("its end");
        // Signature and version; the rest waits until the peer says which ZMTP it speaks.
        assert_eq!(greeting.len(), 11);
    }
    let ended = begun.elapsed();
    let at_deadline = DEADLINE..connected + DEADLINE + Duration::from_secs(1);
    assert!(at_deadline.contains(&ended), "{ended:?}");
    daemon.wait_for("only the healthy", |status| {
        open_connections(status) == Healthy::CONNECTIONS
    });
    assert_eq!(daemon.refused("handshake-timeout"), IDLE as u64);
    let rounds = healthy.finish();
    println!("{} rounds, the longest {:?}", rounds.count, rounds.longest);
}

/// What 300 clients do to a daemon that may have 128 file descriptors: they dial again ten times a
/// second, as libzmq does. `reason` is why they are refused; the answer to a SUBSCRIBE meanwhile.
fn besiege(settings: &Value, reason: &str) -> String {
    const CLIENTS: usize = 300;
    let daemon = TestDaemon::in_own_process_with_fds(settings, 128);
    let healthy = Healthy::start(&daemon);
    let requester = daemon.requester();
    let ask = |token: &str, data: &str| {
        requester
            .send_multipart([token, "PARAM", data], 0)
            .expect("a send");
        let answer = requester.recv_multipart(0).expect("an answer").join(&b' ');
        String::from_utf8(answer).expect("text")
    };
    ask("TK_EVENT_MANAGER_KEEP_ALIVE", "healthy");
    daemon.wait_for("only the healthy", |status| {
        open_connections(status) == Healthy::CONNECTIONS + 1
    });
    let process = daemon.process();
    let fds = process.open_fds();

    let crowd = zmq::Context::new();
    crowd.set_io_threads(1).expect("an option");
    let addresses = [daemon.publishers(), daemon.subscribers(), daemon.requests()];
    let kinds = [zmq::PUB, zmq::SUB, zmq::DEALER];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| connected(&crowd, kinds[n % 3], &addresses[n % 3]))
        .collect();
    daemon.wait_for("refusals", |status| {
        status.refused(reason) >= CLIENTS as u64
    });
    let (cpu, begun) = (process.cpu_time(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let share = (process.cpu_time() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let answer = ask("TK_EVENT_MANAGER_SUBSCRIBE", "besieged\0Besieged\0a");
    ask("TK_EVENT_MANAGER_UNSUBSCRIBE", "besieged");
    let status = daemon.status();
    println!("{:.1} % CPU, {:?}", share * 100.0, status.peers.refused);
    // A loop that spins would take all of a core.
    assert!(share < 0.5, "{share}");
    assert!(
        (60..128).contains(&open_connections(&status)),
        "{status:#?}"
    );

    drop(clients);
    drop(crowd);
    // Some were still waiting to be accepted when they left.
    daemon.wait_for("only the healthy", |status| {
        open_connections(status) == Healthy::CONNECTIONS + 1 && process.open_fds() <= fds
    });
    let late = socket(&daemon.context, zmq::SUB);
    late.set_subscribe(b"late").expect("an option");
    connect(&late, &daemon.subscribers());
    daemon.wait_for_subscriptions(2);
    publish(&daemon.publisher(), "late", "served");
    assert_eq!(received(&late), "served");
    healthy.finish();
    answer
}

#[test]
fn more_clients_than_connections_are_refused() {
    // Well below the descriptors: beside other tests the process inherits some of theirs.
    let answer = besiege(&json!({ "maxConnections": 70 }), "too-many-connections");
    assert!(answer.starts_with("TK_SYS_ACK"), "{answer}");
}

#[test]
fn a_daemon_out_of_descriptors_serves_who_is_there() {
    let answer = besiege(&json!({ "maxConnections": 1000 }), "out-of-descriptors");
    let sentence = "no socket could be bound for the service: Too many open files";
    assert!(
        answer.starts_with("TK_SYS_NAK") && answer.contains(sentence),
        "{answer}"
    );
}
