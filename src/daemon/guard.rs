//! The wait for a predecessor's end, before anything is bound.

use super::StartError;
use super::control::keys_of_another;
use crate::config::{Config, GuardTimeoutAction};
use crate::keys;
use crate::outbound::{GuardVerdict, LocatorClient, wait_for_predecessor};
use crate::telemetry::{Journal, Notable};
use event_manager_client::{Caller, ClientKeys};

pub(super) async fn guard(config: &Config, journal: &Journal) -> Result<(), StartError> {
    // What is wrong with the keys is told when they are loaded.
    let first = keys::own_pair(&config.security).ok().flatten();
    // A predecessor is of the same configuration, and so has the same keys.
    let own = first.clone().filter(|_| !config.security.offers_null());
    let of_predecessor = own.map(|own| ClientKeys {
        server: *own.public(),
        own,
    });
    let (locator, predecessor) = (Caller::new(config.limits), Caller::new(config.limits));
    locator.use_keys(match config.locator.embedded {
        // It embeds it.
        true => of_predecessor.clone(),
        false => keys_of_another(config, first),
    });
    predecessor.use_keys(of_predecessor);
    let locator = LocatorClient::new(locator, config.locator.clone());
    let guard = &config.startup_guard;
    let verdict = wait_for_predecessor(&locator, &predecessor, guard, journal).await;
    match (verdict, config.startup_guard.on_timeout) {
        (GuardVerdict::Clear(how), _) => journal.note(&Notable::GuardClear { how: &how }),
        (GuardVerdict::TimedOut(why), GuardTimeoutAction::Exit) => {
            return Err(StartError::Guard(why));
        }
        (GuardVerdict::TimedOut(why), GuardTimeoutAction::Proceed) => {
            journal.note(&Notable::GuardOverridden { why: &why });
        }
    }
    Ok(())
}
