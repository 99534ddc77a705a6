//! Reads the sources and puts them together.
//!
//! The `config` crate merges the layers, keeps each value's origin and fills in the schema. Its own
//! sources are not used: its files know no lines and take a key twice, its environment lower-cases
//! names, takes unknown ones for keys and doesn't say which variable a value is from, and it stops at
//! the first error. So a [`Layer`] hands it values that were each checked, with their origin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use config::{ConfigError, Source, ValueKind};
use serde_json::{Map, Value, json};

use super::bridges::{BRIDGES, Bridges};
use super::clients;
use super::engines::{ENGINES, Engines};
use super::keys::{KEYS, RETIRED, ROOT, Wrong, is_inside, probe, variable_of};
use super::meant::suggestion;
use super::positions::{Position, positions};
use super::services::{self, SERVICES, Services};
use super::units::{OptionalPath, Unit};
use super::{Config, together};
use event_manager_wire::model::Endpoint;

/// The object that `logPath` names another file for, with a dot.
const LOG: &str = "log.";

/// Names the configuration file.
const CONFIG_PATH: &str = "CONFIG_PATH";
/// What the variables of all newer keys begin with.
const ENV_PREFIX: &str = "EVENT_MANAGER_";
/// For variables of programs that talk to a daemon: none is a key, now or later.
const CLIENTS_PREFIX: &str = "EVENT_MANAGER_CLIENT_";
/// The command line's own variables, and those of other clients that are named like them.
const COMMAND_LINE: [&str; 3] = [
    "EVENT_MANAGER_ADDRESS",
    "EVENT_MANAGER_KEY",
    "EVENT_MANAGER_SERVER_KEY",
];
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

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// Where each key's value comes from (`FILE:LINE`, `environment NAME`, `command line`), with dots
    /// between it and the object that it is in; keys that are not there have their default.
    pub origins: BTreeMap<String, String>,
    /// The file that was read, if there is one.
    pub path: Option<PathBuf>,
    /// What may be meant otherwise, but does no harm; a sentence each.
    pub warnings: Vec<String>,
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
        let default = PathBuf::from("config.json");
        let path = sources.path.clone();
        let path = path.or_else(|| default.exists().then_some(default));
        let canonical = |path: &Path| path.canonicalize().ok();
        let own = path.as_deref().and_then(canonical);
        let mut loading = Loading::default();
        let unreadable = sources.unreadable.iter();
        let unreadable =
            unreadable.map(|name| format!("environment {name}: its value is not UTF-8"));
        loading.errors.extend(unreadable);
        if let Some(path) = &path {
            loading.read_file(
                "",
                &path.display().to_string(),
                std::fs::read_to_string(path),
            );
        }
        loading.read_others(&sources.env, &sources.flags);
        // A path that names the configuration itself means its object `log`.
        let log = loading.log_path();
        let log = log.filter(|log| own.is_none() || canonical(log) != own);
        if let Some(log) = log {
            loading.read_file(
                LOG,
                &log.display().to_string(),
                std::fs::read_to_string(&log),
            );
        }
        let loaded = loading.finish()?;
        Ok(Self { path, ..loaded })
    }
}

/// Reads a configuration from its parts, but no file of the log; `file` is the name for errors.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn parse(
    file: &str,
    json: &str,
    env: &BTreeMap<String, String>,
    flags: &[(&'static str, String)],
) -> Result<Loaded, ConfigErrors> {
    let mut loading = Loading::default();
    loading.read_file("", file, Ok(json.into()));
    loading.read_others(env, flags);
    loading.finish()
}

/// Valid values of one source, by key, with their origins.
#[derive(Debug, Clone, Default)]
struct Layer(BTreeMap<String, (Value, String)>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, ConfigError> {
        let values = self.0.iter();
        let value = |(key, (value, origin)): (&String, &(Value, String))| {
            let value = match value {
                // As a text it replaces that of another source as a whole.
                Value::Object(_) => json!(value.to_string()),
                _ => value.clone(),
            };
            let read = serde_json::from_value::<config::Value>(value);
            let read = read.map_err(|error| ConfigError::Foreign(error.into()))?;
            Ok((key.clone(), config::Value::new(Some(origin), read.kind)))
        };
        values.map(value).collect()
    }
}

/// What has been read so far.
#[derive(Default)]
struct Loading {
    file: Layer,
    /// The file that `logPath` names, in place of the other's `log`.
    log_file: Option<Layer>,
    env: Layer,
    flags: Layer,
    /// The origins of what is within `services` in the file, and within other objects whose names are
    /// chosen.
    chosen: BTreeMap<String, String>,
    /// Keys whose value is wrong.
    unsure: BTreeSet<String>,
    /// The file can't be read, so no key is known for sure.
    is_broken: bool,
    errors: Vec<String>,
    /// Errors in `log` of the file; they don't count if `logPath` names another.
    log_errors: Vec<String>,
    warnings: Vec<String>,
}

impl Loading {
    /// Checks a value, and puts it into the layer if nothing is wrong.
    fn take(
        &mut self,
        layer: &mut Layer,
        (key, value): (&str, &Value),
        origin: &str,
    ) -> Vec<Wrong> {
        if let Some((_, instead)) = RETIRED.iter().find(|(retired, _)| *retired == key) {
            let warning =
                format!("{origin}: {key} is no longer a key and is ignored: {instead}; remove it");
            self.warnings.push(warning);
            return vec![];
        }
        let wrong = match key {
            SERVICES => Services::read_all(value).err().unwrap_or_default(),
            ENGINES => Engines::read_all(value).err().unwrap_or_default(),
            BRIDGES => Bridges::read_all(value).err().unwrap_or_default(),
            _ => clients::wrong_in(key, value).unwrap_or_else(|| {
                let wanted = probe::<Config>(key, value).err();
                let hidden = Value::from("…");
                let shown = if is_hidden(key, value) {
                    &hidden
                } else {
                    value
                };
                let wrong = wanted.map(|wanted| Wrong::value(key, shown, &wanted));
                wrong.into_iter().collect()
            }),
        };
        if wrong.is_empty() {
            layer.0.insert(key.into(), (value.clone(), origin.into()));
        } else {
            self.unsure.insert(key.into());
        }
        wrong
    }

    /// Reads a file; `base` leads from the root of all to that of the file, with a dot at its end.
    fn read_file(&mut self, base: &str, file: &str, text: io::Result<String>) {
        let is_log = base == LOG;
        let mut layer = Layer::default();
        match parse_object(file, text) {
            Ok((positions, root)) => self.read_object((base, file), &positions, &root, &mut layer),
            Err(error) => {
                self.is_broken |= !is_log;
                let key = if is_log { "logPath: " } else { "" };
                self.errors.push(format!("{key}{error}"));
            }
        }
        match is_log {
            true => self.log_file = Some(layer),
            false => self.file = layer,
        }
    }

    fn read_object(
        &mut self,
        (base, file): (&str, &str),
        positions: &[Position],
        root: &Map<String, Value>,
        layer: &mut Layer,
    ) {
        let mut lines = BTreeMap::new();
        // Each with its path and line.
        let mut errors = Vec::new();
        let mut seen = BTreeMap::new();
        for Position { path: keys, line } in positions {
            let path = keys.join(".");
            if let Some(first) = seen.insert(keys, line) {
                let error = format!("{path} stands in line {first} already");
                errors.push((format!("{base}{path}"), *line, error));
            }
            lines.entry(format!("{base}{path}")).or_insert(*line);
        }
        // What isn't found is a part of `services` that can't be told from another.
        let line = |path: &str| {
            let section = sections().find(|section| is_inside(path, section));
            let line = lines.get(path).or_else(|| lines.get(section?));
            line.copied()
        };
        let line = |path: &str| line(path).unwrap_or(1);
        let mut wrong = Vec::new();
        for (key, value) in ROOT.values(("", base), root, &mut wrong) {
            let value = match &*key {
                SERVICES => &services::in_order(value, positions),
                _ => value,
            };
            let origin = format!("{file}:{}", line(&key));
            wrong.extend(self.take(layer, (&key, value), &origin));
        }
        let said = |wrong: &Wrong| (wrong.path.clone(), line(&wrong.path), wrong.said(base));
        errors.extend(wrong.iter().map(said));
        errors.sort_by_key(|(_, line, _)| *line);
        for (path, line, error) in errors {
            let own_log = base.is_empty() && (is_inside(&path, "log") || path == "log");
            let errors = match own_log {
                true => &mut self.log_errors,
                false => &mut self.errors,
            };
            errors.push(format!("{file}:{line}: {error}"));
        }
        let chosen = lines
            .iter()
            .filter(|(path, _)| sections().any(|section| is_inside(path, section)));
        self.chosen
            .extend(chosen.map(|(path, line)| (path.clone(), format!("{file}:{line}"))));
    }

    fn read_others(&mut self, env: &BTreeMap<String, String>, flags: &[(&'static str, String)]) {
        let mut layer = Layer::default();
        let retired = RETIRED.iter().map(|(name, _)| *name);
        for name in KEYS.iter().map(|key| &*key.name).chain(retired) {
            let variable = variable_of(name);
            if let Some(value) = env.get(&variable).filter(|value| !value.is_empty()) {
                let origin = format!("environment {variable}");
                self.read_text(&mut layer, (name, value), &origin);
            }
        }
        self.env = layer;
        self.warn_of_misspelt(env);
        let mut layer = Layer::default();
        for (name, value) in flags {
            self.read_text(&mut layer, (name, value), "command line");
        }
        self.flags = layer;
    }

    fn read_text(&mut self, layer: &mut Layer, (key, text): (&str, &str), origin: &str) {
        let wrong = self.take(layer, (key, &json!(text)), origin);
        let said = wrong
            .iter()
            .map(|wrong| format!("{origin}: {}", wrong.said("")));
        self.errors.extend(said);
    }

    fn warn_of_misspelt(&mut self, env: &BTreeMap<String, String>) {
        for (name, rest) in env
            .keys()
            .filter_map(|name| Some((name, name.strip_prefix(ENV_PREFIX)?)))
        {
            let known = KEYS.iter().map(|key| &*key.env).chain(COMMAND_LINE);
            let is_free = is_service_link(name) || name.starts_with(CLIENTS_PREFIX);
            let is_retired = || RETIRED.iter().any(|(key, _)| variable_of(key) == *name);
            if is_free || known.clone().any(|known| known == name) || is_retired() {
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

    /// The file of the log that is named last; a wrong value names none.
    fn log_path(&self) -> Option<PathBuf> {
        let mut layers = [&self.flags, &self.env, &self.file].into_iter();
        let (value, _) = layers.find_map(|layer| layer.0.get("logPath"))?;
        OptionalPath::read(value).ok().flatten()
    }

    /// Puts the layers together.
    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        let log = match self.log_file.take() {
            Some(log) => {
                self.file.0.retain(|key, _| !is_inside(key, "log"));
                log
            }
            None => {
                self.errors.append(&mut self.log_errors);
                Layer::default()
            }
        };
        let others = [&self.env, &self.flags];
        let elsewhere: Vec<_> = sections()
            .filter(|section| others.iter().any(|layer| layer.0.contains_key(*section)))
            .collect();
        let is_of_file = |path: &str| !elsewhere.iter().any(|section| is_inside(path, section));
        self.chosen.retain(|path, _| is_of_file(path));
        let layers = [self.file, log, self.env, self.flags].into_iter();
        let builder = layers.fold(config::Config::builder(), |all, layer| {
            all.add_source(layer)
        });
        // Nothing is left that could be refused here.
        let unexpected = |error: ConfigError| ConfigErrors(vec![error.to_string()]);
        let tree = builder.build().map_err(unexpected)?;
        let mut origins = BTreeMap::new();
        add_origins("", &tree.cache, &mut origins);
        origins.extend(self.chosen);
        let mut config: Config = tree.try_deserialize().map_err(unexpected)?;
        // Who says where a ServiceLocator is means one that is there.
        if origins.contains_key("locatorAddress") && !origins.contains_key("embeddedLocator") {
            config.locator.embedded = false;
        }
        let mut spools = config.bridges.spools();
        spools.extend(config.services.spools());
        let strange = config.services.strange_of(&spools);
        config.services = config.services.with_spools(spools);
        let mut errors = self.errors;
        if !self.is_broken {
            errors.extend(conflicts(&config, strange, &self.unsure, &origins));
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let mut warnings = self.warnings;
        warnings.extend(config.security.doubts(has_ipc(&config)));
        Ok(Loaded {
            config,
            origins,
            path: None,
            warnings,
        })
    }
}

/// Whether a value is not repeated when it is wrong: what stands there may be nearly a secret key.
fn is_hidden(key: &str, value: &Value) -> bool {
    match key {
        "locatorServerKey" => true,
        "connectPublishers" => value.to_string().contains("serverKey"),
        _ => false,
    }
}

/// Whether peers may connect over `ipc://`.
fn has_ipc(config: &Config) -> bool {
    let locator = Some(&config.locator.address).filter(|_| config.locator.embedded);
    let all = [
        &config.pub_addresses,
        &config.sub_addresses,
        &config.request_addresses,
    ];
    let mut all = all
        .into_iter()
        .flatten()
        .chain(locator)
        .chain([&config.pull_address]);
    all.any(|address| matches!(address, Endpoint::Ipc(_)))
}

/// What doesn't fit together, as far as the keys that it depends on have valid values; `strange` is found
/// already.
fn conflicts(
    config: &Config,
    strange: Vec<Wrong>,
    unsure: &BTreeSet<String>,
    origins: &BTreeMap<String, String>,
) -> Vec<String> {
    let found = together::conflicts(config).into_iter();
    let sure = found.filter(|(keys, _)| !keys.iter().any(|key| unsure.contains(*key)));
    let mut all: Vec<_> = sure.map(|(_, why)| why).collect();
    let is_unsure = |section: &str| {
        let depends = |key: &String| key == section || is_inside(key, "limits");
        unsure.iter().any(depends)
    };
    let mut wrong = strange;
    if !is_unsure(SERVICES) {
        wrong.extend(config.services.check(&config.limits));
    }
    if ![ENGINES, BRIDGES].into_iter().any(is_unsure) {
        wrong.extend(config.bridges.check(&config.engines));
    }
    if ![ENGINES, SERVICES].into_iter().any(is_unsure) {
        wrong.extend(config.services.check_engines(&config.engines));
        wrong.extend(config.bridges.check_names(&config.services));
    }
    if !clients::SECTIONS.iter().any(|section| is_unsure(section)) {
        wrong.extend(config.security.check(&config.limits));
    }
    all.extend(wrong.iter().map(|wrong| {
        let section = sections().find(|section| is_inside(&wrong.path, section));
        let origin = origins.get(&wrong.path);
        let origin = origin.or_else(|| origins.get(section?));
        let origin = origin.map_or("default", String::as_str);
        format!("{origin}: {}", wrong.said(""))
    }));
    all
}

/// Objects whose names are chosen.
fn sections() -> impl Iterator<Item = &'static str> {
    clients::SECTIONS
        .into_iter()
        .chain([SERVICES, ENGINES, BRIDGES])
}

/// Adds the origin of each value.
fn add_origins(path: &str, value: &config::Value, origins: &mut BTreeMap<String, String>) {
    if let Some(origin) = value.origin() {
        origins.insert(path.into(), origin.into());
    }
    if let ValueKind::Table(table) = &value.kind {
        for (key, value) in table {
            let path = match path {
                "" => key.clone(),
                _ => format!("{path}.{key}"),
            };
            add_origins(&path, value, origins);
        }
    }
}

/// The keys of a JSON object, and itself; an error says where the JSON is broken.
fn parse_object(
    file: &str,
    text: io::Result<String>,
) -> Result<(Vec<Position>, Map<String, Value>), String> {
    let text = text.map_err(|error| format!("{file}: can't be read: {error}"))?;
    let json = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let root = serde_json::from_str(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("{file}:{line}:{column}: {error}")
    })?;
    Ok((positions(json), root))
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

#[cfg(test)]
mod tests;
