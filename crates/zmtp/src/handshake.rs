//! From the first byte of a connection to the point where messages may flow.

use bytes::{Buf, Bytes, BytesMut};

use super::command::encode_command;
use super::curve::Session;
use super::frame::{FrameError, FrameHeader, LONG, encode_frame, put_command};
use super::greeting::{GREETING_BYTES, Generation, Greeting, GreetingError, OLD_GREETING_BYTES};
use super::hub_id::HubId;
use super::mechanism::{
    End, IDENTITY_TOO_LONG, Known, Mechanism, MechanismError, Met, Metadata, PeerKeys, properties,
};
use super::plain::PlainCredentials;
use super::socket_type::{LocalSocket, SocketType};
use super::version::Version;

/// What the handshake tells about the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its socket's type.
    pub socket_type: SocketType,
    /// The routing id that it asks for; empty if it has none. At most 255 bytes.
    pub identity: Bytes,
    /// The version of ZMTP that both sides speak.
    pub version: Version,
    /// The id of the event manager, if one dialled us.
    pub event_manager: Option<u64>,
    /// The id of the hub, if one of a mesh dialled us.
    pub hub: Option<HubId>,
    /// The keys of both sides, if they have any.
    pub keys: Option<Box<PeerKeys>>,
    /// Its name and password, if it has any.
    pub plain: Option<Box<PlainCredentials>>,
}

/// Why a handshake failed. The texts continue "peer … refused:".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The greeting is of another protocol or version.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// The peer requires another mechanism; holds its name and those that are offered.
    #[error("it requires the security mechanism {0:?}; this socket supports {1}")]
    Mechanism(String, String),
    /// The mechanism failed.
    #[error(transparent)]
    Failed(#[from] MechanismError),
    /// An unsuitable socket type: its name, ours, and which types are accepted.
    #[error("a {0} connected to the {1} socket, which accepts {2}")]
    SocketType(String, LocalSocket, String),
    /// A malformed frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message where a command belongs.
    #[error("it sent a message before its READY")]
    MessageTooEarly,
    /// More bytes than a handshake may take; the limit.
    #[error("its handshake has more than {0} bytes")]
    TooLong(usize),
}

impl HandshakeError {
    /// A short word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Greeting(GreetingError::NotZmtp | GreetingError::NoMechanism) => "not-zmtp",
            Self::Greeting(GreetingError::TooOld) => "zmtp-too-old",
            Self::Mechanism(..) => "mechanism",
            Self::Failed(MechanismError::Curve(error)) => error.reason(),
            Self::Failed(_) => "handshake-failed",
            Self::SocketType(..) => "wrong-socket-type",
            Self::Frame(_) | Self::MessageTooEarly => "malformed",
            Self::TooLong(_) => "handshake-too-long",
        }
    }
}

/// How far a handshake has come: if the peer hangs up then, that tells why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its version is not known.
    Unknown,
    /// It has said its version, and not which mechanism it speaks.
    Version,
    /// It speaks our mechanism.
    Agreed,
    /// It has our HELLO, and owes us a WELCOME, which only the owner of its key can make.
    Hello,
    /// It has proved that its key is the one that we know, and has been told ours.
    Initiate,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Until its version is known.
    Opening,
    /// ZMTP 2.0: its socket type is to come, then a frame with its identity.
    Old,
    Greeting,
    Mechanism {
        version: Version,
    },
}

/// What the commands that are there come to.
enum Received {
    /// Too few of them.
    Part,
    /// The next one takes long.
    Agreement { is_first: bool },
    /// The peer is known.
    Met(Box<Met>),
}

/// How far a handshake has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The peer has to say more.
    Waiting,
    /// Keys are to be agreed on, by [`Handshake::agree`]: that takes a hundred times longer than all
    /// else. With each handshake it happens twice.
    Agreement {
        /// Whether it is the first time, for a peer that may be anybody.
        is_first: bool,
    },
    /// It is done.
    Met(Peer),
}

/// The handshake of one connection. As libzmq does, we send only our version before the peer has sent
/// its own: a peer of ZMTP 2.0 would take what follows for messages.
///
/// Whoever dials then names its mechanism at once. Whoever was dialled waits for the peer's first
/// ([`dialled_by_peer`](Self::dialled_by_peer)): a peer of libzmq that reads of a mechanism other than
/// its own never connects again, and never says why. So another mechanism is refused without a word.
///
/// Feed what arrives to [`receive`](Self::receive), and send what it appends to `out`, also after
/// an error: it may be the ERROR command that tells the peer why.
pub struct Handshake {
    local: LocalSocket,
    /// Those of which the peer may name one. The last is named if it waits.
    offered: Vec<Mechanism>,
    /// The one that is spoken.
    chosen: Option<Mechanism>,
    state: State,
    /// What follows once the peer is known.
    end: End,
    received: BytesMut,
    bytes_max: usize,
    known: Known,
    /// Whether our mechanism is named as soon as the peer's version is known.
    is_first: bool,
}

impl Handshake {
    /// Starts the handshake: appends the first part of our greeting to `out`. Whoever dials offers one
    /// mechanism. Of several, the peer names one; one that waits is told the last.
    pub fn start(
        local: LocalSocket,
        offered: Vec<Mechanism>,
        bytes_max: usize,
        out: &mut BytesMut,
    ) -> Self {
        out.extend_from_slice(&Greeting::opening());
        Self {
            local,
            offered,
            chosen: None,
            state: State::Opening,
            end: End::Plain,
            received: BytesMut::new(),
            bytes_max,
            known: Known::default(),
            is_first: true,
        }
    }

    /// Lets the peer name its mechanism first.
    pub fn dialled_by_peer(mut self) -> Self {
        self.is_first = false;
        self
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        match (self.state, &self.chosen) {
            (State::Opening, _) => Stage::Unknown,
            (State::Greeting, _) => Stage::Version,
            (State::Mechanism { .. }, Some(Mechanism::CurveClient(client))) => {
                match client.is_welcome() {
                    true => Stage::Initiate,
                    false => Stage::Hello,
                }
            }
            (State::Mechanism { .. } | State::Old, _) => Stage::Agreed,
        }
    }

    /// Whether nothing more is sent until the peer has named its mechanism. One that waits, too, needs
    /// [`go_first`](Self::go_first) after a while.
    pub fn waits_for_mechanism(&self) -> bool {
        matches!(self.state, State::Greeting) && self.chosen.is_none()
    }

    /// Names our mechanism although the peer has not named its own.
    pub fn go_first(&mut self, out: &mut BytesMut) {
        if self.waits_for_mechanism() {
            self.choose_last(out);
        }
    }

    /// Adds our id as an event manager to READY; a peer of ZMTP 2.0 is not told.
    pub fn of_event_manager(mut self, id: u64) -> Self {
        self.known.event_manager = Some(id);
        self
    }

    /// Adds that we are a hub of a mesh, with this id.
    pub fn of_hub(mut self, hub: HubId) -> Self {
        self.known.hub = Some(hub);
        self
    }

    /// Processes what arrived; returns the peer when the handshake is done. Bytes after it are then
    /// returned by [`finish`](Self::finish).
    ///
    /// # Errors
    /// Any [`HandshakeError`] ends the connection.
    pub fn receive(
        &mut self,
        input: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<Peer>, HandshakeError> {
        let mut progress = self.take(input, out)?;
        loop {
            match progress {
                Progress::Waiting => return Ok(None),
                Progress::Agreement { .. } => progress = self.agree(out)?,
                Progress::Met(peer) => return Ok(Some(peer)),
            }
        }
    }

    /// Processes what arrived, but for what takes long.
    ///
    /// # Errors
    /// Any [`HandshakeError`] ends the connection.
    pub fn take(&mut self, input: &[u8], out: &mut BytesMut) -> Result<Progress, HandshakeError> {
        self.received.extend_from_slice(input);
        self.go_on(false, out)
    }

    /// Does what takes long, after [`Progress::Agreement`], and goes on.
    ///
    /// # Errors
    /// Any [`HandshakeError`] ends the connection.
    pub fn agree(&mut self, out: &mut BytesMut) -> Result<Progress, HandshakeError> {
        self.go_on(true, out)
    }

    /// Processes what is there, with one agreement at most.
    fn go_on(&mut self, agrees: bool, out: &mut BytesMut) -> Result<Progress, HandshakeError> {
        loop {
            match self.state {
                State::Opening => {
                    let Some(generation) = Generation::of(&self.received)? else {
                        return Ok(Progress::Waiting);
                    };
                    self.state = self.answer(generation, out)?;
                }
                State::Old => {
                    let met = self.receive_old(out)?;
                    return Ok(met.map_or(Progress::Waiting, Progress::Met));
                }
                State::Greeting => {
                    let Some(greeting) = Greeting::parse(&self.received)? else {
                        return Ok(Progress::Waiting);
                    };
                    self.received.advance(GREETING_BYTES);
                    self.meet(&greeting, out)?;
                }
                State::Mechanism { version } => {
                    let met = match self.receive_commands(agrees, out)? {
                        Received::Part => return Ok(Progress::Waiting),
                        Received::Agreement { is_first } => {
                            return Ok(Progress::Agreement { is_first });
                        }
                        Received::Met(met) => *met,
                    };
                    return self.admit(met, version, out).map(Progress::Met);
                }
            }
        }
    }

    /// Ends the handshake with a peer that is admitted: appends what it still waits for. Returns what it
    /// sent after its handshake, and the keys of the boxes in which that is, if it is in boxes.
    pub fn finish(self, out: &mut BytesMut) -> (BytesMut, Option<Session>) {
        let session = match self.end {
            End::Plain => None,
            End::Sealed(session) => Some(session),
            End::ReadyIsDue => {
                let ours = properties(self.local.socket_type(), self.known);
                encode_command(out, "READY", &[&ours]);
                None
            }
            End::SealedReadyIsDue(agreed) => {
                let ours = properties(self.local.socket_type(), self.known);
                let (ready, session) = agreed.ready(&ours);
                put_command(out, &ready);
                Some(session)
            }
        };
        (self.received, session)
    }

    /// Speaks this mechanism of those that are offered: sends the rest of our greeting, for a peer of
    /// ZMTP 3.x.
    fn choose(&mut self, index: usize, out: &mut BytesMut) {
        let mechanism = self.offered.remove(index);
        out.extend_from_slice(&Greeting::rest(mechanism.name(), mechanism.is_server()));
        self.chosen = Some(mechanism);
    }

    fn choose_last(&mut self, out: &mut BytesMut) {
        if let Some(last) = self.offered.len().checked_sub(1) {
            self.choose(last, out);
        }
    }

    /// The names of all that are offered.
    fn names(&self) -> String {
        let all = self.chosen.iter().chain(&self.offered);
        let names: Vec<_> = all.map(Mechanism::name).collect();
        names.join(" and ")
    }

    /// Goes on in the peer's version.
    fn answer(
        &mut self,
        generation: Generation,
        out: &mut BytesMut,
    ) -> Result<State, HandshakeError> {
        match generation {
            Generation::New => {
                if self.is_first {
                    self.choose_last(out);
                }
                Ok(State::Greeting)
            }
            Generation::Old if !self.offered.iter().any(Mechanism::is_open) => Err(
                HandshakeError::Mechanism("none (ZMTP 2.0)".into(), self.names()),
            ),
            Generation::Old => {
                out.extend_from_slice(&[self.local.socket_type().number()]);
                encode_frame(out, b"", false);
                Ok(State::Old)
            }
        }
    }

    /// The socket type and the identity of a peer of ZMTP 2.0.
    fn receive_old(&mut self, out: &mut BytesMut) -> Result<Option<Peer>, HandshakeError> {
        let Some((greeting, rest)) = self.received.split_at_checked(OLD_GREETING_BYTES) else {
            return Ok(None);
        };
        let Some(header) = FrameHeader::parse_with(rest, LONG)? else {
            return Ok(None);
        };
        if header.body_bytes > 255 {
            return Err(IDENTITY_TOO_LONG.into());
        }
        let identity = &rest[header.header_bytes..];
        let Some(identity) = identity.get(..header.body_bytes as usize) else {
            return Ok(None);
        };
        let number = greeting[OLD_GREETING_BYTES - 1];
        let socket_type = SocketType::from_number(number);
        let name = socket_type.map_or_else(
            || format!("socket of type {number}"),
            |kind| kind.name().into(),
        );
        let metadata = Metadata {
            socket_type,
            socket_type_name: name,
            identity: Bytes::copy_from_slice(identity),
            event_manager: None,
            hub: None,
        };
        let taken = OLD_GREETING_BYTES + header.header_bytes + identity.len();
        self.received.advance(taken);
        let met = Met {
            metadata,
            keys: None,
            plain: None,
            end: End::Plain,
        };
        self.admit(met, Version::V2_0, out).map(Some)
    }

    fn meet(&mut self, greeting: &Greeting, out: &mut BytesMut) -> Result<(), HandshakeError> {
        let is_its = |mechanism: &Mechanism| mechanism.name() == greeting.mechanism;
        if self.chosen.is_none()
            && let Some(index) = self.offered.iter().position(is_its)
        {
            self.choose(index, out);
        }
        let names = self.names();
        let Some(chosen) = self.chosen.as_mut().filter(|chosen| is_its(chosen)) else {
            return Err(HandshakeError::Mechanism(greeting.mechanism.clone(), names));
        };
        let ours = properties(self.local.socket_type(), self.known);
        chosen.start(&ours, out);
        let version = match greeting.minor {
            0 => Version::V3_0,
            _ => Version::V3_1,
        };
        self.state = State::Mechanism { version };
        Ok(())
    }

    /// Processes whole commands, up to one that takes long; if that is allowed, up to the second.
    fn receive_commands(
        &mut self,
        mut agrees: bool,
        out: &mut BytesMut,
    ) -> Result<Received, HandshakeError> {
        let Some(mechanism) = &mut self.chosen else {
            return Ok(Received::Part);
        };
        let ours = properties(self.local.socket_type(), self.known);
        loop {
            let Some(header) = FrameHeader::parse(&self.received)? else {
                return Ok(Received::Part);
            };
            if !header.command() {
                return Err(HandshakeError::MessageTooEarly);
            }
            let room = self.bytes_max.saturating_sub(header.header_bytes);
            let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
            if body_bytes > room {
                return Err(HandshakeError::TooLong(self.bytes_max));
            }
            let Some(body) = self.received[header.header_bytes..].get(..body_bytes) else {
                return Ok(Received::Part);
            };
            if let Some(is_first) = mechanism.agreement(body)
                && !std::mem::take(&mut agrees)
            {
                return Ok(Received::Agreement { is_first });
            }
            self.received.advance(header.header_bytes);
            let body = self.received.split_to(body_bytes);
            if let Some(met) = mechanism.receive(&body, &ours, out)? {
                return Ok(Received::Met(Box::new(met)));
            }
        }
    }

    fn admit(
        &mut self,
        met: Met,
        version: Version,
        out: &mut BytesMut,
    ) -> Result<Peer, HandshakeError> {
        self.end = met.end;
        let peer = met.metadata;
        let accepts = self.local.accepts();
        match peer.socket_type.filter(|kind| accepts.contains(kind)) {
            Some(socket_type) => Ok(Peer {
                socket_type,
                identity: peer.identity,
                version,
                event_manager: peer.event_manager,
                hub: peer.hub,
                keys: met.keys.map(Box::new),
                plain: met.plain.map(Box::new),
            }),
            None => {
                if version.has_commands() {
                    encode_error(out, "socket type not accepted here");
                }
                let welcome = accepts
                    .iter()
                    .map(|kind| kind.name())
                    .collect::<Vec<_>>()
                    .join(", ");
                Err(HandshakeError::SocketType(
                    peer.socket_type_name,
                    self.local,
                    welcome,
                ))
            }
        }
    }
}

fn encode_error(out: &mut BytesMut, reason: &str) {
    // Reasons are our own constants, far below 256 bytes.
    encode_command(out, "ERROR", &[&[reason.len() as u8], reason.as_bytes()]);
}

#[cfg(test)]
mod tests;
