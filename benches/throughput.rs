//! What an event costs the daemon: `cargo bench --bench throughput`.
//!
//! The daemon is a process of its own. One thread here speaks ZMTP by hand, with blocks encoded
//! beforehand and a window of bytes under way, so that the daemon is the bottleneck and drops
//! nothing. Broker CPU per event comes from the kernel's accounting of that process; on a shared
//! machine it is the figure to trust.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench"
)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(2);
const WINDOW_BYTES: u64 = 1 << 20;
const ROUNDS: usize = 3;

fn main() {
    println!(
        "{:<24} {:>8} {:>12} {:>12} {:>10}",
        "scenario", "bytes", "events/s", "CPU µs", "MiB"
    );
    for (receivers, sizes) in [(1, &[64, 256, 1024, 16384][..]), (8, &[64, 1024])] {
        for &size in sizes {
            let mut rounds: Vec<_> = (0..ROUNDS).map(|_| run(receivers, size)).collect();
            rounds.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
            let median = &rounds[ROUNDS / 2];
            let scenario = format!("1 publisher, {receivers} subscribers");
            println!(
                "{scenario:<24} {size:>8} {:>12.0} {:>12.3} {:>10}",
                median.rate, median.cpu_us, median.mib
            );
        }
    }
}

struct Round {
    rate: f64,
    cpu_us: f64,
    mib: u64,
}

struct Daemon {
    process: Child,
    publishers: String,
    subscribers: String,
}

impl Daemon {
    fn start() -> Self {
        let any = "tcp://127.0.0.1:0";
        let mut process = Command::new(env!("CARGO_BIN_EXE_event-manager"))
            .args([
                "serve",
                "--embedded-locator=false",
                "--locator-register=false",
            ])
            .args([
                "--pub-address",
                any,
                "--sub-address",
                any,
                "--request-address",
                any,
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stderr.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let address = |name: &str| {
            let quoted = ready
                .split(&format!("{name}=\"tcp://"))
                .nth(1)
                .unwrap_or_else(|| panic!("{ready}"));
            quoted.split('"').next().unwrap().to_owned()
        };
        Self {
            publishers: address("publishers"),
            subscribers: address("subscribers"),
            process,
        }
    }

    fn cpu_us(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let ns = tasks.map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<f64>().unwrap()
        });
        ns.sum::<f64>() / 1000.0
    }

    fn peak_mib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A connection whose handshake is done.
fn connect(address: &str, socket_type: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut hello = [0; 64];
    hello[0] = 0xFF;
    hello[9..12].copy_from_slice(&[0x7F, 3, 1]);
    hello[12..16].copy_from_slice(b"NULL");
    stream.write_all(&hello).unwrap();
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
    ready.push(socket_type.len() as u8);
    ready.extend_from_slice(socket_type.as_bytes());
    stream
        .write_all(&[&[4, ready.len() as u8], &ready[..]].concat())
        .unwrap();
    let mut answer = [0; 66];
    stream.read_exact(&mut answer).unwrap();
    stream.read_exact(&mut vec![0; answer[65].into()]).unwrap();
    stream
}

fn event(size: usize) -> Vec<u8> {
    let mut event = b"\x01\x07subject".to_vec();
    if size < 256 {
        event.extend_from_slice(&[0, size as u8]);
    } else {
        event.push(2);
        event.extend_from_slice(&(size as u64).to_be_bytes());
    }
    event.resize(event.len() + size, b'x');
    event
}

fn run(receivers: usize, size: usize) -> Round {
    let daemon = Daemon::start();
    let mut subscribers: Vec<_> = (0..receivers)
        .map(|_| connect(&daemon.subscribers, "SUB"))
        .collect();
    for subscriber in &mut subscribers {
        subscriber
            .write_all(b"\x04\x0a\x09SUBSCRIBE\x04\x0b\x04PING\0\0last")
            .unwrap();
        subscriber.read_exact(&mut [0; 11]).unwrap();
        subscriber.set_nonblocking(true).unwrap();
    }
    let mut publisher = connect(&daemon.publishers, "PUB");
    publisher.set_nonblocking(true).unwrap();
    let event = event(size);
    let block = event.repeat((128 << 10) / event.len() + 1);
    let (mut sent, mut at, mut received) = (0u64, 0, vec![0u64; receivers]);
    let mut buffer = vec![0; 1 << 20];
    let (cpu, begun) = (daemon.cpu_us(), Instant::now());
    // Whole blocks are sent to the end, so that what arrives can be counted in events.
    loop {
        let ending = begun.elapsed() > SECONDS && at == 0;
        let slowest = *received.iter().min().unwrap();
        if ending && slowest == sent {
            break;
        }
        if !ending && sent - slowest < WINDOW_BYTES {
            match publisher.write(&block[at..]) {
                Ok(n) => {
                    sent += n as u64;
                    at = (at + n) % block.len();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        for (subscriber, received) in subscribers.iter_mut().zip(&mut received) {
            match subscriber.read(&mut buffer) {
                Ok(n) => *received += n as u64,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    let events = (sent / event.len() as u64) as f64;
    let rate = events / begun.elapsed().as_secs_f64();
    Round {
        rate,
        cpu_us: (daemon.cpu_us() - cpu) / events,
        mib: daemon.peak_mib(),
    }
}
