//! What checks are about, as it is gathered from the daemon and the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::super::key_args::own_keys;
use super::super::standby::{StandsBy, stands_by};
use super::bridges::down_since;
use super::configuration::ports_wanted;
use super::listeners::{Listening, listening_on};
use crate::config::{Config, ConfigErrors, Loaded};
use crate::store::queue_of;
use crate::telemetry::RING_MAX;
use event_manager_client::blocking::Client;
use event_manager_client::{ClientError, ClientKeys, TurnedAway};
use event_manager_wire::api::Status;
use event_manager_wire::messagebus::{Message, Token};
use event_manager_wire::model::Endpoint;

/// Where a daemon is looked for when nothing says otherwise.
const ADDRESS: &str = "tcp://localhost:5101";
/// The most dead letters of a service that are counted.
pub(super) const LETTERS_MAX: u64 = 1000;

/// All that checks may look at.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) config: Result<Loaded, ConfigErrors>,
    /// Where the daemon was asked.
    pub(super) address: String,
    /// Its state, or why there was no answer.
    pub(super) status: Result<Status, String>,
    /// It is there, and doesn't admit us.
    pub(super) turned_away: Option<TurnedAway>,
    /// It is there and takes no requests, as it stands by: for what.
    pub(super) standby: Option<StandsBy>,
    /// It admits us, and doesn't tell us its state.
    pub(super) is_forbidden: bool,
    /// Who listens on ports that the configuration names.
    pub(super) listening: Vec<Listening>,
    pub(super) locator: Locator,
    /// Dead letters on disk by service: how many, at most [`LETTERS_MAX`].
    pub(super) letters: Vec<(String, u64)>,
    /// Since when bridges don't work, by name, as far as that is known.
    pub(super) bridges_down_since: BTreeMap<String, String>,
    /// The file system of the state directory.
    pub(super) disk: Option<Disk>,
    /// The least that should be free there, in bytes; without it a tenth, at most a GiB.
    pub(super) disk_free_min: Option<u64>,
}

/// What the ServiceLocator says of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Locator {
    /// The daemon is not to register there.
    NotAsked,
    Registered,
    /// It answers, and does not know the daemon.
    Unknown,
    /// Why it could not be asked.
    Unreachable(String),
}

/// A file system's space, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) free: u64,
    pub(super) total: u64,
}

impl Facts {
    /// Asks the daemon at this address, else at that of the configuration, with these keys, else with the
    /// daemon's own.
    pub(super) fn gather(
        config: Result<Loaded, ConfigErrors>,
        (address, given): (Option<String>, Option<ClientKeys>),
        wait: Duration,
        disk_free_min: Option<u64>,
    ) -> Self {
        let known = config.as_ref().ok().map(|loaded| &loaded.config);
        let address = address.unwrap_or_else(|| known.map_or(ADDRESS.into(), address_of));
        let keys = given.or_else(|| own_keys(known?, &address).ok().flatten());
        let mut client = Client::new(address.clone(), wait).with_keys(keys.clone());
        let status = client.status();
        let turned_away = match status {
            Err(ClientError::TurnedAway { why, .. }) => Some(why),
            _ => None,
        };
        let is_forbidden =
            matches!(&status, Err(ClientError::Nak { code, .. }) if code == "forbidden");
        let standby = match &status {
            Err(ClientError::NoAnswer(_)) => {
                known.and_then(|config| stands_by(config, Some(&address), wait))
            }
            _ => None,
        };
        let status = status.map_err(|error| error.to_string());
        let directory = state_directory(known, status.as_ref().ok());
        Self {
            listening: known.map_or(vec![], |config| {
                listening_on(&ports_wanted(config, &address))
            }),
            locator: known.map_or(Locator::NotAsked, |config| {
                ask_locator(config, status.as_ref().ok(), wait, keys)
            }),
            letters: match &status {
                Ok(status) => letters(&mut client, status, directory.as_deref()),
                Err(_) => vec![],
            },
            bridges_down_since: match &status {
                Ok(status) if !status.bridges.is_empty() => {
                    let page = client.events(None, RING_MAX);
                    down_since(&page.unwrap_or_default().events)
                }
                _ => BTreeMap::new(),
            },
            disk: directory.as_deref().and_then(disk_at),
            config,
            address,
            status,
            turned_away,
            standby,
            is_forbidden,
            disk_free_min,
        }
    }
}

/// Where a daemon with this configuration takes requests.
fn address_of(config: &Config) -> String {
    let first = config.request_addresses.first().map(Endpoint::local);
    match first {
        Some(address) if address.port() != Some(0) => address.to_string(),
        _ => ADDRESS.into(),
    }
}

fn ask_locator(
    config: &Config,
    status: Option<&Status>,
    wait: Duration,
    keys: Option<ClientKeys>,
) -> Locator {
    let locator = &config.locator;
    // One that is embedded is gone with its daemon.
    if !locator.register || locator.embedded && status.is_none() {
        return Locator::NotAsked;
    }
    let bound = status.and_then(|status| status.addresses.locator.as_deref());
    let bound = bound.and_then(|address| address.parse::<Endpoint>().ok());
    let address = bound.unwrap_or_else(|| locator.address.clone()).local();
    let name = locator.service_name.as_str();
    // Another's has other keys.
    let keys = keys.filter(|_| locator.embedded);
    let mut client = Client::new(address.to_string(), wait).with_keys(keys);
    let request = Message::param(locator.tokens.locate, [name]);
    match client.ask(&request, Duration::ZERO) {
        Ok(answer) if answer.token.is(Token::ACK) => Locator::Registered,
        Ok(_) => Locator::Unknown,
        Err(ClientError::NoAnswer(address)) => {
            Locator::Unreachable(format!("{address} doesn't answer"))
        }
        Err(error) => Locator::Unreachable(error.to_string()),
    }
}

/// The daemon's own, as it runs; else the configured one.
fn state_directory(config: Option<&Config>, status: Option<&Status>) -> Option<PathBuf> {
    let running = status.and_then(|status| status.state_dir.as_ref().map(PathBuf::from));
    let directory = running.or_else(|| config.map(|config| config.state_dir.clone()))?;
    if directory.as_os_str().is_empty() {
        return None;
    }
    // A relative one begins where the daemon runs, if we may see that.
    let cwd = status.and_then(|status| {
        let pid = status.pid;
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
    });
    Some(cwd.unwrap_or_default().join(directory))
}

/// The file system of a directory, or of what it would be made in.
fn disk_at(directory: &Path) -> Option<Disk> {
    let path = directory
        .ancestors()
        .map(|path| match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        })
        .find(|path| path.exists())?;
    let system = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        path: directory.to_owned(),
        free: system.f_bavail.saturating_mul(system.f_frsize),
        total: system.f_blocks.saturating_mul(system.f_frsize),
    })
}

/// Asks for the dead letters of services that may have some, gone ones too: to list those of another
/// would make a directory for them.
fn letters(client: &mut Client, status: &Status, directory: Option<&Path>) -> Vec<(String, u64)> {
    let services = status.services.iter();
    let counted = services.filter(|service| service.counters.dead_lettered > 0);
    let mut names: BTreeSet<String> = counted.map(|service| service.name.clone()).collect();
    names.extend(directory.into_iter().flat_map(letters_on_disk));
    let mut found = vec![];
    for name in names {
        // A daemon without a store keeps none, and says so.
        let Ok(answer) = client.dead_letters("list", &name, &json!({"limit": LETTERS_MAX})) else {
            continue;
        };
        let count = answer.letters.len() as u64;
        if count > 0 {
            found.push((name, count));
        }
    }
    found
}

/// Services with a directory for their dead letters, if we may see that.
fn letters_on_disk(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("queues"));
    let names = entries.into_iter().flatten().filter_map(|entry| {
        let file_name = entry.ok()?.file_name();
        let queue = queue_of(file_name.to_str()?)?;
        Some(queue.of_dead_letters()?.to_string())
    });
    names.collect()
}
