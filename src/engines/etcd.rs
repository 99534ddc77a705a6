//! etcd, by its gateway of JSON: it keeps leases, and no events.
//!
//! A lease is one key, which is replaced by compare-and-set, as at the other engines; etcd's own leases would
//! end it by etcd's clock. Reads and writes are linearizable: a server that is cut off from the majority
//! answers neither.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::register::Heard;
use super::{Failure, Register, User, tls};
use crate::config::Login;
use crate::keys::ConfiguredFile;
use event_manager_core::leases::candidate::{Answer, Ask, Entry};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Answers are a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Of what a server complains, so many characters are shown.
const SHOWN_CHARS_MAX: usize = 300;
/// Where a URL names no port.
const PORT: u16 = 2379;

pub(super) struct EtcdRegister {
    session: Session,
}

impl EtcdRegister {
    /// Connects to all servers at once, and takes the first that reads the entry of this name, so one that is
    /// cut off is not taken.
    ///
    /// # Errors
    /// Why none does, and what to do.
    pub(super) async fn connect(user: User<'_>, name: &str) -> Result<Self, String> {
        let key = key_of(name);
        let access = Arc::new(Access::of(user)?);
        let mut opening = JoinSet::new();
        for url in user.engine.servers() {
            let (url, access, key) = (url.clone(), Arc::clone(&access), key.clone());
            opening.spawn(async move {
                let opened = timeout(CONNECT_MAX, Session::open(&url, &access, &key)).await;
                let why = match opened {
                    Ok(Ok(session)) => return Ok(session),
                    Ok(Err(why)) => why,
                    Err(_) => format!("no answer within {CONNECT_MAX:?}"),
                };
                Err(format!("{url} can't be used: {why}"))
            });
        }
        let mut problems = vec![];
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok(Ok(session)) => return Ok(Self { session }),
                Ok(Err(why)) => problems.push(why),
                Err(error) => problems.push(error.to_string()),
            }
        }
        Err(problems.join("; "))
    }

    async fn put(
        &mut self,
        key: &str,
        expected: u64,
        text: &str,
    ) -> Result<Answer<Vec<u8>>, Failure> {
        // A key that isn't there was not created.
        let compare = match expected {
            0 => json!({"key": key, "result": "EQUAL", "target": "CREATE", "createRevision": "0"}),
            _ => {
                json!({"key": key, "result": "EQUAL", "target": "MOD", "modRevision": expected.to_string()})
            }
        };
        let put = json!({"requestPut": {"key": key, "value": STANDARD.encode(text)}});
        let wanted = json!({"compare": [compare], "success": [put]});
        let done: Done = self.session.ask("/v3/kv/txn", &wanted).await?;
        Ok(match done.succeeded {
            true => Answer::Stored(done.header.revision),
            false => Answer::Changed,
        })
    }
}

impl Register for EtcdRegister {
    fn ask<'a>(&'a mut self, name: &'a str, ask: &'a Ask<String>) -> Heard<'a> {
        Box::pin(async move {
            let key = key_of(name);
            match ask {
                Ask::Read => Ok(Answer::Is(self.session.read(&key).await?)),
                Ask::Put(expected, text) => self.put(&key, *expected, text).await,
            }
        })
    }
}

/// As its gateway wants it.
fn key_of(name: &str) -> String {
    STANDARD.encode(format!("event-manager/lease/{name}"))
}

/// By what we are known there, and whom we trust.
struct Access {
    login: Option<(String, String)>,
    trusting: Option<TlsConnector>,
}

impl Access {
    fn of(user: User<'_>) -> Result<Self, String> {
        let login = match user.engine.login() {
            Login::Password(name, file) => {
                let file = ConfiguredFile::secret("passwordFile", file.to_owned(), user.security);
                let (_, password) = file.read().map_err(|error| error.to_string())?;
                Some((name.to_owned(), password.trim().to_owned()))
            }
            _ => None,
        };
        let is_tls = user.engine.servers().iter().any(|url| is_tls(url));
        let trusting = is_tls.then(|| {
            let file = user.engine.ca_file();
            let file = file.map(|path| ConfiguredFile::public("caFile", path.to_owned()));
            let pem = file.map(|file| file.read()).transpose();
            let pem = pem.map_err(|error| error.to_string())?;
            let pem = pem.as_ref().map(|(_, text)| text.as_str());
            tls::trusting(pem).map_err(|error| error.to_string())
        });
        Ok(Self {
            login,
            trusting: trusting.transpose()?,
        })
    }
}

fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}

/// A connection to one server.
struct Session {
    requests: SendRequest<Body>,
    authority: String,
    token: Option<HeaderValue>,
    /// Drives it, and ends with this.
    _connection: JoinSet<()>,
}

impl Session {
    /// Connects, logs in, and reads the key, which only a server with a majority can.
    async fn open(url: &str, access: &Access, key: &str) -> Result<Self, String> {
        let parsed: Uri = url.parse().map_err(|_| "that is no URL".to_owned())?;
        let authority = parsed.authority().ok_or("it has no host")?.to_string();
        let host = parsed.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let port = parsed.port_u16().unwrap_or(PORT);
        let connected = TcpStream::connect((host, port)).await;
        let stream = connected.map_err(|error| error.to_string())?;
        // Without it an answer may come 40 ms later.
        let _ = stream.set_nodelay(true);
        let mut session = match access.trusting.as_ref().filter(|_| is_tls(url)) {
            None => Self::over(stream, authority).await?,
            Some(trusting) => {
                let encrypted = tls::encrypted(stream, host, trusting).await;
                Self::over(encrypted.map_err(|error| error.to_string())?, authority).await?
            }
        };
        if let Some((name, password)) = &access.login {
            session.log_in(name, password).await?;
        }
        match session.read(key).await {
            Ok(_) => Ok(session),
            Err(Failure::Lost(why) | Failure::Refused(why)) => Err(why),
        }
    }

    async fn over<S>(stream: S, authority: String) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = handshake(TokioIo::new(stream)).await;
        let (requests, connection): (_, Connection<_, Body>) =
            shaken.map_err(|error| error.to_string())?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            // Who sends a request is told how it ended.
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            authority,
            token: None,
            _connection: driving,
        })
    }

    async fn log_in(&mut self, name: &str, password: &str) -> Result<(), String> {
        let wanted = json!({"name": name, "password": password});
        let given: LoggedIn = match self.ask("/v3/auth/authenticate", &wanted).await {
            Ok(given) => given,
            Err(Failure::Lost(why) | Failure::Refused(why)) => {
                return Err(format!("user and passwordFile: {why}"));
            }
        };
        let mut token = HeaderValue::try_from(given.token).map_err(|error| error.to_string())?;
        token.set_sensitive(true);
        self.token = Some(token);
        Ok(())
    }

    async fn read(&mut self, key: &str) -> Result<Entry<Vec<u8>>, Failure> {
        let found: Found = self.ask("/v3/kv/range", &json!({"key": key})).await?;
        let Some(found) = found.kvs.into_iter().next() else {
            return Ok(Entry::default());
        };
        let value = STANDARD.decode(found.value);
        let value =
            value.map_err(|error| Failure::Refused(format!("a strange answer: {error}")))?;
        Ok(Entry {
            revision: found.mod_revision,
            content: value,
        })
    }

    async fn ask<T: DeserializeOwned>(&mut self, path: &str, wanted: &Value) -> Result<T, Failure> {
        let lost = |error: &dyn std::fmt::Display| {
            Failure::Lost(format!("the connection was lost: {error}"))
        };
        let mut request = Request::post(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Body::from(wanted.to_string()));
        let request = request.map_err(|error| lost(&error))?;
        self.requests.ready().await.map_err(|error| lost(&error))?;
        let sent = self.requests.send_request(request).await;
        let response = sent.map_err(|error| lost(&error))?;
        let status = response.status();
        let answer = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| lost(&error))?;
        if !status.is_success() {
            return Err(Failure::Refused(complaint(status.as_u16(), &answer)));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::Refused(format!("a strange answer: {error}")))
    }
}

/// Why it refuses, as it says itself.
fn complaint(status: u16, answer: &[u8]) -> String {
    let refused: Refused = serde_json::from_slice(answer).unwrap_or_default();
    let shown: String = refused
        .message
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARS_MAX)
        .collect();
    match status {
        404 => "it has no /v3 of etcd's gateway: is that an etcd of 3.4 or later?".into(),
        _ => format!("it answers {status}: {shown}"),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refused {
    message: String,
}

#[derive(Deserialize)]
struct LoggedIn {
    token: String,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    #[serde(deserialize_with = "number")]
    mod_revision: u64,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Done {
    header: Header,
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Header {
    #[serde(deserialize_with = "number")]
    revision: u64,
}

/// Numbers of 64 bits are texts there.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
