//! Redis: its pub/sub, and streams with a consumer group and an append-only file.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Broker, Setup, is_durable, is_plain_fan, is_workers, missing_program, program};
use crate::client::{Fixed, Framing, Publisher, Receiver, payload};
use crate::process::{Process, connect_soon, free_port};
use crate::scenario::{Kind, Scenario};

const PATIENCE: Duration = Duration::from_secs(10);
/// Entries that a worker takes at once.
const COUNT: &str = "128";

pub struct Redis {
    /// None: pub/sub; else streams, and when their file is synced.
    pub synced: Option<Synced>,
}

/// When the append-only file is synced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Synced {
    EverySecond,
    /// Before commands are answered.
    Always,
}

fn push_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Says a command and takes its answer, which has to have so many lines.
fn say(stream: &mut TcpStream, words: &[&str], lines: usize) -> Result<()> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut out = vec![];
    push_command(&mut out, &words);
    stream.write_all(&out)?;
    let (mut answer, mut byte) = (vec![], [0]);
    while answer.iter().filter(|byte| **byte == b'\n').count() < lines {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    ensure!(answer[0] != b'-', "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = connect_soon(port, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn subscribe(port: u16, subject: &str) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    say(&mut stream, &["SUBSCRIBE", subject], 6)?;
    Ok(stream)
}

impl Redis {
    fn start(&self) -> Result<(Process, u16)> {
        let port = free_port()?;
        let directory = std::env::temp_dir().join(format!("e2e-redis-{port}"));
        std::fs::create_dir_all(&directory)?;
        let mut command = Command::new(program("redis-server").context("redis-server")?);
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
        ]);
        command.arg("--dir").arg(&directory);
        command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
        let synced = match self.synced {
            None => None,
            Some(Synced::EverySecond) => Some("everysec"),
            Some(Synced::Always) => Some("always"),
        };
        if let Some(synced) = synced {
            command.args(["--appendonly", "yes", "--appendfsync", synced]);
        }
        let process = Process::quiet(&mut command)?;
        connect(port)?;
        Ok((process, port))
    }

    fn set_up_streams(process: Process, port: u16, scenario: &Scenario) -> Result<Setup> {
        let subject = scenario.subject(0);
        let mut admin = connect(port)?;
        say(
            &mut admin,
            &["XGROUP", "CREATE", &subject, "g", "$", "MKSTREAM"],
            1,
        )?;
        let receivers = (0..scenario.pattern.receivers())
            .map(|i| Receiver::new(connect(port)?, scenario, Group::new(&subject, i)))
            .collect::<Result<_>>()?;
        let publisher = Publisher::new(connect(port)?, scenario, push_entry)?;
        let mut setup = Setup::new(process, vec![publisher], receivers);
        setup.publishers_hear = true;
        Ok(setup)
    }
}

fn push_entry(out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
    let kept: [&[u8]; 3] = [b"MAXLEN", b"~", b"100000"];
    let [maxlen, about, entries] = kept;
    let subject = subject.as_bytes();
    push_command(
        out,
        &[
            b"XADD", subject, maxlen, about, entries, b"*", b"d", payload,
        ],
    );
}

/// Who adds to a stream that nobody reads, and waits for the answers.
fn set_up_confirmed(process: Process, port: u16, scenario: &Scenario) -> Result<Setup> {
    let stream = connect(port)?;
    let answers = Receiver::new(stream.try_clone()?, scenario, Entries)?;
    let publisher = Publisher::new(stream, scenario, push_entry)?;
    Ok(Setup::new(process, vec![publisher], vec![answers]))
}

/// The ids of entries.
struct Entries;

impl Framing for Entries {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let end = bytes.iter().take(512).position(|byte| *byte == b'\n')? + 1;
        let line = String::from_utf8_lossy(&bytes[..end]);
        let id_bytes = line.strip_prefix('$').map(str::trim_end);
        let Some(id_bytes) = id_bytes.and_then(|n| n.parse::<usize>().ok()) else {
            panic!("an entry was refused: {line}")
        };
        let len = end + id_bytes + 2;
        (bytes.len() >= len).then_some((len, Some(0)))
    }
}

impl Broker for Redis {
    fn name(&self) -> &'static str {
        match self.synced {
            None => "redis",
            Some(Synced::EverySecond) => "redis streams",
            Some(Synced::Always) => "redis AOF always",
        }
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        if let Kind::Confirmed { on_disk, .. } = scenario.kind {
            return match self.synced {
                None => !on_disk,
                Some(synced) => on_disk && synced == Synced::Always,
            };
        }
        match self.synced {
            Some(Synced::EverySecond) => is_workers(scenario) || is_durable(scenario),
            Some(Synced::Always) => is_durable(scenario),
            None => is_plain_fan(scenario) || scenario.kind == Kind::Start,
        }
    }

    fn missing(&self) -> Option<String> {
        missing_program("redis-server")
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(self.start()?.0)
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, port) = self.start()?;
        if let Kind::Confirmed { .. } = scenario.kind {
            return set_up_confirmed(process, port, scenario);
        }
        if self.synced.is_some() {
            return Self::set_up_streams(process, port, scenario);
        }
        let subject = scenario.subject(0);
        let mut event = vec![];
        push_command(
            &mut event,
            &[b"message", subject.as_bytes(), &payload(scenario.size, 0)],
        );
        let receivers = (0..scenario.pattern.receivers())
            .map(|_| {
                let stream = subscribe(port, &subject)?;
                Receiver::new(stream, scenario, Fixed::like(&event, scenario.size))
            })
            .collect::<Result<_>>()?;
        let publishers = (0..scenario.publishers)
            .map(|_| {
                Publisher::new(connect(port)?, scenario, |out, subject, payload| {
                    push_command(out, &[b"PUBLISH", subject.as_bytes(), payload]);
                })
            })
            .collect::<Result<_>>()?;
        let mut setup = Setup::new(process, publishers, receivers);
        setup.publishers_hear = true;
        setup.connect = Some(Box::new(move || subscribe(port, &subject)));
        Ok(setup)
    }
}

/// A consumer of a group: reads entries, acknowledges them, asks for more.
struct Group {
    subject: String,
    consumer: String,
    ids: Vec<Vec<u8>>,
    /// Entries that are still to come of the answer that is being read.
    expected: usize,
    /// A request for entries waits for its answer.
    asked: bool,
}

impl Group {
    fn new(subject: &str, consumer: usize) -> Self {
        Self {
            subject: subject.into(),
            consumer: format!("c{consumer}"),
            ids: vec![],
            expected: 0,
            asked: false,
        }
    }
}

/// The number after a type byte, and where the next line begins.
fn line(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().take(64).position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(&rest[1..end - 1]).ok()?;
    Some((text.parse().ok()?, at + end + 1))
}

/// A bulk string's position, and where the next value begins.
fn bulk(bytes: &[u8], at: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let (len, begin) = line(bytes, at)?;
    let end = begin + len as usize;
    (bytes.len() >= end + 2).then_some((begin..end, end + 2))
}

impl Framing for Group {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        match bytes.first()? {
            // What XACK did.
            b':' => Some((line(bytes, 0)?.1, None)),
            // *1 [*2 [subject, *n [entries]]], or nothing within the time.
            b'*' if self.expected == 0 => {
                let (outer, at) = line(bytes, 0)?;
                if outer < 0 {
                    self.asked = false;
                    return Some((at, None));
                }
                let (_, at) = line(bytes, at)?;
                let (_, at) = bulk(bytes, at)?;
                let (entries, at) = line(bytes, at)?;
                self.expected = entries as usize;
                Some((at, None))
            }
            // *2 [id, *2 [field, payload]]
            _ => {
                let (_, at) = line(bytes, 0)?;
                let (id, at) = bulk(bytes, at)?;
                let (_, at) = line(bytes, at)?;
                let (_, at) = bulk(bytes, at)?;
                let (value, at) = bulk(bytes, at)?;
                self.ids.push(bytes[id].to_vec());
                self.expected -= 1;
                if self.expected == 0 {
                    self.asked = false;
                }
                Some((at, Some(value.start)))
            }
        }
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        if self.asked {
            return;
        }
        if !self.ids.is_empty() {
            let mut words: Vec<&[u8]> = vec![b"XACK", self.subject.as_bytes(), b"g"];
            words.extend(self.ids.iter().map(|id| &id[..]));
            push_command(out, &words);
            self.ids.clear();
        }
        let words: [&str; 11] = [
            "XREADGROUP",
            "GROUP",
            "g",
            &self.consumer,
            "COUNT",
            COUNT,
            "BLOCK",
            "10000",
            "STREAMS",
            &self.subject,
            ">",
        ];
        push_command(out, &words.map(str::as_bytes));
        self.asked = true;
    }
}
