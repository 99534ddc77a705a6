//! A daemon that serves under a lease: the wait for it, and its end.

use std::net::TcpListener;
use std::time::Duration;

use tokio::sync::watch;

use super::{Daemon, JOURNAL_TIMEOUT, StartError};
use crate::ambient::now;
use crate::config::Config;
use crate::http::{self, Guards, Standby};
use crate::lease::{Hook, Lease};
use crate::reactor::Input;
use crate::state::known_instance;
use crate::store::make_room;
use crate::systemd::Manager;
use crate::telemetry::{Bursts, Journal, Notable, instance_name};
use event_manager_core::leases::candidate::Directories;
use event_manager_core::leases::tenure::{Obstacle, Tenure};

/// Why a lease is over that was not given back, as far as is known here.
fn why_over(tenure: &Tenure) -> String {
    let (grant, renewals) = (tenure.grant(), tenure.renewals());
    let ago = now().saturating_duration_since(renewals.latest).as_millis();
    match (grant.ttl, renewals.problem) {
        (None, _) => {
            "the state directory says so no more: another machine was promoted, or the directory can't be read".into()
        }
        (Some(_), Some(why)) => {
            format!("it was renewed last {ago} ms ago, and since then {}: {why}", grant.source)
        }
        (Some(_), None) => format!(
            "it was renewed last {ago} ms ago: this process or its machine stood still, or another daemon has the lease or the state directory"
        ),
    }
}

/// How often it is looked for space.
const ROOM_LOOK: Duration = Duration::from_millis(250);

impl Daemon {
    /// Serves under a lease from now on.
    pub(super) fn led_by(mut self, mut lease: Option<Lease>) -> Self {
        if let Some(lease) = &mut lease {
            let (name, token) = (&self.config.lease.name, lease.term().token());
            if let Ok(number) = known_instance(&self.config.state_dir) {
                lease.tenure().serves_in(number.to_string());
            }
            let epoch = self.savers.store.as_ref().map_or(0, |store| store.epoch());
            if token < epoch {
                self.journal
                    .note(&Notable::LeaseBehind { name, token, epoch });
            }
            self.journal.note(&Notable::Leading { name, token, epoch });
            // Clients are served meanwhile. What a predecessor left is taken away first.
            let on_lead = Hook::on_lead(&self.config, token);
            self.on_lead = on_lead.start_after(lease.take_clearing(), &self.journal);
        }
        self.lease = lease;
        self
    }

    /// Waits until the lease is over under which it serves; for ever, if it serves without one.
    pub async fn resigned(&self) {
        match &self.lease {
            Some(lease) => lease.over().await,
            None => std::future::pending().await,
        }
    }

    /// Ends when the lease is over: its sockets close, and nothing is saved any more. The process should end.
    pub fn resign(self) {
        let name = &self.config.lease.name;
        let tenure = self.lease.as_ref().map(Lease::tenure);
        let token = tenure.map_or(0, |tenure| tenure.term().token());
        let why = &tenure.map_or_else(String::new, |tenure| why_over(tenure));
        self.journal.note(&Notable::LeaseLost { name, token, why });
        self.on_lead.end();
        // Another may begin in a moment; nothing is sent to anybody any more.
        let on_loss = Hook::on_loss(&self.config, token).start(&self.journal);
        let _ = self
            .reactor
            .inputs
            .blocking_send(Input::Stop(Duration::ZERO));
        let _ = self.reactor.join();
        on_loss.wait();
        self.journal.close(JOURNAL_TIMEOUT);
        // Who serves now has registered at the ServiceLocator under the same name: nobody is to end that.
        std::mem::forget(self.deregister);
    }
}

/// Waits until there is space for taking the state directory over. Who shares that has no more, so the lease is
/// kept meanwhile; else it would go round among all who can do nothing with it.
fn wait_for_room(
    config: &Config,
    lease: &Lease,
    journal: &Journal,
    full: &watch::Sender<Option<Obstacle>>,
    mut turned: impl FnMut(),
) {
    if config.lease.state_dir == Directories::Own {
        return;
    }
    let (name, directory) = (&config.lease.name, &config.state_dir);
    let path = directory.display().to_string();
    let mut bursts = Bursts::default();
    while let Err(error) = make_room(directory) {
        let why = format!("{path}: {error}; free some space there, and this daemon serves");
        if let Some(suppressed) = bursts.admit("room", now()) {
            let (path, why) = (&path, &why);
            journal.note(&Notable::NoRoom {
                name,
                path,
                why,
                suppressed,
            });
        }
        full.send_replace(Some(Obstacle { check: "disk", why }));
        turned();
        pause();
        if lease.term().is_over(now()) {
            break;
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the daemon does nothing else yet"
)]
fn pause() {
    std::thread::sleep(ROOM_LOOK);
}

/// Waits for the lease, binds nothing, and answers over HTTP. What is notable goes to the log only: the event
/// log is who serves's.
pub(super) fn stand_by(
    config: &Config,
    manager: &Manager,
) -> Result<(Lease, Option<TcpListener>), StartError> {
    let http = config.http_address.as_ref().map(http::bind).transpose()?;
    let (obstacle, seen) = watch::channel(None);
    let full = obstacle.clone();
    let standby = match &http {
        Some(listener) => {
            let guards = Guards::load(config)?;
            Some(Standby::start(listener, guards, config, seen.clone())?)
        }
        None => None,
    };
    let journal = Journal::in_memory(instance_name(config.locator.service_name.as_str()));
    let mut beat = manager.beat(now());
    // It may take days.
    manager.ready();
    let mut turned = || {
        beat.turned(now(), || {
            let name = &config.lease.name;
            match &*seen.borrow() {
                None => format!("standing by for the lease {name}"),
                Some(Obstacle { why, .. }) => format!("can't serve with the lease {name}: {why}"),
            }
        });
    };
    let lease = Lease::wait(config, journal.clone(), obstacle, &mut turned);
    if let Ok(lease) = &lease {
        wait_for_room(config, lease, &journal, &full, turned);
    }
    standby.into_iter().for_each(Standby::stop);
    Ok((lease?, http))
}
