//! Commands: a name, then its data.

use bytes::{BufMut, BytesMut};

use super::frame::put_command;
use super::hub_id::HubId;
use super::version::Version;

/// How much of a PING's context is returned, in bytes; libzmq cuts it there too.
const CONTEXT_BYTES_MAX: usize = 16;

/// Subscribes to a prefix, or ends such a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription<'a> {
    /// Subscribe to subjects that begin with this.
    Subscribe(&'a [u8]),
    /// End one such subscription.
    Cancel(&'a [u8]),
}

impl<'a> Subscription<'a> {
    /// The form of ZMTP 3.0 and 2.0, where a subscription is a message of one frame: 1 or 0, the prefix.
    pub fn from_message(body: &'a [u8]) -> Option<Self> {
        match body {
            [1, prefix @ ..] => Some(Self::Subscribe(prefix)),
            [0, prefix @ ..] => Some(Self::Cancel(prefix)),
            _ => None,
        }
    }
}

/// A command of a peer whose handshake is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// The form of ZMTP 3.1.
    Subscription(Subscription<'a>),
    /// Asks for a PONG.
    Ping {
        /// The silence after which the peer wants the connection closed, in tenths of a second; 0 is none.
        ttl_deciseconds: u16,
        /// What the PONG has to repeat, cut to its limit.
        context: &'a [u8],
    },
    /// Answers a PING.
    Pong,
    /// Not ZMTP's: an event manager looks for rings of event managers; see `broker::Loops`.
    Trace(&'a [u8]),
    /// Not ZMTP's: an event manager that was dialled by a hub of a mesh names itself.
    Hub(&'a [u8]),
    /// The peer closes the connection, for this reason.
    Error(&'a [u8]),
    /// An unknown command; the RFC says to ignore it.
    Unknown,
}

/// A malformed command; says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a malformed command: {0}")]
pub struct MalformedCommand(pub &'static str);

/// Splits a command's body into its name and the rest.
pub(super) fn split_name(body: &[u8]) -> Result<(&[u8], &[u8]), MalformedCommand> {
    let [len, rest @ ..] = body else {
        return Err(MalformedCommand("it is empty"));
    };
    rest.split_at_checked(usize::from(*len))
        .filter(|(name, _)| !name.is_empty())
        .ok_or(MalformedCommand("its name is cut off"))
}

/// The reason in an ERROR command, after its name.
pub(super) fn error_reason(rest: &[u8]) -> &[u8] {
    match rest {
        [len, reason @ ..] => reason.get(..usize::from(*len)).unwrap_or(reason),
        [] => &[],
    }
}

impl<'a> Command<'a> {
    /// Reads a command frame's body.
    ///
    /// # Errors
    /// [`MalformedCommand`] ends the connection.
    pub fn parse(body: &'a [u8]) -> Result<Self, MalformedCommand> {
        let (name, rest) = split_name(body)?;
        Ok(match name {
            b"SUBSCRIBE" => Self::Subscription(Subscription::Subscribe(rest)),
            b"CANCEL" => Self::Subscription(Subscription::Cancel(rest)),
            b"PING" => match rest {
                [high, low, context @ ..] => Self::Ping {
                    ttl_deciseconds: u16::from_be_bytes([*high, *low]),
                    context: &context[..context.len().min(CONTEXT_BYTES_MAX)],
                },
                _ => return Err(MalformedCommand("a PING needs a TTL")),
            },
            b"PONG" => Self::Pong,
            b"EMTRACE" => Self::Trace(rest),
            b"EMHUB" => Self::Hub(rest),
            b"ERROR" => Self::Error(error_reason(rest)),
            _ => Self::Unknown,
        })
    }
}

pub(super) fn encode_command(out: &mut BytesMut, name: &str, parts: &[&[u8]]) {
    let mut body = BytesMut::with_capacity(32);
    // Names are our own constants, far below 256 bytes.
    body.put_u8(name.len() as u8);
    body.put_slice(name.as_bytes());
    for part in parts {
        body.put_slice(part);
    }
    put_command(out, &body);
}

/// Appends a PING with the time for which the peer may wait for our next sign of life.
pub fn encode_ping(out: &mut BytesMut, ttl_deciseconds: u16) {
    encode_command(out, "PING", &[&ttl_deciseconds.to_be_bytes()]);
}

/// Appends the answer to a PING.
pub fn encode_pong(out: &mut BytesMut, context: &[u8]) {
    encode_command(out, "PONG", &[context]);
}

/// Appends a trace, for event managers only.
pub fn encode_trace(out: &mut BytesMut, trace: &[u8]) {
    encode_command(out, "EMTRACE", &[trace]);
}

/// Appends who we are, for a hub that dialled us: our id, and that of this run, which traces have.
pub fn encode_hub(out: &mut BytesMut, hub: HubId, run: u64) {
    let hub = hub.to_string();
    encode_command(out, "EMHUB", &[hub.as_bytes(), &run.to_be_bytes()]);
}

/// Reads what [`encode_hub`] wrote; more behind it is for later versions.
pub fn decode_hub(data: &[u8]) -> Option<(HubId, u64)> {
    let (hub, rest) = data.split_first_chunk::<16>()?;
    let run = rest.first_chunk::<8>()?;
    Some((HubId::parse(hub)?, u64::from_be_bytes(*run)))
}

/// Appends the end of a subscription, for peers of ZMTP 3.1.
pub fn encode_cancel(out: &mut BytesMut, prefix: &[u8]) {
    encode_command(out, "CANCEL", &[prefix]);
}

/// Appends a subscription to this prefix, in the form of the peer's version.
pub fn encode_subscribe(out: &mut BytesMut, prefix: &[u8], peer: Version) {
    if peer.has_ping() {
        encode_command(out, "SUBSCRIBE", &[prefix]);
    } else {
        super::encode_frame(out, &[&[1], prefix].concat(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(&mut out);
        out[2..].to_vec()
    }

    #[test]
    fn commands_are_read_back() {
        let read_ping = |ping: &[u8]| match Command::parse(ping) {
            Ok(Command::Ping {
                ttl_deciseconds,
                context,
            }) => (ttl_deciseconds, context.to_vec()),
            other => panic!("{other:?}"),
        };
        let ping = body(|out| encode_command(out, "PING", &[&[1, 9], b"ctx"]));
        assert_eq!(read_ping(&ping), (265, b"ctx".to_vec()));
        let ours = body(|out| encode_ping(out, 30));
        assert_eq!(read_ping(&ours), (30, vec![]));
        let long = body(|out| encode_command(out, "PING", &[&[0, 1], b"seventeen bytes!!"]));
        assert_eq!(read_ping(&long), (1, b"seventeen bytes!".to_vec()));
        assert_eq!(
            Command::parse(&body(|out| encode_pong(out, b"ctx"))),
            Ok(Command::Pong)
        );
        let subscribe = body(|out| encode_subscribe(out, b"POS", Version::V3_1));
        let expected = Command::Subscription(Subscription::Subscribe(b"POS"));
        assert_eq!(Command::parse(&subscribe), Ok(expected));
        assert_eq!(
            Command::parse(b"\x06CANCELPOS"),
            Ok(Command::Subscription(Subscription::Cancel(b"POS")))
        );
        assert_eq!(
            Command::parse(b"\x05ERROR\x03why"),
            Ok(Command::Error(b"why"))
        );
        assert_eq!(Command::parse(b"\x04JOINgroup"), Ok(Command::Unknown));
    }

    #[test]
    fn wrong_commands_are_refused() {
        for wrong in [&b""[..], b"\x00", b"\x09PING", b"\x04PING\x00"] {
            assert!(Command::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_subscription_may_be_a_message() {
        for old in [Version::V2_0, Version::V3_0] {
            let old = body(|out| encode_subscribe(out, b"POS", old));
            assert_eq!(
                Subscription::from_message(&old),
                Some(Subscription::Subscribe(b"POS"))
            );
        }
        assert_eq!(
            Subscription::from_message(&[0]),
            Some(Subscription::Cancel(b""))
        );
        assert_eq!(Subscription::from_message(b"hello"), None);
        assert_eq!(Subscription::from_message(b""), None);
    }
}
