//! Which daemon a command talks to.

use std::time::Duration;

use clap::Args;

use super::key_args::{Daemon, KeyArgs};
use crate::config::why_undialable;
use event_manager_client::{Client, ClientError, ClientKeys, Error, Hub, HubBuilder, blocking};
use event_manager_wire::model::Endpoint;

/// The flags of every command that talks to a daemon.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The daemon's request address [default: the requestAddress of the configuration that `serve` would
    /// read here, else tcp://localhost:5101]
    #[arg(long, env = "EVENT_MANAGER_ADDRESS", value_name = "ADDRESS", value_parser = address)]
    address: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Seconds to wait for the daemon's answer.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    wait: f64,
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text
        .parse()
        .ok()
        .filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.001 to 86400".into())
}

/// Seconds that the daemon bounds. JSON has no other numbers than these.
pub(super) fn finite_seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text
        .parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite());
    seconds.ok_or_else(|| "expected a number of seconds".into())
}

/// An address to connect to.
pub(super) fn address(text: &str) -> Result<String, String> {
    let endpoint = text
        .parse::<Endpoint>()
        .map_err(|error| error.to_string())?;
    why_undialable(&endpoint).map_or_else(|| Ok(text.to_owned()), Err)
}

impl Target {
    pub(super) fn client(&self) -> anyhow::Result<blocking::Client> {
        let daemon = self.daemon()?;
        Ok(blocking::Client::new(daemon.address, self.wait()).with_keys(daemon.keys))
    }

    pub(super) fn async_client(&self) -> anyhow::Result<Client> {
        let daemon = self.daemon()?;
        Ok(Client::new(daemon.address, self.wait()).with_keys(daemon.keys))
    }

    /// A connected client of the library; `name` is what the daemon shows of its workers.
    pub(super) async fn hub(&self, name: Option<&str>) -> anyhow::Result<Hub> {
        let (Daemon { address, keys }, wait) = (self.daemon()?, self.wait());
        let builder = Hub::builder().address(&address).timeout(wait).keys(keys);
        let builder = name.into_iter().fold(builder, HubBuilder::name);
        match builder.connect_timeout(wait).connect().await {
            Err(Error::NoAnswer { .. }) => Err(ClientError::NoAnswer(address).into()),
            connected => Ok(connected?),
        }
    }

    fn daemon(&self) -> anyhow::Result<Daemon> {
        self.keys.daemon(self.address.clone(), None)
    }

    /// The keys with which the daemon is asked, for its other addresses.
    pub(super) fn keys(&self) -> anyhow::Result<Option<ClientKeys>> {
        Ok(self.daemon()?.keys)
    }

    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.wait)
    }

    /// The first address of a kind (`publishers`, `subscribers`) that the daemon names.
    pub(super) fn daemon_address(&self, kind: &str) -> anyhow::Result<String> {
        let addresses = self.client()?.status()?.addresses;
        let all = match kind {
            "publishers" => addresses.publishers,
            _ => addresses.subscribers,
        };
        let first = all.into_iter().next();
        Ok(first.ok_or_else(|| ClientError::Garbled(format!("no address for {kind}")))?)
    }
}
