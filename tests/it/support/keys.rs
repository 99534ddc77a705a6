//! Keys in files, as an administrator has them, and clients of ours that have one.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager_client::{
    ClientKeys, Connection, ConnectionEvent, Ended, OpenError, Options, Subscriber,
};
use event_manager_zmtp::curve::{KeyPair, PublicKey};
use event_manager_zmtp::{Limits, LocalSocket, frames, z85};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{PATIENCE, TestDaemon};

/// Longer than the daemon takes to see that files are others.
pub const NOTICED: Duration = Duration::from_secs(1);

/// Keys in a directory, as an administrator has them.
pub struct Keys {
    directory: TempDir,
}

pub fn pair(number: u8) -> KeyPair {
    KeyPair::from_secret([number; 32])
}

pub const SERVER: u8 = 1;

/// A certificate with both keys of this pair.
pub fn write_secret(path: &Path, number: u8) {
    let pair = pair(number);
    let (public, secret) = (pair.public(), z85::encode(pair.secret()));
    let text = format!("curve\n    public-key = \"{public}\"\n    secret-key = \"{secret}\"\n");
    fs::write(path, text).expect("a file");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, mode).expect("a file");
}

impl Keys {
    /// The daemon's, and no client's.
    pub fn new() -> Self {
        let keys = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        fs::create_dir(keys.clients()).expect("a directory");
        keys.write_secret("server", SERVER);
        keys
    }

    pub fn clients(&self) -> PathBuf {
        self.directory.path().join("clients")
    }

    pub fn secret(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.key_secret"))
    }

    pub fn write_secret(&self, name: &str, number: u8) {
        write_secret(&self.secret(name), number);
    }

    pub fn admit(&self, number: u8) {
        let text = format!(
            "metadata\ncurve\n    public-key = \"{}\"\n",
            pair(number).public()
        );
        // As a whole, as a copy of a file comes.
        let partial = self.directory.path().join("partial");
        fs::write(&partial, text).expect("a file");
        fs::rename(partial, self.file_of(number)).expect("a file");
    }

    pub fn file_of(&self, number: u8) -> PathBuf {
        self.clients().join(format!("client-{number}.key"))
    }

    pub fn revoke(&self, number: u8) {
        fs::remove_file(self.file_of(number)).expect("a file");
    }

    /// The configuration with these.
    pub fn security(&self, mechanisms: &[&str]) -> Value {
        json!({"mechanisms": mechanisms, "secretKey": self.secret("server"), "keysDir": self.clients()})
    }

    pub fn daemon(&self, mechanisms: &[&str]) -> TestDaemon {
        TestDaemon::in_own_process(&json!({"security": self.security(mechanisms)}))
    }
}

/// A client of ours on a runtime of its own.
pub struct Peer {
    runtime: tokio::runtime::Runtime,
    pub connection: Connection,
}

pub fn server_key(number: u8) -> PublicKey {
    *pair(number).public()
}

impl Peer {
    pub fn open(
        address: &str,
        role: LocalSocket,
        own: u8,
        server: PublicKey,
    ) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut options = Options::new(role, Limits::default());
        options.keys = Some(ClientKeys {
            own: pair(own),
            server,
        });
        let address = address.parse().expect("an address");
        let connection = runtime.block_on(Connection::open(&address, &options))?;
        Ok(Self {
            runtime,
            connection,
        })
    }

    /// Tries until it is admitted.
    pub fn met(address: &str, role: LocalSocket, own: u8) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::open(address, role, own, server_key(SERVER)) {
                Ok(peer) => return peer,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    pub fn next(&mut self) -> Result<ConnectionEvent, Ended> {
        let next = async { tokio::time::timeout(PATIENCE, self.connection.next()).await };
        self.runtime.block_on(next).expect("something happens")
    }

    /// The next message's frames.
    pub fn message(&mut self) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no message comes");
            if let ConnectionEvent::Message(message) = self.next().expect("it goes on") {
                return frames(&message).map(<[u8]>::to_vec).collect();
            }
        }
    }

    pub fn publish(&mut self, subject: &str, body: &[u8]) {
        self.connection.send([subject.as_bytes(), body]);
        while self.next().expect("it goes on") != ConnectionEvent::Sent {}
    }
}

pub fn subscriber(daemon: &TestDaemon, own: u8) -> Peer {
    let before = daemon.status().subscribers.subscriptions;
    let mut peer = Peer::met(&daemon.subscribers(), LocalSocket::Sub, own);
    peer.connection.subscribe(b"Order");
    while peer.next().expect("it goes on") != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(before + 1);
    peer
}

pub fn publisher(daemon: &TestDaemon, own: u8) -> Peer {
    let mut peer = Peer::met(&daemon.publishers(), LocalSocket::Pub, own);
    assert_eq!(
        peer.next().expect("it goes on"),
        ConnectionEvent::Wanted(true)
    );
    peer
}

/// How long each of some events takes from a publisher to a subscriber, for so long.
pub fn latencies(publisher: &mut Peer, subscriber: &mut Peer, time: Duration) -> Vec<Duration> {
    let (begun, mut taken) = (Instant::now(), vec![]);
    while begun.elapsed() < time {
        taken.push(latency(publisher, subscriber));
        std::thread::sleep(Duration::from_millis(1));
    }
    taken
}

pub fn latency(publisher: &mut Peer, subscriber: &mut Peer) -> Duration {
    let sent = Instant::now();
    publisher.publish("Order", b"how long does it take?");
    subscriber.message();
    sent.elapsed()
}

/// What times are like: their median, how long 99 of 100 take at most, and the longest.
pub struct Spread(pub Vec<Duration>);

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let [median, p99, longest] = [50, 99, 100].map(|percent| {
            let n = sorted.len() * percent / 100;
            sorted[n.min(sorted.len() - 1)]
        });
        write!(
            f,
            "{} events took {median:?}, p99 {p99:?}, at most {longest:?}",
            sorted.len()
        )
    }
}

/// Subscribers that dial until this is dropped, on a thread of their own.
pub struct Listening {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    pub fn start(subscribers: Vec<Subscriber>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let listen = async move {
            let mut listening = JoinSet::new();
            for mut subscriber in subscribers {
                listening.spawn(async move {
                    loop {
                        subscriber.next().await;
                    }
                });
            }
            // It ends by being dropped.
            let _ = stopped.await;
        };
        Self {
            stop: Some(stop),
            thread: Some(std::thread::spawn(move || runtime.block_on(listen))),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
