//! The sockets of services, one for each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::reactor::io::listener::{Door, Listener};
use crate::systemd::Inherited;
use event_manager_core::broker::{BindFailure, PeerId, ServiceKey, Streamers};
use event_manager_wire::model::Endpoint;

/// The socket of one service.
#[derive(Debug)]
pub(crate) struct Streamer {
    pub(crate) service: ServiceKey,
    listener: Listener,
    /// Routing ids that workers chose, and who has them.
    identities: RefCell<HashMap<Bytes, PeerId>>,
}

impl Streamer {
    /// The connection that has this identity.
    pub(crate) fn holder_of(&self, identity: &Bytes) -> Option<PeerId> {
        self.identities.borrow().get(identity).copied()
    }

    /// Gives an identity to a connection; the empty one is none.
    pub(crate) fn claim_identity(&self, identity: &Bytes, id: PeerId) {
        if !identity.is_empty() {
            self.identities.borrow_mut().insert(identity.clone(), id);
        }
    }
}

/// Makes what takes on the connections of a streamer.
pub(crate) struct Doors(pub(crate) Box<MakeDoor>);

type MakeDoor = dyn Fn(&Rc<Streamer>) -> Rc<dyn Door>;

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doors")
    }
}

/// The sockets of services.
#[derive(Debug)]
pub(crate) struct StreamerTable {
    /// Where they are bound, but for the port: the first of them, unless the service manager has bound
    /// another.
    addresses: Vec<Endpoint>,
    by_service: HashMap<ServiceKey, Rc<Streamer>>,
    inherited: Inherited,
    doors: Doors,
}

impl StreamerTable {
    /// The addresses are [`resolved`](crate::reactor::io::listener::resolved), at least one.
    pub(crate) fn new(addresses: Vec<Endpoint>, inherited: Inherited, doors: Doors) -> Self {
        Self {
            addresses,
            inherited,
            by_service: HashMap::new(),
            doors,
        }
    }

    /// Where a service with this port is bound. Two services of an `ipc://` address differ by it too.
    fn address(&self, port: u16) -> Option<Endpoint> {
        let mut all = self.addresses.iter().map(|address| address.with_port(port));
        let first = all.clone().next();
        all.find(|address| self.inherited.has(address)).or(first)
    }

    /// The service's streamer, if it has one.
    pub(crate) fn of(&self, service: ServiceKey) -> Option<&Rc<Streamer>> {
        self.by_service.get(&service)
    }

    /// Whether the streamer is still its service's.
    pub(crate) fn is_current(&self, streamer: &Rc<Streamer>) -> bool {
        self.by_service
            .get(&streamer.service)
            .is_some_and(|current| Rc::ptr_eq(current, streamer))
    }

    pub(crate) fn release_identity(&self, service: ServiceKey, identity: &Bytes, id: PeerId) {
        if let Some(streamer) = self.by_service.get(&service) {
            let mut identities = streamer.identities.borrow_mut();
            if identities.get(identity) == Some(&id) {
                identities.remove(identity);
            }
        }
    }

    pub(crate) fn close(&mut self, service: ServiceKey) {
        if let Some(streamer) = self.by_service.remove(&service) {
            streamer.listener.close();
        }
    }

    pub(crate) fn close_all(&mut self) {
        for (_, streamer) in self.by_service.drain() {
            streamer.listener.close();
        }
    }
}

impl Streamers for StreamerTable {
    fn open(&mut self, service: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        let address = self
            .address(port)
            .ok_or_else(|| BindFailure::Hopeless("there is no address to bind".into()))?;
        let listener =
            Listener::bind(&address, &mut self.inherited).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => BindFailure::InUse,
                _ => BindFailure::Hopeless(format!(
                    "no socket could be bound for the service: {error}"
                )),
            })?;
        let port = listener.endpoint().port().unwrap_or(port);
        let streamer = Rc::new(Streamer {
            service,
            listener,
            identities: RefCell::default(),
        });
        streamer.listener.accept((self.doors.0)(&streamer));
        self.by_service.insert(service, streamer);
        Ok(port)
    }
}
