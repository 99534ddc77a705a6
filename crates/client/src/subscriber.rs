//! A plain subscriber.

use bytes::Bytes;

use super::LIMITS;
use super::connection::Options;
use super::keys::ClientKeys;
use super::line::Line;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;

/// Subscribes to prefixes of subjects, and again whenever its connection has ended. What is published
/// meanwhile is lost.
pub struct Subscriber(Line);

impl Subscriber {
    /// Subscribes at this address as soon as somebody waits for events.
    pub fn new(address: &Endpoint, prefixes: Vec<Vec<u8>>) -> Self {
        let options = Options::new(LocalSocket::Sub, LIMITS);
        let subscribe = Box::new(move |connection: &mut super::Connection| {
            for prefix in &prefixes {
                connection.subscribe(prefix);
            }
        });
        Self(Line::new(address, options, subscribe))
    }

    /// The same with CURVE, if there are keys.
    pub fn with_keys(self, keys: Option<ClientKeys>) -> Self {
        Self(self.0.with_keys(keys))
    }

    /// Waits for the next event; its frames. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> Vec<Bytes> {
        self.0.next().await
    }
}
