//! Other brokers that bridges lead to: `engines`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::chosen::{joined, read_fields, read_members, show_fields};
use super::engine_kinds::{EngineKind, Kind};
use super::keys::{Schema, Wrong};
use super::peers::ServerKey;
use super::units::{Maybe, OptionalPath, Unit, Whole, list};
use event_manager_zmtp::curve::PublicKey;

/// The key of all that is here.
pub(super) const ENGINES: &str = "engines";

/// The engines, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Engines(BTreeMap<String, Engine>);

/// A broker, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Engine {
    #[serde(rename = "type", with = "Maybe::<Kind>")]
    kind: Option<EngineKind>,
    #[serde(with = "Maybe::<Servers>")]
    servers: Option<Vec<String>>,
    #[serde(with = "Maybe::<Text>")]
    user: Option<String>,
    #[serde(with = "OptionalPath")]
    password_file: Option<PathBuf>,
    #[serde(with = "OptionalPath")]
    token_file: Option<PathBuf>,
    #[serde(with = "OptionalPath")]
    credentials_file: Option<PathBuf>,
    #[serde(with = "OptionalPath")]
    ca_file: Option<PathBuf>,
    #[serde(with = "Maybe::<ServerKey>")]
    server_key: Option<PublicKey>,
    #[serde(with = "Maybe::<Whole::<u32, 1, 5>>")]
    replicas: Option<u32>,
}

/// By what we are known to an engine; secrets are read from files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login<'a> {
    None,
    /// A user, and the file of the password.
    Password(&'a str, &'a Path),
    /// The file of a token.
    Token(&'a Path),
    /// A file of a JWT and its key, as `nsc` writes them.
    Credentials(&'a Path),
}

/// A file that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineFile<'a> {
    /// The key that names it.
    pub key: &'static str,
    pub path: &'a Path,
    pub kind: FileKind,
}

/// What is in a file that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A secret, as it is.
    Secret,
    /// A JWT and its key, as `nsc` writes them, which are a secret.
    Credentials,
    /// Certificates in PEM, which everybody may read.
    Certificates,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(&Engine::default()));

/// The unit of all engines: an object, or the text of one.
pub(super) struct AllEngines;

impl Unit for AllEngines {
    type Of = Engines;

    fn read(value: &Value) -> Result<Engines, String> {
        joined(Engines::read_all(value))
    }

    fn show(of: &Engines) -> Value {
        let shown = |(name, engine): (&String, &Engine)| (name.clone(), show_fields(engine));
        of.0.iter().map(shown).collect()
    }
}

impl Engines {
    pub(super) fn read_all(value: &Value) -> Result<Self, Vec<Wrong>> {
        let read = |base: &str, value: &Value, wrong: &mut Vec<Wrong>| {
            let before = wrong.len();
            // A secret may stand in a URL, though it doesn't belong there.
            let engine: Engine = read_fields((&SCHEMA, &["servers"]), base, value, wrong);
            if wrong.len() == before
                && let Some(why) = engine.why_incomplete()
            {
                wrong.push(Wrong::value(base, &json!("…"), &why));
            }
            engine
        };
        read_members(ENGINES, value, read).map(Self)
    }

    /// The engine of this name.
    pub fn get(&self, name: &str) -> Option<&Engine> {
        self.0.get(name)
    }

    /// All of them, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Engine)> {
        self.0.iter().map(|(name, engine)| (&**name, engine))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Engine {
    fn why_incomplete(&self) -> Option<String> {
        let Some(kind) = self.kind else {
            return Some("type is missing, such as \"nats\"".into());
        };
        let Some(servers) = &self.servers else {
            return Some(format!(
                "servers are missing, such as [{:?}]",
                kind.example()
            ));
        };
        let wrong = servers.iter().filter_map(|url| kind.why_no_address(url));
        let wrong: Vec<_> = wrong.collect();
        if !wrong.is_empty() {
            return Some(format!("servers: {}", wrong.join("; ")));
        }
        if let Some(strange) = self.strange_field(kind) {
            return Some(format!(
                "{strange} has no meaning for an engine of type \"{kind}\""
            ));
        }
        let ways = [
            self.user.is_some(),
            self.token_file.is_some(),
            self.credentials_file.is_some(),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Some(
                "one of user, tokenFile and credentialsFile is wanted, not several".into(),
            );
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Some("user and passwordFile belong together".into());
        }
        match kind {
            EngineKind::Redis if servers.len() > 1 => {
                Some("servers: redis has one, that which takes writes".into())
            }
            EngineKind::Redis => self.why_no_tls("rediss://", servers),
            EngineKind::RabbitMq => self.why_no_tls("amqps://", servers),
            EngineKind::Etcd => self.why_no_tls("https://", servers),
            EngineKind::Nats | EngineKind::Hub => None,
        }
    }

    /// Why its addresses are not those of TLS, if it has certificates for that.
    fn why_no_tls(&self, tls: &str, servers: &[String]) -> Option<String> {
        let is_tls = servers.iter().any(|url| url.starts_with(tls));
        (self.ca_file.is_some() && !is_tls)
            .then(|| format!("caFile is for TLS: the server's URL begins with {tls} then"))
    }

    /// A field that is given and means nothing to engines of this kind.
    fn strange_field(&self, kind: EngineKind) -> Option<&'static str> {
        let is_hub = kind == EngineKind::Hub;
        let is_nats = kind == EngineKind::Nats;
        let given = [
            ("user", self.user.is_some() && is_hub),
            ("passwordFile", self.password_file.is_some() && is_hub),
            ("tokenFile", self.token_file.is_some() && !is_nats),
            (
                "credentialsFile",
                self.credentials_file.is_some() && !is_nats,
            ),
            ("caFile", self.ca_file.is_some() && is_hub),
            ("serverKey", self.server_key.is_some() && !is_hub),
            ("replicas", self.replicas.is_some() && !is_nats),
        ];
        given
            .into_iter()
            .find_map(|(name, is_strange)| is_strange.then_some(name))
    }

    /// What kind it is.
    pub fn kind(&self) -> EngineKind {
        self.kind.unwrap_or(EngineKind::Nats)
    }

    /// Where it may be reached.
    pub fn servers(&self) -> &[String] {
        self.servers.as_deref().unwrap_or_default()
    }

    /// How we log in there.
    pub fn login(&self) -> Login<'_> {
        let password = self.user.as_deref().zip(self.password_file.as_deref());
        let password = password.map(|(user, file)| Login::Password(user, file));
        let token = self.token_file.as_deref().map(Login::Token);
        let credentials = self.credentials_file.as_deref().map(Login::Credentials);
        password.or(token).or(credentials).unwrap_or(Login::None)
    }

    /// The files that it needs.
    pub fn files(&self) -> Vec<EngineFile<'_>> {
        let all = [
            ("passwordFile", &self.password_file, FileKind::Secret),
            ("tokenFile", &self.token_file, FileKind::Secret),
            (
                "credentialsFile",
                &self.credentials_file,
                FileKind::Credentials,
            ),
            ("caFile", &self.ca_file, FileKind::Certificates),
        ];
        let named = all.into_iter().filter_map(|(key, path, kind)| {
            let path = path.as_deref()?;
            Some(EngineFile { key, path, kind })
        });
        named.collect()
    }

    /// The public key of another event manager, if it is reached by CURVE.
    pub fn server_key(&self) -> Option<PublicKey> {
        self.server_key
    }

    /// On how many servers of a cluster are kept what we make there.
    pub fn replicas(&self) -> u32 {
        self.replicas.unwrap_or(1)
    }

    /// The certificates that are trusted beside the system's, in PEM.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }
}

/// URLs: one, or a list.
struct Servers;

impl Unit for Servers {
    type Of = Vec<String>;

    fn read(value: &Value) -> Result<Vec<String>, String> {
        let all = list(
            value,
            "a URL or a list of URLs, such as nats://127.0.0.1:4222",
        )?;
        let read = |url: &str| match (url.contains("://"), url.contains('@')) {
            // What is before an @ is a secret, and isn't shown.
            (_, true) => Err(
                "a URL has no user or password here: they are user and passwordFile, or tokenFile"
                    .to_owned(),
            ),
            (true, false) => Ok(url.to_owned()),
            (false, false) => Err(format!(
                "{url:?}: a URL such as nats://127.0.0.1:4222 is wanted"
            )),
        };
        if all.is_empty() {
            return Err("at least one URL is wanted".into());
        }
        let (read, mut wrong): (Vec<_>, Vec<_>) =
            all.into_iter().map(read).partition(Result::is_ok);
        wrong.dedup();
        match wrong.is_empty() {
            true => Ok(read.into_iter().flatten().collect()),
            false => {
                let wrong = wrong.into_iter().filter_map(Result::err);
                Err(wrong.collect::<Vec<_>>().join("; "))
            }
        }
    }

    fn show(of: &Vec<String>) -> Value {
        json!(of)
    }
}

/// A text that isn't empty.
pub(super) struct Text;

impl Unit for Text {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        let text = value.as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned)
            .ok_or_else(|| "a text is wanted".into())
    }

    fn show(of: &String) -> Value {
        json!(of)
    }
}
