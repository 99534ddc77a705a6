//! Instances that nobody has named are dialled, where `instances.discover` allows it: at hosts from which somebody
//! subscribes to their heartbeats.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::dial::dial;
use crate::ambient::now;
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::state::peer::{Role, ip_of};
use event_manager_core::instances::found;
use event_manager_wire::model::Endpoint;

/// Between two looks at who subscribes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One that was found. It isn't dialled any more when this is dropped.
struct Dialling {
    index: usize,
    /// Somebody of its host subscribed then.
    seen_at: Instant,
    task: JoinHandle<()>,
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks for instances until it is aborted. One whose host doesn't subscribe any more is given up after
/// `instances.timeout`, unless it is connected.
pub(crate) async fn discover(hub: SharedHub) {
    let timeout = hub.borrow().config.instances.timeout;
    let mut dialling: BTreeMap<SocketAddr, Dialling> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let seen_at = now();
        let all = {
            let hub = &mut *hub.borrow_mut();
            let hosts = hub.listening_hosts();
            found(&hub.config.instances.discover, hosts)
        };
        for at in all {
            if let Some(known) = dialling.get_mut(&at) {
                known.seen_at = seen_at;
                continue;
            }
            let endpoint = Endpoint::tcp(at.ip().to_string(), at.port());
            let added = hub.borrow_mut().upstream.add_found(&endpoint);
            if let Some(index) = added {
                let task = tokio::task::spawn_local(dial(Rc::clone(&hub), index));
                let one = Dialling {
                    index,
                    seen_at,
                    task,
                };
                dialling.insert(at, one);
            }
        }
        let upstream = &mut hub.borrow_mut().upstream;
        dialling.retain(|_, one| {
            seen_at.saturating_duration_since(one.seen_at) < timeout
                || !upstream.leave_found(one.index)
        });
    }
}

impl Hub {
    /// Hosts from which somebody subscribes to heartbeats, who is no event manager: one brings what its own
    /// clients publish.
    fn listening_hosts(&mut self) -> Vec<IpAddr> {
        let plain = self
            .listeners()
            .filter(|peer| matches!(&peer.role, Role::Subscriber { hub: None, .. }));
        plain.filter_map(|peer| ip_of(&peer.address)).collect()
    }
}
