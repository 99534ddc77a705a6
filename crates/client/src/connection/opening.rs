//! How a connection begins, and why it doesn't.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Connection, Ended, Options, Reads, Writes};
use crate::ambient::random_bytes;
use crate::keys::ClientKeys;
use crate::sealed::{OpeningReader, SealingWriter};
use event_manager_wire::model::{Endpoint, socket_name};
use event_manager_zmtp::curve::{CurveClient, CurveServer, PublicKey, Session};
use event_manager_zmtp::{Handshake, HandshakeError, Mechanism, Peer, Stage};

/// How long a peer may take for its handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// For how long a peer that has connected may wait for us to name our mechanism.
const MECHANISM_WAIT: Duration = Duration::from_secs(1);

/// Why there is no connection. Nothing was sent but a handshake.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody listens there, or the address leads nowhere.
    #[error("{0}")]
    Unreachable(String),
    /// What listens there is no peer for this socket.
    #[error(transparent)]
    NoPeer(#[from] HandshakeError),
    /// It was accepted, and closed before the handshake was done, or nothing was said for 10 s. This
    /// may pass: a proxy does so while what is behind it starts.
    #[error("{0}")]
    NotMet(String),
    /// It closed the connection during the handshake, as hubs do with whom they don't admit.
    #[error(transparent)]
    TurnedAway(#[from] TurnedAway),
}

/// Why a hub has closed a connection during the handshake. It says nothing, so that whoever is turned away
/// tries again; but when it closes tells why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnedAway {
    /// It doesn't speak to peers without keys.
    #[error(
        "it closed the connection and named no security mechanism: it wants keys (CURVE), or doesn't admit this address"
    )]
    WithoutKeys,
    /// It doesn't speak CURVE.
    #[error(
        "it closed the connection and named no security mechanism: it has no CURVE, or doesn't admit this address"
    )]
    NoCurve,
    /// It has not this key, or it would have answered with it. The text doesn't repeat it: it may be a
    /// secret one, given by mistake.
    #[error(
        "it closed the connection during the CURVE handshake: the server key that was given is none of its keys, or too many handshakes come from this address"
    )]
    ServerKey,
    /// It has proved that it has the server key, and doesn't know ours.
    #[error(
        "it closed the connection during the CURVE handshake: the server key is right, but the client's key {0} is not known there"
    )]
    ClientKey(PublicKey),
}

impl TurnedAway {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::WithoutKeys => {
                "give it this program's keys and the public key of the daemon, or look at the daemon's security.from"
            }
            Self::NoCurve => {
                "connect without keys, or look at the daemon's security.mechanisms and security.from"
            }
            Self::ServerKey => "take the public key of a file of the daemon's security.secretKey",
            Self::ClientKey(_) => {
                "put the public file of this key (NAME.key) into the daemon's security.keysDir"
            }
        }
    }

    /// What is told by this stage, if anything.
    fn at(stage: Stage, keys: Option<&ClientKeys>) -> Option<Self> {
        Some(match (stage, keys) {
            (Stage::Version, None) => Self::WithoutKeys,
            (Stage::Version, Some(_)) => Self::NoCurve,
            (Stage::Hello, Some(_)) => Self::ServerKey,
            (Stage::Initiate, Some(keys)) => Self::ClientKey(*keys.own.public()),
            _ => return None,
        })
    }
}

/// Tells a hub that turns away from one that ends just now: it does so twice in a row.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Option<TurnedAway>);

impl Refusals {
    /// Notes why there is no connection; returns what is told if it was the same before.
    pub(crate) fn note(&mut self, error: &OpenError) -> Option<TurnedAway> {
        let now = match error {
            OpenError::TurnedAway(why) => Some(*why),
            _ => None,
        };
        let before = std::mem::replace(&mut self.0, now);
        now.filter(|now| before == Some(*now))
    }

    /// What was told at last.
    pub(crate) fn last(&self) -> Option<TurnedAway> {
        self.0
    }
}

/// Both directions of a stream.
pub(super) struct Halves {
    pub(super) reads: Reads,
    pub(super) writes: Writes,
    pub(super) own_host: Option<IpAddr>,
}

impl Halves {
    pub(super) fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let own_host = stream.local_addr()?.ip();
        let (reads, writes) = stream.into_split();
        Ok(Self {
            reads: Box::new(reads),
            writes: Box::new(writes),
            own_host: Some(own_host),
        })
    }
}

impl From<UnixStream> for Halves {
    fn from(stream: UnixStream) -> Self {
        let (reads, writes) = stream.into_split();
        Self {
            reads: Box::new(reads),
            writes: Box::new(writes),
            own_host: None,
        }
    }
}

pub(super) async fn connect(address: &Endpoint) -> io::Result<Halves> {
    match address {
        Endpoint::Tcp { host, port } => {
            Halves::of(TcpStream::connect((host.as_str(), *port)).await?)
        }
        Endpoint::Ipc(path) => Ok(UnixStream::connect(socket_name(path)).await?.into()),
    }
}

/// Shakes hands in time.
pub(super) async fn meet(
    halves: Halves,
    options: &Options,
    is_dialled: bool,
) -> Result<Connection, OpenError> {
    timeout(HANDSHAKE_MAX, shake_hands(halves, options, is_dialled))
        .await
        .unwrap_or_else(|_| {
            let why = format!("no handshake within {HANDSHAKE_MAX:?}");
            Err(OpenError::NotMet(why))
        })
}

/// Whether a peer that has connected is the one that may.
fn admits(options: &Options, peer: &Peer) -> bool {
    let Some(keys) = &options.keys else {
        return true;
    };
    peer.keys
        .as_ref()
        .is_some_and(|met| met.client == keys.server)
}

async fn shake_hands(
    mut halves: Halves,
    options: &Options,
    is_dialled: bool,
) -> Result<Connection, OpenError> {
    let (mut out, bytes_max) = (BytesMut::new(), options.limits.handshake_bytes_max);
    let mut handshake = Handshake::start(
        options.role,
        vec![mechanism(options, is_dialled)?],
        bytes_max,
        &mut out,
    );
    if is_dialled {
        handshake = handshake.dialled_by_peer();
    }
    if let Some(hub) = options.hub {
        handshake = handshake.of_hub(hub);
    }
    let mut chunk = [0; 512];
    loop {
        let written = halves.writes.write_all(&out).await;
        out.clear();
        let read = halves.reads.read(&mut chunk);
        let read = match handshake.waits_for_mechanism() {
            true => match timeout(MECHANISM_WAIT, read).await {
                Ok(read) => read,
                Err(_) => {
                    handshake.go_first(&mut out);
                    continue;
                }
            },
            false => read.await,
        };
        let n = match written.and(read) {
            Ok(n @ 1..) => n,
            closed => {
                let ended = closed.map_or_else(Ended::Io, |_| Ended::Closed);
                let told = TurnedAway::at(handshake.stage(), options.keys.as_ref());
                return Err(told.map_or(OpenError::NotMet(ended.to_string()), Into::into));
            }
        };
        let met = handshake.receive(&chunk[..n], &mut out);
        if !matches!(met, Ok(None)) {
            // A peer that is none is told why.
            let _ = halves.writes.write_all(&out).await;
        }
        if let Some(peer) = met? {
            if is_dialled && !admits(options, &peer) {
                return Err(OpenError::NotMet("its key is another".to_owned()));
            }
            out.clear();
            let (rest, session) = handshake.finish(&mut out);
            let written = halves.writes.write_all(&out).await;
            written.map_err(|error| OpenError::NotMet(error.to_string()))?;
            let (halves, rest) = match session {
                Some(session) => (sealed(halves, session, rest, options), BytesMut::new()),
                None => (halves, rest),
            };
            return Ok(Connection::new(halves, peer.version, rest, options));
        }
    }
}

/// What is read from there on is opened, what is written sealed.
fn sealed(halves: Halves, session: Session, rest: BytesMut, options: &Options) -> Halves {
    let Session { opener, sealer } = session;
    let limit = options.limits.message_bytes_max;
    Halves {
        reads: Box::new(OpeningReader::new(halves.reads, opener, rest, limit)),
        writes: Box::new(SealingWriter::new(halves.writes, sealer)),
        own_host: halves.own_host,
    }
}

/// What is said first, and how.
fn mechanism(options: &Options, is_dialled: bool) -> Result<Mechanism, OpenError> {
    let Some(keys) = &options.keys else {
        return Ok(Mechanism::Null);
    };
    let no_random = |error: io::Error| OpenError::NotMet(error.to_string());
    if is_dialled {
        let own = Arc::new([keys.own.clone()]);
        let server = CurveServer::new(own, &random_bytes().map_err(no_random)?);
        return Ok(Mechanism::CurveServer(Box::new(server)));
    }
    let random = random_bytes().map_err(no_random)?;
    let client = CurveClient::new(keys.own.clone(), keys.server, &random);
    let client = client.map_err(|error| HandshakeError::Failed(error.into()))?;
    Ok(Mechanism::CurveClient(Box::new(client)))
}
