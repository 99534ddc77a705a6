//! Whether the daemon is ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::snapshot::{NoAnswer, Snapshot};
use crate::ambient::now;
use crate::config::Config;
use crate::outbound::RegistrationState;
use event_manager_core::leases::candidate::Term;
use event_manager_wire::api::{
    BridgeState, Check, Readiness, Registration, RegistrationState as State, Status,
};

/// What is known of the daemon beside the reactor's state.
#[derive(Debug)]
pub(super) struct Watched {
    instance: String,
    /// Where the ServiceLocator is, if it is to know us.
    locator: Option<String>,
    registration: watch::Receiver<RegistrationState>,
    keeps_state: bool,
    is_stopping: Arc<AtomicBool>,
    /// How long the daemon may serve, if that depends on a lease.
    term: Option<Arc<Term>>,
}

impl Watched {
    pub(super) fn new(
        config: &Config,
        registration: watch::Receiver<RegistrationState>,
        is_stopping: Arc<AtomicBool>,
        term: Option<Arc<Term>>,
    ) -> Self {
        let locator = &config.locator;
        Self {
            instance: locator.service_name.to_string(),
            locator: locator.register.then(|| locator.address.to_string()),
            registration,
            keeps_state: !config.state_dir.as_os_str().is_empty(),
            is_stopping,
            term,
        }
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn is_registered(&self) -> bool {
        self.locator.is_some() && *self.registration.borrow() == RegistrationState::Registered
    }

    pub(super) fn registration(&self) -> Registration {
        let state = match (&self.locator, self.is_registered()) {
            (None, _) => State::Off,
            (Some(_), true) => State::Registered,
            (Some(_), false) => State::Trying,
        };
        Registration {
            state,
            locator: self.locator.clone(),
        }
    }

    /// What the reactor says, or why it says nothing, and the rest.
    pub(super) fn readiness(&self, answer: Result<&Snapshot, NoAnswer>) -> Readiness {
        let status = answer.map(|snapshot| &snapshot.status);
        let checks = [
            ("bound", bound(status)),
            ("registered", self.registered()),
            ("draining", self.draining(status)),
            ("stores", self.stores(status)),
            ("ports", ports(status)),
            ("publishers", publishers(status)),
            ("delivering", delivering(status)),
        ];
        let checks = checks.into_iter().chain(bridges(status));
        let checks = checks.chain(self.lease()).chain(leases(status));
        let checks: BTreeMap<_, _> = checks
            .map(|(name, check)| (name.to_owned(), check))
            .collect();
        Readiness {
            ready: checks.values().all(|check| check.ok),
            checks,
        }
    }

    /// Whether the lease is held under which it serves, if it serves under one.
    fn lease(&self) -> Option<(&'static str, Check)> {
        let ok = !self.term.as_ref()?.is_over(now());
        let reason = match ok {
            true => "this daemon holds it",
            false => "it is over: nothing is written or sent any more, and the process ends",
        };
        let reason = reason.to_owned();
        Some(("lease", Check { ok, reason }))
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
        Check { ok, reason }
    }

    fn draining(&self, status: Result<&Status, NoAnswer>) -> Check {
        let says_so = status.is_ok_and(|status| status.draining);
        let is_stopping = self.is_stopping.load(Ordering::Relaxed);
        let reason = match says_so || is_stopping {
            true => "the daemon is stopping: what waits is delivered, nothing new is taken",
            false => "it is not stopping",
        };
        Check {
            ok: !says_so && !is_stopping,
            reason: reason.to_owned(),
        }
    }

    fn stores(&self, status: Result<&Status, NoAnswer>) -> Check {
        let (ok, reason) = match status {
            Err(why) => (false, format!("not known: {why}")),
            Ok(status) => match self.store_trouble(status) {
                Some(trouble) => (false, trouble),
                None if self.keeps_state => (true, "all take what they are given".to_owned()),
                None => (true, "nothing is kept (stateDir is empty)".to_owned()),
            },
        };
        Check { ok, reason }
    }

    fn store_trouble(&self, status: &Status) -> Option<String> {
        if let Some((queue, reason)) = status.store.failed.iter().next() {
            return Some(format!("queue {queue} takes no events: {reason}"));
        }
        if !self.keeps_state {
            return None;
        }
        if !status.state.kept {
            let remedy = "the log says why at the start";
            return Some(format!("the state database is not used: {remedy}"));
        }
        if !status.store.kept {
            return Some("dead letters are not kept: the log says why at the start".to_owned());
        }
        let trouble = "the state database can't be written; the log says why";
        status.state.failing.then(|| trouble.to_owned())
    }
}

fn bound(status: Result<&Status, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, why.to_string()),
        Ok(status) => {
            let addresses = &status.addresses;
            let sockets = [
                ("publishers", &addresses.publishers),
                ("subscribers", &addresses.subscribers),
                ("requests", &addresses.requests),
            ];
            let sockets = sockets.map(|(name, all)| format!("{name} {}", all.join(", ")));
            (true, sockets.join("; "))
        }
    };
    Check { ok, reason }
}

/// Whether workers can reach every service that they should.
fn ports(status: Result<&Status, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let services = status.services.iter();
            let mut without =
                services.filter_map(|service| Some((&service.name, service.no_port.as_ref()?)));
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
    Check { ok, reason }
}

/// Whether what is due goes to workers that could take it.
fn delivering(status: Result<&Status, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let services = status.services.iter();
            let stuck = services
                .filter_map(|service| Some((service, service.dispatch.stuck_ms?)))
                .max_by_key(|(_, ms)| *ms);
            match stuck {
                None => (
                    true,
                    "nothing that is due waits for a ready worker".to_owned(),
                ),
                Some((service, ms)) => {
                    let name = &service.name;
                    let due = service.dispatch.due_events;
                    let disk = match service.dispatch.waits_for_disk {
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
    Check { ok, reason }
}

/// Those that are dialled.
fn publishers(status: Result<&Status, NoAnswer>) -> Check {
    let (ok, reason) = match status {
        Err(why) => (false, format!("not known: {why}")),
        Ok(status) => {
            let dialled = status.publishers.dialled.iter();
            let missing: Vec<_> = dialled
                .filter(|one| !one.connected)
                .map(|one| one.address.as_str())
                .collect();
            let is_required = status.publishers.dialled_are_required;
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
    Check { ok, reason }
}

/// Who keeps the leases of clients, if the daemon doesn't. All else works without it, so it is ready unless that
/// is required.
fn leases(status: Result<&Status, NoAnswer>) -> Option<(&'static str, Check)> {
    let kept = status.ok()?.leases.as_ref()?;
    let source = &kept.source;
    let reason = match &kept.problem {
        None => format!("the engine {source} keeps the leases of clients"),
        Some(why) => {
            let required = match kept.required {
                true => "lease.required is true",
                false => "it is not required (lease.required)",
            };
            format!(
                "LEASE is refused until the engine {source} can be used, and all else works; {required}: {why}"
            )
        }
    };
    let ok = kept.problem.is_none() || !kept.required;
    Some(("lease", Check { ok, reason }))
}

/// Those to other brokers, if there are any.
fn bridges(status: Result<&Status, NoAnswer>) -> Option<(&'static str, Check)> {
    let status = status.ok().filter(|status| !status.bridges.is_empty())?;
    let down = status.bridges.iter();
    let down: Vec<_> = down
        .filter(|bridge| bridge.state != BridgeState::Running)
        .collect();
    let shown = |required: bool| {
        let those = down.iter().filter(|bridge| bridge.required == required);
        let those: Vec<_> = those
            .map(|bridge| match &bridge.problem {
                Some(why) => format!("{}: {why}", bridge.name),
                None => format!("{}: {}", bridge.name, bridge.state.name()),
            })
            .collect();
        those.join("; ")
    };
    let (required, others) = (shown(true), shown(false));
    let (ok, reason) = match (required.is_empty(), others.is_empty()) {
        (false, _) => (false, format!("down, and required is true: {required}")),
        (true, false) => (true, format!("down, and not required: {others}")),
        (true, true) => (true, "all work".to_owned()),
    };
    Some(("bridges", Check { ok, reason }))
}
