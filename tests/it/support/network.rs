//! A network of several other machines: network namespaces at one bridge, which takes root and iproute2.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::other_machine::{ip, run};

/// The machines, and this one, which reaches all of them.
pub struct Network {
    id: String,
    /// Three bytes of all addresses.
    prefix: String,
    machines: AtomicU32,
}

/// One of them, with a link to the others. It is gone with this.
pub struct Machine {
    /// The name of its namespace.
    pub name: String,
    pub address: String,
    link: Link,
}

/// Between a machine and a network.
#[allow(dead_code, reason = "some of it is for the tests with engines")]
pub struct Link {
    machine: String,
    address: String,
    /// The network's bridge, and our address there.
    bridge: String,
    ours: String,
    /// Its ends: one at the bridge, one in the machine.
    near: String,
    far: &'static str,
}

/// What goes to this address of a link is for nobody.
const NOBODY: &str = "02:00:00:00:00:01";

/// Whether there can be any here.
pub fn can_be_had() -> bool {
    let user = Command::new("id").arg("-u").output().expect("id");
    let mut ip = Command::new("ip");
    let ip = ip.arg("-V").stdout(Stdio::null()).status();
    user.stdout == b"0\n" && ip.is_ok()
}

impl Network {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // 198.18.0.0/15 is for tests of networks: nobody's, and nothing that local networks use. Others may
        // run the same tests beside us.
        let number = (pid.wrapping_mul(7) + count) % 512;
        let this = Self {
            id: format!("em{pid}-{count}"),
            prefix: format!("198.{}.{}", 18 + number / 256, number % 256),
            machines: AtomicU32::new(0),
        };
        let (id, ours) = (&this.id, this.ours());
        ip(&format!("link add {id} type bridge"));
        ip(&format!("addr add {ours}/24 dev {id}"));
        ip(&format!("link set {id} up"));
        this
    }

    /// Our address in it.
    pub fn ours(&self) -> String {
        format!("{}.1", self.prefix)
    }

    /// One more machine.
    pub fn machine(&self) -> Machine {
        let name = format!("{}-{}", self.id, self.machines.load(Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let link = self.link(&name, "eth0");
        Machine {
            address: link.address.clone(),
            name,
            link,
        }
    }

    /// A second link of a machine of another network.
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn link_of(&self, machine: &Machine) -> Link {
        self.link(&machine.name, "eth1")
    }

    fn link(&self, machine: &str, far: &'static str) -> Link {
        let n = self.machines.fetch_add(1, Ordering::Relaxed);
        let bridge = &self.id;
        let link = Link {
            machine: machine.to_owned(),
            address: format!("{}.{}", self.prefix, n + 2),
            bridge: bridge.clone(),
            ours: self.ours(),
            near: format!(
                "{bridge}{}",
                char::from(b'a' + u8::try_from(n).expect("few"))
            ),
            far,
        };
        let Link { near, address, .. } = &link;
        ip(&format!(
            "link add {near} type veth peer name {far} netns {machine}"
        ));
        ip(&format!("link set {near} master {bridge} up"));
        ip(&format!("-n {machine} addr add {address}/24 dev {far}"));
        ip(&format!("-n {machine} link set {far} up"));
        link
    }
}

impl Machine {
    /// See [`Link::set_cut`].
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn set_cut(&self, is_cut: bool) {
        self.link.set_cut(is_cut);
    }

    /// What runs a program there.
    pub fn shell(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// So much goes over its link from now on, each way, such as `10kbit`.
    pub fn set_rate(&self, rate: &str) {
        let qdisc = |interface: &str| {
            format!("qdisc replace dev {interface} root tbf rate {rate} burst 4kb limit 16kb")
        };
        run("tc", &qdisc(&self.link.near));
        let far = qdisc(self.link.far);
        ip(&format!("netns exec {} tc {far}", self.name));
    }

    /// How many bytes have gone to it.
    pub fn received_bytes(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.link.near);
        let said = std::fs::read_to_string(path).expect("its link");
        said.trim().parse().expect("a number")
    }
}

#[allow(dead_code, reason = "for the tests with engines")]
impl Link {
    /// It is down, or up again. The machine isn't told more than by a cable that is pulled.
    pub fn set_cut(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.near));
    }

    /// What the machine sends us is lost without a word, or what we send it.
    pub fn lose(&self, theirs: bool, ours: bool) {
        let there = format!("{} dev {}", self.ours, self.far);
        let here = format!("{} dev {}", self.address, self.bridge);
        let from = format!("-n {} ", self.machine);
        for (at, to, is_lost) in [(&*from, there, theirs), ("", here, ours)] {
            let state = match is_lost {
                true => format!("lladdr {NOBODY} nud permanent"),
                false => "nud none".to_owned(),
            };
            ip(&format!("{at}neigh replace {to} {state}"));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        delete(&["netns", "del", &self.name]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        delete(&["link", "del", &self.id]);
    }
}

fn delete(what: &[&str]) {
    let _ = Command::new("ip").args(what).status();
}
