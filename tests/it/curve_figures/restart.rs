//! A daemon with 2,000 clients that is restarted: when all of them are back, and what the others notice.

use std::time::{Duration, Instant};

use event_manager_client::{ClientKeys, ConnectionEvent, Subscriber};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;
use serde_json::json;

use crate::support::keys::{
    Keys, Listening, Peer, SERVER, Spread, latency, pair, publisher, server_key,
};
use crate::support::{PATIENCE, TestDaemon};

const CLIENTS: u64 = 2000;
const SUBSCRIPTIONS: u64 = 10;
/// The pairs of keys that they have.
const PAIRS: std::ops::Range<u8> = 10..210;
/// The pair of the two others.
const OTHERS: u8 = 2;

/// Clients that dial this address until they are dropped.
fn clients(address: &Endpoint) -> Listening {
    let clients = (0..CLIENTS).zip(PAIRS.cycle()).map(|(_, number)| {
        let prefixes = (0..SUBSCRIPTIONS).map(|n| format!("prefix-{n}.").into_bytes());
        let keys = ClientKeys {
            own: pair(number),
            server: server_key(SERVER),
        };
        Subscriber::new(address, prefixes.collect()).with_keys(Some(keys))
    });
    Listening::start(clients.collect())
}

#[test]
#[ignore = "a figure: just curve-figures"]
fn two_thousand_clients_come_back_after_a_restart() {
    let keys = Keys::new();
    keys.admit(OTHERS);
    PAIRS.for_each(|number| keys.admit(number));
    let start = |ports: &serde_json::Value| {
        let mut settings = json!({"security": keys.security(&["curve"])});
        let (all, ports) = (settings.as_object_mut(), ports.as_object());
        all.expect("an object")
            .extend(ports.expect("an object").clone());
        TestDaemon::in_own_process(&settings)
    };
    let first = start(&json!({}));
    let ports = json!({
        "pubAddress": first.publishers(),
        "subAddress": first.subscribers(),
        "requestAddress": first.requests(),
    });
    let begun = Instant::now();
    let _clients = clients(&first.bound().subscribers[0]);
    first.wait_for_subscriptions(CLIENTS * SUBSCRIPTIONS);
    println!(
        "{CLIENTS} clients have {SUBSCRIPTIONS} subscriptions each after {:?}",
        begun.elapsed()
    );

    let stopped = Instant::now();
    assert!(first.stop());
    let down = stopped.elapsed();
    let restarted = Instant::now();
    let daemon = start(&ports);
    let mut subscriber = Peer::met(&daemon.subscribers(), LocalSocket::Sub, OTHERS);
    subscriber.connection.subscribe(b"Order");
    while subscriber.next().expect("it goes on") != ConnectionEvent::Sent {}
    let mut publisher = publisher(&daemon, OTHERS);
    println!(
        "the others are back after {:?}; it took {down:?} to stop",
        restarted.elapsed()
    );
    let (mut taken, mut back) = (vec![], 0);
    while back < CLIENTS * SUBSCRIPTIONS + 1 {
        assert!(restarted.elapsed() < PATIENCE, "{back} are back");
        for _ in 0..20 {
            taken.push(latency(&mut publisher, &mut subscriber));
            std::thread::sleep(Duration::from_millis(1));
        }
        back = daemon.status().subscribers.subscriptions;
    }
    let time = restarted.elapsed();
    let cpu = daemon.process().cpu_time();
    println!(
        "all are back after {time:?}; {:?} of the daemon's CPU for each",
        cpu / CLIENTS as u32
    );
    println!("meanwhile {}", Spread(taken));
    assert!(time < Duration::from_secs(30), "{time:?}");
    println!("refused: {:?}", daemon.status().peers.refused);
}
