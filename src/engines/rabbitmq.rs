//! RabbitMQ, by AMQP 0-9-1.

mod dial;
mod guard;
mod outlet;
mod queue;
mod shares;
mod source;

use std::fmt::Display;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::ShortString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::own_runtime::OwnRuntime;
use super::tls::trusting;
use super::{Failure, User};
use crate::config::{AmqpAddress, Login};
use crate::keys::ConfiguredFile;
pub(super) use outlet::RabbitOutlet;
pub(super) use queue::RabbitQueue;
pub(super) use source::RabbitSource;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the server may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing has come for twice as long is lost.
const HEARTBEAT_SECONDS: u16 = 5;
/// What to do where something else listens.
const NO_RABBITMQ: &str =
    "is it a RabbitMQ, without TLS for amqp:// and with it for amqps://? Correct servers";
/// Who logs in if nobody is named; a server admits it from its own machine only, unless it is told otherwise.
const GUEST: &str = "guest";

/// A connection with one channel. The library's own recovery is off: it would go on with later events.
struct Session {
    channel: Channel,
    connection: Connection,
    /// What becomes of the connection.
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// Who we are there.
    user: String,
    vhost: String,
    /// Of the library's tasks, which end with this, and so does its thread.
    _runtime: OwnRuntime,
}

impl Session {
    /// Connects to the first server that lets us.
    ///
    /// # Errors
    /// Why none does, and what to do.
    async fn open(user: User<'_>) -> Result<Self, String> {
        let login = login(user)?;
        let tls = trusted(user).await?;
        let mut whys = Vec::new();
        for url in user.engine.servers() {
            match Self::open_at(url, user.bridge, &login, tls.as_ref()).await {
                Ok(session) => return Ok(session),
                Err(why) => whys.push(format!("{url} can't be used: {why}")),
            }
        }
        Err(whys.join("; "))
    }

    async fn open_at(
        url: &str,
        bridge: &str,
        login: &AMQPUserInfo,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, String> {
        let address = AmqpAddress::parse(url)?;
        let (user, vhost) = (login.username.clone(), address.vhost.clone());
        let found = looked_up(&address).await?;
        let runtime = OwnRuntime::new("rabbitmq")?;
        let tls = tls.filter(|_| address.is_tls).cloned();
        let tls = tls.map(|tls| (address.host.clone(), tls));
        let uri = uri(address, login.clone());
        let named = format!("event-manager {bridge}");
        let properties = ConnectionProperties::default().with_connection_name(named.into());
        let connecting = runtime.spawn(async move {
            let own = dial::own_runtime();
            let dial = async move |_, _| {
                let tls = tls.as_ref().map(|(host, tls)| (host.as_str(), tls));
                dial::dial(&found, tls).await
            };
            let connection = Connection::connector(uri, own, dial, properties).await?;
            let channel = connection.create_channel().await?;
            Ok::<_, lapin::Error>((connection, channel))
        })?;
        match timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(Ok((connection, channel)))) => Ok(Self {
                events: Box::pin(connection.events_listener()),
                channel,
                connection,
                user,
                vhost,
                _runtime: runtime,
            }),
            Ok(Ok(Err(error))) => Err(why_no_login(&error, &user, &vhost)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {CONNECT_MAX:?}: {NO_RABBITMQ}")),
        }
    }

    /// Waits for an answer of the server's; why there is none, if so.
    async fn answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
        what: &str,
    ) -> Result<T, Failure> {
        match timeout(ANSWER_MAX, asked).await {
            Ok(answer) => answer.map_err(|error| self.failure(&error, what)),
            Err(_) => Err(Failure::Refused(format!(
                "the server doesn't answer within {ANSWER_MAX:?}"
            ))),
        }
    }

    /// Another channel, after the server has closed the one that there was.
    async fn reopen(&mut self, what: &str) -> Result<(), Failure> {
        let opened = self.answer(self.connection.create_channel(), what).await?;
        self.channel = opened;
        // What was said of the other doesn't matter any more.
        let mut events = self.events.as_mut();
        poll_fn(|context| {
            while let Poll::Ready(Some(_)) = events.as_mut().poll_next(context) {}
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    /// Waits until the connection or the channel is lost, and says so.
    async fn lost(&mut self) -> String {
        poll_fn(|context| self.poll_lost(context)).await
    }

    fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            match ready!(self.events.as_mut().poll_next(context)) {
                Some(Event::Error(error)) => return Poll::Ready(lost(&error)),
                Some(_) => {}
                None => return Poll::Ready(lost(&"nothing more comes from it")),
            }
        }
    }

    /// What an error is, of something that was done with an exchange or a queue.
    fn failure(&self, error: &lapin::Error, what: &str) -> Failure {
        let Self { user, vhost, .. } = self;
        let ErrorKind::ProtocolError(said) = error.kind() else {
            return match error.kind() {
                ErrorKind::ParsingError(_) => Failure::Refused(format!(
                    "{what} gives what can't be read ({error}): a routing key or the name of a header that isn't UTF-8? Take that message out of it"
                )),
                _ => Failure::Lost(lost(error)),
            };
        };
        let words = said.get_message();
        match said.kind() {
            AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => Failure::Lost(lost(words)),
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Failure::Refused(format!(
                "the virtual host {vhost} has no {what}: declare it there, or name another"
            )),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Failure::Refused(format!(
                "the user {user} has no right to {what} ({words}): give it with `rabbitmqctl set_permissions`"
            )),
            _ => Failure::Refused(format!("{what}: the server says {words}")),
        }
    }
}

fn lost(why: &impl Display) -> String {
    format!("the connection was lost: {why}")
}

fn login(user: User<'_>) -> Result<AMQPUserInfo, String> {
    let (username, password) = match user.engine.login() {
        Login::Password(name, file) => {
            let file =
                ConfiguredFile::secret("passwordFile", file.to_owned(), user.security).read();
            let (_, text) = file.map_err(|error| error.to_string())?;
            (name.to_owned(), text.trim().to_owned())
        }
        _ => (GUEST.to_owned(), GUEST.to_owned()),
    };
    Ok(AMQPUserInfo { username, password })
}

/// Whose certificates are trusted, if any server has one.
async fn trusted(user: User<'_>) -> Result<Option<TlsConnector>, String> {
    let mut servers = user.engine.servers().iter();
    if !servers.any(|url| url.starts_with("amqps:")) {
        return Ok(None);
    }
    let file = user.engine.ca_file().map(ToOwned::to_owned);
    let reading = tokio::task::spawn_blocking(move || {
        let read = |file: PathBuf| {
            let text = std::fs::read_to_string(&file);
            text.map_err(|error| format!("caFile {}: {error}", file.display()))
        };
        let text = file.map(read).transpose()?;
        let trusting = trusting(text.as_deref());
        trusting.map(Some).map_err(|error| error.to_string())
    });
    reading.await.map_err(|error| error.to_string())?
}

/// The library would do that in a thread whose loss it doesn't survive.
async fn looked_up(address: &AmqpAddress) -> Result<Vec<SocketAddr>, String> {
    let AmqpAddress { host, port, .. } = address;
    let looking = tokio::net::lookup_host((host.as_str(), *port));
    match timeout(CONNECT_MAX, looking).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its name isn't found within {CONNECT_MAX:?}")),
    }
}

fn uri(address: AmqpAddress, userinfo: AMQPUserInfo) -> AMQPUri {
    AMQPUri {
        scheme: match address.is_tls {
            true => AMQPScheme::AMQPS,
            false => AMQPScheme::AMQP,
        },
        authority: AMQPAuthority {
            userinfo,
            host: address.host,
            port: address.port,
        },
        vhost: address.vhost,
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT_SECONDS),
            ..AMQPQueryString::default()
        },
    }
}

fn why_no_login(error: &lapin::Error, user: &str, vhost: &str) -> String {
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return match error.kind() {
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
                format!("it doesn't speak AMQP 0-9-1: {NO_RABBITMQ} ({error})")
            }
            _ => error.to_string(),
        };
    };
    match refusal(said) {
        Some(Refusal::Login) => format!(
            "it refuses the user {user}: look at user and passwordFile here, and at the server's log (guest may come from its own machine only)"
        ),
        Some(Refusal::NoVhost) => format!(
            "it has no virtual host {vhost}: create it with `rabbitmqctl add_vhost`, or name another in the URL"
        ),
        Some(Refusal::Vhost) => format!(
            "the user {user} may not use the virtual host {vhost}: permit it with `rabbitmqctl set_permissions`"
        ),
        None => said.get_message().to_string(),
    }
}

/// Why a server doesn't let us in.
enum Refusal {
    Login,
    NoVhost,
    Vhost,
}

fn refusal(said: &AMQPError) -> Option<Refusal> {
    let words = said.get_message().as_str();
    match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(Refusal::Login),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if words.contains("not found") => {
            Some(Refusal::NoVhost)
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if words.contains("refused") => {
            Some(Refusal::Vhost)
        }
        _ => None,
    }
}

/// A name as AMQP has it.
fn name(text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text)
        .map_err(|_| format!("a name there has at most 255 bytes, not {}", text.len()))
}
