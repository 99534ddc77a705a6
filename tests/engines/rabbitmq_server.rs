//! A RabbitMQ of Debian's for tests, with a directory, ports and an Erlang name service of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{self, Process, free_port};

/// How many tests can share a server: each has a virtual host of its own.
const VHOSTS: usize = 40;
/// The largest body that the server takes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A server, whose data outlives its process.
pub struct Node {
    /// The server's, and before it that of the name service, without which it doesn't start, unless another has one.
    process: Option<(Process, Option<Process>)>,
    pub directory: TempDir,
    host: String,
    pub port: u16,
    /// Where it speaks TLS, once it has a certificate.
    pub tls_port: u16,
    dist_port: u16,
    names_port: u16,
    has_names: bool,
    /// All servers of its cluster, if it is to join one.
    members: Vec<String>,
    /// How many virtual hosts it has beside `/`, and how many of them are taken.
    vhosts: usize,
    taken: usize,
}

impl Node {
    pub fn new() -> Self {
        Self::at("127.0.0.1")
    }

    /// One that listens at this address.
    pub fn at(host: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        Self {
            process: None,
            directory,
            host: host.into(),
            port: free_port(),
            tls_port: free_port(),
            dist_port: free_port(),
            names_port: free_port(),
            has_names: true,
            members: vec![],
            vhosts: 0,
            taken: 0,
        }
    }

    /// One that finds a name service there.
    pub fn with_names_at(names_port: u16) -> Self {
        Self {
            names_port,
            has_names: false,
            ..Self::new()
        }
    }

    /// What other servers call it.
    pub fn name(&self) -> String {
        format!("em{}@localhost", self.port)
    }

    /// It joins the others at its first start.
    pub fn join(&mut self, members: &[String]) {
        self.members = members.to_vec();
        // By which they know each other.
        let cookie = self.path(".erlang.cookie");
        fs::write(&cookie, "TESTS").expect("a file");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).expect("its mode");
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it is told at its first start: users and virtual hosts. Passwords are the users' names; `guest`
    /// has all rights, `reader` may only read, and `nobody` may nothing.
    fn definitions(&self) -> Value {
        let vhosts = (0..self.vhosts).map(|n| format!("t{n}"));
        let vhosts: Vec<_> = vhosts.chain(["/".to_owned()]).collect();
        // SHA-256 of four bytes of salt and the password, behind the salt.
        let hashes = [
            ("guest", "em0BBIjzJL5JVDR6FRrXgX9Wb48Vku1ZA9TrEkLJYmdWNI/1"),
            ("reader", "em0BBTBQ53J/7vdefgi6nhWQFbk9uJxgEYMyCjmU4fFyyiyq"),
            ("nobody", "em0BBsJSC35Qmf9steBiualr1NpYFuo58OOQR2ewh5yyH35z"),
        ];
        let users = hashes.map(|(name, hash)| {
            json!({"name": name, "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "", "limits": {}})
        });
        let may = |user: &str, vhost: &str, write: &str| json!({"user": user, "vhost": vhost, "configure": write, "write": write, "read": ".*"});
        let all = vhosts.iter().map(|vhost| may("guest", vhost, ".*"));
        let permissions: Vec<_> = all.chain([may("reader", "/", "^$")]).collect();
        let vhosts: Vec<_> = vhosts.iter().map(|name| json!({"name": name})).collect();
        json!({"users": users, "vhosts": vhosts, "permissions": permissions})
    }

    /// From its next start on it serves TLS too: a certificate for localhost, its key, and the authority's
    /// certificate, `ca.pem`, are in its directory.
    pub fn certify(&self) {
        for arguments in [
            "-subj /CN=authority -keyout ca.key -out ca.pem",
            "-CA ca.pem -CAkey ca.key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
             -addext basicConstraints=critical,CA:FALSE -keyout hub.key -out hub.pem",
        ] {
            let made = Command::new("openssl")
                .current_dir(self.directory.path())
                .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
                .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(arguments.split_whitespace())
                .output();
            let made = made.expect("openssl is installed");
            assert!(made.status.success(), "{made:?}");
        }
    }

    /// Starts it; when this returns, it takes connections.
    pub fn start(&mut self) {
        let mut config = format!(
            "loopback_users = none\nload_definitions = {}\nmax_message_size = {BODY_BYTES_MAX}\ndisk_free_limit.absolute = 1MB\nlisteners.tcp.1 = {}:{}\n",
            self.path("definitions.json").display(),
            self.host,
            self.port
        );
        if !self.members.is_empty() {
            config += "cluster_formation.peer_discovery_backend = classic_config\n";
        }
        for (n, member) in self.members.iter().enumerate() {
            config += &format!(
                "cluster_formation.classic_config.nodes.{} = {member}\n",
                n + 1
            );
        }
        if self.path("hub.pem").exists() {
            let [certificate, key] = ["hub.pem", "hub.key"].map(|name| self.path(name));
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
                self.tls_port,
                certificate.display(),
                key.display()
            );
        }
        fs::write(self.path("rabbitmq.conf"), config).expect("a file");
        let definitions = self.definitions().to_string();
        fs::write(self.path("definitions.json"), definitions).expect("a file");
        let names = [
            "-port",
            &self.names_port.to_string(),
            "-address",
            "127.0.0.1",
        ];
        let names = self
            .has_names
            .then(|| Process::listening(Command::new("epmd").args(names), self.names_port));
        let mut command = self.command("rabbitmq-server");
        let process = Process::listening_at(&mut command, &self.host, self.port);
        self.process = Some((process, names));
    }

    /// A program of the server's, which knows which server is meant.
    fn command(&self, program: &str) -> Command {
        // The wrappers in PATH want to be the user that Debian made for its own server.
        let all = "/usr/lib/rabbitmq/lib";
        let found = fs::read_dir(all).expect("rabbitmq-server: `just engines` installs it");
        let versions = found.map(|entry| entry.expect("an entry").path().join("sbin"));
        let sbin = versions.max().expect("a version of it");
        let mut command = Command::new(sbin.join(program));
        let path = |name: &str| self.path(name).into_os_string();
        for (name, value) in [
            ("HOME", path("")),
            ("RABBITMQ_NODENAME", self.name().into()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("none")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_NODE_PORT", self.port.to_string().into()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string().into()),
            ("ERL_EPMD_PORT", self.names_port.to_string().into()),
            // So it is the process that we start, and not a child of it.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ] {
            command.env(name, value);
        }
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// `rabbitmqctl` with these arguments.
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.command("rabbitmqctl").args(arguments).output();
        let output = output.expect("rabbitmqctl runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How many messages of a quorum queue are not acknowledged. Others say that of ten seconds ago, or only
    /// of those that nobody has.
    pub fn left(&self, vhost: &str, queue: &str) -> u64 {
        let machine = format!("{}_{queue}", vhost.replace('/', "%2F"));
        // After a start it may have no leader for a while.
        let asked = format!(
            "Ask = fun(Ask, N) -> case ra:consistent_query({{'{machine}', node()}}, fun rabbit_fifo:query_messages_total/1) of {{ok, Left, _}} -> Left; _ when N > 0 -> timer:sleep(100), Ask(Ask, N - 1) end end, Ask(Ask, 100)."
        );
        self.control(&["eval", &asked])
            .trim()
            .parse()
            .expect("a number")
    }

    /// It keeps for minutes in its memory only which quorum queues there are.
    pub fn remember_queues(&self) {
        self.control(&[
            "eval",
            "[dets:sync(Table) || Table <- [ra_directory_reverse, ra_log_meta]].",
        ]);
    }

    pub fn process(&self) -> &Process {
        &self.process.as_ref().expect("it runs").0
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Has a public client do something in a virtual host.
    pub fn client(&self, vhost: &str, arguments: &[&str]) -> Value {
        server::client("rabbitmq_client.py", &self.url(vhost), arguments)
    }

    /// Where a virtual host is.
    pub fn url(&self, vhost: &str) -> String {
        format!(
            "amqp://{}:{}/{}",
            self.host,
            self.port,
            vhost.replace('/', "%2f")
        )
    }

    /// The server that tests share: it ends with the last of them.
    pub fn shared() -> (Arc<Mutex<Self>>, String) {
        static SHARED: Mutex<Weak<Mutex<Node>>> = Mutex::new(Weak::new());
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let node = shared.upgrade().unwrap_or_else(|| {
            let mut node = Self::new();
            node.vhosts = VHOSTS;
            node.start();
            Arc::new(Mutex::new(node))
        });
        *shared = Arc::downgrade(&node);
        let vhost = {
            let mut locked = node.lock().expect("it started");
            locked.taken += 1;
            assert!(locked.taken <= VHOSTS, "raise VHOSTS");
            format!("t{}", locked.taken - 1)
        };
        (node, vhost)
    }
}
