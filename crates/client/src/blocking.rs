//! The hub, and the client of the request socket, for threads without a runtime.

mod hub;

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

use super::keys::ClientKeys;
use super::requests::{self, ClientError, Subscribed};
use event_manager_wire::api::{CallResults, DeadLetters, EventsPage, InstancesPage, Status};
use event_manager_wire::messagebus::Message;

pub use hub::{Answers, AnswersBuilder, Call, Emit, Hub, Service, ServiceBuilder, Subscription};

/// As [`requests::Client`], with calls that block. Not for use within a runtime's tasks.
pub struct Client {
    client: requests::Client,
    runtime: Option<Runtime>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // A name that is looked up for long must not hold us up.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// See [`requests::Client::new`].
    pub fn new(address: impl Into<String>, timeout: Duration) -> Self {
        Self {
            client: requests::Client::new(address, timeout),
            runtime: None,
        }
    }

    /// See [`requests::Client::with_keys`].
    pub fn with_keys(mut self, keys: Option<ClientKeys>) -> Self {
        self.client.use_keys(keys);
        self
    }

    /// Where requests go.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    fn wait<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut requests::Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => none.insert(Builder::new_current_thread().enable_all().build()?),
        };
        runtime.block_on(work(&mut self.client))
    }

    /// See [`requests::Client::ask`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, request: &Message, extra: Duration) -> Result<Message, ClientError> {
        self.wait(async |client| client.ask(request, extra).await)
    }

    /// See [`requests::Client::ask_json`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask_json(&mut self, request: &Value) -> Result<Map<String, Value>, ClientError> {
        self.wait(async |client| client.ask_json(request).await)
    }

    /// See [`requests::Client::subscribe`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn subscribe(
        &mut self,
        id: &str,
        service: &str,
        subjects: &[String],
    ) -> Result<Subscribed, ClientError> {
        self.wait(async |client| client.subscribe(id, service, subjects).await)
    }

    /// See [`requests::Client::keep_alive`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn keep_alive(&mut self, id: &str) -> Result<(), ClientError> {
        self.wait(async |client| client.keep_alive(id).await)
    }

    /// See [`requests::Client::unsubscribe`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unsubscribe(&mut self, id: &str) -> Result<(), ClientError> {
        self.wait(async |client| client.unsubscribe(id).await)
    }

    /// See [`requests::Client::end`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn end(&mut self, service: &str) -> Result<Option<u64>, ClientError> {
        self.wait(async |client| client.end(service).await)
    }

    /// See [`requests::Client::publish_sync`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish_sync(
        &mut self,
        subject: &str,
        data: &str,
        timeout: Duration,
    ) -> Result<(bool, CallResults), ClientError> {
        self.wait(async |client| client.publish_sync(subject, data, timeout).await)
    }

    /// See [`requests::Client::status`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.wait(async |client| client.status().await)
    }

    /// See [`requests::Client::status_json`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status_json(&mut self) -> Result<Value, ClientError> {
        self.wait(async |client| client.status_json().await)
    }

    /// See [`requests::Client::instances`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn instances(&mut self, history: usize) -> Result<InstancesPage, ClientError> {
        self.wait(async |client| client.instances(history).await)
    }

    /// See [`requests::Client::events`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn events(&mut self, after: Option<u64>, max: usize) -> Result<EventsPage, ClientError> {
        self.wait(async |client| client.events(after, max).await)
    }

    /// See [`requests::Client::dead_letters`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn dead_letters(
        &mut self,
        op: &str,
        service: &str,
        options: &Value,
    ) -> Result<DeadLetters, ClientError> {
        self.wait(async |client| client.dead_letters(op, service, options).await)
    }
}
