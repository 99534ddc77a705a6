//! A daemon in a process of its own, for what is measured or limited by process. The process is
//! this test binary once more, told by an environment variable to run [`entry`] alone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use event_manager::daemon::Daemon;
use event_manager::reactor::Bound;
use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::bus::host_of_test;
use super::network::Machine;
use super::{PATIENCE, SERVICE_PORTS, tunnel};

/// Holds the keys of `config.json` for the daemon to be run.
const SETTINGS: &str = "EVENT_MANAGER_TEST_SETTINGS";
/// Holds the most file descriptors that it may open.
const FDS_MAX: &str = "EVENT_MANAGER_TEST_FDS_MAX";
/// Begins each line that is meant for the parent, among those of the test harness.
const MARK: &str = "\u{1}daemon ";

/// The daemon's process. It ends with this, also if the test panics or is killed.
#[derive(Debug)]
pub struct DaemonProcess {
    child: Mutex<Child>,
    pid: u32,
    dialogue: Mutex<Dialogue>,
    bound: Bound,
    http: Option<SocketAddr>,
}

/// Lines go in, lines come out.
#[derive(Debug)]
struct Dialogue {
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Dialogue {
    fn ask(&mut self, word: &str) -> Value {
        let words = self.words.as_mut().expect("it was not told to stop");
        writeln!(words, "{word}").expect("the process runs");
        self.next_answer()
    }

    fn next_answer(&mut self) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.answers.read_line(&mut line).expect("text");
            assert!(n > 0, "the daemon's process ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                return serde_json::from_str(answer).expect("JSON");
            }
        }
    }
}

impl DaemonProcess {
    /// Starts it with [`settings`].
    pub fn start(keys: &Value, fds_max: Option<u64>) -> Self {
        Self::start_among(keys, fds_max, &[])
    }

    /// The same with these variables.
    pub fn start_among(keys: &Value, fds_max: Option<u64>, variables: &[(String, String)]) -> Self {
        let command = Command::new(std::env::current_exe().expect("a path"));
        Self::start_by(command, keys, fds_max, variables)
    }

    /// The same at another machine, which has the same files.
    pub fn start_at(keys: &Value, machine: &Machine, variables: &[(String, String)]) -> Self {
        let [ip, rest @ ..] = machine.shell();
        let mut command = Command::new(ip);
        command
            .args(rest)
            .arg(std::env::current_exe().expect("a path"));
        Self::start_by(command, keys, None, variables)
    }

    /// `command` is this program, by whatever way.
    fn start_by(
        mut command: Command,
        keys: &Value,
        fds_max: Option<u64>,
        variables: &[(String, String)],
    ) -> Self {
        command
            .envs(variables.iter().cloned())
            .args(["--exact", "support::process::entry"])
            .args(["--ignored", "--nocapture"])
            .env(SETTINGS, settings(keys).to_string())
            // What is freed goes back at once: what is resident is in use.
            .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(fds_max) = fds_max {
            command.env(FDS_MAX, fds_max.to_string());
        }
        let mut child = command.spawn().expect("a process");
        let mut dialogue = Dialogue {
            words: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
        };
        let addresses = dialogue.next_answer();
        let http = addresses["http"].as_str();
        Self {
            pid: child.id(),
            child: Mutex::new(child),
            dialogue: Mutex::new(dialogue),
            bound: bound_from(&addresses),
            http: http.map(|address| address.parse().expect("an address")),
        }
    }

    /// Where it serves HTTP.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// The system's number of the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its state, as the STATUS request shows it.
    pub fn status(&self) -> Status {
        let status = self.dialogue.lock().expect("no panic").ask("status");
        serde_json::from_value(status).expect("a status")
    }

    /// Memory that is resident now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that ever was resident, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Memory that holds parts of files, such as the program itself, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.memory("RssFile:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    /// Open file descriptors.
    pub fn open_fds(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid));
        fds.expect("the process runs").count()
    }

    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.read("stat");
        let (_, after_name) = stat.rsplit_once(") ").expect("the form of proc(5)");
        let ticks = after_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|n| n.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The processor time of its threads with this name, to the nanosecond.
    pub fn thread_time(&self, name: &str) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the process runs");
        let paths = tasks.map(|task| task.expect("a thread").path());
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
        let named = paths.filter(|path| read(path.join("comm")).trim() == name);
        let times = named.filter_map(|path| {
            let times = read(path.join("schedstat"));
            times.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).expect("the process runs")
    }

    /// Sends a signal, such as `STOP`, `CONT` or `KILL`.
    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Stops the daemon and waits for the process; whether all ended well.
    pub fn stop(self) -> bool {
        self.dialogue.lock().expect("no panic").words.take();
        self.wait()
    }

    fn wait(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut child = self.child.lock().expect("no panic");
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.success();
            }
            if Instant::now() >= deadline {
                child.kill().expect("a child");
                child.wait().expect("a child");
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let child = child.unwrap_or_else(std::sync::PoisonError::into_inner);
        // After a stop that ended well it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A `config.json` with free ports and without a locator; `keys` are written over those.
pub fn settings(keys: &Value) -> Value {
    let host = host_of_test();
    let any = format!("tcp://{host}:0");
    let mut all = json!({
        "pubAddress": any,
        "subAddress": any,
        "requestAddress": any,
        "httpAddress": "off",
        "pullAddress": format!("tcp://{host}"),
        "minStreamerPort": SERVICE_PORTS.start(),
        "maxStreamerPort": SERVICE_PORTS.end(),
        "publicHostname": host,
        "locatorRegister": false,
        "embeddedLocator": false,
        "drainTimeout": 2,
        "subscriberGrace": 0,
        "subscriptionTtl": 600,
        "stateDir": "",
    });
    for (key, value) in keys.as_object().expect("an object") {
        all[key] = value.clone();
    }
    if tunnel::is_on() && keys.get("security").is_none() {
        all["security"] = tunnel::security();
        tunnel::dialling_of(&mut all);
    }
    all
}

/// Sends a signal to a process. After `STOP`, none of its threads runs any more when this returns.
pub fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("a shell").success());
    let deadline = Instant::now() + PATIENCE;
    // The system stops them one by one, where each of them is.
    while name == "STOP" && !stands_still(pid) {
        assert!(Instant::now() < deadline, "{pid} doesn't stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn stands_still(pid: u32) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks.all(|task| {
        let stat = fs::read_to_string(task.expect("a thread").path().join("stat"));
        // The state stands behind the name, which is in brackets.
        let state = stat
            .ok()
            .and_then(|stat| stat.rsplit(')').next().map(|rest| rest.starts_with(" T")));
        state == Some(true)
    })
}

fn bound_from(addresses: &Value) -> Bound {
    let endpoint = |address: &Value| -> Endpoint {
        let address = address.as_str().expect("an address");
        address.parse().expect("an address")
    };
    let all = |name: &str| {
        let addresses = addresses[name].as_array().expect("a list");
        addresses.iter().map(endpoint).collect()
    };
    Bound {
        publishers: all("publishers"),
        subscribers: all("subscribers"),
        requests: all("requests"),
        locator: (!addresses["locator"].is_null()).then(|| endpoint(&addresses["locator"])),
    }
}

fn addresses(daemon: &Daemon) -> Value {
    let bound = daemon.bound();
    let all = |endpoints: &[Endpoint]| -> Vec<String> {
        endpoints.iter().map(ToString::to_string).collect()
    };
    json!({
        "publishers": all(&bound.publishers),
        "subscribers": all(&bound.subscribers),
        "requests": all(&bound.requests),
        "locator": bound.locator.as_ref().map(ToString::to_string),
        "http": daemon.http().map(|address| address.to_string()),
    })
}

fn answer(value: &Value) {
    println!("{MARK}{value}");
}

#[test]
#[ignore = "what the process of a DaemonProcess runs"]
fn entry() {
    let Ok(settings) = std::env::var(SETTINGS) else {
        return;
    };
    if let Some(fds_max) = std::env::var(FDS_MAX).ok().and_then(|max| max.parse().ok()) {
        rlimit::setrlimit(rlimit::Resource::NOFILE, fds_max, fds_max).expect("a limit");
    }
    let loaded = event_manager::config::parse(SETTINGS, &settings, &Default::default(), &[]);
    let daemon = Daemon::start(loaded.expect("settings").config).expect("the daemon starts");
    answer(&addresses(&daemon));
    for word in std::io::stdin().lines() {
        assert_eq!(word.expect("text"), "status");
        answer(&serde_json::to_value(daemon.status()).expect("JSON"));
    }
    assert!(daemon.stop(), "a thread of the daemon panicked");
}
