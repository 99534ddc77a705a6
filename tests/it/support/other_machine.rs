//! Another machine: a network namespace, which takes root and iproute2.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::raw::tcp_address;

/// A network with one other machine on it, as far as the kernel is concerned.
pub struct OtherMachine {
    name: String,
    /// Our address.
    pub ours: String,
    its: String,
}

impl OtherMachine {
    /// Its address and ours are in this network, of which three bytes are given.
    pub fn in_network(network: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{count}", std::process::id());
        let this = Self {
            name: format!("event-manager-{id}"),
            ours: format!("{network}.1"),
            its: format!("{network}.2"),
        };
        let Self { name, ours, its } = &this;
        let (near, far) = (format!("em{id}a"), format!("em{id}b"));
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {near} type veth peer name {far} netns {name}"
        ));
        ip(&format!("addr add {ours}/30 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {name} addr add {its}/30 dev {far}"));
        ip(&format!("-n {name} link set {far} up"));
        this
    }

    /// A connection from there: what is written to the process's standard input is sent, what
    /// comes back is not read.
    pub fn connect(&self, address: &str) -> Child {
        let script = "exec 3<>/dev/tcp/$0/$1; cat >&3";
        let (host, port) = tcp_address(address).split_once(':').expect("a port");
        Command::new("ip")
            .args([
                "netns", "exec", &self.name, "bash", "-c", script, host, port,
            ])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip and bash")
    }

    /// It is gone without a word: nobody answers at its address any more.
    pub fn vanish(&self) {
        ip(&format!("-n {} addr flush to {}", self.name, self.its));
    }
}

impl Drop for OtherMachine {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Has iproute2 do something.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a program, which ends well.
pub fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status();
    assert!(status.expect(program).success(), "{program} {arguments}");
}
