//! Publishing with our own ZMTP: libzmq doesn't tell whether what was sent was taken.

use std::time::Duration;

use bytes::BytesMut;

use super::ClientError;
use super::link::Link;
use crate::ambient::now;
use crate::model::Endpoint;
use crate::zmtp::encode_frame;

/// Events are sent together up to so many bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// Publishes events, in their order, and connects again when it has something to send. What was
/// under way when a connection ended may be lost: that is counted.
#[derive(Debug)]
pub struct Publisher {
    address: Endpoint,
    wait: Duration,
    link: Option<Link>,
    buffer: BytesMut,
    buffered: u64,
    events: u64,
    lost: u64,
    /// Why a connection ended at last.
    why: String,
}

impl Publisher {
    /// Publishes at this address, and waits at most so long for a daemon there.
    pub fn new(address: Endpoint, wait: Duration) -> Self {
        Self {
            address,
            wait,
            link: None,
            buffer: BytesMut::new(),
            buffered: 0,
            events: 0,
            lost: 0,
            why: String::new(),
        }
    }

    /// Publishes an event, maybe only with others that follow.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub fn send(&mut self, frames: &[&[u8]]) -> Result<(), ClientError> {
        for (i, frame) in frames.iter().enumerate() {
            encode_frame(&mut self.buffer, frame, i + 1 < frames.len());
        }
        self.events += 1;
        self.buffered += 1;
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.flush()
    }

    /// Publishes what waits for others to follow.
    ///
    /// # Errors
    /// There is no daemon: [`ClientError::NoAnswer`], or [`ClientError::MayBeLost`] if something was
    /// sent before. That events may be lost is no error as long as there is one.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        if self.buffered == 0 {
            return Ok(());
        }
        let link = match self.connected() {
            Ok(link) => link,
            Err(error) if self.buffered == self.events => return Err(error),
            Err(error) => {
                self.lost += self.buffered;
                return Err(self.may_be_lost(error.to_string()));
            }
        };
        let result = link.write(&self.buffer, self.buffered);
        self.link = Some(link);
        if let Err(why) = result {
            self.lost += self.buffered;
            self.end_link(why);
        }
        self.buffer.clear();
        self.buffered = 0;
        Ok(())
    }

    /// Publishes what waits, and waits until the daemon has taken all.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush), and [`ClientError::MayBeLost`] if it did not take all.
    pub fn finish(mut self) -> Result<(), ClientError> {
        self.flush()?;
        if let Some(link) = &self.link
            && let Err(why) = link.wait_until_taken()
        {
            self.end_link(why);
        }
        match self.lost {
            0 => Ok(()),
            _ => Err(self.may_be_lost(self.why.clone())),
        }
    }

    fn may_be_lost(&self, why: String) -> ClientError {
        ClientError::MayBeLost {
            lost: self.lost,
            events: self.events,
            why,
        }
    }

    fn end_link(&mut self, why: String) {
        if let Some(link) = self.link.take() {
            self.lost += link.untaken();
            self.why = format!("the connection to {} ended: {why}", self.address);
        }
    }

    /// A connection by which the daemon wants events.
    fn connected(&mut self) -> Result<Link, ClientError> {
        let deadline = now() + self.wait;
        loop {
            if let Some(why) = self.link.as_ref().and_then(Link::ended) {
                self.end_link(why);
            }
            let link = match self.link.take() {
                Some(link) => Ok(link),
                None => Link::open(&self.address, deadline),
            };
            if let Ok(link) = link {
                if link.is_wanted(deadline) {
                    return Ok(link);
                }
                self.link = Some(link);
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(ClientError::NoAnswer(self.address.to_string()));
            }
            rest(RETRY.min(left));
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing tells when somebody listens at an address"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}
