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
use crate::systemd::Manager;
use crate::telemetry::{Journal, Notable, instance_name};

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
        let token = self.lease.as_ref().map_or(0, |lease| lease.term().token());
        self.journal.note(&Notable::LeaseLost { name, token });
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

/// Waits for the lease, binds nothing, and answers over HTTP. What is notable goes to the log only: the event
/// log is who serves's.
pub(super) fn stand_by(
    config: &Config,
    manager: &Manager,
) -> Result<(Lease, Option<TcpListener>), StartError> {
    let http = config.http_address.as_ref().map(http::bind).transpose()?;
    let (obstacle, seen) = watch::channel(None);
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
    let lease = Lease::wait(config, journal, obstacle, || {
        beat.turned(now(), || {
            let name = &config.lease.name;
            match &*seen.borrow() {
                None => format!("standing by for the lease {name}"),
                Some(why) => format!("can't take over the lease {name}: {why}"),
            }
        });
    });
    standby.into_iter().for_each(Standby::stop);
    Ok((lease?, http))
}
