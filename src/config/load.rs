//! Puts the sources together.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::keys::{KEYS, Key, Refused};
use super::positions::{Position, positions};
use super::services::{SERVICES, Wrong};
use super::{Config, GuardTimeoutAction};
use crate::model::Endpoint;

/// The configuration that is shipped, and used where there is no file.
const SHIPPED: &str = include_str!("../../config.json");

/// The object of `config.json` that is read elsewhere.
const LOG: &str = "log";

/// Names the configuration file.
const CONFIG_PATH: &str = "CONFIG_PATH";
/// What the variables of all newer keys begin with.
const ENV_PREFIX: &str = "EVENT_MANAGER_";
/// For variables of programs that talk to a daemon: none is a key, now or later.
const CLIENTS_PREFIX: &str = "EVENT_MANAGER_CLIENT_";
/// The command line's own variables.
const COMMAND_LINE: [&str; 1] = ["EVENT_MANAGER_ADDRESS"];
/// From this closeness on, of 1, an unknown variable is taken for a misspelt one.
const MISSPELT: f64 = 0.9;

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that was asked for; without it `./config.json`, and without that the shipped one.
    pub path: Option<PathBuf>,
    /// The environment; only known names matter.
    pub env: BTreeMap<String, String>,
    /// Keys from the command line.
    pub flags: Vec<(&'static str, String)>,
    /// Variables that are ours, but no text.
    pub unreadable: Vec<String>,
}

impl Sources {
    /// The process's own environment, `CONFIG_PATH` too.
    pub fn from_env(path: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        let mut sources = Self {
            flags,
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            // A path may be anything.
            if name == CONFIG_PATH {
                sources.path =
                    Some(value.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty());
                continue;
            }
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(sources.env.insert(name, value)),
                (Ok(name), Err(_)) => sources.unreadable.extend(is_ours(&name).then_some(name)),
                // No variable of ours has such a name.
                (Err(_), _) => {}
            }
        }
        sources.path = path.or(sources.path);
        sources
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file's line.
    File(String, usize),
    /// An environment variable.
    Environment(&'static str),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File(path, line) => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => write!(f, "command line"),
        }
    }
}

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// Where each key's value comes from, with dots between it and the object that it is in; keys
    /// that are not there have their default.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read; `None` is the shipped one.
    pub path: Option<PathBuf>,
    /// The `log` object of the file.
    pub log: Option<LogSection>,
    /// Keys of that object, with its name before them, from the command line.
    pub log_flags: Vec<(&'static str, String)>,
    /// What may be meant otherwise, but does no harm; a sentence each.
    pub warnings: Vec<String>,
}

/// What a file says about the log: the object `log` of a configuration, or a whole file.
#[derive(Debug, Clone)]
pub struct LogSection {
    /// The file's name.
    pub file: String,
    /// An object.
    pub value: Value,
    /// The line of each of its keys; a dot leads into an object.
    pub lines: BTreeMap<String, usize>,
}

impl LogSection {
    /// Reads a file that holds nothing else.
    ///
    /// # Errors
    /// Broken JSON, with its place, and keys that stand there twice.
    pub fn parse(file: &str, json: &str) -> Result<Self, ConfigErrors> {
        let root = parse_object(file, json)?;
        let mut lines = BTreeMap::new();
        let mut errors = Vec::new();
        for Position { path, line } in positions(json) {
            let path = path.join(".");
            if let Some(first) = lines.insert(path.clone(), line) {
                errors.push(stands_twice(&Origin::File(file.into(), line), &path, first));
            }
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        Ok(Self {
            file: file.into(),
            value: Value::Object(root),
            lines,
        })
    }
}

fn parse_object(file: &str, json: &str) -> Result<Map<String, Value>, ConfigErrors> {
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    serde_json::from_str(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ConfigErrors(vec![format!("{file}:{line}:{column}: {error}")])
    })
}

fn stands_twice(origin: &Origin, path: &str, first: usize) -> String {
    format!("{origin}: {path} stands in line {first} already")
}

/// All that is wrong with a configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Loaded {
    /// Reads the sources.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let default_path = PathBuf::from("config.json");
        let path = sources
            .path
            .clone()
            .or_else(|| default_path.exists().then_some(default_path));
        let text = match &path {
            None => SHIPPED.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigErrors(vec![format!("{}: can't be read: {error}", path.display())])
            })?,
        };
        let name = path
            .as_ref()
            .map_or("embedded config.json".into(), |p| p.display().to_string());
        let unreadable = sources.unreadable.iter();
        let mut errors: Vec<_> = unreadable
            .map(|name| format!("environment {name}: its value is not UTF-8"))
            .collect();
        match parse(&name, &text, &sources.env, &sources.flags) {
            Ok(loaded) if errors.is_empty() => Ok(Self { path, ..loaded }),
            Ok(_) => Err(ConfigErrors(errors)),
            Err(others) => {
                errors.extend(others.0);
                Err(ConfigErrors(errors))
            }
        }
    }
}

/// Reads a configuration from its parts; `file` is the name for errors.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn parse(
    file: &str,
    json: &str,
    env: &BTreeMap<String, String>,
    flags: &[(&'static str, String)],
) -> Result<Loaded, ConfigErrors> {
    let root = parse_object(file, json)?;
    let mut loading = Loading::default();
    loading.read_file(file, json, &root);
    for key in KEYS {
        if let Some(value) = env.get(key.env).filter(|value| !value.is_empty()) {
            loading.set(
                key,
                &Value::String(value.clone()),
                Origin::Environment(key.env),
            );
        }
    }
    loading.warn_of_misspelt(env);
    for (name, value) in flags {
        if let Some(key) = KEYS.iter().find(|key| key.name == *name) {
            loading.set(key, &Value::String(value.clone()), Origin::Flag);
        }
    }
    loading.default_locator();
    loading.check_together();
    if !loading.errors.is_empty() {
        return Err(ConfigErrors(loading.errors));
    }
    let log = root.get(LOG).cloned().map(|value| LogSection {
        file: file.into(),
        value,
        lines: loading.log_lines,
    });
    Ok(Loaded {
        config: loading.config,
        origins: loading.origins,
        path: None,
        log,
        log_flags: flags
            .iter()
            .filter(|(name, _)| is_inside(name, LOG))
            .cloned()
            .collect(),
        warnings: loading.warnings,
    })
}

#[derive(Default)]
struct Loading {
    config: Config,
    origins: BTreeMap<String, Origin>,
    errors: Vec<String>,
    log_lines: BTreeMap<String, usize>,
    warnings: Vec<String>,
}

impl Loading {
    fn set(&mut self, key: &'static Key, value: &Value, origin: Origin) {
        match (key.set)(&mut self.config, value) {
            Ok(()) => {
                if !matches!(origin, Origin::File(..)) {
                    self.origins.retain(|path, _| !is_inside(path, key.name));
                }
                self.origins.insert(key.name.into(), origin);
            }
            Err(Refused::Wanted(wanted)) => self
                .errors
                .push(format!("{origin}: {}: {value}: {wanted}", key.name)),
            Err(Refused::Inside(wrong)) => {
                for Wrong { path, text } in wrong {
                    let line = match &origin {
                        Origin::File(..) => self.origins.get(&path),
                        _ => None,
                    };
                    let origin = line.unwrap_or(&origin);
                    self.errors.push(format!("{origin}: {text}"));
                }
            }
        }
    }

    fn read_file(&mut self, file: &str, json: &str, root: &Map<String, Value>) {
        let mut seen = BTreeMap::new();
        let mut services = Vec::new();
        for Position { path: keys, line } in positions(json) {
            let path = keys.join(".");
            let origin = Origin::File(file.into(), line);
            if let Some(first) = seen.insert(keys.clone(), line) {
                self.errors.push(stands_twice(&origin, &path, first));
                continue;
            }
            match &keys[..] {
                [section] if section == LOG => {}
                [section, below @ ..] if section == LOG => {
                    self.log_lines.insert(below.join("."), line);
                }
                [section, below @ ..] if section == SERVICES && !below.is_empty() => {
                    self.origins.insert(path, origin);
                    if let [name] = below {
                        services.push(name.clone());
                    }
                }
                _ => self.check_key(root, &keys, &origin),
            }
        }
        // In the order of the table, so that switches are known before what depends on them.
        for key in KEYS {
            if let Some(value) = find(root, key.name) {
                let keys: Vec<_> = key.name.split('.').map(str::to_owned).collect();
                let line = seen.get(&keys).copied().unwrap_or(1);
                self.set(key, value, Origin::File(file.into(), line));
            }
        }
        self.config.services.sort_as_written(services.iter());
    }

    /// Whether there is such a key, or an object of keys.
    fn check_key(&mut self, root: &Map<String, Value>, keys: &[String], origin: &Origin) {
        let path = &*keys.join(".");
        if keys.iter().any(|key| key.contains('.')) {
            self.errors.push(format!(
                "{origin}: {path:?}: a key has no dots; write an object in an object"
            ));
            return;
        }
        let is_object = KEYS.iter().any(|key| parent(key.name) == Some(path));
        if is_object && find(root, path).is_some_and(|value| !value.is_object()) {
            self.errors
                .push(format!("{origin}: {path}: an object is wanted"));
        } else if !is_object && !KEYS.iter().any(|key| key.name == path) {
            let hint = suggestion(path, KEYS.iter().map(|key| key.name));
            self.errors
                .push(format!("{origin}: unknown key {path:?}{hint}"));
        }
    }

    fn warn_of_misspelt(&mut self, env: &BTreeMap<String, String>) {
        for (name, rest) in env
            .keys()
            .filter_map(|name| Some((name, name.strip_prefix(ENV_PREFIX)?)))
        {
            let known = KEYS.iter().map(|key| key.env).chain(COMMAND_LINE);
            let is_free = is_service_link(name) || name.starts_with(CLIENTS_PREFIX);
            if is_free || known.clone().any(|known| known == name) {
                continue;
            }
            let meant = known.filter(|known| {
                let known = known.strip_prefix(ENV_PREFIX);
                known.is_some_and(|known| strsim::jaro_winkler(rest, known) > MISSPELT)
            });
            match &*suggestion(name, meant) {
                "" => self.warnings.push(format!(
                    "environment {name}: unknown, and not used; names that begin with {CLIENTS_PREFIX} are free for other programs"
                )),
                hint => self.errors.push(format!("environment {name}: unknown{hint}")),
            }
        }
    }

    /// Who says nothing of a ServiceLocator has the embedded one, as in the shipped file. Who says where
    /// one is means one that is there.
    fn default_locator(&mut self) {
        let said = ["embeddedLocator", "locatorAddress"];
        if !said.iter().any(|key| self.origins.contains_key(*key)) {
            self.config.locator.embedded = true;
        }
    }

    fn check_together(&mut self) {
        let config = &self.config;
        let ports = &config.streamer_ports;
        let mut errors = Vec::new();
        if ports.is_empty() {
            errors.push(format!(
                "minStreamerPort {} is above maxStreamerPort {}: the range holds no port",
                ports.start(),
                ports.end()
            ));
        } else if *ports.start() == 0 && *ports.end() != 0 {
            errors.push("minStreamerPort is 0 but maxStreamerPort isn't: 0 stands for ports of the system's choice, for both or none".into());
        }
        let bound = bound_addresses(config);
        let taken = |port: u16| bound.iter().any(|(_, at)| at.port() == Some(port));
        if !ports.is_empty() && *ports.end() != 0 && ports.clone().all(taken) {
            errors.push(format!(
                "every port of minStreamerPort-maxStreamerPort ({}-{}) is used by the daemon's own addresses: no service could get one",
                ports.start(), ports.end()
            ));
        }
        for (i, (key, address)) in bound.iter().enumerate() {
            for (other_key, other) in &bound[..i] {
                if overlap(address, other) {
                    errors.push(format!("{key} {address} and {other_key} {other} overlap"));
                }
            }
        }
        let guard = &config.startup_guard;
        if guard.enabled
            && guard.on_timeout == GuardTimeoutAction::Exit
            && guard.timeout < guard.interval
        {
            errors.push("startupGuardTimeout is shorter than startupGuardInterval: the guard could never see a predecessor end".into());
        }
        let dialled = config.connect_publishers.iter();
        errors.extend(
            dialled
                .filter_map(why_undialable)
                .map(|why| format!("connectPublishers: {why}")),
        );
        if !config.locator.embedded
            && let Some(why) = why_undialable(&config.locator.address)
        {
            errors.push(format!("locatorAddress: {why}"));
        }
        let (message, queue) = (
            config.limits.message_bytes_max,
            config.budgets.service_queue_bytes,
        );
        if message > queue {
            errors.push(format!(
                "limits.maxMessageBytes {message} is above budgets.serviceQueueBytes {queue}: the largest messages could wait for no service"
            ));
        }
        let limit = config.memory_limit;
        if limit != 0 && message > limit {
            errors.push(format!(
                "limits.maxMessageBytes {message} is above memoryLimit {limit}: the largest messages could never be taken"
            ));
        }
        for Wrong { path, text } in config.services.check(&config.limits) {
            let origin = self.origins.get(&path).or(self.origins.get(SERVICES));
            errors.push(format!("{}: {text}", origin.unwrap_or(&Origin::Default)));
        }
        self.errors.extend(errors);
    }
}

/// What the daemon binds, with the key that says so.
fn bound_addresses(config: &Config) -> Vec<(&'static str, &Endpoint)> {
    let groups = [
        ("pubAddress", &config.pub_addresses[..]),
        ("subAddress", &config.sub_addresses[..]),
        ("requestAddress", &config.request_addresses[..]),
        ("httpAddress", config.http_address.as_slice()),
        (
            "locatorAddress",
            std::slice::from_ref(&config.locator.address),
        ),
    ];
    let bound = groups
        .into_iter()
        .filter(|(key, _)| *key != "locatorAddress" || config.locator.embedded);
    bound
        .flat_map(|(key, all)| all.iter().map(move |address| (key, address)))
        .collect()
}

fn overlap(a: &Endpoint, b: &Endpoint) -> bool {
    match (a, b) {
        (Endpoint::Tcp { host: a, port: p }, Endpoint::Tcp { host: b, port: q }) => {
            p == q && *p != 0 && (a == b || is_wildcard(a) || is_wildcard(b))
        }
        (a, b) => a == b && a.port() != Some(0),
    }
}

/// Kubernetes gives each container such variables for a Service that is called `event-manager`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix("EVENT_MANAGER_").unwrap_or(name);
    rest == "PORT"
        || ["PORT_", "SERVICE_HOST", "SERVICE_PORT"]
            .iter()
            .any(|start| rest.starts_with(start))
}

/// Whether this program reads a variable of this name, or would say that it doesn't know it.
fn is_ours(name: &str) -> bool {
    let is_key = || KEYS.iter().any(|key| key.env == name);
    let is_reserved = name.starts_with(ENV_PREFIX) && !name.starts_with(CLIENTS_PREFIX);
    is_reserved || name == "RUST_LOG" || is_key()
}

/// Why nobody can connect to this address, if so.
fn why_undialable(address: &Endpoint) -> Option<String> {
    match address {
        Endpoint::Tcp { host, .. } if is_wildcard(host) => Some(format!(
            "{address} names no host, so nobody can connect to it"
        )),
        Endpoint::Tcp { port: 0, .. } => Some(format!(
            "{address} names no port, so nobody can connect to it"
        )),
        _ => None,
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "*" | "0.0.0.0" | "::")
}

/// Whether a key's path leads into this object.
fn is_inside(path: &str, object: &str) -> bool {
    path.strip_prefix(object)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(parent, _)| parent)
}

fn find<'a>(root: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let mut value = root.get(parts.next()?)?;
    for part in parts {
        value = value.get(part)?;
    }
    Some(value)
}

/// What was probably meant.
pub(crate) fn suggestion<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> String {
    let closeness =
        |name: &str| strsim::jaro_winkler(&written.to_lowercase(), &name.to_lowercase());
    let best = known
        .map(|name| (closeness(name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best.filter(|(closeness, _)| *closeness > 0.8) {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
