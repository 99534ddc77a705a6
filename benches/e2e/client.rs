//! The generator's connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Result, bail};

use crate::scenario::Scenario;

/// Digits at the beginning of each payload: the event's position in its block.
pub const STAMP_BYTES: usize = 8;

/// A payload, stamped.
pub fn payload(size: usize, event: usize) -> Vec<u8> {
    let mut payload = format!("{event:0STAMP_BYTES$}").into_bytes();
    payload.resize(size, b'x');
    payload
}

/// The number that these digits are.
pub fn number(digits: &[u8]) -> usize {
    let digits = digits.iter();
    digits.fold(0, |number, digit| 10 * number + usize::from(digit & 15))
}

/// Digits of an id: the number of the block, and the event's position in it.
pub const ID_BYTES: usize = 2 * STAMP_BYTES;

/// Sends one block again and again.
pub struct Publisher {
    stream: TcpStream,
    block: Vec<u8>,
    events: usize,
    at: usize,
    /// Whole blocks that were sent.
    pub cycles: u64,
    events_per_write: Option<usize>,
    /// Where an event has its id, if each has one of its own.
    id_at: Option<usize>,
    replies: Vec<u8>,
}

impl Publisher {
    /// `encode` appends the event at a position of the block; all have the same length.
    pub fn new(
        stream: TcpStream,
        scenario: &Scenario,
        encode: impl Fn(&mut Vec<u8>, &str, &[u8]),
    ) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let groups = scenario.pattern.groups();
        let wanted = match scenario.events_per_write {
            Some(_) => 64,
            None => ((128 << 10) / scenario.size).max(4),
        };
        let wanted = wanted.next_multiple_of(scenario.subjects);
        // The events of a block go to all groups alike.
        let events = wanted.div_ceil(groups) * groups;
        let mut block = vec![];
        for event in 0..events {
            encode(
                &mut block,
                &scenario.subject(event),
                &payload(scenario.size, event),
            );
        }
        Ok(Self {
            stream,
            block,
            events,
            at: 0,
            cycles: 0,
            events_per_write: scenario.events_per_write,
            id_at: None,
            replies: vec![0; 64 << 10],
        })
    }

    /// Each event has an id of its own, at this position of its bytes.
    pub fn with_ids(mut self, at: usize) -> Self {
        self.id_at = Some(at);
        self.begin_block();
        self
    }

    /// Events of another block have other ids.
    fn begin_block(&mut self) {
        let (event_bytes, cycle) = (self.event_bytes(), self.cycles);
        let Some(at) = self.id_at else { return };
        for (n, event) in self.block.chunks_mut(event_bytes).enumerate() {
            let id = format!("{cycle:0STAMP_BYTES$}{n:0STAMP_BYTES$}");
            event[at..at + ID_BYTES].copy_from_slice(id.as_bytes());
        }
    }

    /// How many events a block has.
    pub fn block_events(&self) -> usize {
        self.events
    }

    /// Events that were begun to send.
    pub fn sent(&self) -> u64 {
        let event_bytes = self.block.len() / self.events;
        self.cycles * self.events as u64 + (self.at.div_ceil(event_bytes)) as u64
    }

    /// Whether the last block is whole.
    pub fn is_whole(&self) -> bool {
        self.at == 0
    }

    /// Writes once, at most so many events.
    pub fn send(&mut self, events_max: u64) -> Result<()> {
        let event_bytes = self.block.len() / self.events;
        let events = self
            .events_per_write
            .map_or(events_max, |n| events_max.min(n as u64));
        // To the border of an event, so that the window holds whole ones.
        let to = (self.at / event_bytes + events as usize) * event_bytes;
        let to = to.clamp(self.at, self.block.len());
        match self.stream.write(&self.block[self.at..to]) {
            Ok(n) => self.at += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if self.at == self.block.len() {
            self.at = 0;
            self.cycles += 1;
            self.begin_block();
        }
        Ok(())
    }

    /// Sends exactly one event. The generator waits if the socket is full.
    pub fn send_one(&mut self) -> Result<()> {
        let target = self.sent() + 1;
        let event_bytes = self.block.len() / self.events;
        loop {
            let border = (self.at / event_bytes + 1) * event_bytes;
            match self.stream.write(&self.block[self.at..border]) {
                Ok(n) => self.at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if self.at == self.block.len() {
                self.at = 0;
                self.cycles += 1;
                self.begin_block();
            }
            if self.sent() == target && self.at.is_multiple_of(event_bytes) {
                return Ok(());
            }
        }
    }

    /// The bytes of one event, as it is sent.
    pub fn event_bytes(&self) -> usize {
        self.block.len() / self.events
    }

    /// Discards what the broker answers.
    pub fn drain(&mut self) -> Result<()> {
        match self.stream.read(&mut self.replies) {
            Ok(0) => bail!("the broker closed a publisher's connection"),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Finds the events in what a broker sends.
pub trait Framing {
    /// Reads one event, or something else, at the beginning of the bytes: its length and the position
    /// of its stamp. `None` if it isn't whole.
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)>;

    /// What is to be sent by now for the events found so far: acknowledgements, requests for more.
    fn answer(&mut self, _out: &mut Vec<u8>) {}
}

/// Events that all have the same length.
pub struct Fixed {
    pub event_bytes: usize,
    pub stamp_at: usize,
    /// What may come between two events.
    pub between: &'static [u8],
}

impl Fixed {
    /// As an event looks when it arrives.
    pub fn like(event: &[u8], size: usize) -> Self {
        let first = payload(size, 0);
        let stamp_at = event.windows(size).position(|window| window == first);
        Self {
            event_bytes: event.len(),
            stamp_at: stamp_at.unwrap(),
            between: b"",
        }
    }

    /// The same with another length: a payload may come in pieces.
    pub fn with_len(self, event_bytes: usize) -> Self {
        Self {
            event_bytes,
            ..self
        }
    }
}

impl Framing for Fixed {
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        if !self.between.is_empty() && bytes.starts_with(self.between) {
            return Some((self.between.len(), None));
        }
        (bytes.len() >= self.event_bytes).then_some((self.event_bytes, Some(self.stamp_at)))
    }
}

/// Receives, and reads the stamps.
pub struct Receiver {
    stream: TcpStream,
    framing: Box<dyn Framing>,
    buffer: Vec<u8>,
    filled: usize,
    answers: Vec<u8>,
    pub received: u64,
}

impl Receiver {
    pub fn new(
        stream: TcpStream,
        scenario: &Scenario,
        framing: impl Framing + 'static,
    ) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut receiver = Self {
            stream,
            framing: Box::new(framing),
            buffer: vec![0; (512 << 10) + 2 * scenario.size],
            filled: 0,
            answers: vec![],
            received: 0,
        };
        receiver.framing.answer(&mut receiver.answers);
        receiver.write_answers()?;
        Ok(receiver)
    }

    /// Reads once; calls `seen` with the stamp of each event. Whether there was something to read.
    pub fn receive(&mut self, mut seen: impl FnMut(usize)) -> Result<bool> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => bail!("the broker closed a receiver's connection"),
            Ok(n) => self.filled += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.framing.answer(&mut self.answers);
                self.write_answers()?;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        let mut at = 0;
        while let Some((len, stamp)) = self.framing.next(&self.buffer[at..self.filled]) {
            if let Some(stamp) = stamp {
                let begin = at + stamp;
                seen(number(&self.buffer[begin..begin + STAMP_BYTES]));
                self.received += 1;
            }
            at += len;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.framing.answer(&mut self.answers);
        self.write_answers()?;
        Ok(true)
    }

    fn write_answers(&mut self) -> Result<()> {
        while !self.answers.is_empty() {
            match self.stream.write(&self.answers) {
                Ok(n) => drop(self.answers.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
