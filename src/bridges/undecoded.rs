//! What came by a bridge and is no event: a dead letter of the bridge's service, with all that it had.
//!
//! It is given to that service, whose only worker is the bridge, looks at it again, and buries it. So a
//! replay has it looked at once more, after what was wrong is mended.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::arriving::Arrived;
use super::inward::{Entrance, Gone};
use super::worker::{NoWorker, Worker};
use crate::engines::{Incoming, Receipt};
use crate::reactor::{Input, Published, Publishing};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::{Limits, frames};

/// Between two attempts to be a worker of the service, and before one looks at the same again.
const PAUSE: Duration = Duration::from_millis(100);
/// How many are looked at at once.
const CREDIT: u32 = 16;
/// What is told of why it is no event, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// What is known of it beside its body.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    subject: String,
    #[serde(default)]
    position: Option<String>,
    headers: Vec<(String, String)>,
    /// How many bytes the body had, if they are not all there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

/// As an event for the service: what was its subject, what is known of it, its body. Of what is larger than
/// any event may be, there is the beginning.
pub(super) fn kept(incoming: &Incoming, limits: &Limits, service: ServiceName) -> Publishing {
    let mut about = About {
        subject: incoming.subject.clone(),
        position: incoming.position.clone(),
        headers: incoming.headers.clone(),
        bytes: None,
    };
    let mut body = incoming.body.clone();
    let headers = about.headers.iter();
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    if (body.len() + headers + incoming.subject.len()) * 2 > limits.message_bytes_max {
        about.bytes = Some(body.len());
        body.truncate(limits.message_bytes_max / 4);
        about.headers.clear();
        about.subject = cut(&about.subject, limits.message_bytes_max / 16).to_owned();
    }
    let subject = cut(&about.subject, limits.subject_bytes_max).replace('\0', " ");
    let about = serde_json::to_vec(&about).unwrap_or_default();
    Publishing {
        id: Bytes::copy_from_slice(incoming.position.as_deref().unwrap_or_default().as_bytes()),
        frames: vec![subject.into(), about.into(), body],
        only: Some(service),
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The same again, and why it can't be what it was.
fn read(event: &Bytes) -> Result<Incoming, String> {
    let mut all = frames(event).skip(1);
    let (about, body) = (
        all.next().unwrap_or_default(),
        all.next().unwrap_or_default(),
    );
    let about: About = serde_json::from_slice(about)
        .map_err(|_| "the bridge didn't bring it: it waited here to go out, before the bridge's direction was changed; change that back and replay it")?;
    if let Some(bytes) = about.bytes {
        return Err(format!(
            "it has {bytes} bytes and headers, which are more than half of limits.maxMessageBytes: this is its beginning"
        ));
    }
    Ok(Incoming {
        receipt: Receipt(0),
        position: about.position,
        subject: about.subject,
        headers: about.headers,
        body: event.slice_ref(body),
        given_before: 0,
    })
}

/// Looks at what is in the service until the daemon stops.
pub(super) async fn look_again(
    entrance: &Entrance,
    service: &ServiceName,
    inputs: &mpsc::Sender<Input>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let attached = Worker::attach(inputs, service, entrance.name(), CREDIT, entrance.limits());
        let looking = async {
            match attached.await {
                Ok(mut worker) => look(entrance, &mut worker).await,
                Err(NoWorker::Ends) => Err(Gone::Daemon),
                Err(NoWorker::NotNow) => Err(Gone::Worker),
            }
        };
        tokio::select! {
            ended = looking => if matches!(ended, Err(Gone::Daemon)) {
                return;
            },
            _ = stopping.wait_for(|stops| *stops) => return,
        }
        sleep(PAUSE).await;
    }
}

async fn look(entrance: &Entrance, worker: &mut Worker) -> Result<(), Gone> {
    loop {
        let Some(delivered) = worker.next().await.map_err(|_| Gone::Worker)? else {
            continue;
        };
        let looked = match read(&delivered.event) {
            Ok(incoming) => match entrance.arrived(&incoming) {
                Arrived::Event { id, frames } => {
                    let event = Publishing {
                        id,
                        frames,
                        only: None,
                    };
                    let published = entrance.publish(vec![event]).await?;
                    published.into_iter().next().unwrap_or(Published::Done)
                }
                Arrived::GoesRound => Published::Known,
                Arrived::Nonsense(why) => Published::Refused(why),
            },
            Err(why) => Published::Refused(why),
        };
        match looked {
            Published::Done | Published::Known => worker.ack(delivered.delivery),
            Published::Refused(why) => worker.term(delivered.delivery, cut(&why, REASON_BYTES_MAX)),
            Published::NotNow(_) => {
                worker.nak(delivered.delivery);
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager_zmtp::encode_message;

    fn incoming(body: Vec<u8>) -> Incoming {
        Incoming {
            receipt: Receipt(0),
            position: Some("nats/A/1/2".into()),
            subject: "prices\0x".into(),
            headers: vec![("x-em-first".into(), "nonsense".into())],
            body: body.into(),
            given_before: 0,
        }
    }

    fn service() -> ServiceName {
        ServiceName::new("bridge.prices").unwrap()
    }

    #[test]
    fn what_is_kept_is_all_of_it() {
        let came = incoming(b"body".to_vec());
        let kept = kept(&came, &Limits::default(), service());
        assert_eq!(kept.frames[0], "prices x");
        let read = read(&encode_message(&kept.frames)).unwrap();
        assert_eq!(read, came);
    }

    #[test]
    fn of_what_is_too_large_the_beginning_is_kept_and_told() {
        let limits = Limits {
            message_bytes_max: 4096,
            ..Limits::default()
        };
        let kept = kept(&incoming(vec![1; 10_000]), &limits, service());
        let event = encode_message(&kept.frames);
        assert!(event.len() < limits.message_bytes_max);
        let why = read(&event).unwrap_err();
        assert!(why.contains("10000 bytes"), "{why}");
    }
}
