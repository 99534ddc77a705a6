//! What must not be seen: on the wire, in logs, in reports.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use event_manager_client::ConnectionEvent;
use event_manager_zmtp::{LocalSocket, z85};
use serde_json::json;

use super::{Attacked, KNOWN};
use crate::support::TestDaemon;
use crate::support::keys::{Keys, Peer, SERVER, pair, publisher, subscriber};
use crate::support::program::Site;
use crate::support::raw::tcp_address;

/// What passes between two ends, as somebody on the network records it.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Wire {
    /// An address at which one connection reaches this one.
    fn tapped(&self, address: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tapped = format!("tcp://{}", listener.local_addr().expect("bound"));
        let (wire, address) = (self.clone(), tcp_address(address).to_owned());
        std::thread::spawn(move || {
            let (near, _) = listener.accept().expect("a connection");
            let far = TcpStream::connect(address).expect("a connection");
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            let back = (copy(&far), copy(&near), wire.clone());
            std::thread::spawn(move || back.2.pass(back.0, back.1));
            wire.pass(near, far);
        });
        tapped
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            self.0
                .lock()
                .expect("no panic")
                .extend_from_slice(&bytes[..n]);
            if to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// libzmq#2264 and others: encrypted connections that were not.
#[test]
fn c19_nothing_of_events_is_on_the_wire() {
    const EVENTS: usize = 10_000;
    let attacked = Attacked::new();
    let (daemon, wire) = (&attacked.daemon, Wire::default());
    let mut listening = Peer::met(&wire.tapped(&daemon.subscribers()), LocalSocket::Sub, KNOWN);
    let subject = "Confidential/Subject";
    listening.connection.subscribe(subject.as_bytes());
    while listening.next().unwrap() != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(2);
    let mut speaking = Peer::met(&wire.tapped(&daemon.publishers()), LocalSocket::Pub, KNOWN);
    assert_eq!(speaking.next().unwrap(), ConnectionEvent::Wanted(true));
    let mut confidential = HashSet::new();
    let mut remember = |bytes: &[u8]| {
        confidential.extend(bytes.windows(8).map(<[u8]>::to_vec));
    };
    remember(subject.as_bytes());
    remember(b"Socket-Type");
    for n in 0..EVENTS {
        let body = format!("account {:016x}, amount {n:08}", n * 0x9E37_79B9);
        remember(body.as_bytes());
        speaking
            .connection
            .send([subject.as_bytes(), body.as_bytes()]);
        if n % 100 == 99 {
            while speaking.next().unwrap() != ConnectionEvent::Sent {}
        }
        if n % 1000 == 999 {
            (n - 999..=n).for_each(|_| drop(listening.message()));
        }
    }
    let recorded = wire.0.lock().expect("no panic");
    assert!(
        recorded.len() > EVENTS * 2 * (subject.len() + 40),
        "all of it"
    );
    let seen = recorded
        .windows(8)
        .find(|window| confidential.contains(*window));
    assert_eq!(seen, None);
}

/// A key in the forms in which it could be written.
fn forms(secret: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    vec![
        secret.to_vec(),
        z85::encode(secret).into(),
        hex.to_uppercase().into(),
        hex.into(),
        engine.encode(secret).into(),
        format!("{secret:?}").into(),
    ]
}

#[test]
fn c20_no_secret_is_logged_or_reported() {
    let keys = Keys::new();
    keys.admit(KNOWN);
    let site = Site::configured(&json!({
        "security": keys.security(&["curve", "null"]), "httpAddress": "127.0.0.1:0",
        "log": {"level": "trace"},
    }));
    let daemon = TestDaemon::serving(&site);
    let (mut publisher, mut subscriber) = (publisher(&daemon, KNOWN), subscriber(&daemon, KNOWN));
    publisher.publish("Order", b"1");
    assert_eq!(subscriber.message()[1], b"1");
    let address = daemon.subscribers();
    let refused = |own, server: u8| {
        let server = *pair(server).public();
        assert!(Peer::open(&address, LocalSocket::Sub, own, server).is_err());
    };
    refused(9, SERVER);
    refused(KNOWN, 9);
    std::fs::write(
        keys.file_of(3),
        "public-key = \"nearly\"\nsecret-key = \"one\"",
    )
    .unwrap();
    daemon.wait_for("EM-0606", |_| daemon.program().log().contains("EM-0606"));
    let mut said = vec![serde_json::to_vec(&daemon.status()).unwrap()];
    for path in ["/stats", "/metrics", "/events", "/readyz"] {
        said.push(daemon.http_get(path).body.into_bytes());
    }
    daemon.program().signal("ABRT");
    let ended = daemon.into_program().end();
    said.extend([ended.stdout.into_bytes(), ended.stderr.into_bytes()]);
    assert!(said.iter().all(|said| said.len() > 10 || said.is_empty()));
    for number in [SERVER, KNOWN, 9] {
        for form in forms(pair(number).secret()) {
            for said in &said {
                let found = said.windows(form.len()).any(|window| window == form);
                assert!(
                    !found,
                    "the secret of {number}: {}",
                    String::from_utf8_lossy(said)
                );
            }
        }
    }
    // The public ones are: whoever is refused is told how to be admitted.
    let unknown = pair(9).public().to_string();
    assert!(
        said.iter()
            .any(|said| String::from_utf8_lossy(said).contains(&unknown))
    );
}
