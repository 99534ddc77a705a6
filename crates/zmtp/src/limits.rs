//! What a peer may make us hold. Every limit is checked before memory is taken.

/// Bounds on what one connection may send. All are configurable under `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, the sum of its frames with their headers, in bytes.
    pub message_bytes_max: usize,
    /// The most frames in a message.
    pub message_parts_max: usize,
    /// The longest subject or subscription prefix, in bytes.
    pub subject_bytes_max: usize,
    /// The most bytes before the connection is ready: greeting, READY and its metadata.
    pub handshake_bytes_max: usize,
    /// The most subscriptions of one subscriber, and subjects of one service.
    pub subscriptions_per_peer_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 << 20,
            message_parts_max: 1024,
            subject_bytes_max: 1024,
            handshake_bytes_max: 8 << 10,
            subscriptions_per_peer_max: 10_000,
        }
    }
}
