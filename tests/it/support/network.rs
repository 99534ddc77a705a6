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
    /// The end of its link that is not in it.
    link: String,
}

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
        let n = self.machines.fetch_add(1, Ordering::Relaxed);
        let id = &self.id;
        let machine = Machine {
            name: format!("{id}-{n}"),
            address: format!("{}.{}", self.prefix, n + 2),
            link: format!("{id}{}", char::from(b'a' + u8::try_from(n).expect("few"))),
        };
        let Machine {
            name,
            address,
            link,
        } = &machine;
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {link} type veth peer name eth0 netns {name}"
        ));
        ip(&format!("link set {link} master {id} up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        machine
    }
}

impl Machine {
    /// Its link is down, or up again. It isn't told more than by a cable that is pulled.
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn set_cut(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.link));
    }

    /// So much goes over its link from now on, each way, such as `10kbit`.
    pub fn set_rate(&self, rate: &str) {
        let qdisc = |interface: &str| {
            format!("qdisc replace dev {interface} root tbf rate {rate} burst 4kb limit 16kb")
        };
        run("tc", &qdisc(&self.link));
        ip(&format!("netns exec {} tc {}", self.name, qdisc("eth0")));
    }

    /// How many bytes have gone to it.
    pub fn received_bytes(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.link);
        let said = std::fs::read_to_string(path).expect("its link");
        said.trim().parse().expect("a number")
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
