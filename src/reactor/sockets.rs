//! Where the reactor listens.

use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};

use tokio::sync::mpsc;

use super::acts::connection::HubDoor;
use super::hub::{Hub, SharedHub};
use super::io::agreements::Agreements;
use super::io::listener::Listener;
use super::state::connections::Connections;
use super::state::effects::Input;
use super::state::notes::Notes;
use super::state::purpose::Purpose;
use super::state::site::{Exposed, Site};
use super::state::streamers::{Doors, StreamerTable};
use super::{Parts, StartError};
use crate::ambient::{chance, now};
use crate::config::{Config, HTTP_CONNECTIONS_MAX, is_reached_by_others};
use crate::systemd::Inherited;
use event_manager_core::locator::Directory;
use event_manager_core::requests::Settings;
use event_manager_wire::api::Addresses;
use event_manager_wire::model::Endpoint;

/// Registrations in an embedded ServiceLocator.
const REGISTRATIONS_MAX: usize = 100_000;
/// File descriptors that are not for connections: our own files, sockets of calls to services.
pub const RESERVED_FDS: u64 = 32;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{key} {address} can't be bound: {error}{hint}")]
pub struct BindError {
    key: &'static str,
    address: String,
    error: io::Error,
    hint: &'static str,
}

/// Where a reactor listens; ports are the real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// For publishers.
    pub publishers: Vec<Endpoint>,
    /// For subscribers.
    pub subscribers: Vec<Endpoint>,
    /// For requests.
    pub requests: Vec<Endpoint>,
    /// The embedded ServiceLocator, if it runs here.
    pub locator: Option<Endpoint>,
}

impl Bound {
    /// An address as clients are given it.
    pub fn public(endpoint: &Endpoint, hostname: &str) -> String {
        match endpoint {
            Endpoint::Tcp { port, .. } => {
                Endpoint::tcp(hostname.trim_matches(['[', ']']), *port).to_string()
            }
            Endpoint::Ipc(_) => endpoint.to_string(),
        }
    }

    /// What other machines reach, as far as it is bound to addresses that aren't loopback ones. With
    /// the services' and HTTP's addresses of the configuration.
    pub fn exposed(&self, config: &Config) -> Exposed {
        let groups = [&self.publishers, &self.subscribers, &self.requests];
        let bound = groups.into_iter().flatten().chain(&self.locator);
        let mut zmq: Vec<_> = bound
            .filter(|endpoint| is_reached_by_others(endpoint))
            .map(ToString::to_string)
            .collect();
        if is_reached_by_others(&config.pull_address) {
            let ports = &config.streamer_ports;
            let host = config.pull_address.to_string();
            let host = host.trim_end_matches(":0");
            zmq.push(match ports.end() {
                0 => host.to_owned(),
                end => format!("{host}:{}-{end}", ports.start()),
            });
        }
        let is_open = |at: &&Endpoint| is_reached_by_others(at) && config.http_token_file.is_none();
        let http = config.http_address.as_ref().filter(is_open);
        let http = http.map(|at| at.to_string().replacen("tcp://", "http://", 1));
        Exposed { zmq, http }
    }

    /// What we register: where clients can reach us, if there is such a socket.
    pub fn request_address(&self, hostname: &str) -> Option<String> {
        let first = self.requests.first();
        first.map(|endpoint| Self::public(endpoint, hostname))
    }
}

/// The listeners whose addresses are configured.
pub(super) struct Sockets {
    pub(super) publishers: Vec<Listener>,
    pub(super) subscribers: Vec<Listener>,
    pub(super) requests: Vec<Listener>,
    pub(super) locator: Option<Listener>,
}

impl Sockets {
    pub(super) fn bind(config: &Config, inherited: &mut Inherited) -> Result<Self, StartError> {
        Ok(Self {
            locator: bind_locator(config, inherited)?,
            publishers: bind_all("pubAddress", &config.pub_addresses, inherited)?,
            subscribers: bind_all("subAddress", &config.sub_addresses, inherited)?,
            requests: bind_all("requestAddress", &config.request_addresses, inherited)?,
        })
    }

    pub(super) fn bound(&self) -> Bound {
        let endpoints = |all: &[Listener]| all.iter().map(|l| l.endpoint().clone()).collect();
        Bound {
            publishers: endpoints(&self.publishers),
            subscribers: endpoints(&self.subscribers),
            requests: endpoints(&self.requests),
            locator: self.locator.as_ref().map(|l| l.endpoint().clone()),
        }
    }

    pub(super) fn hub(
        &self,
        parts: Parts,
        agreements: Agreements,
        streamers_at: Vec<Endpoint>,
    ) -> (SharedHub, mpsc::Receiver<Input>) {
        let config = Rc::new(parts.config);
        let site = Site {
            settings: self.settings(&config),
            addresses: self.addresses(&config.public_hostname),
            exposed: self.bound().exposed(&config),
            keyring: parts.keyring.with_own(&parts.own),
            own: parts.own,
            hub_id: parts.hub_id,
            lease: parts.lease,
            turn: parts.turn,
            leases_kept: parts.leases_kept,
            epoch: 0,
            bridges: vec![],
            instances: Default::default(),
            instances_summary: Default::default(),
            directory: self.locator.is_some().then(|| self.directory(&config)),
        };
        let notes = Notes::new(parts.journal, parts.tracer, now());
        let hub = Rc::new_cyclic(|hub: &Weak<RefCell<Hub>>| {
            let door = hub.clone();
            let doors = Doors(Box::new(move |streamer| {
                HubDoor::of(door.clone(), Purpose::Workers(Rc::clone(streamer)))
            }));
            let streamers = StreamerTable::new(streamers_at, parts.inherited, doors);
            let connections = Connections::with_max(connections_max(&config), agreements);
            RefCell::new(Hub::new(
                config,
                site,
                streamers,
                parts.effects,
                connections,
                notes,
                Some(parts.beat),
            ))
        });
        (hub, parts.inputs.1)
    }

    /// Begins to accept connections.
    pub(super) fn accept(&self, hub: &SharedHub) {
        let groups = [
            (&self.publishers, Purpose::Publishers),
            (&self.subscribers, Purpose::Subscribers),
            (&self.requests, Purpose::Requests),
        ];
        for (listeners, purpose) in groups {
            listeners
                .iter()
                .for_each(|l| l.accept(HubDoor::of(Rc::downgrade(hub), purpose.clone())));
        }
        if let Some(locator) = &self.locator {
            locator.accept(HubDoor::of(Rc::downgrade(hub), Purpose::Locator));
        }
    }

    fn directory(&self, config: &Config) -> Directory {
        let mut directory = Directory::new(REGISTRATIONS_MAX);
        if config.locator.register
            && let Some(address) = self.bound().request_address(&config.public_hostname)
        {
            directory.reserve(config.locator.service_name.clone(), address);
        }
        directory
    }

    fn settings(&self, config: &Config) -> Settings {
        let public = |endpoint: &Endpoint| Bound::public(endpoint, &config.public_hostname);
        let pull_address = match &config.pull_address {
            Endpoint::Tcp { .. } => public(&config.pull_address)
                .trim_end_matches('0')
                .to_owned(),
            Endpoint::Ipc(path) => format!("ipc://{}-", path.display()),
        };
        Settings {
            id_prefix: format!("sub-{:08x}", (chance() * f64::from(u32::MAX)) as u32),
            pub_address: self
                .publishers
                .first()
                .map(|l| public(l.endpoint()))
                .unwrap_or_default(),
            pull_address_prefix: pull_address,
            limits: config.limits,
            has_store: false,
            version: env!("CARGO_PKG_VERSION"),
            publish_timeout: config.publish_timeout,
        }
    }

    fn addresses(&self, hostname: &str) -> Addresses {
        let public = |all: &[Listener]| -> Vec<String> {
            all.iter()
                .map(|l| Bound::public(l.endpoint(), hostname))
                .collect()
        };
        Addresses {
            publishers: public(&self.publishers),
            subscribers: public(&self.subscribers),
            requests: public(&self.requests),
            locator: self.locator.as_ref().map(|l| l.endpoint().to_string()),
        }
    }
}

fn bind_all(
    key: &'static str,
    endpoints: &[Endpoint],
    inherited: &mut Inherited,
) -> Result<Vec<Listener>, BindError> {
    endpoints
        .iter()
        .map(|endpoint| bind(key, endpoint, inherited))
        .collect()
}

fn bind(
    key: &'static str,
    endpoint: &Endpoint,
    inherited: &mut Inherited,
) -> Result<Listener, BindError> {
    Listener::bind(endpoint, inherited)
        .map_err(|error| BindError::new(key, endpoint.to_string(), error))
}

impl BindError {
    /// The address is as the key has it.
    pub fn new(key: &'static str, address: String, error: io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there (ss -ltnp shows which)",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a capability",
            _ => "",
        };
        Self {
            key,
            address,
            error,
            hint,
        }
    }
}

/// The embedded ServiceLocator's socket; none if another locator runs at its address.
fn bind_locator(config: &Config, inherited: &mut Inherited) -> Result<Option<Listener>, BindError> {
    if !config.locator.embedded {
        return Ok(None);
    }
    match bind("locatorAddress", &config.locator.address, inherited) {
        Err(taken) if taken.error.kind() == io::ErrorKind::AddrInUse => {
            let address = &config.locator.address;
            tracing::info!(target: "em.locator", %address, "the ServiceLocator's address is in use: using the one that runs there, embedding none");
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Names the service manager's sockets that are at no configured address. One for a service is used
/// when that comes.
pub(super) fn report_unused(inherited: &Inherited, config: &Config) {
    let services = |port| config.pull_address.with_port(port);
    for socket in inherited.unused() {
        let mut ports = config.streamer_ports.clone();
        if !ports.any(|port| socket.is_at(&services(port))) {
            let address = socket.address();
            tracing::warn!(
                target: "em.systemd",
                address,
                "a socket of the service manager is not used: it matches no address of the configuration"
            );
        }
    }
}

/// From the limit on file descriptors, with some left for services' sockets and for ourselves.
pub(super) fn connections_max(config: &Config) -> usize {
    if config.connections_max > 0 {
        return config.connections_max;
    }
    let fds_max = rlimit::Resource::NOFILE
        .get_soft()
        .unwrap_or(1024)
        .min(1 << 20);
    // Each has a listening socket and its reserve.
    let streamers = (config.streamer_ports.len() as u64 * 2).min(fds_max / 4);
    let http = match config.http_address {
        Some(_) => (HTTP_CONNECTIONS_MAX as u64).min(fds_max / 8),
        None => 0,
    };
    fds_max
        .saturating_sub(RESERVED_FDS + streamers + http)
        .max(8) as usize
}
