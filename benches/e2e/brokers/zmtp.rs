//! Brokers that speak ZMTP 3.1, and their clients.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Broker, Setup, is_plain_fan, is_services};
use crate::client::{Fixed, Framing, Publisher, Receiver, STAMP_BYTES, number, payload};
use crate::poisoned::{Poison, Verdict};
use crate::process::{Process, connect_soon};
use crate::scenario::{Kind, Pattern, Scenario};

const PATIENCE: Duration = Duration::from_secs(10);

fn push_frame(out: &mut Vec<u8>, body: &[u8], more: bool) {
    if body.len() < 256 {
        out.extend_from_slice(&[u8::from(more), body.len() as u8]);
    } else {
        out.push(2 | u8::from(more));
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(body);
}

/// An event: its subject and its payload.
pub fn push_event(out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
    push_frame(out, subject.as_bytes(), true);
    push_frame(out, payload, false);
}

/// A message of these frames.
pub fn push_request(out: &mut Vec<u8>, frames: &[&[u8]]) {
    for (i, frame) in frames.iter().enumerate() {
        push_frame(out, frame, i + 1 < frames.len());
    }
}

/// Connects, and shakes hands.
pub fn connect(port: u16, socket_type: &str) -> Result<TcpStream> {
    let mut stream = connect_soon(port, PATIENCE)?;
    greet(&mut stream, socket_type)?;
    Ok(stream)
}

/// Shakes hands, at either end.
pub fn greet(stream: &mut TcpStream, socket_type: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hello = [0; 64];
    hello[0] = 0xFF;
    hello[9..12].copy_from_slice(&[0x7F, 3, 1]);
    hello[12..16].copy_from_slice(b"NULL");
    stream.write_all(&hello)?;
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
    ready.push(socket_type.len() as u8);
    ready.extend_from_slice(socket_type.as_bytes());
    stream.write_all(&[&[4, ready.len() as u8], &ready[..]].concat())?;
    stream.read_exact(&mut [0; 64])?;
    read_frame(stream)?;
    Ok(())
}

/// A frame's flags and body.
fn read_frame(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 2];
    stream.read_exact(&mut header)?;
    let mut len = usize::from(header[1]);
    if header[0] & 2 != 0 {
        let mut rest = [0; 7];
        stream.read_exact(&mut rest)?;
        len = rest
            .iter()
            .fold(len, |len, byte| len << 8 | usize::from(*byte));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok((header[0], body))
}

/// A message of one frame for each of `frames`, and the frames of the answer.
pub fn ask(stream: &mut TcpStream, frames: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
    let mut message = vec![];
    push_request(&mut message, frames);
    stream.write_all(&message)?;
    read_message(stream)
}

/// The frames of a message.
pub fn read_message(stream: &mut TcpStream) -> Result<Vec<Vec<u8>>> {
    let mut message = vec![];
    loop {
        let (flags, body) = read_frame(stream)?;
        message.push(body);
        if flags & 1 == 0 {
            return Ok(message);
        }
    }
}

/// A publisher; libzmq sends nothing on before its subscriptions have come back, so they are awaited.
pub fn publisher(port: u16, scenario: &Scenario, told: bool) -> Result<Publisher> {
    let mut stream = connect(port, "PUB")?;
    if told {
        read_frame(&mut stream).context("no subscription came to the publisher")?;
    }
    Publisher::new(stream, scenario, push_event)
}

/// Subscribes, and awaits that it is live: the answer to a PING comes behind it.
pub fn subscribe(port: u16, subject: &str) -> Result<TcpStream> {
    let mut stream = connect(port, "SUB")?;
    let mut out = vec![];
    let body = [b"\x01", subject.as_bytes()].concat();
    push_frame(&mut out, &body, false);
    out.extend_from_slice(b"\x04\x0b\x04PING\0\0last");
    stream.write_all(&out)?;
    stream.read_exact(&mut [0; 11]).context("no PONG")?;
    Ok(stream)
}

/// What arrives is what was sent.
pub fn receiver(stream: TcpStream, scenario: &Scenario) -> Result<Receiver> {
    let mut event = vec![];
    push_event(&mut event, &scenario.subject(0), &payload(scenario.size, 0));
    let framing = Fixed::like(&event, scenario.size);
    Receiver::new(stream, scenario, framing)
}

/// A frame's flags and the position of its body, if it is whole.
pub fn frame_at(bytes: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let flags = *bytes.get(at)?;
    let (body, len) = match flags & 2 {
        0 => (at + 2, usize::from(*bytes.get(at + 1)?)),
        _ => {
            let len = bytes.get(at + 1..at + 9)?.try_into().ok()?;
            (at + 9, u64::from_be_bytes(len) as usize)
        }
    };
    (bytes.len() >= body + len).then_some((flags, body..body + len))
}

/// Answers to requests, which all have to be positive.
pub struct Answers;

impl Framing for Answers {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        const COMMAND: u8 = 4;
        let (mut flags, mut frame) = frame_at(bytes, 0)?;
        if flags & COMMAND != 0 {
            return Some((frame.end, None));
        }
        let mut is_ack = false;
        while flags & 1 != 0 {
            (flags, frame) = frame_at(bytes, frame.end)?;
            is_ack |= bytes[frame.clone()] == *b"1.1";
        }
        let said = String::from_utf8_lossy(&bytes[..frame.end]);
        assert!(is_ack, "an event was refused: {said}");
        Some((frame.end, Some(0)))
    }
}

/// Events that are to be acknowledged: `[EVENT id attempt][subject][payload]`.
struct Acknowledged {
    answers: Vec<u8>,
    /// When the work is done that each answer is for, and how long the answer is.
    done: VecDeque<(Instant, usize)>,
    /// How long the worker is at work with each event, and until when it is with those it has.
    work: Duration,
    busy_until: Instant,
    poison: Rc<Poison>,
}

impl Framing for Acknowledged {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let (flags, word) = frame_at(bytes, 0)?;
        if flags & 1 == 0 {
            // A sign of life; the acknowledgements are ours.
            return Some((word.end, None));
        }
        let (_, subject) = frame_at(bytes, word.end)?;
        let (_, payload) = frame_at(bytes, subject.end)?;
        let mut words = bytes[word].split(|byte| *byte == b' ').skip(1);
        let (id, attempt) = (words.next()?, number(words.next()?));
        let stamp = number(&bytes[payload.start..payload.start + STAMP_BYTES]);
        let answer: &[u8] = match self.poison.judge(stamp, attempt as u32) {
            Verdict::Good => b"ACK ",
            Verdict::Poison => b"NAK ",
        };
        let begin = self.answers.len();
        push_frame(&mut self.answers, &[answer, id].concat(), false);
        if !self.work.is_zero() {
            self.busy_until = self.busy_until.max(Instant::now()) + self.work;
            let bytes = self.answers.len() - begin;
            self.done.push_back((self.busy_until, bytes));
        }
        // An event counts once.
        Some((payload.end, (attempt == 1).then_some(payload.start)))
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        if self.work.is_zero() {
            return out.append(&mut self.answers);
        }
        let now = Instant::now();
        let done = self.done.partition_point(|(at, _)| *at <= now);
        let bytes: usize = self.done.drain(..done).map(|(_, bytes)| bytes).sum();
        out.extend(self.answers.drain(..bytes));
    }
}

/// A worker that acknowledges what it gets, unless it is poison.
pub fn acknowledging_worker(
    port: u16,
    scenario: &Scenario,
    poison: &Rc<Poison>,
) -> Result<Receiver> {
    let mut stream = connect(port, "DEALER")?;
    let mut out = vec![];
    let credit = match scenario.kind {
        Kind::Acknowledged => 32,
        _ => 1024,
    };
    let ready = format!(r#"READY {{"ack": true, "credit": {credit}}}"#);
    push_frame(&mut out, ready.as_bytes(), false);
    out.extend_from_slice(b"\x04\x0b\x04PING\0\0last");
    stream.write_all(&out)?;
    stream.read_exact(&mut [0; 11]).context("no PONG")?;
    let framing = Acknowledged {
        answers: vec![],
        done: VecDeque::new(),
        work: match scenario.kind {
            Kind::Poisoned { work, .. } => work,
            _ => Duration::ZERO,
        },
        busy_until: Instant::now(),
        poison: Rc::clone(poison),
    };
    Receiver::new(stream, scenario, framing)
}

/// A worker of a service: a DEALER that says READY.
pub fn worker(port: u16, scenario: &Scenario) -> Result<Receiver> {
    let mut stream = connect(port, "DEALER")?;
    // Awaited by a PING, which is answered behind it.
    stream.write_all(b"\0\x05READY\x04\x0b\x04PING\0\0last")?;
    stream.read_exact(&mut [0; 11]).context("no PONG")?;
    receiver(stream, scenario)
}

/// This program itself, in one of its parts.
pub fn part(args: &[&str]) -> Result<(Process, Vec<u16>)> {
    let mut command = Command::new(std::env::current_exe()?);
    let (process, line) = Process::with_line(command.arg("--play").args(args))?;
    let ports = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok((process, ports))
}

/// Publishers and subscribers of a forwarder.
pub fn set_up_fan(
    process: Process,
    ports: (u16, u16),
    told: bool,
    scenario: &Scenario,
) -> Result<Setup> {
    let (publishers, subscribers) = ports;
    let subject = scenario.subject_for(0);
    let mut setup = Setup::new(process, vec![], vec![]);
    if !matches!(
        scenario.kind,
        Kind::LibzmqEnds | Kind::Idle { .. } | Kind::Storm { .. }
    ) {
        for _ in 0..scenario.pattern.receivers() {
            setup
                .receivers
                .push(receiver(subscribe(subscribers, &subject)?, scenario)?);
        }
        for _ in 0..scenario.publishers {
            setup
                .publishers
                .push(publisher(publishers, scenario, told)?);
        }
    }
    setup.connect = Some(Box::new(move || subscribe(subscribers, &subject)));
    setup.zmtp = Some((
        format!("tcp://127.0.0.1:{publishers}"),
        format!("tcp://127.0.0.1:{subscribers}"),
    ));
    Ok(setup)
}

/// The floor.
pub struct Relay;

impl Broker for Relay {
    fn name(&self) -> &'static str {
        "raw relay"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        matches!(scenario.pattern, Pattern::Fan(_))
            && matches!(scenario.kind, Kind::Flow | Kind::Paced { .. })
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (receivers, publishers) = (scenario.pattern.receivers(), scenario.publishers);
        let mut event = vec![];
        push_event(&mut event, &scenario.subject(0), &payload(scenario.size, 0));
        let args = [receivers, publishers, event.len()].map(|n| n.to_string());
        let (process, ports) = part(&["relay", &args[0], &args[1], &args[2]])?;
        let connect = || connect_soon(ports[0], PATIENCE);
        let receivers = (0..receivers).map(|_| receiver(connect()?, scenario));
        let receivers = receivers.collect::<Result<_>>()?;
        let publishers = (0..publishers).map(|_| Publisher::new(connect()?, scenario, push_event));
        Ok(Setup::new(
            process,
            publishers.collect::<Result<_>>()?,
            receivers,
        ))
    }
}

/// libzmq's own proxy.
pub struct ZmqProxy;

impl Broker for ZmqProxy {
    fn name(&self) -> &'static str {
        "zmq_proxy"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        is_plain_fan(scenario) || matches!(scenario.kind, Kind::LibzmqEnds | Kind::Start)
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, ports) = part(&["zmq-proxy"])?;
        set_up_fan(process, (ports[0], ports[1]), true, scenario)
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(part(&["zmq-proxy"])?.0)
    }
}

/// The best router of services that libzmq's sockets allow.
pub struct LibzmqServices;

impl Broker for LibzmqServices {
    fn name(&self) -> &'static str {
        "libzmq services"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        is_services(scenario) || super::is_workers(scenario)
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let subjects = service_subjects(scenario);
        let mut args = vec!["libzmq-services"];
        args.extend(subjects.iter().map(String::as_str));
        let (process, ports) = part(&args)?;
        set_up_services(process, ports[0], &ports[1..], scenario)
    }
}

/// The subject that each service asks for.
pub fn service_subjects(scenario: &Scenario) -> Vec<String> {
    (0..scenario.pattern.groups())
        .map(|group| scenario.subject_for(group))
        .collect()
}

/// A publisher, and the workers of services whose ports are known.
pub fn set_up_services(
    process: Process,
    publishers: u16,
    services: &[u16],
    scenario: &Scenario,
) -> Result<Setup> {
    ensure!(
        services.len() == scenario.pattern.groups(),
        "ports of services: {services:?}"
    );
    let mut setup = Setup::new(process, vec![], vec![]);
    for i in 0..scenario.pattern.receivers() {
        let port = services[scenario.pattern.group(i)];
        setup.receivers.push(match scenario.kind {
            Kind::Durable | Kind::Acknowledged | Kind::Poisoned { .. } => {
                acknowledging_worker(port, scenario, &setup.poison)?
            }
            _ => worker(port, scenario)?,
        });
    }
    setup
        .publishers
        .push(publisher(publishers, scenario, true)?);
    Ok(setup)
}

/// Whether a broker of forwarders and services in ZMTP can do this.
pub fn is_any(scenario: &Scenario) -> bool {
    is_plain_fan(scenario) || is_services(scenario) || super::is_workers(scenario)
}
