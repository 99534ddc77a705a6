//! The lists of a long STATUS answer. The reactor tells them in parts, so that what is routed doesn't wait for them.

use tokio::sync::{mpsc, oneshot};

use crate::reactor::{Asked, Input};
use event_manager_wire::api::{ServiceStatus, Status};
use event_manager_wire::messagebus::{DataType, Message};
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// How many entries are asked for at once.
const PART: usize = 500;

/// The answer with all subjects and subscriptions. Each service has what it had when it was asked, which is a
/// moment after the rest of the state.
pub(super) async fn whole_state(mut state: Status, inputs: &mpsc::Sender<Input>) -> Message {
    for service in &mut state.services {
        if !service.is_whole() {
            // One that has ended meanwhile is shown as far as it was told.
            let _ = complete(service, inputs).await;
            service.subject_count = service.subjects.len() as u64;
            service.subscription_count = service.subscriptions.len() as u64;
        }
    }
    // That takes a while, and calls must not wait for it. It has nothing that JSON can't say.
    let written = tokio::task::spawn_blocking(move || serde_json::to_string(&state)).await;
    let written = written.ok().and_then(Result::ok).unwrap_or_default();
    Message::ack(DataType::String, written)
}

async fn complete(service: &mut ServiceStatus, inputs: &mpsc::Sender<Input>) -> Option<()> {
    let name = ServiceName::new(&service.name).ok()?;
    let (mut subjects, mut after) = (vec![], None);
    loop {
        let part = ask(&name, after, inputs, Input::Subjects).await?;
        subjects.extend(part.iter().map(ToString::to_string));
        if part.len() < PART {
            break;
        }
        after = part.last().cloned();
    }
    service.subjects = subjects;
    let (mut subscriptions, mut after) = (vec![], None);
    loop {
        let part = ask(&name, after, inputs, Input::Subscriptions).await?;
        subscriptions.extend(part.subscriptions);
        let Some(next) = part.next else { break };
        after = Some(SubscriptionId::new(&next).ok()?);
    }
    service.subscriptions = subscriptions;
    Some(())
}

/// Asks the reactor for one part; none if it or the service has ended.
async fn ask<K, T>(
    service: &ServiceName,
    after: Option<K>,
    inputs: &mpsc::Sender<Input>,
    what: fn(Asked<K, T>) -> Input,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked {
        service: service.clone(),
        after,
        max: PART,
        reply,
    };
    inputs.send(what(asked)).await.ok()?;
    answer.await.ok()?
}
