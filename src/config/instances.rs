//! Instances of other programs that say by heartbeats that they live.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::units::{DAY, Seconds, Unit, Word, Words, list, parsed};
use event_manager_core::instances::{FencePolicy, Place};

/// The longest of these texts, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Which messages are theirs, and what holds for them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct InstancesConfig {
    /// What heartbeats begin with; empty if nothing is to be observed.
    #[serde(with = "Verbatim")]
    pub heartbeat: String,
    /// What other events of theirs begin with; empty for none.
    #[serde(with = "Verbatim")]
    pub event: String,
    /// What the last word of an instance begins with; empty for none.
    #[serde(with = "Verbatim")]
    pub shutdown: String,
    /// The field of the JSON in them that has an instance's id.
    #[serde(with = "Verbatim")]
    pub id: String,
    /// The one that has its process id.
    #[serde(with = "Verbatim")]
    pub pid: String,
    /// The one that has its address.
    #[serde(with = "Verbatim")]
    pub address: String,
    /// Between two heartbeats.
    #[serde(with = "Seconds::<50, DAY>")]
    pub interval: Duration,
    /// Silence after which an instance is not alive.
    #[serde(with = "Seconds::<50, DAY>")]
    pub timeout: Duration,
    /// When instances that are heard here may not lead.
    #[serde(with = "Word::<FencePolicy>")]
    pub fence: FencePolicy,
    /// Where instances are dialled that nobody has named: at hosts from which somebody subscribes to heartbeats.
    #[serde(with = "Places")]
    pub discover: Vec<Place>,
    /// After so long one that is gone is forgotten.
    #[serde(with = "Seconds::<1000, { 365 * DAY }>")]
    pub forget_after: Duration,
}

impl InstancesConfig {
    /// Whether anything is to be observed.
    pub fn is_on(&self) -> bool {
        !self.heartbeat.is_empty()
    }
}

impl Default for InstancesConfig {
    fn default() -> Self {
        Self {
            heartbeat: String::new(),
            event: r#"{"type": "event""#.into(),
            shutdown: r#"{"type": "shutdown""#.into(),
            id: "instance_id".into(),
            pid: "pid".into(),
            address: "address".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            fence: FencePolicy::Off,
            discover: vec![],
            forget_after: Duration::from_secs(7 * DAY),
        }
    }
}

impl Words for FencePolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("minority", Self::Minority),
        ("standby", Self::Standby),
    ];
}

/// The most places.
const PLACES_MAX: usize = 16;

/// A list of places, or none.
struct Places;

impl Unit for Places {
    type Of = Vec<Place>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        if value.is_null() {
            return Ok(vec![]);
        }
        let read = |text: &str| {
            let place = parsed(text);
            place.map_err(|why| format!("{text:?}: {why}"))
        };
        let all = list(value, "a list of networks with ports")?;
        match all.len() > PLACES_MAX {
            true => Err(format!("{} are more than {PLACES_MAX}", all.len())),
            false => all.into_iter().map(read).collect(),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// A text as it is, with its blanks; or none.
struct Verbatim;

impl Unit for Verbatim {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        if value.is_null() {
            return Ok(String::new());
        }
        let text = value.as_str().filter(|text| text.len() <= TEXT_BYTES_MAX);
        let wanted = || format!("a text of at most {TEXT_BYTES_MAX} bytes is wanted");
        text.map(str::to_owned).ok_or_else(wanted)
    }

    fn show(of: &String) -> Value {
        match of.is_empty() {
            true => Value::Null,
            false => json!(of),
        }
    }
}
