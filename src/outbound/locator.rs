//! The ServiceLocator as its client sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ambient::now;
use crate::config::LocatorConfig;
use event_manager_client::{CallError, Caller};
use event_manager_wire::messagebus::{Layout, Message, Token, decode, encode};
use event_manager_wire::model::{EXCERPT_BYTES_MAX, Endpoint, ServiceName, excerpt_of_bytes};

/// An address that was found is believed for so long, unless a call to it fails.
const BELIEVED: Duration = Duration::from_secs(30);
/// Addresses that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Why a service's address is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The locator says no.
    #[error("the ServiceLocator does not know it ({0})")]
    Unknown(String),
    /// The locator says no to something else.
    #[error("the ServiceLocator refused ({0})")]
    Refused(String),
    /// The locator says something that can't be understood.
    #[error("the ServiceLocator's answer can't be read ({0})")]
    Garbled(String),
    /// The locator doesn't answer.
    #[error("the ServiceLocator: {0}")]
    Locator(#[from] CallError),
}

/// Asks the ServiceLocator; cheap to clone.
#[derive(Clone)]
pub struct LocatorClient {
    caller: Caller,
    config: Arc<LocatorConfig>,
    known: Arc<Mutex<HashMap<ServiceName, (Endpoint, Instant)>>>,
}

impl LocatorClient {
    /// A client of the locator that is configured.
    pub fn new(caller: Caller, mut config: LocatorConfig) -> Self {
        // An embedded locator's address is where it is bound.
        config.address = config.address.local();
        Self {
            caller,
            config: Arc::new(config),
            known: Arc::default(),
        }
    }

    /// How we are registered.
    pub fn config(&self) -> &LocatorConfig {
        &self.config
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// [`LocateError`], but for `Unknown` and `Refused`.
    pub async fn ask(&self, request: &Message, deadline: Instant) -> Result<Message, LocateError> {
        let frames = encode(request, Layout::NATIVE);
        let answer = self
            .caller
            .call(&self.config.address, frames, deadline)
            .await?;
        let (message, _) =
            decode(&answer).map_err(|error| LocateError::Garbled(error.to_string()))?;
        Ok(message)
    }

    /// A service's address, as it was found lately or by asking.
    ///
    /// # Errors
    /// [`LocateError`].
    pub async fn locate(
        &self,
        name: &ServiceName,
        deadline: Instant,
    ) -> Result<Endpoint, LocateError> {
        let known = self.with_known(|known| known.get(name).cloned());
        if let Some((address, _)) = known.filter(|(_, until)| now() < *until) {
            return Ok(address);
        }
        let request = Message::param(self.config.tokens.locate, [name.as_str()]);
        let answer = self.ask(&request, deadline).await?;
        let text = said(&answer);
        if !answer.token.is(Token::ACK) {
            return Err(LocateError::Unknown(text));
        }
        let address: Endpoint = text.parse().map_err(|_| LocateError::Garbled(text))?;
        self.with_known(|known| {
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(name.clone(), (address.clone(), now() + BELIEVED));
        });
        Ok(address)
    }

    /// A call to the address failed: it is asked for again next time.
    pub fn forget(&self, name: &ServiceName) {
        self.with_known(|known| known.remove(name));
    }

    /// Registers us at this address for the configured time.
    ///
    /// # Errors
    /// [`LocateError`]; a NAK is `Refused`.
    pub async fn register(&self, address: &str, deadline: Instant) -> Result<(), LocateError> {
        let ttl = self.config.ttl.as_millis().to_string();
        let fields = [self.config.service_name.as_str(), address, &ttl];
        self.confirmed(
            Message::param(self.config.tokens.register, fields),
            deadline,
        )
        .await
    }

    /// Ends our registration.
    ///
    /// # Errors
    /// [`LocateError`]; a NAK is `Refused`.
    pub async fn unregister(&self, address: &str, deadline: Instant) -> Result<(), LocateError> {
        let fields = [self.config.service_name.as_str(), address];
        self.confirmed(
            Message::param(self.config.tokens.unregister, fields),
            deadline,
        )
        .await
    }

    async fn confirmed(&self, request: Message, deadline: Instant) -> Result<(), LocateError> {
        let answer = self.ask(&request, deadline).await?;
        if answer.token.is(Token::ACK) {
            return Ok(());
        }
        Err(LocateError::Refused(said(&answer)))
    }

    fn with_known<T>(
        &self,
        change: impl FnOnce(&mut HashMap<ServiceName, (Endpoint, Instant)>) -> T,
    ) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an answer says, as far as it is of use: no address is longer, and no sentence need be.
fn said(answer: &Message) -> String {
    let text = excerpt_of_bytes(&answer.data, EXCERPT_BYTES_MAX);
    text.trim_matches(['\0', ' ']).to_owned()
}

#[cfg(test)]
mod tests;
