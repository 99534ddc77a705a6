//! The startup guard: two daemons must not share the services of one site.

use std::time::{Duration, Instant};

use super::locator::{LocateError, LocatorClient};
use crate::ambient::now;
use crate::config::GuardConfig;
use crate::telemetry::{Journal, Notable};
use event_manager_client::{CallError, Caller};
use event_manager_wire::messagebus::{DataType, Layout, Message, Token, encode};
use event_manager_wire::model::Endpoint;

/// How long a predecessor or the locator may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What they have at least, however short the guard's own time is.
const ANSWER_MIN: Duration = Duration::from_millis(200);

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardVerdict {
    /// No predecessor runs; holds how that is known.
    Clear(String),
    /// The time is up, and one may still run; holds why.
    TimedOut(String),
}

/// What one look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// There is none.
    Gone(String),
    /// It runs, or may run: unreachable is not dead.
    Unsure(String),
}

/// Asks the locator for a predecessor and waits until that is gone, or the time is up. With an
/// embedded locator, nobody at the locator's address means that no predecessor embeds it either. The
/// predecessor is asked by a caller of its own: its keys are hardly those of the locator.
pub async fn wait_for_predecessor(
    locator: &LocatorClient,
    predecessor: &Caller,
    config: &GuardConfig,
    journal: &Journal,
) -> GuardVerdict {
    let deadline = now() + config.timeout;
    let mut last = String::new();
    loop {
        match look(
            locator,
            predecessor,
            (now() + ANSWER_MAX).min(deadline.max(now() + ANSWER_MIN)),
        )
        .await
        {
            Look::Gone(how) => return GuardVerdict::Clear(how),
            Look::Unsure(why) => {
                if why != last {
                    journal.note(&Notable::GuardWaiting { why: &why });
                    last = why;
                }
            }
        }
        let next = now() + config.interval();
        if next >= deadline {
            tokio::time::sleep_until(deadline.into()).await;
            return GuardVerdict::TimedOut(last);
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

async fn look(locator: &LocatorClient, predecessor: &Caller, deadline: Instant) -> Look {
    let name = locator.config().service_name.clone();
    locator.forget(&name);
    let found = locator.locate(&name, deadline).await;
    let Ok(address) = &found else {
        return judge(locator.config().embedded, &found, None);
    };
    let answer = answers(predecessor, address, deadline).await;
    judge(locator.config().embedded, &found, Some(answer))
}

/// Whether something at this address answers a request: any ACK or NAK will do.
async fn answers(caller: &Caller, address: &Endpoint, deadline: Instant) -> Result<(), CallError> {
    let harmless = Message::new(Token::KEEP_ALIVE, DataType::Param, "startup-guard");
    let frames = encode(&harmless, Layout::NATIVE);
    caller.call(address, frames, deadline).await.map(drop)
}

fn judge(
    embedded: bool,
    found: &Result<Endpoint, LocateError>,
    answer: Option<Result<(), CallError>>,
) -> Look {
    match (found, answer) {
        (Err(LocateError::Unknown(_)), _) => {
            Look::Gone("the ServiceLocator knows no predecessor".into())
        }
        (Err(LocateError::Locator(CallError::Unreachable(_))), _) if embedded => {
            Look::Gone("no ServiceLocator runs yet, so no predecessor embeds one".into())
        }
        (Err(error), _) => Look::Unsure(format!(
            "it isn't known whether a predecessor runs: {error}"
        )),
        (Ok(address), Some(Ok(()))) => Look::Unsure(format!("a predecessor answers at {address}")),
        (Ok(address), Some(Err(CallError::Unreachable(_)))) => Look::Gone(format!(
            "a predecessor was registered at {address}, where nobody listens any more"
        )),
        (Ok(address), _) => Look::Unsure(format!(
            "a predecessor is registered at {address}; it does not answer, which does not mean that it is gone"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_is_not_dead() {
        let address = Ok(Endpoint::tcp("host", 5101));
        let is_gone =
            |embedded, found: &_, answer| matches!(judge(embedded, found, answer), Look::Gone(_));
        let refused = || CallError::Unreachable("tcp://host:5101".into());
        assert!(!is_gone(false, &address, Some(Ok(()))));
        assert!(!is_gone(false, &address, Some(Err(CallError::Timeout))));
        assert!(is_gone(false, &address, Some(Err(refused()))));
        assert!(is_gone(
            false,
            &Err(LocateError::Unknown("unknown-service".into())),
            None
        ));
        assert!(!is_gone(false, &Err(LocateError::Locator(refused())), None));
        assert!(is_gone(true, &Err(LocateError::Locator(refused())), None));
        assert!(!is_gone(
            true,
            &Err(LocateError::Locator(CallError::Timeout)),
            None
        ));
        assert!(!is_gone(true, &Err(LocateError::Garbled("x".into())), None));
    }
}
