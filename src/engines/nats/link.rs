//! A connection to a NATS server with JetStream.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::{self, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::super::User;
use super::super::own_runtime::OwnRuntime;
use crate::config::{Engine, Login};
use crate::keys::ConfiguredFile;

/// How long a connection may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The client library is not to come back by itself: it would go on with later events.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) const CONNECTION_LOST: &str = "the connection was lost";
/// What to do where something else listens.
const NO_NATS: &str = "is it a NATS server? Correct servers";

/// A connection to a server with JetStream, which ends when it is lost.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    /// Notified when the connection is lost.
    pub(super) lost: Arc<Notify>,
    /// What the server said when it refused something without an answer: a right that the user lacks.
    refused: watch::Receiver<Option<String>>,
    /// On how many servers is kept what we make there.
    replicas: usize,
    /// Of the library's tasks, which end with this: one that waits to connect again would stay for ever.
    _runtime: OwnRuntime,
}

impl Link {
    /// Connects, and sees that JetStream is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) async fn connect(user: User<'_>) -> Result<Self, String> {
        let engine = user.engine;
        let (lost, is_connected) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let (losing, was_connected) = (Arc::clone(&lost), Arc::clone(&is_connected));
        let (refusing, refused) = watch::channel(None);
        let options = options(user)?
            .reconnect_delay_callback(move |_| match was_connected.load(Ordering::Relaxed) {
                true => NEVER,
                false => Duration::ZERO,
            })
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => losing.notify_one(),
                    Event::ServerError(error) => refusing.send_modify(|said| {
                        said.get_or_insert_with(|| error.to_string());
                    }),
                    _ => {}
                }
                std::future::ready(())
            });
        let (runtime, servers) = (OwnRuntime::new("nats")?, engine.servers().to_vec());
        let connecting = async move { options.connect(servers).await };
        let client = match timeout(CONNECT_MAX, runtime.spawn(connecting)?).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Err(error)) => return Err(why_unreachable(engine, &error.to_string())),
            Ok(Ok(Err(error))) => {
                let said = error.to_string();
                let why = match said.contains("server operation") || said.contains("INFO") {
                    true => format!(
                        "what listens there doesn't answer as a NATS does: {NO_NATS} ({said})"
                    ),
                    false if error.kind() == ConnectErrorKind::TimedOut => {
                        format!("{said}: {NO_NATS}")
                    }
                    false => said,
                };
                return Err(why_unreachable(engine, &why));
            }
            Err(_) => {
                let why = format!("no answer within {CONNECT_MAX:?}: {NO_NATS}");
                return Err(why_unreachable(engine, &why));
            }
        };
        is_connected.store(true, Ordering::Relaxed);
        let context = jetstream::new(client.clone());
        let link = Self {
            client,
            context,
            lost,
            refused,
            replicas: engine.replicas() as usize,
            _runtime: runtime,
        };
        link.heard(has_jetstream(&link.context)).await??;
        Ok(link)
    }

    /// What comes of it, unless the server refuses meanwhile what is asked for: it gives no answer then.
    ///
    /// # Errors
    /// What the server says, and what to do.
    pub(super) async fn heard<T>(&self, asked: impl Future<Output = T>) -> Result<T, String> {
        let mut refused = self.refused.clone();
        let refusal = async {
            let said = refused.wait_for(Option::is_some).await;
            let said = said.ok().and_then(|said| said.clone());
            match said {
                Some(said) => said,
                // Nobody is there any more who would say anything.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            said = refusal => Err(format!(
                "the server refuses it: {said}; give the user that right"
            )),
            answer = asked => Ok(answer),
        }
    }

    /// A stream, which is made if it isn't there. One that is there may be otherwise, and is taken as it is.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(super) async fn stream(&self, config: stream::Config) -> Result<Stream, String> {
        let (name, wanted) = (config.name.clone(), self.replicas);
        let config = stream::Config {
            storage: StorageType::File,
            num_replicas: wanted,
            ..config
        };
        let asked = timeout(CONNECT_MAX, self.context.get_or_create_stream(config));
        match self.heard(asked).await? {
            Ok(Ok(stream)) => {
                let there = stream.cached_info().config.num_replicas;
                if there < wanted {
                    tracing::warn!(target: "em.bridge", "the stream {name} has {there} replicas, and the configuration says {wanted}: nats stream edit {name} --replicas {wanted}");
                }
                Ok(stream)
            }
            Ok(Err(error)) => Err(format!("the stream {name} can't be made: {error}")),
            Err(_) => Err(format!(
                "asking for the stream {name}: no answer within {CONNECT_MAX:?}"
            )),
        }
    }
}

/// What the server says of JetStream. `query_account` wants fields that older servers don't send, and we
/// want none of them.
#[derive(Deserialize)]
struct AccountInfo {
    error: Option<AccountError>,
}

#[derive(Deserialize)]
struct AccountError {
    #[serde(default)]
    description: String,
}

async fn has_jetstream(context: &Context) -> Result<(), String> {
    let asked = context.request::<_, _, AccountInfo>("INFO", &());
    let why = match timeout(CONNECT_MAX, asked).await {
        Ok(Ok(answer)) => match answer.error {
            None => return Ok(()),
            Some(error) => error.description,
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => return Err(format!("JetStream doesn't answer within {CONNECT_MAX:?}")),
    };
    Err(format!(
        "the server has no JetStream for us: {why}; start it with -js, and enable it for this account"
    ))
}

fn why_unreachable(engine: &Engine, why: &str) -> String {
    let servers = engine.servers().join(", ");
    format!("{servers} can't be used: {why}")
}

fn options(user: User<'_>) -> Result<ConnectOptions, String> {
    let User {
        engine,
        security,
        bridge,
        ..
    } = user;
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
