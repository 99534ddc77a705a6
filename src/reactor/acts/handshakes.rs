//! A connection's handshake, from its first byte until the peer is known.

use std::time::Duration;

use bytes::BytesMut;

use crate::ambient::now;
use crate::reactor::hub::SharedHub;
use crate::reactor::io::agreements::Agreed;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::connections::Begun;
use crate::reactor::state::peer::ip_of;
use event_manager_core::security::{Origin, TooMany};
use event_manager_zmtp::{Handshake, HandshakeError, Peer as ZmtpPeer, Progress, Stage};

/// How long a peer that is silent after its version has to name its mechanism before we name ours.
const MECHANISM_AWAITED: Duration = Duration::from_secs(1);

/// Why a handshake came to none.
pub(super) enum Failure {
    Refused(HandshakeError),
    /// Too many are under way.
    TooMany(TooMany),
    /// The connection ended after so many bytes of a handshake, at this stage; 0 is a port scan, a health check.
    HungUp(usize, Stage),
    /// A fault of ours.
    Fault,
}

pub(super) async fn shake_hands(
    hub: &SharedHub,
    (stream, address): (&Stream, &str),
    mut handshake: Handshake,
    mut out: BytesMut,
    mut begun: Option<&mut Begun>,
) -> Result<(ZmtpPeer, Handshake), Failure> {
    let mut input = BytesMut::with_capacity(512);
    let mut heard = 0;
    loop {
        // It may be gone already. What it has said is read all the same: it tells who that was.
        let _ = stream.write_all(&mut out).await;
        let read = stream.read_some(&mut input);
        let read = match handshake.waits_for_mechanism() {
            true => tokio::time::timeout(MECHANISM_AWAITED, read).await,
            false => Ok(read.await),
        };
        match read {
            Ok(Ok(0) | Err(_)) => return Err(Failure::HungUp(heard, handshake.stage())),
            Ok(Ok(n)) => heard += n,
            Err(_) => {
                handshake.go_first(&mut out);
                continue;
            }
        }
        let mut progress = handshake.take(&input, &mut out);
        input.clear();
        while let Ok(Progress::Agreement { is_first }) = progress {
            let _ = stream.write_all(&mut out).await;
            let agreed = agree(hub, address, is_first, handshake, out).await?;
            (handshake, out, progress) = (agreed.handshake, agreed.out, agreed.progress);
        }
        match progress {
            Ok(Progress::Waiting | Progress::Agreement { .. }) => {
                if handshake.stage() == Stage::Agreed
                    && let Some(begun) = begun.take()
                {
                    begun.agreed();
                }
            }
            Ok(Progress::Met(peer)) => {
                let _ = stream.write_all(&mut out).await;
                return Ok((peer, handshake));
            }
            Err(error) => {
                // It may hold the ERROR that tells the peer why.
                let _ = stream.write_all(&mut out).await;
                return Err(Failure::Refused(error));
            }
        }
    }
}

/// Has the keys of a handshake agreed on by the thread that does that, if not too many are under way.
async fn agree(
    hub: &SharedHub,
    address: &str,
    is_first: bool,
    handshake: Handshake,
    out: BytesMut,
) -> Result<Agreed, Failure> {
    let origin = Origin::from(ip_of(address));
    let (step, agreements) = {
        let connections = &hub.borrow().peers.connections;
        let step = connections.step(origin, is_first, now());
        let step = step.map_err(Failure::TooMany)?;
        (step, connections.agreements.clone())
    };
    let agreed = agreements.agree(handshake, out).await;
    drop(step);
    agreed.ok_or(Failure::Fault)
}
