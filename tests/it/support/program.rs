//! The program as its users run it: arguments, variables, files and signals in, text and an exit
//! code out.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager::reactor::Bound;
use event_manager_client::blocking::Client;
use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;
use serde_json::Value;
use tempfile::TempDir;

use super::process::{self, settings};
use super::{PATIENCE, TestDaemon, tunnel};

/// A directory of its own in which programs run, with nothing of the tester's environment. They have
/// keys, if daemons want some.
pub struct Site {
    directory: Arc<TempDir>,
    environment: Vec<(String, String)>,
}

impl Site {
    pub fn new() -> Self {
        Self {
            directory: Arc::new(tempfile::tempdir().expect("a directory")),
            environment: tunnel::variables(),
        }
    }

    /// With a `config.json` of these keys, over those with which tests run daemons.
    pub fn configured(keys: &Value) -> Self {
        let site = Self::new();
        site.write("config.json", &format!("{:#}", settings(keys)));
        site
    }

    /// Its commands talk to this daemon.
    pub fn of(daemon: &TestDaemon) -> Self {
        Self::new().with("EVENT_MANAGER_ADDRESS", &daemon.requests())
    }

    /// With this variable in the environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// A command with pipes for all that it reads and writes.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_event-manager"));
        command.args(arguments);
        self.within(command)
    }

    fn within(&self, mut command: Command) -> Command {
        command
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Has a shell start the daemon: the script's `$0` is the program. Its standard input and output are
    /// these, for it to give them other numbers.
    pub fn start_by_shell(&self, script: &str, input: OwnedFd, output: OwnedFd) -> Program {
        let daemon = self.command(&[]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .arg(daemon.get_program())
            .current_dir(self.directory.path())
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped());
        self.spawn(&mut shell)
    }

    /// Has a program run a command, which is its last arguments.
    pub fn start_in(&self, program: &[String], command: &[&str]) -> Program {
        let mut all = Command::new(&program[0]);
        all.args(&program[1..]).args(command);
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.spawn(self.within(all).env("PATH", path))
    }

    pub fn start(&self, arguments: &[&str]) -> Program {
        self.spawn(&mut self.command(arguments))
    }

    /// Starts it in a terminal of its own, 30 rows of 120 columns, by way of util-linux's `script`.
    /// What the terminal shows is its output; then `code=N` comes. The terminal's settings before and
    /// after are in the files `before` and `after`, its process in `pid`.
    pub fn start_in_terminal(&self, arguments: &[&str]) -> Program {
        let line = format!(
            "stty rows 30 cols 120; stty -a > before; \
             sh -c 'echo $$ > pid; exec \"$0\" \"$@\"' {} {}; \
             echo code=$?; stty -a > after",
            env!("CARGO_BIN_EXE_event-manager"),
            arguments.join(" ")
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        let mut command = self.within(command);
        command.env("TERM", "xterm");
        self.spawn(&mut command)
    }

    fn spawn(&self, command: &mut Command) -> Program {
        let program = command.get_program().to_owned();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?} can't be run: {error}"));
        Program {
            stdout: child.stdout.take().map(Written::from),
            stderr: child.stderr.take().map(Written::from),
            child,
            _directory: Arc::clone(&self.directory),
        }
    }

    /// Runs a command to its end, with nothing on its standard input.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.fed(arguments, "")
    }

    /// Runs a command to its end, with this on its standard input.
    pub fn fed(&self, arguments: &[&str], input: &str) -> Ended {
        let mut program = self.start(arguments);
        let mut stdin = program.child.stdin.take().expect("it is piped");
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        program.end()
    }
}

/// What was written to a pipe so far.
#[derive(Debug)]
struct Written {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Written {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::<Mutex<String>>::default();
        let reader = std::thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut bytes) {
                    let read = String::from_utf8_lossy(&bytes[..n]);
                    text.lock().expect("no panic").push_str(&read);
                }
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    fn all(mut self) -> String {
        let reader = self.reader.take().expect("it is joined once");
        reader.join().expect("no panic");
        self.so_far()
    }
}

/// A program that runs; it is killed if nobody waits for its end.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdout: Option<Written>,
    stderr: Option<Written>,
    /// It is there as long as the program runs.
    _directory: Arc<TempDir>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Its output, if it did what it was asked and complained of nothing.
    pub fn done(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""));
        self.stdout
    }

    /// Its complaint, if it ended with this code and printed nothing else.
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        self.stderr
    }
}

impl Program {
    /// What it has printed.
    pub fn output(&self) -> String {
        self.stdout.as_ref().expect("it runs").so_far()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.stderr.as_ref().expect("it runs").so_far()
    }

    /// Waits until it has printed so many lines; all that it has printed.
    pub fn printed(&self, lines: usize) -> String {
        wait_until(|| {
            let output = self.output();
            (output.lines().count() >= lines).then_some(output)
        })
        .unwrap_or_else(|| panic!("{lines} lines are wanted: {self:#?}"))
    }

    /// Waits until it has logged a line with this text; the line.
    pub fn logged(&self, text: &str) -> String {
        wait_until(|| {
            let log = self.log();
            let whole_lines = &log[..log.rfind('\n')?];
            let mut lines = whole_lines.lines();
            lines.find(|line| line.contains(text)).map(str::to_owned)
        })
        .unwrap_or_else(|| panic!("{text:?} is not logged: {self:#?}"))
    }

    /// Gives it this to read, and no end.
    pub fn types(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(keys.as_bytes()).expect("it reads");
        stdin.flush().expect("it reads");
    }

    /// Nothing more comes for it to read.
    pub fn ends_input(&mut self) {
        self.child.stdin.take();
    }

    /// The system's number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        process::signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let code = wait_until(|| self.child.try_wait().expect("a child"))
            .unwrap_or_else(|| panic!("it does not end: {self:#?}"))
            .code();
        let mut text = |written: fn(&mut Self) -> &mut Option<Written>| {
            written(&mut self)
                .take()
                .map_or_else(String::new, Written::all)
        };
        Ended {
            code,
            stdout: text(|program| &mut program.stdout),
            stderr: text(|program| &mut program.stderr),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something, with patience.
pub fn wait_until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= deadline {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `event-manager locator` on a free port, ready, and its address.
pub fn locator() -> (Program, String) {
    let program = Site::new().start(&["locator", "--address", "tcp://127.0.0.1:0"]);
    let line = program.logged("the ServiceLocator is ready");
    let (_, address) = line.split_once("address=").expect("an address");
    tunnel::spare(address);
    (program, address.to_owned())
}

/// `event-manager serve`, ready.
pub struct Serving {
    pub program: Program,
    bound: Bound,
    http: Option<SocketAddr>,
}

impl Serving {
    /// Waits until it logs that it is ready.
    pub fn ready(program: Program) -> Self {
        let ready = program.logged("EM-0001");
        Self {
            program,
            bound: bound_from(&ready),
            http: field_of(&ready, "http").parse().ok(),
        }
    }

    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Where it serves HTTP.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Its state, as it answers to STATUS.
    pub fn status(&self) -> Status {
        let address = self.bound.requests[0].to_string();
        let mut client = Client::new(address, PATIENCE).with_keys(tunnel::keys());
        client.status().expect("it answers")
    }

    /// Stops it; whether it ended well.
    pub fn stop(self) -> bool {
        self.program.signal("TERM");
        self.program.end().code == Some(0)
    }
}

/// The addresses in the line that says that the daemon is ready, in either format.
fn bound_from(line: &str) -> Bound {
    let addresses = |field: &str| -> Vec<Endpoint> {
        let value = field_of(line, field);
        let addresses = value.split(',');
        addresses.filter_map(|text| text.parse().ok()).collect()
    };
    Bound {
        publishers: addresses("publishers"),
        subscribers: addresses("subscribers"),
        requests: addresses("requests"),
        locator: addresses("locator").pop(),
    }
}

fn field_of(line: &str, field: &str) -> String {
    let record: Value = serde_json::from_str(line).unwrap_or_default();
    let in_text = || {
        line.split_once(&format!(" {field}=\""))?
            .1
            .split('"')
            .next()
    };
    let value = record[field].as_str().or_else(in_text);
    value.expect("a field of the line").to_owned()
}
