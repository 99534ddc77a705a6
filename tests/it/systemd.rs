//! Under a service manager: what it is told, when, and the sockets that it keeps. The test plays it.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::PATIENCE;
use super::support::TestDaemon;
use super::support::clock::Clock;
use super::support::manager::Manager;
use super::support::peers::{connected, publish, received};
use super::support::program::{Program, Serving, Site};

#[test]
fn it_is_told_of_the_start_reloads_and_the_end_in_their_order() {
    let manager = Manager::new();
    let requests = manager.path().with_file_name("requests");
    let address = format!("ipc://{}", requests.display());
    let site = manager.site(&json!({"requestAddress": address}));
    let program = site.start(&[]);
    manager.ready();
    // It is bound when it says so, not some time later.
    UnixStream::connect(&requests).expect("somebody listens");
    let serving = Serving::ready(program);
    (0..2).for_each(|_| manager.reload(&serving.program));
    assert!(serving.stop());
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    // drainTimeout is 2 s.
    assert!(
        stopping.ends_with("EXTEND_TIMEOUT_USEC=32000000\n"),
        "{stopping}"
    );
}

#[test]
fn a_start_that_has_to_wait_asks_for_time() {
    let manager = Manager::new();
    let site = manager.site(&json!({
        "locatorAddress": "tcp://127.0.0.1:1",
        "startupGuard": true,
        "startupGuardTimeout": 0.1,
        "startupGuardTimeoutAction": "proceed",
    }));
    let _program = site.start(&[]);
    let waiting = manager.next();
    let status = "STATUS=waiting until a predecessor is gone\n";
    assert_eq!(waiting, format!("{status}EXTEND_TIMEOUT_USEC=30100000\n"));
    manager.ready();
}

#[test]
fn its_status_has_figures() {
    let manager = Manager::new();
    let site = manager.site(&json!({})).with("WATCHDOG_USEC", "300000");
    let daemon = TestDaemon::serving(&site);
    daemon.subscribe("1", "Billing", &["Order"]);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "x");
    let deadline = Instant::now() + PATIENCE;
    let wanted = "STATUS=serving: services 1, workers 0, connections 1, events published 1, under way 1, dropped 0\nWATCHDOG=1\n";
    loop {
        let message = manager.within(PATIENCE).expect("a status");
        if message == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{message}");
    }
}

/// A daemon with a watchdog, started by the manager, and what hangs its reactor.
fn watched(manager: &Manager) -> (Clock, Serving) {
    let (clock, site) = Clock::of(manager.site(&json!({})));
    let serving = Serving::ready(site.with("WATCHDOG_USEC", "600000").start(&[]));
    manager.ready();
    (clock, serving)
}

/// Hangs the reactor, and nothing else; waits for the last of what it sent before.
fn hang(clock: &Clock, manager: &Manager) {
    clock.hang();
    let deadline = Instant::now() + PATIENCE;
    while manager.within(Duration::from_millis(600)).is_some() {
        assert!(Instant::now() < deadline, "the reactor does not hang");
    }
}

#[test]
fn the_watchdog_starves_when_the_reactor_hangs_and_nothing_else_does() {
    let manager = Manager::new();
    let (clock, serving) = watched(&manager);
    let is_fed = || {
        let message = manager.within(PATIENCE).expect("a sign of life");
        assert!(message.ends_with("\nWATCHDOG=1\n"), "{message}");
    };
    (0..3).for_each(|_| is_fed());
    hang(&clock, &manager);
    // The rest of the process runs on: it still hears signals, and says so.
    serving.program.signal("HUP");
    let reloading = manager.within(PATIENCE).expect("the main thread lives");
    assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
    assert_eq!(manager.within(Duration::from_millis(900)), None);
    clock.set(0);
    manager.ready();
    is_fed();
    assert!(serving.stop());
}

#[test]
fn a_reload_that_hangs_does_not_hold_up_the_end() {
    let manager = Manager::new();
    let (clock, serving) = watched(&manager);
    hang(&clock, &manager);
    serving.program.signal("HUP");
    assert!(manager.next().starts_with("RELOADING=1\n"));
    serving.program.signal("TERM");
    assert!(manager.next().starts_with("STOPPING=1\n"));
    serving.program.signal("TERM");
    assert_eq!(serving.program.end().code, Some(1));
}

/// A socket that the service manager keeps; as a copy, which a daemon can be handed.
fn kept() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// Starts the daemon with these two as descriptors 3 and 4.
fn start_with(site: &Site, sockets: [&TcpListener; 2]) -> Program {
    let [first, second] = sockets.map(|socket| socket.try_clone().expect("a descriptor"));
    let script = "exec 3<&0 4<&1 0</dev/null 1>&2; \
                  LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    site.start_by_shell(script, OwnedFd::from(first), OwnedFd::from(second))
}

#[test]
fn a_restart_refuses_no_connection() {
    let [(publishers, p), (requests, r)] = [kept(), kept()];
    let site = Site::configured(&json!({
        "pubAddress": format!("tcp://127.0.0.1:{p}"),
        "requestAddress": format!("tcp://127.0.0.1:{r}"),
    }));
    let start = || Serving::ready(start_with(&site, [&publishers, &requests]));
    let first = start();
    assert!(
        !first.program.log().contains("WARN"),
        "{}",
        first.program.log()
    );
    assert_eq!(first.bound().publishers[0].port(), Some(p));
    assert_eq!(first.status().publishers.connected, 0);
    assert!(first.stop());

    // Connected while nobody is there, and served then.
    let mut publisher = TcpStream::connect(("127.0.0.1", p)).expect("it is not refused");
    let context = zmq::Context::new();
    let requester = connected(&context, zmq::REQ, &format!("tcp://127.0.0.1:{r}"));
    let status = ["TK_EVENT_MANAGER_STATUS", "2", ""];
    requester.send_multipart(status, 0).expect("a send");
    let second = start();
    let answer = requester.recv_multipart(0).expect("an answer");
    assert_eq!(answer[0], b"TK_SYS_ACK");
    publisher.read_exact(&mut [0; 10]).expect("a greeting");
    assert!(second.stop());
}

/// Else the service manager would start it again.
#[test]
fn a_daemon_that_stops_does_not_come_back_to_its_own_locator() {
    let [(requests, r), (locator, l)] = [kept(), kept()];
    let site = Site::configured(&json!({
        "requestAddress": format!("tcp://127.0.0.1:{r}"),
        "locatorAddress": format!("tcp://127.0.0.1:{l}"),
        "embeddedLocator": true,
        "locatorRegister": true,
    }));
    let serving = Serving::ready(start_with(&site, [&requests, &locator]));
    // By a connection that is kept.
    serving.program.logged("registered with the ServiceLocator");
    let ended = serving.stop();
    for socket in [requests, locator] {
        socket.set_nonblocking(true).expect("an option");
        let waiting = socket.accept().map_err(|error| error.kind());
        assert_eq!(waiting.err(), Some(ErrorKind::WouldBlock));
    }
    assert!(ended);
}

#[test]
fn sockets_are_known_by_their_addresses_and_others_are_named() {
    let [(for_service, service), (other, port)] = [kept(), kept()];
    let site = Site::configured(&json!({
        "pullAddress": "tcp://127.0.0.1",
        "publicHostname": "127.0.0.1",
        "minStreamerPort": service,
        "maxStreamerPort": service,
    }));
    let program = start_with(&site, [&other, &for_service]);
    let line = program.logged("a socket of the service manager is not used");
    assert!(line.contains(&format!("tcp://127.0.0.1:{port}")), "{line}");
    let daemon = TestDaemon::of(Serving::ready(program));
    // Its socket is bound already, and not by another.
    for id in ["1", "2"] {
        let subscribed = daemon.subscribe(id, "Billing", &["Order"]);
        assert!(subscribed.pull_address.ends_with(&format!(":{service}")));
        let worker = daemon.worker("Billing", &subscribed.pull_address);
        publish(&daemon.publisher(), "Order", "x");
        assert_eq!(received(&worker), "x");
        drop(worker);
        daemon.unsubscribe(id);
        daemon.wait_for("the end of the service", |s| s.services.is_empty());
    }
    assert_eq!(daemon.program().log().matches("not used").count(), 1);
}
