//! Keys in files: read at the start and at SIGHUP, and watched, so that a key that is removed is worth
//! nothing a second later.

mod file;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::SecurityConfig;
use crate::reactor::Input;
use crate::telemetry::{Journal, Notable};
use event_manager_core::security::{Keyring, SameKey};
use event_manager_zmtp::curve::{Certificate, CertificateError, KeyPair, PublicKey, parse_key};
pub use file::{ConfiguredFile, FileVersion};
use file::{read_bounded, version_of};

/// Between two looks at the files.
const LOOKS: Duration = Duration::from_millis(500);
/// Files of clients in one directory.
const FILES_MAX: usize = 100_000;

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file or directory can't be read.
    #[error("{key} {path}: {error}", path = path.display())]
    Unreadable {
        /// The key of the configuration that names it.
        key: &'static str,
        /// What was to be read.
        path: PathBuf,
        /// What the system says of it.
        error: io::Error,
    },
    /// Others than its owner can read a secret.
    #[error("{key} {path}: others may read this secret (mode {mode:04o}); run chmod 600 {path}, or set security.secretFileMode to \"any\"", path = path.display())]
    Mode {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file is no certificate.
    #[error("{key} {path}: {error}", path = path.display())]
    Certificate {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        error: CertificateError,
    },
    /// A secret key stands where the path of its file belongs. It is not repeated.
    #[error("{key} is a key itself: the path of the file with it is wanted")]
    Inline {
        /// The key of the configuration that names it.
        key: &'static str,
    },
    /// What stands where the path of a secret belongs names no file. It is not repeated: it may be the
    /// secret, with a slip.
    #[error(
        "{key} names no file, and is not repeated, because it may be the secret itself: the path of the file with it is wanted"
    )]
    NoFile {
        /// The key of the configuration that names it.
        key: &'static str,
    },
    /// Nobody is this client: its name may be misspelt.
    #[error(
        "security.clients.{name}: nobody is this client: it has no keys, passwords or users, and security.keysDir has no {name}.key"
    )]
    Nobody {
        /// The client.
        name: String,
    },
    /// A link leads nowhere. Whoever's key that was has none now.
    #[error("security.keysDir {path}: the link leads to {target}, which is not there", path = path.display(), target = target.display())]
    Dangling {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A client's file has its secret. The key is accepted.
    #[error("security.keysDir {path}: it has the secret-key too, which only the client itself should have: copy its file without the secret here", path = path.display())]
    Secret {
        /// The file.
        path: PathBuf,
    },
    /// Two clients have one key. The first of them by name has it.
    #[error("security.keysDir {path}: {error}", path = path.display())]
    SameKey {
        /// The directory.
        path: PathBuf,
        /// Whose they are.
        error: SameKey,
    },
    /// A client has the daemon's own key. It is of no use: the daemon knows itself.
    #[error("{said_in}: it is the daemon's own public key, not a client's")]
    Own {
        /// The file, or the key of the configuration.
        said_in: String,
    },
    /// The directory has more files than are read.
    #[error("security.keysDir {path} has more than {FILES_MAX} files", path = path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
}

/// What a client's file has.
#[derive(Debug, Clone, Copy)]
struct ClientFile {
    version: FileVersion,
    key: PublicKey,
    has_secret: bool,
}

/// What was read of each file.
#[derive(Debug, Default)]
struct Files {
    clients: BTreeMap<PathBuf, ClientFile>,
}

/// Reads all keys that the configuration names. What is wrong with a client's file goes to `problems`,
/// and costs no other client its key.
///
/// # Errors
/// A [`KeysError`] of the daemon's own keys, or of the whole directory.
pub fn load(
    security: &SecurityConfig,
    problems: &mut Vec<KeysError>,
) -> Result<Keyring, KeysError> {
    Files::default().read(security, problems)
}

/// The pair that the daemon has when it dials others: the first of its own, if it has any.
///
/// # Errors
/// [`KeysError`].
pub fn own_pair(security: &SecurityConfig) -> Result<Option<KeyPair>, KeysError> {
    let first = security.secret_key.first();
    first.map(|path| read_secret(path, security)).transpose()
}

impl Files {
    /// Reads what has changed. A client's file that can't be read counts as it was; one that is gone
    /// takes its key with it, and so does the directory.
    fn read(
        &mut self,
        security: &SecurityConfig,
        errors: &mut Vec<KeysError>,
    ) -> Result<Keyring, KeysError> {
        let secrets = security.secret_key.iter();
        let secrets = secrets.filter(|_| security.offers_curve());
        let own = secrets.map(|path| read_secret(path, security));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let is_own = |key: &PublicKey| own.iter().any(|pair| pair.public() == key);
        let said = security.clients.keys().filter(|(_, key)| is_own(key));
        errors.extend(said.map(|(name, _)| KeysError::Own {
            said_in: format!("security.clients.{name}.keys"),
        }));
        let keyring = Keyring::new(security.offers_null(), own.clone());
        let mut keyring = keyring.with_plain(security.offers_plain());
        for (name, digest) in security.clients.passwords() {
            keyring.add_password(name, digest);
        }
        for (name, user) in security.clients.users() {
            keyring.add_user(name, user);
        }
        // They are checked with the configuration: no two clients have one.
        for (name, key) in security.clients.keys() {
            let _ = keyring.add(name, key);
        }
        let directory = security.keys_dir.as_deref();
        match directory.filter(|_| security.offers_curve()) {
            Some(directory) => self.read_clients(directory, &mut keyring, errors)?,
            None => self.clients.clear(),
        }
        let files = self.clients.iter();
        let files = files.filter(|(_, file)| own.iter().any(|pair| *pair.public() == file.key));
        errors.extend(files.map(|(path, _)| KeysError::Own {
            said_in: format!("security.keysDir {}", path.display()),
        }));
        errors.extend(self.nobodies(security));
        Ok(keyring)
    }

    /// Reads what has changed in the directory, and adds all that it has.
    fn read_clients(
        &mut self,
        directory: &Path,
        keyring: &mut Keyring,
        errors: &mut Vec<KeysError>,
    ) -> Result<(), KeysError> {
        let paths = match listed(directory) {
            Err(error) if error.is_missing() && !self.clients.is_empty() => {
                errors.push(error);
                vec![]
            }
            listed => listed?,
        };
        let mut before = std::mem::take(&mut self.clients);
        for path in paths {
            let known = before.remove(&path);
            match read_client(&path, known.as_ref()) {
                Ok(Some(found)) => drop(self.clients.insert(path, found)),
                Ok(None) => errors.extend(dangling(&path)),
                Err(error) => {
                    errors.push(error);
                    self.clients.extend(known.map(|known| (path, known)));
                }
            }
        }
        for (path, file) in &self.clients {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if let Err(error) = keyring.add(&name, file.key) {
                let path = directory.to_owned();
                errors.push(KeysError::SameKey { path, error });
            }
            if file.has_secret {
                let path = path.clone();
                errors.push(KeysError::Secret { path });
            }
        }
        Ok(())
    }

    /// Clients of the configuration that nobody can be.
    fn nobodies(&self, security: &SecurityConfig) -> Vec<KeysError> {
        let has_file = |name: &&str| {
            let mut stems = self.clients.keys().filter_map(|path| path.file_stem());
            stems.any(|stem| stem.to_string_lossy() == **name)
        };
        let nameless = security.clients.without_credentials();
        let nobodies = nameless.filter(|name| !has_file(name));
        let name = |name: &str| KeysError::Nobody { name: name.into() };
        nobodies.map(name).collect()
    }
}

impl KeysError {
    /// Whether a file, or a directory, isn't there.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Unreadable { error, .. } => error.kind() == io::ErrorKind::NotFound,
            Self::NoFile { .. } => true,
            _ => false,
        }
    }
}

/// What is wrong with a file that is not there: nothing, if it isn't a link.
fn dangling(path: &Path) -> Option<KeysError> {
    let target = fs::read_link(path).ok()?;
    let path = path.to_owned();
    Some(KeysError::Dangling { path, target })
}

/// The clients' files: `NAME.key`.
fn listed(directory: &Path) -> Result<Vec<PathBuf>, KeysError> {
    let unreadable = |error| KeysError::Unreadable {
        key: "security.keysDir",
        path: directory.to_owned(),
        error,
    };
    let mut found = vec![];
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            found.push(path);
        }
        if found.len() > FILES_MAX {
            let path = directory.to_owned();
            return Err(KeysError::TooMany { path });
        }
    }
    Ok(found)
}

/// A client's key; `None` if the file went meanwhile.
fn read_client(path: &Path, known: Option<&ClientFile>) -> Result<Option<ClientFile>, KeysError> {
    let key = "security.keysDir";
    let found = fs::metadata(path).and_then(|metadata| {
        let version = version_of(&metadata);
        match known {
            Some(known) if known.version == version => Ok((version, None)),
            _ => read_bounded(path, &metadata).map(|text| (version, Some(text))),
        }
    });
    match (found, known) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        (Err(error), _) => Err(KeysError::Unreadable {
            key,
            path: path.to_owned(),
            error,
        }),
        (Ok((_, None)), Some(known)) => Ok(Some(*known)),
        (Ok((version, text)), _) => {
            let certificate = Certificate::parse(&text.unwrap_or_default());
            let error = |error| KeysError::Certificate {
                key,
                path: path.to_owned(),
                error,
            };
            let found = certificate.map_err(error)?;
            Ok(Some(ClientFile {
                version,
                key: found.public,
                has_secret: found.pair.is_some(),
            }))
        }
    }
}

/// A pair of keys of ours.
fn read_secret(path: &Path, security: &SecurityConfig) -> Result<KeyPair, KeysError> {
    let key = "security.secretKey";
    if path.to_str().is_some_and(|text| parse_key(text).is_some()) {
        return Err(KeysError::Inline { key });
    }
    let (_, text) = ConfiguredFile::secret(key, path.to_owned(), security).read()?;
    let pair = Certificate::parse(&text).and_then(Certificate::into_pair);
    pair.map_err(|error| KeysError::Certificate {
        key,
        path: path.to_owned(),
        error,
    })
}

/// The thread that watches the files.
#[derive(Debug)]
pub struct Watcher {
    /// Another configuration is in force. The thread ends with this.
    changes: Sender<SecurityConfig>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        security: SecurityConfig,
        inputs: mpsc::Sender<Input>,
        journal: Journal,
    ) -> io::Result<Self> {
        let (changes, changed) = channel();
        let thread = std::thread::Builder::new()
            .name("keys".into())
            .spawn(move || watch(security, &changed, &inputs, &journal))?;
        Ok(Self { changes, thread })
    }

    /// Another configuration is in force.
    pub fn watch(&self, security: SecurityConfig) {
        // It fails only if the thread is gone, which a look at its end tells.
        let _ = self.changes.send(security);
    }

    /// Ends the thread, and waits for it.
    pub fn stop(self) {
        drop(self.changes);
        let _ = self.thread.join();
    }
}

fn watch(
    mut security: SecurityConfig,
    changed: &Receiver<SecurityConfig>,
    inputs: &mpsc::Sender<Input>,
    journal: &Journal,
) {
    let mut files = Files::default();
    // What is in force was read before, and what is wrong with it told.
    let mut errors = vec![];
    let _ = files.read(&security, &mut errors);
    let mut told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let mut seen = fingerprint(&files, &security);
    loop {
        match changed.recv_timeout(LOOKS) {
            Ok(other) => security = other,
            Err(RecvTimeoutError::Timeout) if !security.offers_curve() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let mut errors = vec![];
        let keyring = files.read(&security, &mut errors);
        let (keyring, failed) = match keyring {
            Ok(keyring) => (Some(keyring), None),
            Err(error) => (None, Some(error)),
        };
        let errors = errors.iter().chain(&failed).map(ToString::to_string);
        let errors: Vec<_> = errors.collect();
        for why in errors.iter().filter(|why| !told.contains(why)) {
            journal.note(&Notable::KeysUnreadable { why });
        }
        told = errors;
        let now = fingerprint(&files, &security);
        if let Some(keyring) = keyring
            && now != seen
        {
            seen = now;
            if inputs.blocking_send(Input::Keys(keyring)).is_err() {
                return;
            }
        }
    }
}

/// What tells whether any key is another than before.
fn fingerprint(
    files: &Files,
    security: &SecurityConfig,
) -> (Vec<(PathBuf, PublicKey)>, Vec<Option<FileVersion>>) {
    let clients = files.clients.iter();
    let clients = clients.map(|(path, file)| (path.clone(), file.key));
    let said = security.clients.keys();
    let clients = clients.chain(said.map(|(name, key)| (name.into(), key)));
    let own = security.secret_key.iter();
    let own = own.map(|path| fs::metadata(path).ok().as_ref().map(version_of));
    (clients.collect(), own.collect())
}
