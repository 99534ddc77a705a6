//! What another configuration changes while the daemon runs.

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
        let mut config = wanted;
        let (mut changed, mut need_restart) = (vec![], vec![]);
        let (services, places) = config.services.with_places_of(&self.services);
        config.services = services;
        for key in KEYS {
            let old = (key.show)(self);
            let is_same = match key.name {
                SERVICES => self.services.live_part_is(&config.services),
                _ => old == (key.show)(&config),
            };
            if is_same {
                continue;
            }
            if key.is_live {
                changed.push(key.name.to_owned());
            } else {
                need_restart.push(key.name.to_owned());
                // What a key shows it also reads.
                let _ = (key.set)(&mut config, &old);
            }
        }
        need_restart.extend(places);
        Reload {
            config,
            changed,
            need_restart,
        }
    }
}

#[cfg(test)]
mod tests;
