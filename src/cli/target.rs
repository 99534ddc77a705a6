//! Which daemon a command talks to.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::{Loaded, Sources, why_undialable};
use event_manager_client::{Client, ClientError, Error, Hub, HubBuilder, blocking};
use event_manager_wire::model::Endpoint;

/// Where a daemon answers of which nothing is configured.
const DEFAULT: &str = "tcp://localhost:5101";

/// The flags of every command that talks to a daemon.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The daemon's request address [default: the requestAddress of the configuration that `serve` would
    /// read here, else tcp://localhost:5101]
    #[arg(long, env = "EVENT_MANAGER_ADDRESS", value_name = "ADDRESS", value_parser = address)]
    address: Option<String>,
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

/// An address to connect to.
pub(super) fn address(text: &str) -> Result<String, String> {
    let endpoint = text
        .parse::<Endpoint>()
        .map_err(|error| error.to_string())?;
    why_undialable(&endpoint).map_or_else(|| Ok(text.to_owned()), Err)
}

impl Target {
    pub(super) fn client(&self) -> anyhow::Result<blocking::Client> {
        Ok(blocking::Client::new(self.address()?, self.wait()))
    }

    pub(super) fn async_client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.address()?, self.wait()))
    }

    /// A connected client of the library; `name` is what the daemon shows of its workers.
    pub(super) async fn hub(&self, name: Option<&str>) -> anyhow::Result<Hub> {
        let (address, wait) = (self.address()?, self.wait());
        let builder = Hub::builder().address(&address).timeout(wait);
        let builder = name.into_iter().fold(builder, HubBuilder::name);
        match builder.connect_timeout(wait).connect().await {
            Err(Error::NoAnswer { .. }) => Err(ClientError::NoAnswer(address).into()),
            connected => Ok(connected?),
        }
    }

    fn address(&self) -> anyhow::Result<String> {
        match &self.address {
            Some(address) => Ok(address.clone()),
            None => configured_address(None),
        }
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

/// Where a daemon with this configuration answers on this machine; without a path, with the configuration
/// that `serve` would read here.
pub(super) fn configured_address(path: Option<PathBuf>) -> anyhow::Result<String> {
    let loaded = Loaded::load(&Sources::from_env(path, vec![]))?;
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
