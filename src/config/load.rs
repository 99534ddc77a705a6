//! Puts the sources together.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::keys::{KEYS, Key};
use super::positions::positions;
use super::{Config, GuardTimeoutAction};
use crate::model::Endpoint;

/// The configuration that is shipped, and used where there is no file.
const SHIPPED: &str = include_str!("../../config.json");

/// Objects of `config.json` that are read elsewhere.
const READ_ELSEWHERE: [&str; 1] = ["log"];

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that was asked for; without it `./config.json`, and without that the shipped one.
    pub path: Option<PathBuf>,
    /// The environment; only known names matter.
    pub env: BTreeMap<String, String>,
    /// Keys from the command line.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// The process's own environment, `CONFIG_PATH` too.
    pub fn from_env(path: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let path = path.or_else(|| {
            env.get("CONFIG_PATH")
                .filter(|p| !p.is_empty())
                .map(PathBuf::from)
        });
        Self { path, env, flags }
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
    /// Where each key's value comes from; keys that are not there have their default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read; `None` is the shipped one.
    pub path: Option<PathBuf>,
    /// The `log` object of the file.
    pub log: Option<Value>,
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
        let mut loaded = parse(&name, &text, &sources.env, &sources.flags)?;
        loaded.path = path;
        Ok(loaded)
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
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    let root: Map<String, Value> = serde_json::from_str(json).map_err(|error| {
        ConfigErrors(vec![format!(
            "{file}:{}:{}: {error}",
            error.line(),
            error.column()
        )])
    })?;
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
    loading.check_together();
    if !loading.errors.is_empty() {
        return Err(ConfigErrors(loading.errors));
    }
    let Loading {
        config, origins, ..
    } = loading;
    Ok(Loaded {
        config,
        origins,
        path: None,
        log: root.get("log").cloned(),
    })
}

#[derive(Default)]
struct Loading {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    errors: Vec<String>,
}

impl Loading {
    fn set(&mut self, key: &'static Key, value: &Value, origin: Origin) {
        match (key.set)(&mut self.config, value) {
            Ok(()) => {
                self.origins.insert(key.name, origin);
            }
            Err(wanted) => self
                .errors
                .push(format!("{origin}: {}: {value}: {wanted}", key.name)),
        }
    }

    fn read_file(&mut self, file: &str, json: &str, root: &Map<String, Value>) {
        let mut seen = BTreeMap::new();
        for position in positions(json) {
            let path = position.path.as_str();
            if READ_ELSEWHERE
                .iter()
                .any(|name| path.split('.').next() == Some(name))
            {
                continue;
            }
            let origin = Origin::File(file.into(), position.line);
            if let Some(first) = seen.insert(path.to_owned(), position.line) {
                self.errors
                    .push(format!("{origin}: {path} stands in line {first} already"));
                continue;
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
        // In the order of the table, so that switches are known before what depends on them.
        for key in KEYS {
            if let Some(value) = find(root, key.name) {
                let line = seen.get(key.name).copied().unwrap_or(1);
                self.set(key, value, Origin::File(file.into(), line));
            }
        }
    }

    fn warn_of_misspelt(&mut self, env: &BTreeMap<String, String>) {
        for name in env.keys().filter(|name| name.starts_with("EVENT_MANAGER_")) {
            let known = KEYS.iter().map(|key| key.env);
            // The command line's own variables.
            let others = ["EVENT_MANAGER_ADDRESS"];
            if !known.clone().chain(others).any(|known| known == name) {
                let hint = suggestion(name, known);
                self.errors
                    .push(format!("environment {name}: unknown{hint}"));
            }
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
        self.errors.extend(errors);
    }
}

/// What the daemon binds, with the key that says so.
fn bound_addresses(config: &Config) -> Vec<(&'static str, &Endpoint)> {
    let groups = [
        ("pubAddress", &config.pub_addresses[..]),
        ("subAddress", &config.sub_addresses[..]),
        ("requestAddress", &config.request_addresses[..]),
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
            let all = |host: &str| matches!(host, "*" | "0.0.0.0" | "::");
            p == q && *p != 0 && (a == b || all(a) || all(b))
        }
        (a, b) => a == b && a.port() != Some(0),
    }
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
