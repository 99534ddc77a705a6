//! A plain subscriber.

use bytes::Bytes;

use super::LIMITS;
use super::connection::Options;
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

    /// Waits for the next event; its frames. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> Vec<Bytes> {
        self.0.next().await
    }
}
