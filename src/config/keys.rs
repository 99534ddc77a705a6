//! The names of keys, derived from the schema.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Config;
use super::meant::closest;
use super::positions::positions;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name in `config.json`; a dot leads into an object.
    pub name: String,
    /// Its environment variable.
    pub env: String,
    /// SIGHUP puts another value in force; else that needs a restart.
    pub is_live: bool,
}

/// Keys, and objects of keys, of which SIGHUP puts another value in force: nobody keeps a copy, or
/// `reactor/acts/reload.rs` renews it.
#[rustfmt::skip]
const LIVE: [&str; 21] = [
    "requirePublishers", "diagnosticMonitor", "diagnosticInterval", "subscriptionTtl",
    "drainTimeout", "publishTimeout", "heartbeatInterval", "handshakeTimeout", "limits",
    "budgets", "security", "maxConnections", "maxSubscriptions", "services", "memoryLimit", "slowSubscriber",
    "dedupWindow", "dedupIdsMax", "logPath", "log.level", "log.modules",
];

/// The variables of the original; all others follow from their keys' names.
const ORIGINAL_VARIABLES: [(&str, &str); 6] = [
    ("publicHostname", "PUBLIC_HOSTNAME"),
    ("locatorAddress", "SERVICE_LOCATOR_ADDRESS"),
    ("startupGuard", "STARTUP_GUARD"),
    ("diagnosticMonitor", "DIAGNOSTIC_MONITOR"),
    ("diagnosticInterval", "DIAGNOSTIC_INTERVAL"),
    ("logPath", "LOG_PATH"),
];

/// Keys of the release before this one, and what holds in their place. They are taken, with a
/// warning, until the next release.
pub(super) const RETIRED: [(&str, &str); 3] = [
    (
        "startupGuardInterval",
        "the guard looks each 2 s, or each tenth of startupGuardTimeout if that is less",
    ),
    ("limits.maxHandshakeBytes", "it is always 8192"),
    ("budgets.requestOutboxBytes", "it is always 4194304"),
];

/// All keys. The documentation lists them in this order.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let key = |name: &String| {
        let is_live = |live: &str| name == live || is_inside(name, live);
        Key {
            env: variable_of(name),
            is_live: LIVE.iter().any(|live| is_live(live)),
            name: name.clone(),
        }
    };
    ROOT.leaves.iter().map(key).collect()
});

/// The schema of the whole.
pub(super) static ROOT: LazyLock<Schema> = LazyLock::new(|| Schema::of(&Config::default()));

impl Key {
    /// The key of this name, which may be one that is no more.
    pub(crate) fn named(name: &str) -> Option<&'static str> {
        let retired = RETIRED.iter().map(|(retired, _)| *retired);
        let mut all = KEYS.iter().map(|key| key.name.as_str()).chain(retired);
        all.find(|key| *key == name)
    }
}

/// The environment variable of a key.
pub(super) fn variable_of(name: &str) -> String {
    let original = ORIGINAL_VARIABLES.iter().find(|(key, _)| *key == name);
    if let Some((_, variable)) = original {
        return (*variable).into();
    }
    let mut variable = String::from("EVENT_MANAGER_");
    for character in name.chars() {
        match character {
            '.' => variable.push_str("__"),
            c if c.is_uppercase() => variable.extend(['_', c]),
            c => variable.push(c.to_ascii_uppercase()),
        }
    }
    variable
}

/// Whether a key's path leads into this object.
pub(super) fn is_inside(path: &str, object: &str) -> bool {
    path.strip_prefix(object)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// What is wrong with a value or a key.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The keys that lead to it from the root, joined by dots.
    pub(super) path: String,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A value, and what is wanted instead.
    Value(String),
    /// There is no such key; what may be meant.
    Unknown(Option<String>),
    /// It has dots in it.
    Dots,
}

impl Wrong {
    pub(super) fn value(path: &str, value: &Value, wanted: &str) -> Self {
        Self {
            path: path.into(),
            what: What::Value(format!("{value}: {wanted}")),
        }
    }

    /// A sentence; `base` leads to the object that the reader takes for the root.
    pub(super) fn said(&self, base: &str) -> String {
        let shown = |path: &str| path.strip_prefix(base).unwrap_or(path).to_owned();
        let path = shown(&self.path);
        match &self.what {
            What::Value(text) => format!("{path}: {text}"),
            What::Unknown(None) => format!("unknown key {path:?}"),
            What::Unknown(Some(meant)) => {
                format!("unknown key {path:?}; did you mean {:?}?", shown(meant))
            }
            What::Dots => format!("{path:?}: a key has no dots; write an object in an object"),
        }
    }
}

/// Which keys an object has, as its type says.
pub(super) struct Schema {
    /// The paths of all values, in the order of the type's fields.
    pub(super) leaves: Vec<String>,
    objects: BTreeSet<String>,
}

impl Schema {
    /// The schema of a type of which this is the default.
    pub(super) fn of(default: &impl Serialize) -> Self {
        let text = serde_json::to_string(default).unwrap_or_default();
        let paths = positions(&text).into_iter().map(|key| key.path);
        let mut schema = Self {
            leaves: Vec::new(),
            objects: BTreeSet::new(),
        };
        for path in paths {
            if let Some((_, parents)) = path.split_last().filter(|(_, p)| !p.is_empty()) {
                let parent = parents.join(".");
                schema.leaves.retain(|leaf| *leaf != parent);
                schema.objects.insert(parent);
            }
            schema.leaves.push(path.join("."));
        }
        schema
    }

    /// Lists the values in an object; `path` leads to it, with a dot at its end if it isn't the root.
    /// What isn't in the schema is added to `wrong`, below `base`.
    pub(super) fn values<'v>(
        &self,
        (base, path): (&str, &str),
        object: &'v Map<String, Value>,
        wrong: &mut Vec<Wrong>,
    ) -> Vec<(String, &'v Value)> {
        let mut values = Vec::new();
        for (name, value) in object {
            let own = format!("{path}{name}");
            let full = format!("{base}{own}");
            let is_retired = || RETIRED.iter().any(|(retired, _)| *retired == full);
            if name.contains('.') {
                wrong.push(Wrong {
                    path: full,
                    what: What::Dots,
                });
            } else if self.leaves.contains(&own) || is_retired() {
                values.push((own, value));
            } else if self.objects.contains(&own) {
                match value.as_object() {
                    Some(inner) => {
                        values.extend(self.values((base, &format!("{own}.")), inner, wrong));
                    }
                    None => wrong.push(Wrong::value(&full, value, "an object is wanted")),
                }
            } else {
                let known = self.leaves.iter().chain(&self.objects);
                let meant = closest(&own, known.map(String::as_str)).map(str::to_owned);
                wrong.push(Wrong {
                    path: full,
                    what: What::Unknown(meant),
                });
            }
        }
        values
    }
}

/// Whether a type takes this value at this path; an error says what is wanted.
pub(super) fn probe<T: DeserializeOwned>(path: &str, value: &Value) -> Result<(), String> {
    let nested = path
        .rsplit('.')
        .fold(value.clone(), |inner, key| json!({ key: inner }));
    serde_json::from_value::<T>(nested)
        .map(drop)
        .map_err(|error| error.to_string())
}
