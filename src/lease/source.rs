//! The engine that keeps leases, over one connection, which is made anew when it fails.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::ambient::{now, random_bytes};
use crate::config::{Config, Layout};
use crate::engines::{Failure, Register, User, content_of, register, text_of};
use crate::telemetry::{Bursts, Journal, Notable};
use event_manager_core::leases::candidate::{Answer, Ask};
use event_manager_zmtp::HubId;

/// How long a connection may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Source {
    config: Config,
    register: Option<Box<dyn Register>>,
    bursts: Bursts,
    journal: Journal,
}

impl Source {
    /// That of `lease.source`; there is no connection yet.
    pub(super) fn new(config: Config, journal: Journal) -> Self {
        Self {
            config,
            register: None,
            bursts: Bursts::default(),
            journal,
        }
    }

    /// Whether there is a connection, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.register.is_some()
    }

    /// Connects, unless it is connected.
    ///
    /// # Errors
    /// Why there is none until then.
    pub(super) async fn connect(&mut self, until: Instant) -> Result<(), String> {
        if self.register.is_some() {
            return Ok(());
        }
        let connected = timeout_at(until.into(), connect(&self.config)).await;
        match connected.unwrap_or_else(|_| Err("it can't be reached in time".into())) {
            Ok(register) => {
                self.register = Some(register);
                Ok(())
            }
            Err(why) => {
                self.note(&why);
                Err(why)
            }
        }
    }

    /// Asks for the entry of `lease.name`, which is daemons'. After an error it isn't known whether it was done.
    ///
    /// # Errors
    /// As [`Source::ask`].
    pub(super) async fn ask_of_daemons(
        &mut self,
        ask: &Ask,
        until: Instant,
    ) -> Result<Answer, String> {
        let name = self.config.lease.name.clone();
        let answer = self.ask(&name, &ask.with(text_of), until).await?;
        Ok(answer.with(|text| content_of(&text)))
    }

    /// Asks for the entry of this name. After an error it isn't known whether it was done.
    ///
    /// # Errors
    /// Why there is no answer until then; the next time it connects anew.
    pub(super) async fn ask(
        &mut self,
        name: &str,
        ask: &Ask<String>,
        until: Instant,
    ) -> Result<Answer<Vec<u8>>, String> {
        let Some(register) = &mut self.register else {
            return Err("there is no connection to it".into());
        };
        let why = match timeout_at(until.into(), register.ask(name, ask)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failure::Lost(why) | Failure::Refused(why))) => why,
            Err(_) => "it doesn't answer in time".into(),
        };
        self.register = None;
        self.note(&why);
        Err(why)
    }

    fn note(&mut self, why: &str) {
        if let Some(suppressed) = self.bursts.admit("source", now()) {
            self.journal.note(&Notable::LeaseSourceFailed {
                name: &self.config.lease.name,
                source: &self.config.lease.source,
                why,
                suppressed,
            });
        }
    }
}

async fn connect(config: &Config) -> Result<Box<dyn Register>, String> {
    let lease = &config.lease;
    let engine = config.engines.get(&lease.source);
    let user = User {
        engine: engine.ok_or("lease.source names no engine")?,
        security: &config.security,
        bridge: "lease",
        hub_id: HubId::from_bytes(random_bytes()),
        limits: config.limits,
        layout: Layout::default(),
    };
    register(user, &lease.name).await
}
