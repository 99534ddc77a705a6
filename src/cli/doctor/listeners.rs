//! Which TCP ports of this machine are listened on, and by whom, as far as /proc tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    inode: u64,
    /// Who has it, if we may see that.
    pub(super) process: Option<Process>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
}

impl Listening {
    /// One of a process.
    #[cfg(test)]
    pub(super) fn new(ip: IpAddr, port: u16, process: Option<(u32, &str)>) -> Self {
        let process = process.map(|(pid, name)| Process {
            pid,
            name: name.into(),
        });
        Self {
            ip,
            port,
            inode: 0,
            process,
        }
    }
}

/// The sockets that listen on one of these ports; empty where there is no /proc.
pub(super) fn listening_on(ports: &BTreeSet<u16>) -> Vec<Listening> {
    let mut found = vec![];
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        let lines = text.lines().filter_map(listening);
        found.extend(lines.filter(|socket| ports.contains(&socket.port)));
    }
    if !found.is_empty() {
        let owners = owners(found.iter().map(|socket| socket.inode).collect());
        for socket in &mut found {
            socket.process = owners.get(&socket.inode).cloned();
        }
    }
    found
}

/// A line of the kernel's table, if it is of a listening socket.
fn listening(line: &str) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let (ip, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some(Listening {
        ip: address(ip)?,
        port,
        inode,
        process: None,
    })
}

/// Words of 32 bits in hex, each in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let mut bytes = vec![];
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|ip| Ipv4Addr::from(ip).into()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|ip| Ipv6Addr::from(ip).into()),
        _ => None,
    }
}

/// The processes that hold these sockets.
fn owners(inodes: BTreeSet<u64>) -> BTreeMap<u64, Process> {
    let wanted: BTreeMap<String, u64> = inodes
        .into_iter()
        .map(|inode| (format!("socket:[{inode}]"), inode))
        .collect();
    let mut owners = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let fds = fs::read_dir(process.path().join("fd"));
        for fd in fds.into_iter().flatten().flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            if let Some(inode) = target.to_str().and_then(|target| wanted.get(target)) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                let name = name.trim_end().to_owned();
                owners.insert(*inode, Process { pid, name });
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_of_this_process_are_found() {
        for ip in ["127.0.0.1", "0.0.0.0", "[::1]"] {
            let Ok(listener) = TcpListener::bind(format!("{ip}:0")) else {
                assert_eq!(ip, "[::1]", "a machine without IPv6 is the only excuse");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let found = listening_on(&BTreeSet::from([address.port()]));
            let own = found
                .iter()
                .find(|socket| socket.ip == address.ip())
                .unwrap();
            assert_eq!(own.process.as_ref().unwrap().pid, std::process::id());
            drop(listener);
            let found = listening_on(&BTreeSet::from([address.port()]));
            assert!(found.iter().all(|socket| socket.inode != own.inode));
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(listening(heading), None);
        assert_eq!(listening(""), None);
        let line = |state| {
            format!(
                "   0: 00000000:1388 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0"
            )
        };
        assert_eq!(listening(&line("01")), None);
        let socket = listening(&line("0A")).unwrap();
        assert_eq!((socket.port, socket.inode), (5000, 4711));
        assert!(socket.ip.is_unspecified());
    }
}
