//! Workers that take nothing though events wait in their outboxes.

use std::time::Duration;

use crate::config::Config;
use crate::reactor::state::notes::Notes;
use crate::reactor::state::peer::Role;
use crate::reactor::state::peers::Peers;
use crate::reactor::state::time::Time;
use crate::telemetry::Notable;
use event_manager_core::broker::Broker;

/// How often to look for them.
const LOOK: Duration = Duration::from_secs(1);
/// How long a worker may read nothing, if there are no heartbeats to say so.
const PATIENCE_MIN: Duration = Duration::from_secs(10);

/// Names workers that were full for a heartbeat, and took no byte in it.
pub(crate) fn note_stalled_workers(
    peers: &mut Peers,
    broker: &Broker,
    notes: &mut Notes,
    time: &mut Time,
    config: &Config,
) {
    let now = time.now;
    let patience = match config.heartbeat_interval {
        Duration::ZERO => PATIENCE_MIN,
        interval => interval,
    };
    let since_look = now.saturating_duration_since(time.upkeep.stuck_looked_at);
    if since_look < LOOK.min(patience) {
        return;
    }
    time.upkeep.stuck_looked_at = now;
    let budget = config.budgets.worker_outbox_bytes;
    for peer in peers.iter_mut() {
        let Role::Worker { service, .. } = peer.role else {
            continue;
        };
        let bytes = peer.outbox.bytes();
        if bytes <= budget {
            continue;
        }
        match peer.stuck {
            None => peer.stuck = Some((now, false)),
            Some((since, false)) if now.saturating_duration_since(since) >= patience => {
                peer.stuck = Some((since, true));
                let name = broker[service].name();
                notes.burst_of("worker-stalled", name, |suppressed| {
                    Notable::WorkerStalled {
                        service: name.as_str(),
                        peer: &peer.address,
                        bytes: bytes as u64,
                        suppressed,
                    }
                });
            }
            Some(_) => {}
        }
    }
}
