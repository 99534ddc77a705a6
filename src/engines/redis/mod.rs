//! Redis Streams; Valkey's, too.

mod dotmac;
mod outlet;
mod queue;
mod register;
mod source;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, TlsCertificates, Value, cmd, from_redis_value,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Failure, User};
use crate::config::Login;
use crate::keys::ConfiguredFile;

pub(super) use outlet::RedisOutlet;
pub(super) use queue::RedisQueue;
pub(super) use register::RedisRegister;
pub(super) use source::RedisSource;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// After how long a silence the server is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long it has to answer that.
const PONG_MAX: Duration = Duration::from_secs(3);
/// How many commands wait for the socket: as many as are sent at once.
const COMMANDS_MAX: usize = 1024;
/// The longest value, unless the server says another: its own default.
const VALUE_BYTES_MAX: usize = 512 << 20;

/// The field that has the body.
const DATA: &str = "data";
/// Headers that say how a body is made up; DotMac's says it itself.
const OF_BODY: [&str; 2] = ["x-em-lengths", "x-em-first"];

const CONNECTION_LOST: &str = "the connection was lost";
/// What to do where something else listens.
const NO_REDIS: &str =
    "is it a Redis, without TLS for redis:// and with it for rediss://? Correct servers";

/// A connection, which never comes back by itself. A clone is the same one.
#[derive(Clone)]
struct Connection {
    commands: MultiplexedConnection,
    /// Notified when it is lost.
    lost: Arc<Notify>,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Why not, and what to do.
    async fn open(user: User<'_>) -> Result<Self, String> {
        let url = user.engine.servers().first();
        let url = url.map(String::as_str).unwrap_or_default();
        let unusable = |why: &str| format!("{url} can't be used: {why}");
        let client = client(user, url)?;
        let lost = Arc::<Notify>::default();
        let losing = Arc::clone(&lost);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            // The library's is half a second. How long an answer may take is for who asks.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(COMMANDS_MAX)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    losing.notify_one();
                }
                Ok::<(), ()>(())
            });
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let commands = match timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(commands)) => commands,
            Ok(Err(error)) => return Err(unusable(&why_no_connection(&error))),
            Err(_) => {
                let why = format!("no answer within {CONNECT_MAX:?}: {NO_REDIS}");
                return Err(unusable(&why));
            }
        };
        let connection = Self { commands, lost };
        // A server that doesn't take the name serves as well.
        let _ = connection.ask(&named(user.bridge), CONNECT_MAX).await;
        Ok(connection)
    }

    /// Sends a command, and waits for the answer.
    fn send(&self, command: Cmd) -> impl Future<Output = Result<Value, RedisError>> + use<> {
        let mut commands = self.commands.clone();
        async move {
            let answer = commands.send_packed_command(&command).await?;
            answer.extract_error()
        }
    }

    /// The same, for at most so long.
    async fn ask(&self, command: &Cmd, wait_max: Duration) -> Result<Value, Failure> {
        match timeout(wait_max, self.send(command.clone())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {wait_max:?}"))),
        }
    }

    /// Waits until it is lost; says how.
    async fn lost(&self) -> String {
        loop {
            if timeout(PING_EVERY, self.lost.notified()).await.is_ok() {
                return CONNECTION_LOST.into();
            }
            // Who refuses a ping is there, too.
            if let Err(Failure::Lost(why)) = self.ask(&cmd("PING"), PONG_MAX).await {
                return why;
            }
        }
    }

    /// The longest value that the server takes, in bytes.
    async fn value_bytes_max(&self) -> usize {
        let mut command = cmd("CONFIG");
        command.arg("GET").arg("proto-max-bulk-len");
        let said = self.ask(&command, CONNECT_MAX).await.ok();
        let said = said.and_then(|said| from_redis_value::<HashMap<String, usize>>(said).ok());
        let said = said.and_then(|said| said.into_values().next());
        said.unwrap_or(VALUE_BYTES_MAX)
    }
}

/// By which the server's own list of clients shows us.
fn named(bridge: &str) -> Cmd {
    let shown = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    let bridge: String = bridge.chars().map(shown).collect();
    let mut command = cmd("CLIENT");
    command
        .arg("SETNAME")
        .arg(format!("event-manager:{bridge}"));
    command
}

fn client(user: User<'_>, url: &str) -> Result<Client, String> {
    let info = url.into_connection_info();
    let info = info.map_err(|error| format!("{url} is no address of a server: {error}"))?;
    let mut settings = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("event-manager", env!("CARGO_PKG_VERSION"));
    if let Login::Password(name, file) = user.engine.login() {
        let file = ConfiguredFile::secret("passwordFile", file.to_owned(), user.security);
        let (_, password) = file.read().map_err(|error| error.to_string())?;
        settings = settings.set_username(name).set_password(password.trim());
    }
    let info = info
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = match user.engine.ca_file() {
        Some(file) => with_authorities(info, file)?,
        None => Client::open(info),
    };
    client.map_err(|error| format!("{url} can't be used: {error}"))
}

/// One that trusts the authorities of a file.
fn with_authorities(
    info: ConnectionInfo,
    file: &Path,
) -> Result<Result<Client, RedisError>, String> {
    let read = std::fs::read(file);
    let read = read.map_err(|error| format!("caFile {}: {error}", file.display()))?;
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(read),
    };
    Ok(Client::build_with_tls(info, certificates))
}

/// What becomes of what was asked.
fn failure(error: &RedisError) -> Failure {
    // A server that has just been started takes what it is sent in a moment.
    let is_loading = refusal(error).is_some_and(|(code, _)| code == "LOADING");
    match is_loading || error.is_io_error() || error.is_unrecoverable_error() {
        true => Failure::Lost(explained(error)),
        false => Failure::Refused(explained(error)),
    }
}

/// Why there is no connection, though somebody has taken it.
fn why_no_connection(error: &RedisError) -> String {
    let is_foreign = matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    );
    match is_foreign || error.is_connection_dropped() && !error.is_connection_refusal() {
        true => format!("what listens there doesn't answer as a Redis does: {NO_REDIS} ({error})"),
        false => explained(error),
    }
}

/// What a server has refused, by its code and its words. Of commands that are done together or not at all, it is
/// the first that counts: of all of them it says only that they weren't done (`EXECABORT`).
fn refusal(error: &RedisError) -> Option<(String, String)> {
    let refused = error.clone().into_server_errors();
    let of =
        |code: &str, said: Option<&str>| (code.to_owned(), said.unwrap_or_default().to_owned());
    let first = refused.iter().flat_map(|all| all.iter()).next();
    let first = first.map(|(_, refused)| of(refused.code(), refused.details()));
    first.or_else(|| Some(of(error.code()?, error.detail())))
}

/// What a server's refusal means, and what to do.
fn explained(error: &RedisError) -> String {
    let Some((code, said)) = refusal(error) else {
        let said = error.to_string();
        return match error.is_connection_dropped() {
            true if !error.is_connection_refusal() => CONNECTION_LOST.into(),
            _ => said,
        };
    };
    let advice = match &*code {
        "OOM" => "the server has no memory left: raise its maxmemory, or shorten what it keeps",
        "MISCONF" => "the server can't save its data: its log says why, often a full disk",
        "READONLY" => "the server is a replica: name the master",
        "WRONGTYPE" => "the key has something else in it: delete it, or name another",
        "LOADING" => "the server reads its data after its start, and goes on when it has",
        "NOAUTH" => "the server wants a login: give user and passwordFile",
        "WRONGPASS" => "user or the password in passwordFile is wrong",
        "NOPERM" => "the user has no right to that: ACL SETUSER gives it",
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => {
            "the server is part of a cluster, to which there are no bridges"
        }
        "NOGROUP" | "UNBLOCKED" => "the stream or its group is gone: both are made again",
        "MASTERDOWN" => "the server has lost its master: name the master",
        "NOREPLICAS" => "the server has fewer replicas than its min-replicas-to-write wants",
        "ERR" if said.contains("user executing the script") => {
            "the user has no right to what the script does: ACL SETUSER gives it"
        }
        "ERR" if said.contains("DB index is out of range") => {
            "the server has no database of the number at the URL's end"
        }
        _ => return format!("the server says: {code} {said}"),
    };
    format!("{advice} (the server says: {code} {said})")
}

/// Whether an error says that this server will never take such a thing.
fn is_too_large(error: &RedisError) -> bool {
    let said = error.detail().unwrap_or_default();
    error.kind() == ErrorKind::Server(redis::ServerErrorKind::ResponseError)
        && (said.contains("invalid bulk length") || said.contains("Elements are too large"))
}
