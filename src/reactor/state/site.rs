//! Where we are, as clients are told.

use std::sync::Arc;

use tokio::sync::watch;

use crate::ambient::now;
use crate::config::SecurityConfig;
use crate::reactor::io::stream::Gate;
use crate::reactor::state::effects::LeasesKept;
use event_manager_core::leases::candidate::Term;
use event_manager_core::leases::tenure::Tenure;
use event_manager_core::locator::Directory;
use event_manager_core::requests::Settings;
use event_manager_core::security::Keyring;
use event_manager_wire::api::{self, Addresses, InstancesPage};
use event_manager_zmtp::HubId;
use event_manager_zmtp::curve::KeyPair;

impl Gate for Term {
    fn is_open(&self) -> bool {
        !self.is_over(now())
    }
}

/// What is bound where other machines reach it.
#[derive(Debug, Default)]
pub struct Exposed {
    /// For ZeroMQ peers.
    pub zmq: Vec<String>,
    /// For HTTP, if nobody needs a token.
    pub http: Option<String>,
}

impl Exposed {
    /// What is open to other machines because nobody has said who may connect.
    pub fn open(&self, security: &SecurityConfig) -> Vec<String> {
        let zmq = self.zmq.iter().filter(|_| security.is_unsaid());
        let http = self.http.iter().filter(|_| !security.open);
        zmq.chain(http).cloned().collect()
    }
}

/// The addresses of this daemon, and of the services that it knows.
pub(crate) struct Site {
    pub(crate) settings: Settings,
    /// Where we listen, for reports.
    pub(crate) addresses: Addresses,
    /// What is bound where other machines reach it.
    pub(crate) exposed: Exposed,
    /// Whose keys are accepted.
    pub(crate) keyring: Keyring,
    /// With which the daemon asks its own locator. The keyring has it.
    pub(crate) own: KeyPair,
    /// Our id as a hub of a mesh.
    pub(crate) hub_id: HubId,
    /// The lease under which we serve, if there is one: how long we may write to anybody.
    pub(crate) lease: Option<Arc<Tenure>>,
    /// The lease by which instances of other programs may lead here, if there is one.
    pub(crate) turn: Option<watch::Receiver<Option<Arc<Tenure>>>>,
    /// Who keeps the leases of clients, if the daemon doesn't itself.
    pub(crate) leases_kept: Option<LeasesKept>,
    /// The state directory's under it.
    pub(crate) epoch: u64,
    /// How bridges are, as they say themselves.
    pub(crate) bridges: Vec<api::Bridge>,
    /// How instances of other programs are, as who observes them says.
    pub(crate) instances: Arc<InstancesPage>,
    /// The same for STATUS.
    pub(crate) instances_summary: api::Instances,
    /// The embedded ServiceLocator, if there is one.
    pub(crate) directory: Option<Directory>,
}

impl Site {
    /// What is open to other machines because nobody has said who may connect.
    pub(crate) fn security(&self, security: &SecurityConfig) -> api::Security {
        api::Security {
            open_listeners: self.exposed.open(security),
            ..api::Security::default()
        }
    }
}
