//! Security mechanisms: what happens between the greeting and the first message.

use bytes::{Bytes, BytesMut};

use super::command::{MalformedCommand, encode_command, error_reason, split_name};
use super::socket_type::SocketType;

/// The properties of READY that we use, or their equivalents in ZMTP 2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) socket_type: Option<SocketType>,
    /// As written, for the error that names it.
    pub(super) socket_type_name: String,
    pub(super) identity: Bytes,
    /// The id of an event manager that dialled us.
    pub(super) event_manager: Option<u64>,
}

/// The property with which an event manager identifies itself to one that it dials.
const EVENT_MANAGER: &str = "X-Event-Manager";

/// Why a mechanism ended the handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MechanismError {
    /// A command or its metadata is malformed.
    #[error("its handshake can't be read: {0}")]
    Malformed(&'static str),
    /// The peer sent ERROR; holds its reason.
    #[error("it refused us: {0}")]
    Refused(String),
}

/// An identity has at most 255 bytes.
pub(super) const IDENTITY_TOO_LONG: MechanismError =
    MechanismError::Malformed("its identity has more than 255 bytes");

impl From<MalformedCommand> for MechanismError {
    fn from(error: MalformedCommand) -> Self {
        Self::Malformed(error.0)
    }
}

/// A mechanism in the middle of a handshake. Another one (CURVE) is another variant: its name, what
/// it says first, what it makes of each command, and, once it has keys, of each frame.
#[derive(Debug)]
pub enum Mechanism {
    /// No security: both sides send READY.
    Null,
}

impl Mechanism {
    /// The name in the greeting.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
        }
    }

    /// Whether peers of ZMTP 2.0 may connect, which has no mechanisms: not if there are keys.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Null => true,
        }
    }

    /// Appends what this side sends first, once the greetings agree.
    pub(super) fn start(
        &mut self,
        ours: SocketType,
        event_manager: Option<u64>,
        out: &mut BytesMut,
    ) {
        match self {
            Self::Null => {
                let mut properties = Vec::with_capacity(64);
                put_property(&mut properties, "Socket-Type", ours.name().as_bytes());
                put_property(&mut properties, "Identity", b"");
                if let Some(id) = event_manager {
                    put_property(&mut properties, EVENT_MANAGER, &id.to_be_bytes());
                }
                encode_command(out, "READY", &[&properties]);
            }
        }
    }

    /// Processes the peer's command; returns its metadata when the handshake is done.
    pub(super) fn receive(&mut self, body: &[u8]) -> Result<Option<Metadata>, MechanismError> {
        let (name, rest) = split_name(body)?;
        match (self, name) {
            (_, b"ERROR") => {
                let reason = String::from_utf8_lossy(error_reason(rest)).into_owned();
                Err(MechanismError::Refused(reason))
            }
            (Self::Null, b"READY") => parse_metadata(rest).map(Some),
            (Self::Null, _) => Err(MechanismError::Malformed("a command before READY")),
        }
    }
}

fn put_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Both are our own: a name of a few bytes, a value of at most 255.
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

fn parse_metadata(mut rest: &[u8]) -> Result<Metadata, MechanismError> {
    let cut_off = MechanismError::Malformed("its metadata is cut off");
    let mut metadata = Metadata {
        socket_type: None,
        socket_type_name: String::new(),
        identity: Bytes::new(),
        event_manager: None,
    };
    while let [len, after @ ..] = rest {
        let (name, after) = after
            .split_at_checked(usize::from(*len))
            .ok_or(cut_off.clone())?;
        let (len, after) = after.split_first_chunk::<4>().ok_or(cut_off.clone())?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| cut_off.clone())?;
        let (value, after) = after.split_at_checked(len).ok_or(cut_off.clone())?;
        // Names are case-insensitive in the RFC.
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            metadata.socket_type = SocketType::from_name(value);
            metadata.socket_type_name = String::from_utf8_lossy(value).into_owned();
        } else if name.eq_ignore_ascii_case(b"Identity") {
            if value.len() > 255 {
                return Err(IDENTITY_TOO_LONG);
            }
            metadata.identity = Bytes::copy_from_slice(value);
        } else if name.eq_ignore_ascii_case(EVENT_MANAGER.as_bytes()) {
            metadata.event_manager = value.try_into().ok().map(u64::from_be_bytes);
        }
        rest = after;
    }
    Ok(metadata)
}
