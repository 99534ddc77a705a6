//! Tells a ServiceLocator where a service is, again and again.

use std::sync::Arc;
use std::time::Duration;

use event_manager_wire::messagebus::{Message, Token};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::hub::State;
use crate::hub::asking::{Asker, Line};

/// Before the next try when one has failed.
const AGAIN: Duration = Duration::from_millis(500);
/// If the locator doesn't say how long it remembers.
const TTL_MS: u64 = 30_000;

/// A service's registration.
#[derive(Clone)]
pub(super) struct Registration {
    asker: Arc<Asker>,
    name: String,
    address: String,
    /// What became of the latest try.
    told: Arc<watch::Sender<Result<(), String>>>,
}

impl Registration {
    pub(super) fn new(asker: Arc<Asker>, name: String, address: String) -> Self {
        let told = watch::Sender::new(Err("no ServiceLocator has answered yet".to_owned()));
        Self {
            asker,
            name,
            address,
            told: Arc::new(told),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn told(&self) -> watch::Receiver<Result<(), String>> {
        self.told.subscribe()
    }

    /// Why it is not registered.
    pub(super) fn why(&self) -> String {
        self.told.borrow().clone().err().unwrap_or_default()
    }

    pub(super) async fn keep(self) {
        let mut line = self.asker.line();
        loop {
            let known = line.borrow_and_update().generation;
            let told = self.say(Token::REGISTER).await;
            let ttl_ms = told.as_ref().map(|answer| {
                let text = answer.trim_end_matches('\0');
                text.parse().unwrap_or(TTL_MS).max(300)
            });
            let pause = ttl_ms.map_or(AGAIN, |ms| Duration::from_millis(ms / 3));
            let _ = self.told.send_replace(told.map(drop));
            // A daemon that comes back has a ServiceLocator that knows nothing.
            let is_another = async {
                let is_new =
                    |line: &Line| line.state == State::Connected && line.generation != known;
                line.wait_for(is_new).await.map(drop)
            };
            let _ = timeout(pause, is_another).await;
        }
    }

    /// Has it forgotten, if it was known.
    pub(super) async fn end(&self) {
        // Else it is forgotten when its time is over.
        let _ = self.say(Token::UNREGISTER).await;
    }

    async fn say(&self, token: Token) -> Result<String, String> {
        let locator = self.asker.locator().await?;
        let fields = [self.name.as_str(), self.address.as_str()];
        let request = Message::param(token, fields);
        self.asker.ask_locator(&locator, &request).await
    }
}
