//! What another configuration changes while the daemon runs.

use serde_json::Value;

use super::Config;
use super::keys::KEYS;
use super::services::SERVICES;

/// Another configuration, as far as it can be put in force while the daemon runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// In force from now on: of keys that need a restart, the old values.
    pub config: Config,
    /// The keys that change with it.
    pub changed: Vec<String>,
    /// The keys that have another value, which needs a restart.
    pub need_restart: Vec<String>,
}

impl Config {
    /// What becomes of the configuration in force when this one, which is valid, is wanted.
    pub fn reload(&self, wanted: Self) -> Reload {
        let (mut changed, mut need_restart) = (vec![], vec![]);
        let (services, fixed) = wanted.services.with_fixed_part_of(&self.services);
        let (old, mut new) = (self.shown(), wanted.shown());
        for key in KEYS.iter() {
            let pointer = format!("/{}", key.name.replace('.', "/"));
            let old = old.pointer(&pointer);
            let is_same = match &*key.name {
                SERVICES => self.services.live_part_is(&services),
                _ => old == new.pointer(&pointer),
            };
            if is_same {
                continue;
            }
            if key.is_live {
                changed.push(key.name.clone());
            } else {
                need_restart.push(key.name.clone());
                if let (Some(old), Some(new)) = (old, new.pointer_mut(&pointer)) {
                    *new = old.clone();
                }
            }
        }
        need_restart.extend(fixed);
        // What is shown is read back.
        let config = serde_json::from_value(new).unwrap_or(wanted);
        Reload {
            config: Self { services, ..config },
            changed,
            need_restart,
        }
    }

    /// All values, as a file would have them.
    pub fn shown(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
