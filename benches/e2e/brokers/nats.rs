//! nats-server: core, with a queue group for workers; and JetStream on disk, with explicit acks.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{
    Broker, Setup, has_subjects, is_durable, is_plain_fan, is_services, is_workers,
    missing_program, program,
};
use crate::client::{Fixed, Framing, Publisher, Receiver, STAMP_BYTES, payload};
use crate::process::{Process, connect_soon, free_port};
use crate::responders;
use crate::scenario::{Kind, Pattern, Scenario};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Nats {
    pub jetstream: bool,
}

/// A connection that has said CONNECT and got its PONG.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
        let stream = connect_soon(port, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut client = Self { stream, reader };
        client.say("CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n")?;
        Ok(client)
    }

    /// Says something, and awaits that all of it was done.
    fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes())?;
        self.stream.write_all(b"PING\r\n")?;
        let mut line = String::new();
        while line != "PONG\r\n" {
            line.clear();
            ensure!(
                self.reader.read_line(&mut line)? > 0,
                "the connection ended"
            );
            if line.starts_with("-ERR") {
                bail!("{line}");
            }
        }
        Ok(())
    }

    /// A request of JetStream's API.
    fn api(&mut self, subject: &str, body: &str) -> Result<()> {
        let text = format!(
            "SUB _INBOX.api 9\r\nPUB {subject} _INBOX.api {}\r\n{body}\r\n",
            body.len()
        );
        self.stream.write_all(text.as_bytes())?;
        let mut line = String::new();
        while !line.starts_with("MSG _INBOX.api") {
            line.clear();
            ensure!(
                self.reader.read_line(&mut line)? > 0,
                "the connection ended"
            );
        }
        line.clear();
        self.reader.read_line(&mut line)?;
        ensure!(!line.contains("\"error\""), "{line}");
        self.say("UNSUB 9\r\n")
    }
}

pub fn subscribe(port: u16, subject: &str, queue: &str) -> Result<TcpStream> {
    let mut client = Client::connect(port)?;
    client.say(&format!("SUB {subject} {queue} 1\r\n"))?;
    Ok(client.stream)
}

fn message(subject: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("MSG {subject} 1 {}\r\n", payload.len());
    [head.as_bytes(), payload, b"\r\n"].concat()
}

fn push_confirmed(out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
    out.extend_from_slice(format!("PUB {subject} confirmed {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

impl Nats {
    fn start(&self) -> Result<(Process, u16)> {
        let port = free_port()?;
        let mut command = Command::new(program("nats-server").context("nats-server")?);
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
        // Larger messages than 1 MiB are refused by default.
        let directory = std::env::temp_dir().join(format!("e2e-nats-{port}"));
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("config");
        std::fs::write(&config, "max_payload: 8388608\nmax_pending: 268435456\n")?;
        command.arg("--config").arg(&config);
        if self.jetstream {
            command
                .arg("--jetstream")
                .arg("--store_dir")
                .arg(&directory);
        }
        let process = Process::quiet(&mut command)?;
        Client::connect(port)?;
        Ok((process, port))
    }

    /// Who publishes to a stream that nobody reads, and waits for the answers.
    fn set_up_confirmed(&self, process: Process, port: u16, scenario: &Scenario) -> Result<Setup> {
        let subject = scenario.subject(0);
        Client::connect(port)?.api(
            "$JS.API.STREAM.CREATE.S",
            &format!(r#"{{"name":"S","subjects":["{subject}"],"storage":"file","retention":"limits","max_msgs":100000}}"#),
        )?;
        let stream = subscribe(port, "confirmed", "")?;
        let answers = Receiver::new(stream.try_clone()?, scenario, Confirmations)?;
        let publisher = Publisher::new(stream, scenario, push_confirmed)?;
        Ok(Setup::new(process, vec![publisher], vec![answers]))
    }

    fn set_up_jetstream(&self, process: Process, port: u16, scenario: &Scenario) -> Result<Setup> {
        let subject = scenario.subject(0);
        let mut client = Client::connect(port)?;
        client.api(
            "$JS.API.STREAM.CREATE.S",
            &format!(r#"{{"name":"S","subjects":["{subject}"],"storage":"file","retention":"workqueue"}}"#),
        )?;
        let config = r#"{"durable_name":"C","deliver_subject":"deliver","deliver_group":"g","ack_policy":"explicit","max_ack_pending":16384}"#;
        client.api(
            "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
            &format!(r#"{{"stream_name":"S","config":{config}}}"#),
        )?;
        let receivers = (0..scenario.pattern.receivers())
            .map(|_| {
                let stream = subscribe(port, "deliver", "g")?;
                Receiver::new(
                    stream,
                    scenario,
                    Acknowledged {
                        size: scenario.size,
                        answers: vec![],
                    },
                )
            })
            .collect::<Result<_>>()?;
        let publisher =
            Publisher::new(subscribe(port, "confirmed", "")?, scenario, push_confirmed)?;
        let mut setup = Setup::new(process, vec![publisher], receivers);
        setup.publishers_hear = true;
        Ok(setup)
    }
}

impl Broker for Nats {
    fn name(&self) -> &'static str {
        if self.jetstream { "JetStream" } else { "nats" }
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        match self.jetstream {
            true => {
                is_workers(scenario)
                    || is_durable(scenario)
                    || matches!(scenario.kind, Kind::Confirmed { on_disk: true, .. })
            }
            false => {
                is_plain_fan(scenario)
                    || has_subjects(scenario)
                    || is_workers(scenario)
                    || is_services(scenario)
                    || matches!(scenario.kind, Kind::Called)
                    || scenario.kind == Kind::Start
            }
        }
    }

    fn missing(&self) -> Option<String> {
        missing_program("nats-server")
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(self.start()?.0)
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, port) = self.start()?;
        if let Kind::Confirmed { .. } = scenario.kind {
            return self.set_up_confirmed(process, port, scenario);
        }
        if self.jetstream {
            return self.set_up_jetstream(process, port, scenario);
        }
        if scenario.kind == Kind::Called {
            return set_up_called(process, port, scenario);
        }
        let mut other = Client::connect(port)?;
        let globs = scenario.globs().enumerate();
        let subscribed = globs.map(|(n, glob)| format!("SUB {glob} {n}\r\n"));
        other.say(&subscribed.collect::<String>())?;
        let event = message(&scenario.subject(0), &payload(scenario.size, 0));
        let receivers = (0..scenario.pattern.receivers())
            .map(|i| {
                let queue = match scenario.pattern {
                    Pattern::Fan(_) => String::new(),
                    _ => format!("group{}", scenario.pattern.group(i)),
                };
                let mut subject = scenario.subject_for(i);
                if scenario.subjects > 1 {
                    subject += ".>";
                }
                let stream = subscribe(port, &subject, &queue)?;
                let framing = Fixed {
                    between: b"PING\r\n",
                    ..Fixed::like(&event, scenario.size)
                };
                Receiver::new(stream, scenario, framing)
            })
            .collect::<Result<_>>()?;
        let publishers = (0..scenario.publishers)
            .map(|_| {
                let client = Client::connect(port)?;
                Publisher::new(client.stream, scenario, |out, subject, payload| {
                    out.extend_from_slice(
                        format!("PUB {subject} {}\r\n", payload.len()).as_bytes(),
                    );
                    out.extend_from_slice(payload);
                    out.extend_from_slice(b"\r\n");
                })
            })
            .collect::<Result<_>>()?;
        let mut setup = Setup::new(process, publishers, receivers);
        let subject = scenario.subject(0);
        setup.others.push(other.stream);
        setup.publishers_hear = true;
        setup.connect = Some(Box::new(move || subscribe(port, &subject, "")));
        Ok(setup)
    }
}

/// Who asks all services by one message for each call, and waits for all of their answers.
fn set_up_called(process: Process, port: u16, scenario: &Scenario) -> Result<Setup> {
    let (subject, services) = (scenario.subject(0), scenario.pattern.receivers());
    let stream = subscribe(port, "called.*", "")?;
    let args = ["nats-services", &port.to_string(), &services.to_string()];
    let (answering, _) = responders::start(&[&args[..], &[&subject]].concat())?;
    let answers = Replies {
        services,
        by_call: HashMap::new(),
    };
    let answers = Receiver::new(stream.try_clone()?, scenario, answers)?;
    let publisher = Publisher::new(stream, scenario, |out, subject, payload| {
        let call = String::from_utf8_lossy(&payload[..STAMP_BYTES]);
        let size = payload.len();
        out.extend_from_slice(format!("PUB {subject} called.{call} {size}\r\n").as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    })?;
    let mut setup = Setup::new(process, vec![publisher], vec![answers]);
    setup.services = Some(answering);
    Ok(setup)
}

/// The answers to calls; one is over with the last.
struct Replies {
    services: usize,
    by_call: HashMap<Vec<u8>, usize>,
}

impl Framing for Replies {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let end = bytes.iter().take(512).position(|byte| *byte == b'\n')? + 1;
        let Some(head) = bytes[..end].strip_prefix(b"MSG called.") else {
            return Some((end, None));
        };
        let len = end + 4;
        if bytes.len() < len {
            return None;
        }
        let answers = self
            .by_call
            .entry(head[..STAMP_BYTES].to_vec())
            .or_default();
        *answers += 1;
        let is_over = *answers == self.services;
        if is_over {
            *answers = 0;
        }
        Some((len, is_over.then_some(b"MSG called.".len())))
    }
}

/// What a stream says to who publishes.
struct Confirmations;

impl Framing for Confirmations {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let end = bytes.iter().take(512).position(|byte| *byte == b'\n')? + 1;
        let line = String::from_utf8_lossy(&bytes[..end]);
        let Some(head) = line.strip_prefix("MSG confirmed 1 ") else {
            return Some((end, None));
        };
        let said_bytes: usize = head.trim_end().parse().unwrap();
        let len = end + said_bytes + 2;
        let said = String::from_utf8_lossy(bytes.get(end..len)?);
        assert!(said.contains("\"seq\""), "an event was refused: {said}");
        Some((len, Some(0)))
    }
}

/// Messages of a consumer: each names the subject that acknowledges it.
struct Acknowledged {
    size: usize,
    answers: Vec<u8>,
}

impl Framing for Acknowledged {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let end = bytes.iter().take(512).position(|byte| *byte == b'\n')? + 1;
        if !bytes.starts_with(b"MSG ") {
            return Some((end, None));
        }
        let len = end + self.size + 2;
        if bytes.len() < len {
            return None;
        }
        // MSG deliver 1 $JS.ACK.… size
        let reply = bytes[..end].split(|byte| *byte == b' ').nth(3)?;
        self.answers.extend_from_slice(b"PUB ");
        self.answers.extend_from_slice(reply);
        self.answers.extend_from_slice(b" 4\r\n+ACK\r\n");
        Some((len, Some(end)))
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.answers);
    }
}
