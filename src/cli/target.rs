//! Which daemon a command talks to.

use std::time::Duration;

use clap::Args;

use crate::client::{self, ClientError, blocking};
use crate::config::why_undialable;
use crate::model::Endpoint;

/// The flags of every command that talks to a daemon.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The daemon's request address.
    #[arg(
        long,
        env = "EVENT_MANAGER_ADDRESS",
        default_value = "tcp://localhost:5101",
        value_name = "ADDRESS",
        value_parser = address
    )]
    address: String,
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
    pub(super) fn client(&self) -> blocking::Client {
        blocking::Client::new(self.address.clone(), self.wait())
    }

    pub(super) fn async_client(&self) -> client::Client {
        client::Client::new(self.address.clone(), self.wait())
    }

    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.wait)
    }

    /// The first address of a kind (`publishers`, `subscribers`) that the daemon names.
    pub(super) fn daemon_address(&self, kind: &str) -> Result<String, ClientError> {
        let addresses = self.client().status()?.addresses;
        let all = match kind {
            "publishers" => addresses.publishers,
            _ => addresses.subscribers,
        };
        all.into_iter()
            .next()
            .ok_or_else(|| ClientError::Garbled(format!("no address for {kind}")))
    }
}
