//! What is known to have been tried against CURVE, here or elsewhere, by peers that do it by hand. After
//! each attack its refusals are counted with their reasons, nothing of it was delivered, the books are
//! right, and a client that behaves works.

mod handshake;
mod many;
mod messages;
mod secrets;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::support::TestDaemon;
use super::support::keys::{Keys, Peer, latencies, publisher, subscriber};
use super::support::raw::RawPeer;

/// The key of clients that behave, and of thieves of it.
const KNOWN: u8 = 2;
/// A key that the daemon doesn't know.
const UNKNOWN: u8 = 7;

/// A daemon whose peers need keys, with a publisher and a subscriber that behave.
struct Attacked {
    daemon: TestDaemon,
    publisher: Peer,
    subscriber: Peer,
    /// What was refused, as far as it is known.
    refused: BTreeMap<String, u64>,
    _keys: Keys,
}

impl Attacked {
    fn new() -> Self {
        Self::of(Keys::new(), |keys| keys.daemon(&["curve"]))
    }

    fn of(keys: Keys, start: impl FnOnce(&Keys) -> TestDaemon) -> Self {
        keys.admit(KNOWN);
        let daemon = start(&keys);
        let (publisher, subscriber) = (publisher(&daemon, KNOWN), subscriber(&daemon, KNOWN));
        Self {
            daemon,
            publisher,
            subscriber,
            refused: BTreeMap::new(),
            _keys: keys,
        }
    }

    /// So much more was refused for these reasons, and nothing else.
    fn refuses(&mut self, reasons: &[(&str, u64)]) {
        for (reason, times) in reasons {
            *self.refused.entry((*reason).to_owned()).or_default() += times;
        }
        let what = format!("{reasons:?}");
        let status = self.daemon.wait_for(&what, |status| {
            status.peers.refused.values().sum::<u64>() >= self.refused.values().sum()
        });
        assert_eq!(status.peers.refused, self.refused, "{what}");
    }

    /// How long events take from the publisher to the subscriber, for so long.
    fn latencies(&mut self, time: Duration) -> Vec<Duration> {
        latencies(&mut self.publisher, &mut self.subscriber, time)
    }

    /// Nobody notices that there was an attack: neither who was there, nor who comes.
    fn goes_on(&mut self) {
        self.publisher.publish("Order", b"after that");
        let event = [b"Order".to_vec(), b"after that".to_vec()];
        assert_eq!(self.subscriber.message(), event, "nothing else came");
        let begun = Instant::now();
        let mut newcomer = publisher(&self.daemon, KNOWN);
        newcomer.publish("Order", b"of a newcomer");
        assert_eq!(self.subscriber.message()[1], b"of a newcomer");
        println!("a newcomer's event came after {:?}", begun.elapsed());
    }
}

/// Connections that the daemon ends without another word.
fn end_in_silence(peers: Vec<(String, RawPeer)>) {
    for (what, mut peer) in peers {
        assert_eq!(peer.read_to_end(), b"", "{what}");
    }
}
