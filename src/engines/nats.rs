//! NATS JetStream.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::own_runtime::OwnRuntime;
use super::{Failure, Link, Outcome, Outgoing, Outlet, Pending, Sent};
use crate::config::{Engine, Login};
use crate::keys::ConfiguredFile;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What headers and the protocol take beside our own count, in bytes.
const OVERHEAD_BYTES: usize = 64;
/// The longest subject. A server closes the connection of who sends a line of more than 4096 bytes, which
/// has other things in it too.
const SUBJECT_BYTES_MAX: usize = 3500;
/// The client library is not to come back by itself: it would go on with later events.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

const CONNECTION_LOST: &str = "the connection was lost";

/// A connection on which events are published to streams.
pub(super) struct NatsOutlet {
    client: Client,
    context: Context,
    /// What stands before each subject.
    to: String,
    /// Notified when the connection is lost.
    lost: Arc<Notify>,
    /// Of the library's tasks, which end with this: one that waits to connect again would stay for ever.
    _runtime: OwnRuntime,
}

impl NatsOutlet {
    /// Connects, and sees that JetStream is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) async fn connect(link: Link<'_>, to: &str) -> Result<Self, String> {
        let engine = link.engine;
        let (lost, is_connected) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let (losing, was_connected) = (Arc::clone(&lost), Arc::clone(&is_connected));
        let options = options(link)?
            .reconnect_delay_callback(move |_| match was_connected.load(Ordering::Relaxed) {
                true => NEVER,
                false => Duration::ZERO,
            })
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    losing.notify_one();
                }
                std::future::ready(())
            });
        let (runtime, servers) = (OwnRuntime::new("nats")?, engine.servers().to_vec());
        let connecting = async move { options.connect(servers).await };
        let client = match timeout(CONNECT_MAX, runtime.spawn(connecting)?).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Err(error)) => return Err(why_unreachable(engine, &error.to_string())),
            Ok(Ok(Err(error))) => return Err(why_unreachable(engine, &error.to_string())),
            Err(_) => {
                let why = format!("no answer within {CONNECT_MAX:?}");
                return Err(why_unreachable(engine, &why));
            }
        };
        is_connected.store(true, Ordering::Relaxed);
        let context = jetstream::new(client.clone());
        match timeout(CONNECT_MAX, context.query_account()).await {
            Ok(Ok(_)) => Ok(Self {
                client,
                context,
                to: to.to_owned(),
                lost,
                _runtime: runtime,
            }),
            Ok(Err(error)) => Err(format!(
                "the server has no JetStream for us: {error}; start it with -js, and enable it for this account"
            )),
            Err(_) => Err(format!("JetStream doesn't answer within {CONNECT_MAX:?}")),
        }
    }

    fn subject_of(&self, event: &Outgoing) -> String {
        format!("{}{}", self.to, event.subject)
    }

    async fn publish(&self, event: &Outgoing) -> Result<PublishAckFuture, PublishError> {
        let mut message = PublishMessage::build()
            .payload(event.body.clone())
            .message_id(&event.id);
        for (name, value) in &event.headers {
            message = message.header(*name, value.as_str());
        }
        self.context
            .send_publish(self.subject_of(event), message)
            .await
    }
}

fn why_unreachable(engine: &Engine, why: &str) -> String {
    let servers = engine.servers().join(", ");
    format!("{servers} can't be used: {why}")
}

fn options(link: Link<'_>) -> Result<ConnectOptions, String> {
    let Link {
        engine,
        security,
        bridge,
    } = link;
    let mut options = ConnectOptions::new()
        .name(format!("event-manager {bridge}"))
        .connection_timeout(CONNECT_MAX)
        .ping_interval(Duration::from_secs(5));
    let secret = |key: &'static str, path: &Path| {
        let file = ConfiguredFile::secret(key, path.to_owned(), security);
        file.read()
            .map(|(_, text)| text)
            .map_err(|error| error.to_string())
    };
    options = match engine.login() {
        Login::None => options,
        Login::Password(user, file) => {
            let password = secret("passwordFile", file)?;
            options.user_and_password(user.to_owned(), password.trim().to_owned())
        }
        Login::Token(file) => options.token(secret("tokenFile", file)?.trim().to_owned()),
        Login::Credentials(file) => {
            let text = secret("credentialsFile", file)?;
            options.credentials(&text).map_err(|_| {
                let path = file.display();
                format!("credentialsFile {path} holds no credentials as nsc writes them")
            })?
        }
    };
    if let Some(file) = engine.ca_file() {
        options = options.add_root_certificates(file.to_owned());
    }
    Ok(options)
}

/// What is known of an event that was sent.
enum Answer {
    Known(Outcome),
    /// Nothing is known of it, and why.
    Unsure(String),
    /// Nor of any behind it.
    Silence(String),
}

fn too_large(bytes: usize) -> String {
    format!("{bytes} bytes are more than the server's max_payload")
}

impl NatsOutlet {
    /// Why the server would never take an event, if so.
    fn why_never(&self, event: &Outgoing, max_payload: usize) -> Option<String> {
        let bytes = self.to.len() + event.bytes();
        if bytes + OVERHEAD_BYTES > max_payload {
            return Some(too_large(bytes));
        }
        let bytes = self.to.len() + event.subject.len();
        (bytes > SUBJECT_BYTES_MAX).then(|| {
            format!("its subject has {bytes} bytes there; at most {SUBJECT_BYTES_MAX} are sent")
        })
    }

    fn answer(&self, event: &Outgoing, error: &PublishError) -> Answer {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Answer::Known(Outcome::Refused(too_large(self.to.len() + event.bytes())))
            }
            PublishErrorKind::StreamNotFound => Answer::Unsure(format!(
                "no stream takes the subject {}: create one whose subjects have it",
                self.subject_of(event)
            )),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                Answer::Silence(error.to_string())
            }
            _ => Answer::Unsure(error.to_string()),
        }
    }

    /// Sends all, and then waits for the confirmations in the same order.
    async fn exchange(&self, batch: &[Outgoing], stall: Duration) -> Sent {
        let max_payload = self.client.server_info().max_payload;
        let (mut under_way, mut problem) = (Vec::with_capacity(batch.len()), None);
        for event in batch {
            if let Some(why) = self.why_never(event, max_payload) {
                under_way.push(Err(why));
                continue;
            }
            match timeout(stall, self.publish(event)).await {
                Ok(Ok(ack)) => under_way.push(Ok(ack)),
                Ok(Err(error)) => {
                    problem = Some(error.to_string());
                    break;
                }
                Err(_) => {
                    problem = Some(format!("nothing could be sent for {stall:?}"));
                    break;
                }
            }
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for (event, sent) in batch.iter().zip(under_way) {
            let answer = match sent {
                Err(why) => Answer::Known(Outcome::Refused(why)),
                Ok(ack) => match timeout(stall, ack.into_future()).await {
                    Ok(Ok(ack)) if ack.duplicate => Answer::Known(Outcome::Known),
                    Ok(Ok(_)) => Answer::Known(Outcome::Stored),
                    Ok(Err(error)) => self.answer(event, &error),
                    Err(_) => Answer::Silence(format!("nothing was confirmed for {stall:?}")),
                },
            };
            match answer {
                Answer::Known(outcome) => outcomes.push(outcome),
                Answer::Unsure(why) => {
                    outcomes.push(Outcome::Unknown);
                    problem.get_or_insert(why);
                }
                Answer::Silence(why) => {
                    problem.get_or_insert(why);
                    break;
                }
            }
        }
        Sent {
            outcomes,
            failure: problem.map(Failure::Refused),
        }
    }
}

impl Outlet for NatsOutlet {
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent> {
        Box::pin(async move {
            tokio::select! {
                // First: what is confirmed by then is known.
                biased;
                sent = self.exchange(batch, stall) => sent,
                () = self.lost.notified() => Sent {
                    outcomes: vec![],
                    failure: Some(Failure::Lost(CONNECTION_LOST.into())),
                },
            }
        })
    }

    fn lost(&mut self) -> Pending<'_, String> {
        Box::pin(async {
            self.lost.notified().await;
            CONNECTION_LOST.into()
        })
    }
}
