//! Keeps us registered with the ServiceLocator.

use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::locator::LocatorClient;
use crate::ambient::{chance, now};
use crate::config::LocatorConfig;
use crate::telemetry::{Journal, Notable};
use event_manager_wire::model::Backoff;

/// How long the locator may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Where the registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationState {
    /// The locator knows us.
    Registered,
    /// It can't be reached, or says no; we try again.
    Trying,
}

/// Registers at once, refreshes at a third of the time to live, tries again with backoff, and
/// unregisters when `stop` comes, within its deadline.
pub async fn keep_registered(
    locator: LocatorClient,
    address: String,
    state: watch::Sender<RegistrationState>,
    journal: Journal,
    mut stop: oneshot::Receiver<Instant>,
) {
    let refresh = locator.config().ttl / 3;
    let mut backoff = Backoff::new(
        RETRY_MIN.min(refresh),
        RETRY_MAX.min(refresh.max(RETRY_MIN)),
    );
    let mut told = None;
    let deadline = loop {
        let result = locator.register(&address, now() + ANSWER_MAX).await;
        let (now_is, delay) = match &result {
            Ok(()) => {
                backoff.reset();
                (RegistrationState::Registered, refresh)
            }
            Err(_) => (RegistrationState::Trying, backoff.next_delay(chance())),
        };
        state.send_replace(now_is);
        if told.replace(now_is) != Some(now_is) {
            note_change(&journal, locator.config(), &address, result);
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            deadline = &mut stop => break deadline,
        }
    };
    let Ok(deadline) = deadline else { return };
    // Our own locator knows that we end.
    if locator.config().embedded {
        return;
    }
    if told == Some(RegistrationState::Registered)
        && let Err(error) = locator
            .unregister(&address, deadline.min(now() + ANSWER_MAX))
            .await
    {
        tracing::info!(
            target: "em.locator",
            "not unregistered from the ServiceLocator; the registration expires: {error}"
        );
    }
}

/// Notes that the locator has our registration from now on, or that it doesn't.
fn note_change<E: ToString>(
    journal: &Journal,
    config: &LocatorConfig,
    address: &str,
    result: Result<(), E>,
) {
    let name = config.service_name.as_str();
    let locator = &config.address.to_string();
    match result {
        Ok(()) => journal.note(&Notable::LocatorFound {
            name,
            address,
            locator,
        }),
        Err(error) => journal.note(&Notable::LocatorLost {
            name,
            address,
            locator,
            why: &error.to_string(),
        }),
    }
}
