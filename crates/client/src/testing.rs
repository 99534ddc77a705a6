//! A real daemon for tests, on free ports, with an environment of its own.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ambient::{now, unique};
use crate::keys::{ClientKeys, new_pair};
use crate::requests::ClientError;
use crate::{Error, Status, blocking};
use event_manager_zmtp::curve::Certificate;

/// Variables that name the daemon's binary; the first that is set counts.
pub const BINARY_VARIABLES: [&str; 2] = ["EVENT_MANAGER_BIN", "EVENT_MANAGER_BINARY"];
/// Its name in PATH.
const NAME: &str = "event-manager";
/// How long it may take to be ready, idle, or to end.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The certificate of its client.
const CLIENT_FILE: &str = "client.key_secret";
/// Lines of its log that are kept.
const LOG_LINES: usize = 1000;

/// The daemon's binary: that of `EVENT_MANAGER_BIN`, else of `EVENT_MANAGER_BINARY`, else in PATH.
///
/// # Errors
/// [`Error::Failed`] if there is none.
pub fn find_binary() -> Result<PathBuf, Error> {
    let named = BINARY_VARIABLES.iter().find_map(std::env::var_os);
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return match path.is_file() {
            true => Ok(path),
            false => Err(Error::Failed(format!("{} is no program", path.display()))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(NAME));
    all.find(|path| path.is_file()).ok_or_else(|| {
        let sentence = format!(
            "there is no {NAME} in PATH: install it, or let {} name it",
            BINARY_VARIABLES[0]
        );
        Error::Failed(sentence)
    })
}

/// How a daemon for tests is started.
#[derive(Debug, Clone, Default)]
#[must_use = "`start` starts it"]
pub struct TestHubBuilder {
    binary: Option<PathBuf>,
    is_durable: bool,
    has_curve: bool,
    keys: Map<String, Value>,
}

impl TestHubBuilder {
    /// This binary, not that of [`find_binary`].
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// It keeps its state in a temporary directory, so services may be durable.
    pub fn durable(mut self) -> Self {
        self.is_durable = true;
        self
    }

    /// It has CURVE, and admits only who has keys: those of [`TestHub::key_file`].
    pub fn curve(mut self) -> Self {
        self.has_curve = true;
        self
    }

    /// A further key of its configuration (docs/operations.md).
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn start(self) -> Result<TestHub, Error> {
        let binary = match self.binary {
            Some(binary) => binary,
            None => find_binary()?,
        };
        let directory = std::env::temp_dir().join(format!("event-manager-test-{}", unique()));
        std::fs::create_dir(&directory).map_err(|error| failed("no directory", &error))?;
        let state = if self.is_durable {
            directory.join("state").display().to_string()
        } else {
            String::new()
        };
        let keys = json!({
            "pubAddress": "tcp://127.0.0.1:0",
            "subAddress": "tcp://127.0.0.1:0",
            "requestAddress": "tcp://127.0.0.1:0",
            "locatorAddress": "tcp://127.0.0.1:0",
            "pullAddress": "tcp://127.0.0.1",
            "minStreamerPort": 0,
            "maxStreamerPort": 0,
            "publicHostname": "127.0.0.1",
            "httpAddress": "off",
            "embeddedLocator": true,
            "locatorRegister": false,
            "drainTimeout": 2,
            "subscriberGrace": 0,
            "stateDir": state,
            "log": {"format": "json"},
        });
        let mut hub = TestHub {
            binary,
            directory,
            keys,
            curve: None,
            running: None,
            bound: Bound::default(),
            log: Arc::default(),
        };
        if self.has_curve {
            hub.make_keys()?;
        }
        for (key, value) in self.keys {
            hub.keys[key] = value;
        }
        hub.start()?;
        Ok(hub)
    }
}

/// What the daemon's ready line says: addresses, separated by commas.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Bound {
    requests: String,
    publishers: String,
    subscribers: String,
    locator: String,
}

struct Running {
    process: Child,
    reader: JoinHandle<()>,
}

/// A daemon that runs until this is dropped. It is the real one: what is green here is green there.
///
/// All here blocks, for a moment, also within a runtime.
///
/// ```no_run
/// # async fn test() -> Result<(), event_manager_client::Error> {
/// use event_manager_client::{Hub, testing::TestHub};
///
/// let daemon = TestHub::start_new()?;
/// let hub = Hub::connect(daemon.address()).await?;
/// hub.publish("order.created", &1).await?;
/// hub.flush().await?;
/// daemon.wait_idle()?;
/// # Ok(())
/// # }
/// ```
pub struct TestHub {
    binary: PathBuf,
    directory: PathBuf,
    keys: Value,
    curve: Option<ClientKeys>,
    running: Option<Running>,
    bound: Bound,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl TestHub {
    /// How to start one.
    pub fn builder() -> TestHubBuilder {
        TestHubBuilder::default()
    }

    /// Starts one as it is without a word.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn start_new() -> Result<Self, Error> {
        Self::builder().start()
    }

    /// Where it takes requests.
    pub fn address(&self) -> &str {
        first(&self.bound.requests)
    }

    /// Where it takes events of PUB sockets.
    pub fn publishers(&self) -> &str {
        first(&self.bound.publishers)
    }

    /// Where SUB sockets get them.
    pub fn subscribers(&self) -> &str {
        first(&self.bound.subscribers)
    }

    /// Its ServiceLocator.
    pub fn locator(&self) -> &str {
        first(&self.bound.locator)
    }

    /// The certificate of a client that it admits, if it has CURVE: the file with its secret key.
    pub fn key_file(&self) -> PathBuf {
        self.directory.join(CLIENT_FILE)
    }

    /// Its public key, if it has CURVE.
    pub fn server_key(&self) -> Option<String> {
        self.curve.as_ref().map(|keys| keys.server.to_string())
    }

    /// The keys of both, if it has CURVE.
    pub fn client_keys(&self) -> Option<ClientKeys> {
        self.curve.clone()
    }

    /// Its own keys, and a client's.
    fn make_keys(&mut self) -> Result<(), Error> {
        let (server, own) = (new_pair()?, new_pair()?);
        let admitted = self.directory.join("keys");
        let files = [
            (
                self.directory.join("server.key_secret"),
                Certificate::secret_text(&server),
            ),
            (self.key_file(), Certificate::secret_text(&own)),
            (
                admitted.join("client.key"),
                Certificate::public_text(own.public()),
            ),
        ];
        let no_keys = |error| failed("no keys", &error);
        std::fs::create_dir(&admitted).map_err(no_keys)?;
        for (path, text) in &files {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(no_keys)?;
        }
        self.keys["security"] = json!({
            "mechanisms": ["curve"], "secretKey": self.directory.join("server.key_secret"),
            "keysDir": admitted,
        });
        let server = *server.public();
        self.curve = Some(ClientKeys { own, server });
        Ok(())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.process.id())
    }

    /// The last lines of its log, as JSON.
    pub fn log(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect()
    }

    /// Starts it again, if it doesn't run, at the same addresses and with the same state.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn start(&mut self) -> Result<(), Error> {
        if self.running.is_some() {
            return Ok(());
        }
        let config = self.directory.join("config.json");
        std::fs::write(&config, self.keys.to_string())
            .map_err(|error| failed("no configuration", &error))?;
        let mut process = Command::new(&self.binary)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .current_dir(&self.directory)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&self.binary.display().to_string(), &error))?;
        let (ready, is_ready) = mpsc::channel();
        let (pipe, log) = (process.stderr.take(), Arc::clone(&self.log));
        let reader = std::thread::spawn(move || {
            if let Some(pipe) = pipe {
                read(pipe, &log, &ready);
            }
        });
        self.running = Some(Running { process, reader });
        let Ok(bound) = is_ready.recv_timeout(TIMEOUT) else {
            self.end(Signal::Kill)?;
            let log = self.log();
            let last = log[log.len().saturating_sub(20)..].join("\n");
            let sentence = format!(
                "{} did not become ready; its log ends with:\n{last}",
                self.binary.display()
            );
            return Err(Error::Failed(sentence));
        };
        for (key, address) in [
            ("requestAddress", &bound.requests),
            ("pubAddress", &bound.publishers),
            ("subAddress", &bound.subscribers),
            ("locatorAddress", &bound.locator),
        ] {
            self.keys[key] = json!(address);
        }
        self.bound = bound;
        Ok(())
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn kill(&mut self) -> Result<(), Error> {
        self.end(Signal::Kill)
    }

    /// Ends it in order: it delivers what it can.
    ///
    /// # Errors
    /// [`Error::Failed`] if it did not end by itself.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.end(Signal::Terminate)
    }

    /// Stops it, and starts it again.
    ///
    /// # Errors
    /// Those of [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop()?;
        self.start()
    }

    /// Its state.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn status(&self) -> Result<Status, Error> {
        let client = blocking::Client::new(self.address(), TIMEOUT).with_keys(self.client_keys());
        // On a thread of its own: it may be called within a runtime.
        let asked = std::thread::spawn(move || { client }.status());
        let status = asked
            .join()
            .unwrap_or_else(|_| Err(ClientError::Garbled("no status".into())));
        status.map_err(|error| Error::Failed(error.to_string()))
    }

    /// Waits until no event is queued for a service, or under way to its workers. Events that are not
    /// flushed are not known to it.
    ///
    /// # Errors
    /// [`Error::Failed`] after 30 s.
    pub fn wait_idle(&self) -> Result<(), Error> {
        let deadline = now() + TIMEOUT;
        loop {
            let status = self.status()?;
            let busy = status.services.iter().find(|service| {
                let durable = service.durable.as_ref();
                service.counters.queued + service.counters.in_flight > 0
                    || durable.is_some_and(|durable| durable.pending_events > 0)
            });
            let Some(busy) = busy else { return Ok(()) };
            if now() >= deadline {
                let sentence = format!("{} does not become idle: {:?}", busy.name, busy.counters);
                return Err(Error::Failed(sentence));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn end(&mut self, signal: Signal) -> Result<(), Error> {
        let Some(Running {
            mut process,
            reader,
        }) = self.running.take()
        else {
            return Ok(());
        };
        let signalled = match signal {
            Signal::Kill => process.kill(),
            Signal::Terminate => terminate(process.id()),
        };
        let deadline = now() + TIMEOUT;
        let status = loop {
            match process.try_wait() {
                Ok(None) if now() < deadline => std::thread::park_timeout(Duration::from_millis(1)),
                Ok(None) => {
                    let _ = process.kill();
                    break process.wait();
                }
                Ok(Some(status)) => break Ok(status),
                Err(error) => break Err(error),
            }
        };
        let _ = reader.join();
        signalled.map_err(|error| failed("the daemon can't be signalled", &error))?;
        let status = status.map_err(|error| failed("the daemon", &error))?;
        match signal {
            Signal::Terminate if status.signal().is_some() => {
                Err(Error::Failed(format!("the daemon ended with {status}")))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        let _ = self.end(Signal::Kill);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[derive(Clone, Copy)]
enum Signal {
    Kill,
    Terminate,
}

/// The standard library knows SIGKILL only.
fn terminate(process: u32) -> std::io::Result<()> {
    let ended = Command::new("sh")
        .args(["-c", &format!("kill -TERM {process}")])
        .status()?;
    match ended.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("kill ended with {ended}"))),
    }
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::Failed(format!("{what}: {error}"))
}

fn first(addresses: &str) -> &str {
    addresses.split(',').next().unwrap_or_default()
}

fn read(pipe: ChildStderr, log: &Mutex<VecDeque<String>>, ready: &mpsc::Sender<Bound>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if line.contains("\"EM-0001\"")
            && let Ok(bound) = serde_json::from_str(&line)
        {
            let _ = ready.send(bound);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// For messages of tests.
impl std::fmt::Debug for TestHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directory: &Path = &self.directory;
        f.debug_struct("TestHub")
            .field("bound", &self.bound)
            .field("directory", &directory)
            .finish()
    }
}
