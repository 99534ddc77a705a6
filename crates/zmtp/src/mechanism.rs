//! Security mechanisms: what happens between the greeting and the first message.

use bytes::{Bytes, BytesMut};

use super::command::{MalformedCommand, encode_command, error_reason, split_name};
use super::curve::{Agreed, CurveClient, CurveError, CurveServer, PublicKey, Session};
use super::frame::put_command;
use super::hub_id::{HUB, HubId};
use super::plain::{PlainCredentials, PlainServer};
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
    /// It is a hub of a mesh.
    pub(super) hub: Option<HubId>,
}

/// What we say of ourselves to an event manager that we dial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Our id in this run.
    pub(super) event_manager: Option<u64>,
    /// We are a hub of a mesh.
    pub(super) hub: Option<HubId>,
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
    /// What the peer sent for CURVE.
    #[error(transparent)]
    Curve(#[from] CurveError),
}

/// An identity has at most 255 bytes.
pub(super) const IDENTITY_TOO_LONG: MechanismError =
    MechanismError::Malformed("its identity has more than 255 bytes");

const HUB_MALFORMED: MechanismError =
    MechanismError::Malformed("its X-EM-Hub is not 16 hex digits");
const HUB_REPEATED: MechanismError = MechanismError::Malformed("it has X-EM-Hub more than once");

impl From<MalformedCommand> for MechanismError {
    fn from(error: MalformedCommand) -> Self {
        Self::Malformed(error.0)
    }
}

/// A mechanism in the middle of a handshake: its name, what it says first, and what it makes of each
/// command.
#[derive(Debug)]
pub enum Mechanism {
    /// No security: both sides send READY.
    Null,
    /// A name and a password, on the side that is connected to.
    PlainServer(PlainServer),
    /// CURVE, on the side that is connected to.
    CurveServer(Box<CurveServer>),
    /// CURVE, on the side that connects.
    CurveClient(Box<CurveClient>),
}

/// A handshake whose peer is known.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) metadata: Metadata,
    /// The keys of both, if they have any.
    pub(super) keys: Option<PeerKeys>,
    /// Its name and password, if it has any.
    pub(super) plain: Option<PlainCredentials>,
    pub(super) end: End,
}

/// What is left to do once the peer is known, and admitted.
#[derive(Debug)]
pub(super) enum End {
    /// Nothing.
    Plain,
    /// The peer waits for our READY, in the clear.
    ReadyIsDue,
    /// The peer waits for our READY, in a box.
    SealedReadyIsDue(Agreed),
    /// What follows is in boxes.
    Sealed(Session),
}

/// The long-term keys of a connection with CURVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerKeys {
    /// The client's.
    pub client: PublicKey,
    /// The server's: one of several may be.
    pub server: PublicKey,
}

impl Mechanism {
    /// The name in the greeting.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::PlainServer(_) => "PLAIN",
            Self::CurveServer(_) | Self::CurveClient(_) => "CURVE",
        }
    }

    /// What the greeting says of our side.
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::CurveServer(_) | Self::PlainServer(_))
    }

    /// Whether peers of ZMTP 2.0 may connect, which has no mechanisms: not if there are keys.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Appends what this side sends first, once the greetings agree.
    pub(super) fn start(&mut self, properties: &[u8], out: &mut BytesMut) {
        match self {
            Self::Null => encode_command(out, "READY", &[properties]),
            Self::CurveServer(_) | Self::PlainServer(_) => {}
            Self::CurveClient(client) => put_command(out, &client.hello()),
        }
    }

    /// Whether this command has keys agreed on, which takes long, and whether for the first time. What
    /// isn't a command at its time, or can't be one, doesn't.
    pub(super) fn agreement(&self, body: &[u8]) -> Option<bool> {
        match self {
            Self::CurveServer(server) => server.agreement(body),
            Self::Null | Self::PlainServer(_) | Self::CurveClient(_) => None,
        }
    }

    /// Processes the peer's command, and appends the answer, if there is one; returns the peer when it
    /// is known. The properties are ours.
    pub(super) fn receive(
        &mut self,
        body: &[u8],
        properties: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<Met>, MechanismError> {
        let (name, rest) = split_name(body)?;
        match (self, name) {
            (_, b"ERROR") => {
                let reason = String::from_utf8_lossy(error_reason(rest)).into_owned();
                Err(MechanismError::Refused(reason))
            }
            (Self::Null, b"READY") => Ok(Some(Met {
                metadata: parse_metadata(rest)?,
                keys: None,
                plain: None,
                end: End::Plain,
            })),
            (Self::Null, _) => Err(MechanismError::Malformed("a command before READY")),
            (Self::PlainServer(server), b"HELLO") => {
                server.hello(rest, out)?;
                Ok(None)
            }
            (Self::PlainServer(server), b"INITIATE") => Ok(Some(Met {
                plain: Some(server.initiated()?),
                metadata: parse_metadata(rest)?,
                keys: None,
                end: End::ReadyIsDue,
            })),
            (Self::PlainServer(_), _) => {
                Err(MechanismError::Malformed("an unknown command of PLAIN"))
            }
            (Self::CurveServer(server), b"HELLO") => {
                put_command(out, &server.hello(body)?);
                Ok(None)
            }
            (Self::CurveServer(server), _) => {
                let initiated = server.initiate(body)?;
                Ok(Some(Met {
                    metadata: parse_metadata(&initiated.metadata)?,
                    keys: Some(PeerKeys {
                        client: initiated.client,
                        server: initiated.server,
                    }),
                    plain: None,
                    end: End::SealedReadyIsDue(initiated.agreed),
                }))
            }
            (Self::CurveClient(client), b"WELCOME") => {
                put_command(out, &client.welcome(body, properties)?);
                Ok(None)
            }
            (Self::CurveClient(client), _) => {
                let (metadata, session) = client.ready(body)?;
                Ok(Some(Met {
                    metadata: parse_metadata(&metadata)?,
                    keys: Some(client.keys()),
                    plain: None,
                    end: End::Sealed(session),
                }))
            }
        }
    }
}

/// Our properties, as READY and INITIATE have them.
pub(super) fn properties(ours: SocketType, known: Known) -> Vec<u8> {
    let mut properties = Vec::with_capacity(64);
    put_property(&mut properties, "Socket-Type", ours.name().as_bytes());
    put_property(&mut properties, "Identity", b"");
    if let Some(id) = known.event_manager {
        put_property(&mut properties, EVENT_MANAGER, &id.to_be_bytes());
    }
    if let Some(hub) = known.hub {
        put_property(&mut properties, HUB, hub.to_string().as_bytes());
    }
    properties
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
        hub: None,
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
        } else if name.eq_ignore_ascii_case(HUB.as_bytes()) {
            let hub = HubId::parse(value).ok_or(HUB_MALFORMED)?;
            if metadata.hub.replace(hub).is_some() {
                return Err(HUB_REPEATED);
            }
        }
        rest = after;
    }
    Ok(metadata)
}
