//! Whether the daemon is ready, and if not, why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::snapshot::{NoAnswer, Snapshot};
use crate::ambient::wall_clock_ms;
use crate::config::Config;
use crate::outbound::RegistrationState;

/// What is known of the daemon beside the reactor's state.
#[derive(Debug)]
pub(super) struct Watched {
    instance: String,
    started_at_ms: u64,
    /// Where the ServiceLocator is, if it is to know us.
    locator: Option<String>,
    registration: watch::Receiver<RegistrationState>,
    keeps_state: bool,
    is_stopping: Arc<AtomicBool>,
}

/// One condition of being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    reason: String,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) checks: [Check; 7],
}

impl Readiness {
    pub(super) fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    pub(super) fn to_json(&self) -> Value {
        let checks = self.checks.iter();
        let checks: Map<_, _> = checks
            .map(|check| {
                let shown = json!({"ok": check.ok, "reason": check.reason});
                (check.name.to_owned(), shown)
            })
            .collect();
        json!({"ready": self.is_ready(), "checks": checks})
    }
}

impl Watched {
    pub(super) fn new(
        config: &Config,
        registration: watch::Receiver<RegistrationState>,
        is_stopping: Arc<AtomicBool>,
    ) -> Self {
        let locator = &config.locator;
        Self {
            instance: locator.service_name.to_string(),
            started_at_ms: wall_clock_ms(),
            locator: locator.register.then(|| locator.address.to_string()),
            registration,
            keeps_state: !config.state_dir.as_os_str().is_empty(),
            is_stopping,
        }
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    pub(super) fn is_registered(&self) -> bool {
        self.locator.is_some() && *self.registration.borrow() == RegistrationState::Registered
    }

    pub(super) fn registration(&self) -> Value {
        let state = match (&self.locator, self.is_registered()) {
            (None, _) => "off",
            (Some(_), true) => "registered",
            (Some(_), false) => "trying",
        };
        json!({"state": state, "locator": self.locator})
    }

    /// What the reactor says, or why it says nothing, and the rest.
    pub(super) fn readiness(&self, answer: Result<&Snapshot, NoAnswer>) -> Readiness {
        let status = answer.map(|snapshot| &snapshot.status);
        Readiness {
            checks: [
                bound(status),
                self.registered(),
                self.draining(status),
                self.stores(status),
                ports(status),
                publishers(status),
                delivering(status),
            ],
        }
    }

    fn registered(&self) -> Check {
        let (ok, reason) = match &self.locator {
            None => (true, "not wanted (locatorRegister is false)".to_owned()),
            Some(at) if self.is_registered() => {
                (true, format!("registered with the ServiceLocator {at}"))
            }
            Some(at) => {
                let reason = format!("the ServiceLocator {at} has not accepted our registration");
                (false, format!("{reason}; it is tried again"))
            }
        };
        check("registered", ok, reason)
    }

    fn draining(&self, status: Result<&Value, NoAnswer>) -> Check {
        let says_so = status.is_ok_and(|status| status["draining"] == true);
        let is_stopping = self.is_stopping.load(Ordering::Relaxed);
        let reason = match says_so || is_stopping {
            true => "the daemon is stopping: what waits is delivered, nothing new is taken",
            false => "it is not stopping",
        };
        check("draining", !says_so && !is_stopping, reason.to_owned())
    }

    fn stores(&self, status: Result<&Value, NoAnswer>) -> Check {
        let (ok, reason) = match status {
            Err(why) => (false, format!("not known: {why}")),
            Ok(status) => match self.store_trouble(status) {
                Some(trouble) => (false, trouble),
                None if self.keeps_state => (true, "all take what they are given".to_owned()),
                None => (true, "nothing is kept (stateDir is empty)".to_owned()),
            },
        };
        check("stores", ok, reason)
    }

    fn store_trouble(&self, status: &Value) -> Option<String> {
        let failed = status["store"]["failed"].as_object();
        if let Some((queue, reason)) = failed.and_then(|failed| failed.iter().next()) {
            let reason = reason.as_str().unwrap_or_default();
            return Some(format!("queue {queue} takes no events: {reason}"));
        }
        if !self.keeps_state {
            return None;
        }
        let state = &status["state"];
        if state["kept"] != true {
            let remedy = "the log says why at the start";
            return Some(format!("the state database is not used: {remedy}"));
        }
        if status["store"]["kept"] != true {
            return Some("dead letters are not kept: the log says why at the start".to_owned());
        }
        let trouble = "the state database can't be written; the log says why";
        (state["failing"] == true).then(|| trouble.to_owned())
    }
}

fn bound(status: Result<&Value, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, why.to_string()),
        Ok(status) => {
            let addresses = |name: &str| {
                let all = status["addresses"][name].as_array().into_iter().flatten();
                let all: Vec<_> = all.filter_map(Value::as_str).collect();
                format!("{name} {}", all.join(", "))
            };
            let sockets = ["publishers", "subscribers", "requests"].map(addresses);
            (true, sockets.join("; "))
        }
    };
    check("bound", ok, reason)
}

/// Whether workers can reach every service that they should.
fn ports(status: Result<&Value, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let services = status["services"].as_array().into_iter().flatten();
            let mut without = services.filter_map(|service| {
                Some((service["name"].as_str()?, service["noPort"].as_str()?))
            });
            match (without.next(), without.count()) {
                (None, _) => (true, "every service has one".to_owned()),
                (Some((name, why)), others) => {
                    let others = match others {
                        0 => String::new(),
                        others => format!(" (and {others} others)"),
                    };
                    let reason =
                        format!("service {name} has none{others}: {why}; it is tried again");
                    (false, reason)
                }
            }
        }
    };
    check("ports", ok, reason)
}

/// Whether what is due goes to workers that could take it.
fn delivering(status: Result<&Value, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let services = status["services"].as_array().into_iter().flatten();
            let stuck = services
                .filter_map(|service| Some((service, service["dispatch"]["stuckMs"].as_u64()?)))
                .max_by_key(|(_, ms)| *ms);
            match stuck {
                None => (
                    true,
                    "nothing that is due waits for a ready worker".to_owned(),
                ),
                Some((service, ms)) => {
                    let name = service["name"].as_str().unwrap_or_default();
                    let due = &service["dispatch"]["dueEvents"];
                    let disk = match service["dispatch"]["waitsForDisk"] == true {
                        true => "; it waits for the disk",
                        false => "; the daemon tries again by itself",
                    };
                    let reason = format!(
                        "service {name} has {due} events that are due and a worker that could take them, and gave out none for {ms} ms{disk}"
                    );
                    (false, reason)
                }
            }
        }
    };
    check("delivering", ok, reason)
}

/// Those that are dialled.
fn publishers(status: Result<&Value, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let publishers = &status["publishers"];
            let dialled = publishers["dialled"].as_array().into_iter().flatten();
            let missing: Vec<_> = dialled
                .filter(|one| one["connected"] != true)
                .filter_map(|one| one["address"].as_str())
                .collect();
            let is_required = publishers["dialledAreRequired"] == true;
            let names = missing.join(", ");
            match (missing.is_empty(), is_required) {
                (true, _) => (true, "all of connectPublishers are connected".to_owned()),
                (false, true) => (
                    false,
                    format!("not connected, and requirePublishers is true: {names}"),
                ),
                (false, false) => (
                    true,
                    format!("not connected, and not required (requirePublishers): {names}"),
                ),
            }
        }
    };
    check("publishers", ok, reason)
}

fn check(name: &'static str, ok: bool, reason: String) -> Check {
    Check { name, ok, reason }
}
