//! From the first byte of a connection to the point where messages may flow.

use bytes::{Buf, Bytes, BytesMut};

use super::command::encode_command;
use super::curve::Session;
use super::frame::{FrameError, FrameHeader, LONG, encode_frame, put_command};
use super::greeting::{GREETING_BYTES, Generation, Greeting, GreetingError, OLD_GREETING_BYTES};
use super::mechanism::{
    End, IDENTITY_TOO_LONG, Mechanism, MechanismError, Met, Metadata, PeerKeys, properties,
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
    /// The keys of both sides, if they have any.
    pub keys: Option<PeerKeys>,
    /// Its name and password, if it has any.
    pub plain: Option<PlainCredentials>,
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
    event_manager: Option<u64>,
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
            event_manager: None,
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
        self.event_manager = Some(id);
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
                    self.end = met.end;
                    let peer = self.admit((met.metadata, met.keys, met.plain), version, out)?;
                    return Ok(Progress::Met(peer));
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
                let ours = properties(self.local.socket_type(), self.event_manager);
                encode_command(out, "READY", &[&ours]);
                None
            }
            End::SealedReadyIsDue(agreed) => {
                let ours = properties(self.local.socket_type(), self.event_manager);
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
        };
        let taken = OLD_GREETING_BYTES + header.header_bytes + identity.len();
        self.received.advance(taken);
        self.admit((metadata, None, None), Version::V2_0, out)
            .map(Some)
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
        let ours = properties(self.local.socket_type(), self.event_manager);
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
        let ours = properties(self.local.socket_type(), self.event_manager);
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
        &self,
        (peer, keys, plain): (Metadata, Option<PeerKeys>, Option<PlainCredentials>),
        version: Version,
        out: &mut BytesMut,
    ) -> Result<Peer, HandshakeError> {
        let accepts = self.local.accepts();
        match peer.socket_type.filter(|kind| accepts.contains(kind)) {
            Some(socket_type) => Ok(Peer {
                socket_type,
                identity: peer.identity,
                version,
                event_manager: peer.event_manager,
                keys,
                plain,
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn started(local: LocalSocket) -> Handshake {
        Handshake::start(local, vec![Mechanism::Null], 8192, &mut BytesMut::new())
    }

    /// What a peer of this type sends.
    fn peer_bytes(socket_type: &str, identity: &[u8]) -> Vec<u8> {
        let mut bytes = Greeting::encode("NULL", false).to_vec();
        let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
        ready.extend_from_slice(&(socket_type.len() as u32).to_be_bytes());
        ready.extend_from_slice(socket_type.as_bytes());
        ready.extend_from_slice(b"\x08identity");
        ready.extend_from_slice(&(identity.len() as u32).to_be_bytes());
        ready.extend_from_slice(identity);
        bytes.extend_from_slice(&[4, ready.len() as u8]);
        bytes.extend_from_slice(&ready);
        bytes
    }

    /// What a peer of ZMTP 2.0 sends.
    fn old_bytes(socket_type: u8, identity: &[u8]) -> Vec<u8> {
        let greeting = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1, socket_type];
        [&greeting[..], &[0, identity.len() as u8], identity].concat()
    }

    fn error_in(out: &[u8]) -> bool {
        out.windows(6).any(|window| window == b"\x05ERROR")
    }

    proptest! {
        #[test]
        fn a_handshake_may_arrive_in_any_pieces(
            cuts in proptest::collection::vec(0usize..200, 0..8),
            old in any::<bool>(),
            identity in proptest::collection::vec(any::<u8>(), 0..=200),
            dialled in any::<bool>(),
        ) {
            let (mut bytes, version) = match old {
                true => (old_bytes(2, &identity), Version::V2_0),
                false => (peer_bytes("SUB", &identity), Version::V3_1),
            };
            bytes.extend_from_slice(b"\x00\x01\x01");
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut out = BytesMut::new();
            let mut handshake =
                Handshake::start(LocalSocket::Subscribers, vec![Mechanism::Null], 8192, &mut out);
            if dialled {
                handshake = handshake.dialled_by_peer();
            }
            let mut peer = None;
            let mut rest = BytesMut::new();
            let mut heard = 0;
            for piece in cuts.windows(2).map(|w| &bytes[w[0]..w[1]]) {
                // Nothing that only one version understands is said before it is known.
                prop_assert!(heard > 10 || out == Greeting::opening()[..]);
                heard += piece.len();
                match peer {
                    None => peer = handshake.receive(piece, &mut out).unwrap(),
                    Some(_) => rest.extend_from_slice(piece),
                }
            }
            let expected = Peer { socket_type: SocketType::Sub, identity: identity.into(), version, event_manager: None, keys: None, plain: None };
            prop_assert_eq!(peer, Some(expected));
            prop_assert_eq!([&handshake.finish(&mut BytesMut::new()).0[..], &rest[..]].concat(), b"\x00\x01\x01".to_vec());
            let said = match old {
                true => [&Greeting::opening()[..], &[1, 0, 0]].concat(),
                false => Greeting::encode("NULL", false).to_vec(),
            };
            prop_assert_eq!(&out[..said.len()], &said[..]);
            prop_assert!(!old || out.len() == said.len());
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), greeted in any::<bool>()) {
            let mut input = if greeted { Greeting::encode("NULL", false).to_vec() } else { vec![] };
            input.extend(&noise);
            let _ = started(LocalSocket::Requests).receive(&input, &mut BytesMut::new());
            let old = [&old_bytes(3, b"")[..12], &noise].concat();
            let _ = started(LocalSocket::Requests).receive(&old, &mut BytesMut::new());
        }
    }

    #[test]
    fn a_peer_of_the_wrong_kind_is_told() {
        for (local, welcome, wrong) in [
            (LocalSocket::Publishers, "PUB", "SUB"),
            (LocalSocket::Subscribers, "XSUB", "PUB"),
            (LocalSocket::Workers, "DEALER", "REP"),
            (LocalSocket::Requests, "REQ", "PUSH"),
        ] {
            let mut out = BytesMut::new();
            assert!(
                started(local)
                    .receive(&peer_bytes(welcome, b""), &mut out)
                    .unwrap()
                    .is_some()
            );
            assert!(!error_in(&out));
            let error = started(local)
                .receive(&peer_bytes(wrong, b""), &mut out)
                .unwrap_err();
            assert_eq!(error.reason(), "wrong-socket-type");
            assert!(error.to_string().contains(wrong), "{error}");
            assert!(error_in(&out));
        }
    }

    #[test]
    fn an_old_peer_is_told_by_its_number() {
        for (local, ours, welcome, unwelcome) in [
            (LocalSocket::Publishers, 2, [1, 9], [0, 2, 10, 11]),
            (LocalSocket::Subscribers, 1, [2, 10], [0, 1, 9, 11]),
            (LocalSocket::Workers, 6, [3, 5], [4, 7, 8, 255]),
            (LocalSocket::Requests, 6, [5, 6], [4, 7, 8, 255]),
        ] {
            for number in welcome {
                let mut out = BytesMut::new();
                let met = started(local).receive(&old_bytes(number, b""), &mut out);
                let peer = met.unwrap().unwrap();
                assert_eq!(SocketType::from_number(number), Some(peer.socket_type));
                assert_eq!(out[..], [ours, 0, 0]);
            }
            for number in unwelcome {
                let mut out = BytesMut::new();
                let met = started(local).receive(&old_bytes(number, b""), &mut out);
                assert_eq!(met.unwrap_err().reason(), "wrong-socket-type");
                assert!(!error_in(&out), "it knows no commands");
            }
        }
    }

    #[test]
    fn handshakes_are_bounded() {
        let mut bytes = Greeting::encode("NULL", false).to_vec();
        bytes.extend_from_slice(&[6, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        let error = started(LocalSocket::Workers)
            .receive(&bytes, &mut BytesMut::new())
            .unwrap_err();
        assert_eq!(error, HandshakeError::TooLong(8192));
    }

    #[test]
    fn another_mechanism_is_refused_without_a_word() {
        let curve = Greeting::encode("CURVE", true);
        let refusal = HandshakeError::Mechanism("CURVE".into(), "NULL".into());
        let mut out = BytesMut::new();
        let mut dialling = started(LocalSocket::Workers);
        assert_eq!(dialling.receive(&curve, &mut out), Err(refusal.clone()));
        assert_eq!(out, Greeting::rest("NULL", false)[..]);
        // A peer that doesn't read of ours tries again.
        out.clear();
        let mut dialled = started(LocalSocket::Workers).dialled_by_peer();
        assert_eq!(dialled.receive(&curve, &mut out), Err(refusal));
        assert_eq!(out, b""[..]);
    }

    #[test]
    fn who_is_dialled_names_its_mechanism_second_and_first_to_one_that_waits() {
        let bytes = peer_bytes("SUB", b"");
        let mut out = BytesMut::new();
        let mut waiting = started(LocalSocket::Subscribers).dialled_by_peer();
        assert_eq!(waiting.receive(&bytes[..63], &mut out), Ok(None));
        assert!(waiting.waits_for_mechanism() && out.is_empty());
        assert!(waiting.receive(&bytes[63..], &mut out).unwrap().is_some());
        assert!(out.starts_with(&Greeting::rest("NULL", false)));
        let said = out.split();

        let mut waiting = started(LocalSocket::Subscribers).dialled_by_peer();
        assert_eq!(waiting.receive(&bytes[..11], &mut out), Ok(None));
        waiting.go_first(&mut out);
        assert_eq!(out, Greeting::rest("NULL", false)[..]);
        assert!(!waiting.waits_for_mechanism());
        waiting.go_first(&mut out);
        assert!(waiting.receive(&bytes[11..], &mut out).unwrap().is_some());
        assert_eq!(out, said, "each part once");
    }

    /// What takes long waits until it is asked for, once for each command that does.
    #[test]
    fn keys_are_agreed_on_when_that_is_asked_for() {
        use crate::curve::{CurveClient, CurveServer, KeyPair};
        let own = KeyPair::from_secret([1; 32]);
        let client = CurveClient::new(KeyPair::from_secret([2; 32]), *own.public(), &[3; 48]);
        let client = Mechanism::CurveClient(Box::new(client.unwrap()));
        let server = CurveServer::new([own].as_slice().into(), &[4; 96]);
        let server = Mechanism::CurveServer(Box::new(server));
        let (mut sent, mut answered) = (BytesMut::new(), BytesMut::new());
        let mut dialling = Handshake::start(LocalSocket::Publishers, vec![client], 8192, &mut sent);
        let bound = vec![Mechanism::Null, server];
        let mut bound = Handshake::start(LocalSocket::Subscribers, bound, 8192, &mut answered);
        bound = bound.dialled_by_peer();
        let mut agreements = vec![];
        let mut progress = Progress::Waiting;
        while !matches!(progress, Progress::Met(_)) {
            assert_eq!(dialling.receive(&answered.split(), &mut sent), Ok(None));
            let input = sent.split();
            for piece in [&input[..input.len() / 2], &input[input.len() / 2..]] {
                progress = bound.take(piece, &mut answered).unwrap();
            }
            if let Progress::Agreement { is_first } = progress {
                assert!(agreements.is_empty() || !answered.starts_with(&[4]));
                agreements.push(is_first);
                assert_eq!(bound.take(b"", &mut answered), Ok(progress), "again");
                progress = bound.agree(&mut answered).unwrap();
            }
        }
        assert_eq!(agreements, [true, false]);
        bound.finish(&mut answered);
        let peer = dialling.receive(&answered, &mut sent).unwrap().unwrap();
        assert_eq!(peer.socket_type, SocketType::Xpub);
    }

    #[test]
    fn two_of_ours_understand_each_other() {
        let (mut sent, mut answered) = (BytesMut::new(), BytesMut::new());
        let start = |local, out| Handshake::start(local, vec![Mechanism::Null], 8192, out);
        let mut dialling = start(LocalSocket::Publishers, &mut sent);
        let mut bound = start(LocalSocket::Subscribers, &mut answered).dialled_by_peer();
        let (mut theirs, mut ours) = (None, None);
        while theirs.is_none() || ours.is_none() {
            assert!(!sent.is_empty() || !answered.is_empty(), "both wait");
            if theirs.is_none() {
                theirs = bound.receive(&sent.split(), &mut answered).unwrap();
            }
            if ours.is_none() {
                ours = dialling.receive(&answered.split(), &mut sent).unwrap();
            }
        }
        assert_eq!(theirs.unwrap().socket_type, SocketType::Xsub);
        assert_eq!(ours.unwrap().socket_type, SocketType::Xpub);
    }
}
