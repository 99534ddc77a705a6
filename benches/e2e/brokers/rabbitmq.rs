//! RabbitMQ by AMQP 0-9-1: transient through a fanout exchange, durable with confirms and acks for
//! workers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Broker, Setup, is_durable, is_plain_fan, is_workers};
use crate::client::{Fixed, Framing, Publisher, Receiver, payload};
use crate::process::{Process, free_port};
use crate::scenario::Scenario;

/// Starting takes it long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Not the one in `/usr/sbin`, which changes to a user that can't write where we are.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const FRAME_BYTES_MAX: usize = 131_072;
/// Its own limit; 0, which is none, is refused.
const CHANNELS_MAX: u16 = 2047;
const PREFETCH: u16 = 256;

pub struct RabbitMq;

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn push_frame(out: &mut Vec<u8>, kind: u8, channel: u16, body: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.push(0xCE);
}

/// A method's frame.
fn method(channel: u16, class: u16, id: u16, parts: &[&[u8]]) -> Vec<u8> {
    let body = [&class.to_be_bytes()[..], &id.to_be_bytes(), &parts.concat()].concat();
    let mut out = vec![];
    push_frame(&mut out, 1, channel, &body);
    out
}

/// The content that follows a publish or a delivery.
fn push_content(out: &mut Vec<u8>, payload: &[u8], durable: bool) {
    let mut header = [
        &60u16.to_be_bytes()[..],
        &[0, 0],
        &(payload.len() as u64).to_be_bytes(),
    ]
    .concat();
    header.extend_from_slice(if durable {
        b"\x10\x00\x02"
    } else {
        b"\x00\x00"
    });
    push_frame(out, 2, 1, &header);
    for part in payload.chunks(FRAME_BYTES_MAX - 8) {
        push_frame(out, 3, 1, part);
    }
}

struct Client(TcpStream);

impl Client {
    /// Sends a method and takes the answer, which has to be the expected one.
    fn call(&mut self, frame: &[u8], class: u16, id: u16) -> Result<()> {
        self.0.write_all(frame)?;
        let mut head = [0; 7];
        self.0.read_exact(&mut head)?;
        let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut body = vec![0; len + 1];
        self.0.read_exact(&mut body)?;
        let expected = [class.to_be_bytes(), id.to_be_bytes()].concat();
        ensure!(
            body.starts_with(&expected),
            "{}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }

    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self(stream);
        client.call(b"AMQP\0\0\x09\x01", 10, 10)?;
        let empty_table = 0u32.to_be_bytes();
        let login = b"\0guest\0guest";
        let login = [&(login.len() as u32).to_be_bytes(), &login[..]].concat();
        client.call(
            &method(
                0,
                10,
                11,
                &[&empty_table, &short("PLAIN"), &login, &short("en_US")],
            ),
            10,
            30,
        )?;
        let tune = [
            &CHANNELS_MAX.to_be_bytes()[..],
            &(FRAME_BYTES_MAX as u32).to_be_bytes(),
            &[0, 0],
        ]
        .concat();
        client.0.write_all(&method(0, 10, 31, &[&tune]))?;
        client.call(&method(0, 10, 40, &[&short("/"), &[0, 0]]), 10, 41)?;
        client.call(&method(1, 20, 10, &[&[0]]), 20, 11)?;
        Ok(client)
    }

    fn declare(&mut self, queue: &str, flags: u8) -> Result<()> {
        self.call(
            &method(1, 50, 10, &[&[0, 0], &short(queue), &[flags], &[0; 4]]),
            50,
            11,
        )
    }

    fn consume(&mut self, queue: &str, no_ack: bool) -> Result<()> {
        let flags = [u8::from(no_ack) << 1];
        self.call(
            &method(
                1,
                60,
                20,
                &[&[0, 0], &short(queue), &short("t"), &flags, &[0; 4]],
            ),
            60,
            21,
        )
    }
}

const EXCLUSIVE: u8 = 4;
const DURABLE: u8 = 2;

/// A subscriber's own queue, behind the exchange that copies to all.
fn subscribe(port: u16) -> Result<TcpStream> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let queue = format!("q{number}");
    let mut client = Client::connect(port)?;
    client.declare(&queue, EXCLUSIVE)?;
    let bind = method(
        1,
        50,
        20,
        &[
            &[0, 0],
            &short(&queue),
            &short("amq.fanout"),
            &short(""),
            &[0],
            &[0; 4],
        ],
    );
    client.call(&bind, 50, 21)?;
    client.consume(&queue, true)?;
    Ok(client.0)
}

fn start() -> Result<(Process, u16)> {
    let (port, distribution) = (free_port()?, free_port()?);
    let directory = std::env::temp_dir().join(format!("e2e-rabbitmq-{port}"));
    std::fs::create_dir_all(&directory)?;
    let mut command = Command::new(SCRIPT);
    command
        .env("RABBITMQ_NODENAME", format!("e2e{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_MNESIA_BASE", &directory)
        .env("RABBITMQ_LOG_BASE", &directory)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"))
        .env("RABBITMQ_CONFIG_FILE", directory.join("config"))
        .env("RABBITMQ_CONF_ENV_FILE", directory.join("env"))
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let mut process = Process::quiet(&mut command)?;
    let begun = Instant::now();
    loop {
        process.check()?;
        if Client::connect(port).is_ok() && process.account("beam.smp")? {
            return Ok((process, port));
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "rabbitmq-server doesn't get ready"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Broker for RabbitMq {
    fn name(&self) -> &'static str {
        "RabbitMQ"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        is_plain_fan(scenario) || is_workers(scenario) || is_durable(scenario)
    }

    fn missing(&self) -> Option<String> {
        (!Path::new(SCRIPT).exists())
            .then(|| "rabbitmq-server is not installed; see benches/install-peers".into())
    }

    fn starts_slowly(&self) -> bool {
        true
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, port) = start()?;
        let workers = is_workers(scenario) || is_durable(scenario);
        let mut setup = Setup::new(process, vec![], vec![]);
        if workers {
            Client::connect(port)?.declare("service", DURABLE)?;
        }
        for _ in 0..scenario.pattern.receivers() {
            let receiver = if workers {
                let mut client = Client::connect(port)?;
                let prefetch = [&[0; 4][..], &PREFETCH.to_be_bytes(), &[0]].concat();
                client.call(&method(1, 60, 10, &[&prefetch]), 60, 11)?;
                client.consume("service", false)?;
                let framing = Acknowledged {
                    framing: delivery("", "service", scenario, true),
                    tags: vec![],
                };
                Receiver::new(client.0, scenario, framing)?
            } else {
                Receiver::new(
                    subscribe(port)?,
                    scenario,
                    delivery("amq.fanout", "", scenario, false),
                )?
            };
            setup.receivers.push(receiver);
        }
        for _ in 0..scenario.publishers {
            let mut client = Client::connect(port)?;
            if workers {
                client.call(&method(1, 85, 10, &[&[0]]), 85, 11)?;
            }
            let (exchange, key) = if workers {
                ("", "service")
            } else {
                ("amq.fanout", "")
            };
            let publish = method(1, 60, 40, &[&[0, 0], &short(exchange), &short(key), &[0]]);
            setup
                .publishers
                .push(Publisher::new(client.0, scenario, |out, _, payload| {
                    out.extend_from_slice(&publish);
                    push_content(out, payload, workers);
                })?);
        }
        setup.publishers_hear = workers;
        setup.connect = Some(Box::new(move || subscribe(port)));
        Ok(setup)
    }
}

/// The position of a delivery's tag, behind the frame's head, class, method and consumer tag.
const TAG_AT: usize = 7 + 4 + 2;

fn delivery(exchange: &str, key: &str, scenario: &Scenario, durable: bool) -> Fixed {
    let mut event = method(
        1,
        60,
        60,
        &[&short("t"), &[0; 8], &[0], &short(exchange), &short(key)],
    );
    push_content(&mut event, &payload(scenario.size, 0), durable);
    let first = payload(scenario.size.min(FRAME_BYTES_MAX / 2), 0);
    Fixed::like(&event, first.len()).with_len(event.len())
}

/// Deliveries that are acknowledged, all of a read by the last one's tag.
struct Acknowledged {
    framing: Fixed,
    tags: Vec<u8>,
}

impl Framing for Acknowledged {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let found = self.framing.next(bytes)?;
        self.tags = bytes[TAG_AT..TAG_AT + 8].to_vec();
        Some(found)
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        if !self.tags.is_empty() {
            let multiple = [1];
            out.extend(method(
                1,
                60,
                80,
                &[&std::mem::take(&mut self.tags), &multiple],
            ));
        }
    }
}
