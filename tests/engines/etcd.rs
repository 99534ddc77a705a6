//! Leases at etcd.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::{Broker, Message};
use super::leases::keeps_leases;
use super::server::{self, Process, free_port, installed, secret};
use super::standby::{Machine, serving, stands_by};
use super::support::TestDaemon;
use super::support::program::{Site, wait_until};
use super::support::shared_directory::SharedDirectory;

/// Servers of one cluster.
struct Etcd {
    members: Vec<Member>,
}

struct Member {
    process: Option<Process>,
    directory: TempDir,
    /// For clients, and for the others.
    ports: [u16; 2],
}

impl Etcd {
    fn of(members: usize) -> Self {
        let member = || Member {
            process: None,
            directory: TempDir::new().expect("a directory"),
            ports: [(); 2].map(|()| free_port()),
        };
        Self {
            members: (0..members).map(|_| member()).collect(),
        }
    }

    fn run(&mut self, more: &[&str]) {
        let scheme = scheme(more);
        let all = self.members.iter().enumerate();
        let all: Vec<_> = all
            .map(|(n, member)| format!("m{n}=http://127.0.0.1:{}", member.ports[1]))
            .collect();
        for (n, member) in self.members.iter_mut().enumerate() {
            let [clients, peers] = member.ports;
            let clients_at = format!("{scheme}://127.0.0.1:{clients}");
            let peers_at = format!("http://127.0.0.1:{peers}");
            let mut command = Command::new(installed("etcd"));
            command
                .args(["--name", &format!("m{n}"), "--data-dir"])
                .arg(member.directory.path().join("data"))
                .args(["--listen-client-urls", &clients_at])
                .args(["--advertise-client-urls", &clients_at])
                .args(["--listen-peer-urls", &peers_at])
                .args(["--initial-advertise-peer-urls", &peers_at])
                .args(["--initial-cluster", &all.join(",")])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .args(more);
            member.process = Some(Process::listening(&mut command, peers));
        }
    }

    fn urls(&self, scheme: &str) -> Vec<String> {
        let ports = self.members.iter().map(|member| member.ports[0]);
        ports
            .map(|port| format!("{scheme}://127.0.0.1:{port}"))
            .collect()
    }

    fn each(&self, act: impl Fn(&Process)) {
        let processes = self.members.iter();
        processes.for_each(|member| act(member.process.as_ref().expect("it runs")));
    }
}

fn scheme(more: &[&str]) -> &'static str {
    match more.contains(&"--cert-file") {
        true => "https",
        false => "http",
    }
}

impl Broker for Etcd {
    const TYPE: &str = "etcd";
    const TO: &str = "";
    const KNOWS_IDS: bool = true;

    fn new() -> Self {
        Self::of(1)
    }

    fn start(&mut self) {
        self.run(&[]);
    }

    fn kill(&mut self) {
        self.members.iter_mut().for_each(|one| one.process = None);
    }

    fn stand_still(&self) {
        self.each(Process::stand_still);
    }

    fn go_on(&self) {
        self.each(Process::go_on);
    }

    fn url(&self) -> String {
        self.urls("http").remove(0)
    }

    fn prepare(&self) {}

    fn read(&self, _: usize) -> Vec<Message> {
        unreachable!("it takes no events")
    }

    fn too_many_bytes(&self) -> usize {
        unreachable!("it takes no events")
    }
}

stands_by!(Etcd);
keeps_leases!(Etcd);

fn renewals(daemon: &TestDaemon) -> u64 {
    daemon.status().lease.expect("it is held").renewals
}

/// It is renewed once more, which was asked for after this.
fn goes_on(daemon: &TestDaemon) {
    let before = renewals(daemon);
    let renewed = wait_until(|| (renewals(daemon) > before + 1).then_some(()));
    renewed.expect("a renewal");
}

#[test]
fn of_three_servers_any_may_be_cut_off() {
    let mut etcd = Etcd::of(3);
    etcd.run(&[]);
    let directory = SharedDirectory::new();
    let engine = json!({"type": "etcd", "servers": etcd.urls("http")});
    let machine = Machine::at(&engine, &directory, &json!({"ttl": 6}));
    let daemon = serving(machine.start());
    let token = || daemon.status().lease.expect("it is held").token;
    let first = token();
    for member in &etcd.members {
        let process = member.process.as_ref().expect("it runs");
        process.stand_still();
        goes_on(&daemon);
        process.go_on();
    }
    assert_eq!(token(), first);
    assert!(daemon.stop());
}

#[test]
fn by_tls_and_with_a_password() {
    let secrets = TempDir::new().expect("a directory");
    let made = Command::new("openssl")
        .current_dir(secrets.path())
        .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=etcd".split(' '))
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args("-keyout etcd.key -out etcd.pem".split(' '))
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let path = |name: &str| secrets.path().join(name).display().to_string();
    let mut etcd = Etcd::of(1);
    etcd.run(&[
        "--cert-file",
        &path("etcd.pem"),
        "--key-file",
        &path("etcd.key"),
    ]);
    let url = etcd.urls("https").remove(0);
    server::client(
        "etcd_client.py",
        &url,
        &["protect", &path("etcd.pem"), "em", "secret-1"],
    );
    let directory = SharedDirectory::new();
    let machine = |more: &Value| {
        let mut engine = json!({"type": "etcd", "servers": [url], "caFile": path("etcd.pem")});
        let more = more.as_object().expect("an object").clone();
        engine.as_object_mut().expect("an object").extend(more);
        Machine::at(&engine, &directory, &json!({}))
    };
    let password = secret(secrets.path(), "secret-1\n");
    let daemon = serving(machine(&json!({"user": "em", "passwordFile": password})).start());
    goes_on(&daemon);
    assert!(daemon.stop());
    // What is refused is said, and nobody serves.
    let unnamed = machine(&json!({})).start();
    unnamed.logged("user name is empty");
    let wrong = TempDir::new().expect("a directory");
    let wrong = secret(wrong.path(), "secret-2");
    let refused = machine(&json!({"user": "em", "passwordFile": wrong})).start();
    let line = refused.logged("user and passwordFile: it answers 4");
    assert!(!line.contains("secret-2"), "{line}");
}

#[test]
fn who_is_no_etcd_is_told() {
    let site = Site::configured(&json!({
        "stateDir": "state",
        "engines": {"main": {"type": "etcd", "servers": "http://h:2379/v3"}},
        "lease": {"source": "main"},
    }));
    let said = site.run(&["check"]).failed(78);
    assert!(
        said.contains("behind the scheme stand a host and a port"),
        "{said}"
    );
    // It answers, and is none.
    let other = TestDaemon::in_own_process(&json!({"httpAddress": "127.0.0.1:0"}));
    let directory = SharedDirectory::new();
    let url = format!("http://{}", other.http());
    let engine = json!({"type": "etcd", "servers": [url]});
    let standby = Machine::at(&engine, &directory, &json!({})).start();
    standby.logged("is that an etcd of 3.4 or later?");
}
