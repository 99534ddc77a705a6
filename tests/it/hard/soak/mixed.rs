//! Peers by every mechanism beside each other, while keys and rights change each minute. Memory does not grow.

use std::time::{Duration, Instant};

use event_manager_client::{ClientKeys, Subscriber};
use event_manager_wire::api::{ClientStatus, Status};
use event_manager_zmtp::LocalSocket;
use serde_json::{Value, json};

use super::{MIB, Soak, resident_bytes, seconds};
use crate::hard::bed::{Chance, End};
use crate::support::TestDaemon;
use crate::support::keys::{Keys, Listening, Peer, SERVER, pair, server_key};
use crate::support::peers::{connect, publish, socket};
use crate::support::process::settings;
use crate::support::program::Site;

/// The daemon's other pair, which it has each second minute.
const NEXT: u8 = 9;
/// The pairs of clients: one may do everything always, one may publish each second minute, one has its file
/// each second minute, and one was given the daemon's other key.
const STAYS: u8 = 2;
const LIMITED: u8 = 3;
const REVOKED: u8 = 4;
const LATE: u8 = 5;

fn configured(keys: &Keys, directory: &tempfile::TempDir, is_odd: bool) -> Value {
    let mut security = keys.security(&["null", "plain", "curve"]);
    if is_odd {
        security["secretKey"] = json!([keys.secret("server"), keys.secret("next")]);
    }
    let everything =
        json!({"publish": [""], "subscribe": [""], "services": ["*"], "requests": ["*"]});
    let limited = if is_odd { "Weather" } else { "nothing" };
    // The digest of "soak".
    let password = "c06f543b3ea6c597516e643d22c38675a9a676ca3231e87e26276418ccb13c33";
    security["roles"] = json!({ "default": everything });
    security["anonymous"] = everything;
    security["clients"] = json!({
        "till": {"passwords": [password], "publish": ["Weather"], "subscribe": [""]},
        "client-3": {"publish": [limited], "subscribe": [limited, "Order"]},
    });
    json!({
        "security": security,
        "stateDir": directory.path(),
        "heartbeatInterval": 1,
        // Remembered ids would look like a leak for as long as this.
        "dedupWindow": 10,
        "budgets": {"subscriberOutboxBytes": MIB},
        "services": {"Billing": {
            "delivery": "queue", "subjects": ["Order"], "ackTimeout": 2,
            "retry": {"initialMs": 1, "maxMs": 100, "maxDeliveries": 100_000},
        }},
    })
}

fn client(status: &Status, number: u8) -> ClientStatus {
    let name = format!("client-{number}");
    let mut clients = status.security.clients.iter();
    let found = clients.find(|client| client.name == name);
    found.cloned().unwrap_or_default()
}

impl Soak {
    /// Publishes with keys, on one connection after the other.
    fn publish_with_keys(&self, mut chance: Chance) {
        let pairs = [STAYS, LIMITED];
        for number in pairs.iter().cycle().take_while(|_| !self.ends()) {
            let mut peer = Peer::met(&self.whereabouts().publishers, LocalSocket::Pub, *number);
            for _ in 0..chance.below(1000) {
                if self.ends() {
                    return;
                }
                peer.publish("Weather", &vec![7; chance.below(5000) as usize]);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Publishes and listens with a password.
    fn talk_with_a_password(&self, context: &zmq::Context) {
        let with_password = |kind| {
            let socket = socket(context, kind);
            socket.set_plain_username(Some("till")).expect("an option");
            socket.set_plain_password(Some("soak")).expect("an option");
            socket
        };
        while !self.ends() {
            let (publisher, subscriber) = (with_password(zmq::PUB), with_password(zmq::SUB));
            subscriber.set_subscribe(b"").expect("an option");
            connect(&subscriber, &self.whereabouts().subscribers);
            connect(&publisher, &self.whereabouts().publishers);
            for _ in 0..500 {
                if self.ends() {
                    return;
                }
                publish(&publisher, "Weather", "it snows");
                while subscriber.recv_multipart(zmq::DONTWAIT).is_ok() {}
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Subscribers with keys, which dial until this is dropped.
fn listening(daemon: &TestDaemon) -> Listening {
    let address = &daemon.bound().subscribers[0];
    let pairs = [
        (STAYS, SERVER),
        (LIMITED, SERVER),
        (REVOKED, SERVER),
        (LATE, NEXT),
    ];
    let subscribers = pairs.into_iter().flat_map(|(number, server)| {
        ["", "Weather", "Order.1"].map(|prefix| {
            let keys = ClientKeys {
                own: pair(number),
                server: server_key(server),
            };
            Subscriber::new(address, vec![prefix.into()]).with_keys(Some(keys))
        })
    });
    Listening::start(subscribers.collect())
}

/// By how many bytes memory grew in an hour, by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, bytes) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let products = samples
        .iter()
        .map(|sample| (sample.0 - time) * (sample.1 - bytes));
    let squares = samples.iter().map(|sample| (sample.0 - time).powi(2));
    products.sum::<f64>() / squares.sum::<f64>() * 3600.0
}

#[test]
#[ignore = "takes 15 minutes, or as many seconds as EVENT_MANAGER_SOAK_SECONDS says: just soak"]
fn a_soak_with_every_mechanism_and_a_reload_each_minute() {
    let minute = Duration::from_secs(60.min(seconds() / 4));
    let (mut chance, soak, context) = (Chance::new(), Soak::default(), zmq::Context::new());
    let (keys, directory) = (Keys::new(), tempfile::tempdir().expect("a directory"));
    keys.write_secret("next", NEXT);
    for number in [STAYS, LIMITED, REVOKED, LATE] {
        keys.admit(number);
    }
    let site = Site::configured(&configured(&keys, &directory, false));
    let daemon = TestDaemon::serving(&site);
    soak.is_at(&daemon);
    let listening = listening(&daemon);
    let (begun, mut samples, mut minutes) = (Instant::now(), vec![], 0);
    std::thread::scope(|scope| {
        let (soak, context) = (&soak, &context);
        for _ in 0..2 {
            let [emits, works, publishes] = [chance.fork(), chance.fork(), chance.fork()];
            scope.spawn(move || soak.emit(context, emits));
            scope.spawn(move || soak.work(context, works));
            scope.spawn(move || soak.publish_with_keys(publishes));
        }
        scope.spawn(move || soak.publish(context));
        scope.spawn(move || soak.idle(context));
        scope.spawn(move || soak.talk_with_a_password(context));
        // Should an assertion fail, the others end too.
        let _end = End(&soak.ends);
        while begun.elapsed().as_secs() < seconds() {
            minutes += 1;
            let is_odd = minutes % 2 == 1;
            let denied = |status: &Status| client(status, LIMITED).denied.values().sum::<u64>();
            let before = denied(&daemon.status());
            site.write(
                "config.json",
                &settings(&configured(&keys, &directory, is_odd)).to_string(),
            );
            daemon.program().signal("HUP");
            if is_odd {
                keys.revoke(REVOKED);
            } else {
                keys.admit(REVOKED);
            }
            daemon.wait_for("it knows the other keys", |status| {
                let connections = [REVOKED, LATE].map(|number| client(status, number).connections);
                connections == if is_odd { [0, 3] } else { [3, 0] }
            });
            if !is_odd {
                daemon.wait_for("a denial", |status| denied(status) > before);
            }
            let next = minute * minutes;
            while begun.elapsed() < next {
                let resident = resident_bytes(&daemon);
                samples.push((begun.elapsed().as_secs_f64(), resident as f64));
                std::thread::sleep(minute / 60);
            }
            let (_, resident) = samples[samples.len() - 1];
            println!("{minutes}: {:.1} MiB resident", resident / MIB as f64);
        }
    });
    let status = daemon.status();
    println!(
        "{:?}, refused {:?}",
        status.peers.mechanisms, status.peers.refused
    );
    drop(listening);
    soak.drain(&daemon);
    soak.loses_nothing();
    // After a third, all that is kept of so many peers is there.
    let later = &samples[samples.len() / 3..];
    println!("{:+.2} MiB in an hour", slope(later) / MIB as f64);
    let mean = |samples: &[(f64, f64)]| {
        samples.iter().map(|sample| sample.1).sum::<f64>() / samples.len() as f64
    };
    let (first, second) = later.split_at(later.len() / 2);
    let grown = mean(second) - mean(first);
    assert!(grown < 4.0 * MIB as f64, "{grown} bytes more");
    // With it end both laws are asserted.
    drop(daemon);
}
