//! Clients of HTTP that don't behave: nobody else notices.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use event_manager::config::HTTP_CONNECTIONS_MAX;

use super::super::support::TestDaemon;
use super::super::support::healthy::Healthy;
use super::super::support::http::HttpClient;
use super::watched;

/// A round of the healthy that takes longer was held up by somebody.
const UNNOTICED: Duration = Duration::from_secs(2);

/// Others are served, and events flow, while this goes on.
fn nobody_notices(daemon: &TestDaemon, misbehave: impl FnOnce()) {
    let healthy = Healthy::start(daemon);
    misbehave();
    for path in ["/livez", "/readyz", "/metrics", "/stats"] {
        assert_eq!(daemon.http_get(path).status, 200, "{path}");
    }
    let rounds = healthy.finish();
    assert!(rounds.longest < UNNOTICED, "{:?}", rounds.longest);
}

#[test]
fn five_hundred_connections_keep_out_nobody() {
    let daemon = watched();
    let mut held: Vec<TcpStream> = vec![];
    nobody_notices(&daemon, || {
        held.extend((0..500).map(|n| {
            let mut stream = TcpStream::connect(daemon.http()).expect("a connection");
            // Half of them begin to say something.
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET /stats HTTP/1.1\r\nHost: ");
            }
            stream
        }));
    });
    let fds = daemon.metrics().value("process_open_fds", &[]);
    assert!(fds < 2.0 * 500.0 + 400.0, "{fds} descriptors");
    drop(held);
}

#[test]
fn a_connection_that_asks_is_not_the_one_that_makes_room() {
    let daemon = watched();
    let mut asks = HttpClient::connect(daemon.http());
    assert_eq!(asks.get("/livez").status, 200);
    let mut held = vec![];
    for _ in 0..3 * HTTP_CONNECTIONS_MAX {
        held.push(TcpStream::connect(daemon.http()).expect("a connection"));
        assert_eq!(asks.get("/livez").status, 200);
    }
}

#[test]
fn garbage_is_answered_or_closed() {
    let daemon = watched();
    nobody_notices(&daemon, || {
        for said in [
            &b"\0\xff\x01garbage\r\n\r\n"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /stats HTTP/1.1\r\nContent-Length: nine\r\n\r\n",
        ] {
            let mut client = HttpClient::connect(daemon.http());
            client.send(said);
            client.shut();
            assert!(client.is_closed(), "{said:?}");
        }
    });
}

#[test]
fn headers_of_two_megabytes_are_refused() {
    let daemon = watched();
    nobody_notices(&daemon, || {
        let mut client = HttpClient::connect(daemon.http());
        client.send(b"GET /stats HTTP/1.1\r\nX: ");
        client.send(&vec![b'x'; 2 << 20]);
        assert!(client.is_closed());
        let mut many = HttpClient::connect(daemon.http());
        many.send(b"GET /stats HTTP/1.1\r\n");
        many.send("X: y\r\n".repeat(100_000).as_bytes());
        assert!(many.is_closed());
    });
}

#[test]
fn a_body_is_not_read() {
    let daemon = watched();
    nobody_notices(&daemon, || {
        let mut client = HttpClient::connect(daemon.http());
        client.send(b"GET /livez HTTP/1.1\r\nHost: it\r\nContent-Length: 1000000000\r\n\r\n");
        assert_eq!(client.answer(false).status, 200);
        client.send(&vec![b'x'; 4 << 20]);
        assert!(client.is_closed());
    });
}

#[test]
fn clients_that_read_nothing_are_left_behind() {
    let daemon = watched();
    let mut held = vec![];
    nobody_notices(&daemon, || {
        for _ in 0..8 {
            let mut stream = TcpStream::connect(daemon.http()).expect("a connection");
            stream.set_nonblocking(true).expect("an option");
            // More answers than its buffers take, of which it reads none.
            let asked = "GET /metrics HTTP/1.1\r\nHost: it\r\n\r\n".repeat(2000);
            let _ = stream.write(asked.as_bytes());
            held.push(stream);
        }
    });
    assert_eq!(held.len(), 8);
}
