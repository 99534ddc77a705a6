//! Where the daemon is that a command talks to, and with which keys.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio::runtime::Builder;

use crate::config::{Config, Loaded, Sources};
use crate::keys;
use event_manager_client::{ClientKeys, Connection, KeysError, OpenError, TurnedAway};
use event_manager_wire::model::Endpoint;

/// Where a daemon answers of which nothing is configured.
const DEFAULT: &str = "tcp://localhost:5101";

/// The keys of every command that talks to a daemon.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct KeyArgs {
    /// Connect by CURVE, with the secret key in this certificate [default: the daemon's own, if the
    /// configuration that `serve` would read here names that and it can be read]
    #[arg(
        long,
        env = "EVENT_MANAGER_KEY",
        value_name = "FILE",
        allow_hyphen_values = true
    )]
    key: Option<PathBuf>,
    /// The daemon's public key (Z85, hex or base64), or a certificate that has it.
    // A key may begin with a dash; and what is taken for a flag would be repeated.
    #[arg(
        long,
        env = "EVENT_MANAGER_SERVER_KEY",
        value_name = "KEY|FILE",
        allow_hyphen_values = true
    )]
    server_key: Option<String>,
}

/// Where the daemon takes requests, and the keys for all its addresses.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) address: String,
    pub(super) keys: Option<ClientKeys>,
}

impl KeyArgs {
    /// The daemon at this address, else that with the configuration at this path, else that with the
    /// configuration that `serve` would read here.
    pub(super) fn daemon(
        &self,
        address: Option<String>,
        path: Option<PathBuf>,
    ) -> anyhow::Result<Daemon> {
        let given = self.given()?;
        let is_named = address.is_some();
        if given.is_some()
            && let Some(address) = address
        {
            return Ok(Daemon {
                address,
                keys: given,
            });
        }
        // Of a daemon elsewhere it says nothing, so it may be wrong.
        let loaded = match Loaded::load(&Sources::from_env(path, vec![])) {
            Err(_) if is_named => None,
            loaded => Some(loaded?),
        };
        let address = match (address, &loaded) {
            (Some(address), _) => address,
            (None, Some(loaded)) => configured_address(loaded)?,
            (None, None) => DEFAULT.into(),
        };
        let keys = match (given, &loaded) {
            (None, Some(loaded)) => own_keys(&loaded.config, &address)?,
            (given, _) => given,
        };
        Ok(Daemon { address, keys })
    }

    /// Those that were named.
    ///
    /// # Errors
    /// One of the two is missing, or can't be read.
    pub(super) fn given(&self) -> Result<Option<ClientKeys>, KeysError> {
        const OWN: &str = "--key (or EVENT_MANAGER_KEY)";
        const SERVER: &str = "--server-key (or EVENT_MANAGER_SERVER_KEY)";
        match (&self.key, &self.server_key) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(KeysError::Half(OWN, SERVER)),
            (None, Some(_)) => Err(KeysError::Half(SERVER, OWN)),
            (Some(own), Some(server)) => ClientKeys::load(own, server).map(Some),
        }
    }
}

/// Where a daemon with this configuration answers on this machine.
fn configured_address(loaded: &Loaded) -> anyhow::Result<String> {
    if !loaded.origins.contains_key("requestAddress") {
        return Ok(DEFAULT.into());
    }
    let address = loaded.config.request_addresses.first().map(Endpoint::local);
    let address = address.context("requestAddress is empty")?;
    if address.port() == Some(0) {
        bail!("requestAddress {address} lets the system choose the port: give it with --address");
    }
    Ok(address.to_string())
}

/// The daemon's own keys, with which it knows itself: whoever may read its secret file may be the daemon.
/// `None` if it has none, or the daemon at this address is not the one that the configuration is about, or
/// it doesn't want keys yet.
///
/// # Errors
/// The file can't be read, and the daemon admits nobody without keys.
pub(super) fn own_keys(config: &Config, address: &str) -> anyhow::Result<Option<ClientKeys>> {
    let security = &config.security;
    let is_its = address.parse().is_ok_and(|asked| is_of(config, &asked));
    if !security.offers_curve() || !is_its {
        return Ok(None);
    }
    let own = match keys::own_pair(security) {
        Ok(own) => own,
        Err(_) if security.offers_null() => return Ok(None),
        Err(error) => {
            let why = "the daemon wants keys, and its own can't be used: name yours with --key and --server-key";
            return Err(anyhow::Error::from(error).context(why));
        }
    };
    let keys = own.map(|own| ClientKeys {
        server: *own.public(),
        own,
    });
    Ok(keys.filter(|keys| wants(address, keys)))
}

/// Whether a daemon with this configuration takes requests at this address.
pub(super) fn is_of(config: &Config, address: &Endpoint) -> bool {
    let is_here = |endpoint: &Endpoint| match endpoint {
        Endpoint::Ipc(_) => false,
        Endpoint::Tcp { host, .. } => {
            host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
    };
    config.request_addresses.iter().any(|own| {
        let own = own.local();
        own == *address || is_here(&own) && is_here(address) && own.port() == address.port()
    })
}

/// Whether a daemon takes these keys. It may run with an older configuration, by which it has no CURVE.
fn wants(address: &str, keys: &ClientKeys) -> bool {
    let Ok(address) = address.parse() else {
        return true;
    };
    !matches!(
        probe(&address, Some(keys.clone())),
        Err(OpenError::TurnedAway(TurnedAway::NoCurve))
    )
}

/// Whether a hub at this address admits who has these keys; may also be called within a runtime.
pub(super) fn probe(address: &Endpoint, keys: Option<ClientKeys>) -> Result<(), OpenError> {
    let not_asked = |why: String| Err(OpenError::NotMet(why));
    let (address, runtime) = (
        address.clone(),
        Builder::new_current_thread().enable_all().build(),
    );
    let probing = std::thread::spawn(move || match runtime {
        Ok(runtime) => runtime.block_on(Connection::probe(&address, keys)),
        Err(error) => not_asked(error.to_string()),
    });
    probing
        .join()
        .unwrap_or_else(|_| not_asked("it was not asked".to_owned()))
}
