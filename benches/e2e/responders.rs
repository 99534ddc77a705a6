//! Services that answer calls at once, in a process of their own, so that the generator is not what is
//! measured: of our daemon, which calls each by connections of its own; and of nats.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use zmq::PollItem;

use crate::brokers::zmtp::{frame_at, greet, push_request};

const COMMAND: u8 = 4;
const MORE: u8 = 1;

/// What a protocol's service answers.
trait Answering {
    /// Takes one message from the beginning of the bytes, and appends the answer: its length, if it is whole.
    fn answer(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize>;
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    out: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            bytes: vec![],
            out: vec![],
        })
    }

    /// Answers what has come; whether the connection goes on.
    fn serve(&mut self, answering: &impl Answering, chunk: &mut [u8]) -> bool {
        match self.stream.read(chunk) {
            Ok(0) => return false,
            Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        let mut at = 0;
        while let Some(len) = answering.answer(&self.bytes[at..], &mut self.out) {
            at += len;
        }
        self.bytes.drain(..at);
        // Answers are short, and whoever called reads them.
        let written = self.stream.write_all(&self.out);
        self.out.clear();
        written.is_ok()
    }
}

/// Serves all connections, and those that come to the listeners.
fn serve(
    listeners: &[TcpListener],
    mut connections: Vec<Connection>,
    answering: &impl Answering,
) -> Result<()> {
    let mut chunk = vec![0; 64 << 10];
    let readable = |fd: i32| PollItem::from_fd(fd, zmq::POLLIN);
    let mut items: Vec<PollItem<'_>> = vec![];
    loop {
        if items.len() != listeners.len() + connections.len() {
            let listening = listeners.iter().map(AsRawFd::as_raw_fd);
            let connected = connections.iter().map(|one| one.stream.as_raw_fd());
            items = listening.chain(connected).map(readable).collect();
        }
        zmq::poll(&mut items, -1)?;
        let (listening, connected) = items.split_at(listeners.len());
        let mut ready = connected.iter().map(PollItem::is_readable);
        connections.retain_mut(|one| match ready.next() {
            Some(true) => one.serve(answering, &mut chunk),
            _ => true,
        });
        let mut has_changed = connections.len() != connected.len();
        for (listener, item) in listeners.iter().zip(listening) {
            if item.is_readable() {
                let mut stream = listener.accept()?.0;
                greet(&mut stream, "ROUTER")?;
                connections.push(Connection::new(stream)?);
                has_changed = true;
            }
        }
        if has_changed {
            items.clear();
        }
    }
}

/// So many services, each with a port of its own, which are printed.
pub fn play_zmtp(services: usize) -> Result<()> {
    let listeners = (0..services).map(|_| TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
    let ports = listeners.iter().map(|one| Ok(one.local_addr()?.port()));
    let ports = ports.collect::<Result<Vec<u16>>>()?;
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    println!("{}", ports.join(" "));
    serve(&listeners, vec![], &Routers)
}

/// ROUTERs that answer ACK to who called, by the envelope of the call.
struct Routers;

impl Answering for Routers {
    fn answer(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (mut flags, mut frame) = frame_at(bytes, 0)?;
        if flags & COMMAND != 0 {
            // PING has a time to live of two bytes and a context, which PONG has too.
            if let Some(context) = bytes[frame.clone()].strip_prefix(b"\x04PING") {
                let context = context.get(2..).unwrap_or_default();
                let pong = [b"\x04PONG", context].concat();
                out.extend_from_slice(&[COMMAND, pong.len() as u8]);
                out.extend_from_slice(&pong);
            }
            return Some(frame.end);
        }
        let mut frames = vec![&bytes[frame.clone()]];
        while flags & MORE != 0 {
            (flags, frame) = frame_at(bytes, frame.end)?;
            frames.push(&bytes[frame.clone()]);
        }
        let border = frames.iter().position(|frame| frame.is_empty());
        frames.truncate(border.map_or(0, |at| at + 1));
        frames.extend([&b"1.1"[..], b"6", b"ok"]);
        push_request(out, &frames);
        Some(frame.end)
    }
}

/// So many subscribers of a subject that answer each message.
pub fn play_nats(port: u16, services: usize, subject: &str) -> Result<()> {
    let connections = (0..services).map(|_| {
        let stream = crate::brokers::nats::subscribe(port, subject, "")?;
        Connection::new(stream)
    });
    let connections = connections.collect::<Result<Vec<_>>>()?;
    println!("{services}");
    serve(&[], connections, &Repliers)
}

struct Repliers;

impl Answering for Repliers {
    fn answer(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        if line.starts_with("PING") {
            out.extend_from_slice(b"PONG\r\n");
        }
        let Some(head) = line.strip_prefix("MSG ") else {
            return Some(end);
        };
        // MSG subject 1 reply size
        let mut words = head.split_whitespace().skip(2);
        let (reply, size) = (words.next()?, words.next()?);
        let len = end + size.parse::<usize>().ok()? + 2;
        (bytes.len() >= len).then(|| {
            out.extend_from_slice(format!("PUB {reply} 2\r\nok\r\n").as_bytes());
            len
        })
    }
}

/// This program's part that plays these services, and the ports that it says.
pub fn start(args: &[&str]) -> Result<(crate::process::Process, Vec<u16>)> {
    crate::brokers::zmtp::part(args).context("the services that answer")
}
