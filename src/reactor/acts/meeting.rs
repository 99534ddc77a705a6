//! A connection until it is known who its peer is, and that it may connect; and what becomes of those who
//! may not.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::admission::Met;
use super::handshakes::{Failure, shake_hands};
use crate::reactor::hub::SharedHub;
use crate::reactor::io::inbox::Inbox;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::connections::Begun;
use crate::reactor::state::peer::{ip_of, presented};
use crate::reactor::state::purpose::Purpose;
use event_manager_core::security::{Identity, Origin};
use event_manager_zmtp::{
    Handshake, HandshakeError, Mechanism, MechanismError, Peer as ZmtpPeer, Stage,
};

/// How long a connection of another mechanism is kept before it ends.
const REFUSED_HELD: Duration = Duration::from_secs(1);

/// How a connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its peer connected.
    Accepted,
    /// We did.
    Dialled,
    /// Its peer is a part of this process, which may do everything.
    Attached,
}

/// Does a connection's handshake. One that was accepted has begun among others.
///
/// # Errors
/// Why it came to none.
pub(super) async fn meet(
    hub: &SharedHub,
    stream: Stream,
    address: Rc<str>,
    purpose: &Purpose,
    way: Way,
    begun: Option<&mut Begun>,
) -> Result<(Met, Inbox), String> {
    let stream = match &hub.borrow().site.lease {
        Some(lease) => stream.gated(lease.term().clone()),
        None => stream,
    };
    let offered = match purpose {
        Purpose::Dialled(index) => vec![hub.borrow().mechanism_for(*index)?],
        _ if way == Way::Attached => vec![Mechanism::Null],
        _ => offered(hub, &stream, &address).await?,
    };
    let (timeout, limits) = {
        let state = hub.borrow();
        (state.config.handshake_timeout, state.config.limits)
    };
    let (started, out) = start(hub, purpose, offered, limits.handshake_bytes_max);
    let met = shake_hands(hub, (&stream, &address), started, out, begun);
    let met = tokio::time::timeout(timeout, met).await;
    let (zmtp, handshake) = match met {
        Ok(Ok(met)) => met,
        Ok(Err(failure)) => {
            return Err(turn_away(hub, (&stream, &address), (purpose, way), failure).await);
        }
        Err(_) => {
            let why = format!("no handshake within {timeout:?}");
            let notes = &mut hub.borrow_mut().notes;
            notes.refuse("handshake-timeout", &address, &why);
            return Err(why);
        }
    };
    let identity = match way {
        Way::Dialled | Way::Attached => Identity::Own,
        Way::Accepted => identify(hub, &stream, (&address, purpose), &zmtp).await?,
    };
    if zmtp.keys.is_some() {
        let origin = Origin::from(ip_of(&address));
        hub.borrow().peers.connections.known(origin);
    }
    let mut last = BytesMut::new();
    let (rest, session) = handshake.finish(&mut last);
    let _ = stream.write_all(&mut last).await;
    let (opener, sealer) = session
        .map(|session| (session.opener, session.sealer))
        .unzip();
    let inbox = Inbox::new(&limits, zmtp.version, rest, opener);
    let met = Met {
        zmtp,
        identity,
        is_attached: way == Way::Attached,
        stream: Rc::new(stream),
        address,
        wake: Rc::default(),
        sealer,
    };
    Ok((met, inbox))
}

/// A handshake, and what is said first.
fn start(
    hub: &SharedHub,
    purpose: &Purpose,
    offered: Vec<Mechanism>,
    bytes_max: usize,
) -> (Handshake, BytesMut) {
    let mut out = BytesMut::new();
    let started = Handshake::start(purpose.local_socket(), offered, bytes_max, &mut out);
    let started = match purpose {
        Purpose::Dialled(index) => hub.borrow().says_who_we_are(started, *index),
        _ => started.dialled_by_peer(),
    };
    (started, out)
}

/// Notes that a handshake came to nothing, and keeps the connection for a while where its peer is right to
/// try again; the reason.
async fn turn_away(
    hub: &SharedHub,
    (stream, address): (&Stream, &str),
    (purpose, way): (&Purpose, Way),
    failure: Failure,
) -> String {
    let refuse = |reason, why: &str| hub.borrow_mut().notes.refuse(reason, address, &why);
    match failure {
        Failure::Refused(error) => {
            let why = why_refused(hub, stream, address, &error);
            refuse(error.reason(), &why);
            if way != Way::Dialled && may_be_mended(&error) {
                hold(hub, stream).await;
            }
            error.to_string()
        }
        Failure::TooMany(why) => {
            let why = why.to_string();
            refuse("too-many-handshakes", &why);
            hold(hub, stream).await;
            why
        }
        Failure::Fault => {
            hub.borrow_mut().notes.count_refused("internal-error");
            "its keys could not be agreed on".to_owned()
        }
        Failure::HungUp(0, _) => "it hung up without a word".to_owned(),
        Failure::HungUp(heard, stage) => {
            let told = told_by(hub, purpose, stage);
            let why = told.unwrap_or_else(|| {
                format!("it hung up in the middle of its handshake, after {heard} bytes")
            });
            refuse("hung-up", &why);
            why
        }
    }
}

/// The mechanisms of which a peer with this address may have one.
///
/// # Errors
/// Why it may not connect. Nothing was sent to it, and it was kept for a while: it tries again by
/// itself, and is served once the configuration admits it.
async fn offered(
    hub: &SharedHub,
    stream: &Stream,
    address: &str,
) -> Result<Vec<Mechanism>, String> {
    let offered = hub.borrow().offered(address, stream.user());
    match offered {
        Ok(offered) => Ok(offered),
        Err(why) => {
            hub.borrow_mut().notes.refuse("address", address, &why);
            hold(hub, stream).await;
            Err(why)
        }
    }
}

/// Who a peer with these keys is, who may connect from there for this.
///
/// # Errors
/// Why it may not. As above, it tries again by itself.
async fn identify(
    hub: &SharedHub,
    stream: &Stream,
    (address, purpose): (&str, &Purpose),
    peer: &ZmtpPeer,
) -> Result<Identity, String> {
    let presented = presented(peer, stream);
    let identified = hub
        .borrow_mut()
        .welcome(purpose, address, presented, peer.hub.is_some());
    match identified {
        Ok(identity) => Ok(identity),
        Err((reason, why)) => {
            hub.borrow_mut().notes.refuse(reason, address, &why);
            hold(hub, stream).await;
            Err(why)
        }
    }
}

/// Why a handshake was refused, with what it takes to admit the peer.
fn why_refused(hub: &SharedHub, stream: &Stream, address: &str, error: &HandshakeError) -> String {
    let mend = match error {
        HandshakeError::Mechanism(wanted, _) => {
            hub.borrow()
                .mend_of_mechanism(wanted, address, stream.user())
        }
        _ => None,
    };
    match mend {
        Some(mend) => format!("{error}: {mend}"),
        None => error.to_string(),
    }
}

/// What is told by the stage at which a publisher that we dialled has hung up.
fn told_by(hub: &SharedHub, purpose: &Purpose, stage: Stage) -> Option<String> {
    let Purpose::Dialled(index) = purpose else {
        return None;
    };
    let state = hub.borrow();
    let has_key = state.upstream.dialled[*index].server_key.is_some();
    let own = state.site.keyring.first_key();
    Some(match (stage, own) {
        (Stage::Version, _) if has_key => {
            "it hung up and named no security mechanism: it has no CURVE, or doesn't admit this address".into()
        }
        (Stage::Version, _) => {
            "it hung up and named no security mechanism: it wants keys (serverKey in connectPublishers), or doesn't admit this address".into()
        }
        (Stage::Hello, _) => {
            "it hung up during the CURVE handshake: its serverKey in connectPublishers is none of its keys".into()
        }
        (Stage::Initiate, Some(own)) => format!(
            "it hung up during the CURVE handshake: its serverKey is right, but it doesn't admit our key {}, the first of security.secretKey",
            own.public()
        ),
        _ => return None,
    })
}

/// Whether an administrator can mend it, so that the peer is right to try again.
fn may_be_mended(error: &HandshakeError) -> bool {
    matches!(
        error,
        HandshakeError::Mechanism(..) | HandshakeError::Failed(MechanismError::Curve(_))
    )
}

/// Keeps a refused connection for a while before it ends. Its peer tries again as soon as it is
/// closed, for as long as it lives.
async fn hold(hub: &SharedHub, stream: &Stream) {
    let held = hub.borrow().peers.connections.hold();
    let Some(_held) = held else { return };
    let mut ignored = BytesMut::with_capacity(512);
    let until_gone = async {
        while matches!(stream.read_some(&mut ignored).await, Ok(n) if n > 0) {
            ignored.clear();
        }
    };
    let _ = tokio::time::timeout(REFUSED_HELD, until_gone).await;
}
