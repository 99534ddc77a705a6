//! Workers, sealed events, chance, and the end of threads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::peers::{connected, is_silent};

/// Chance that can be had again: its seed is printed, and taken from `EVENT_MANAGER_TEST_SEED`.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let given = std::env::var("EVENT_MANAGER_TEST_SEED");
        let seed = given.ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.expect("a clock").as_nanos() as u64
        });
        println!("EVENT_MANAGER_TEST_SEED={seed}");
        Self(seed)
    }

    /// What is drawn from this seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed for another.
    pub fn seed(&mut self) -> u64 {
        self.next()
    }

    /// Another, for a thread of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn checksum(n: u64, filling: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (n, filling).hash(&mut hasher);
    hasher.finish()
}

/// The data of an event that shows damage.
pub fn sealed(n: u64) -> String {
    let filling = format!("{n:x}").repeat(1 + n as usize % 50);
    format!("{n} {} {filling}", checksum(n, &filling))
}

/// The number of a sealed event; fails if it was damaged.
pub fn unsealed(data: &str) -> u64 {
    let fields: Vec<&str> = data.split(' ').collect();
    let [n, sum, filling] = fields[..] else {
        panic!("damaged: {data:?}")
    };
    let n = n.parse().expect("a number");
    assert_eq!(sum, checksum(n, filling).to_string(), "damaged: {data:?}");
    n
}

/// An event in the hands of a worker.
#[derive(Debug)]
pub struct Held {
    pub id: String,
    pub attempt: u32,
    pub subject: String,
    pub data: String,
}

/// What a worker hears.
#[derive(Debug)]
pub enum Heard {
    Event(Held),
    /// The answer to [`Worker::ask`].
    Answer,
}

/// A worker that acknowledges.
pub struct Worker(pub zmq::Socket);

impl Worker {
    pub fn join(context: &zmq::Context, address: &str, credit: u32) -> Self {
        let worker = Self(connected(context, zmq::DEALER, address));
        worker.say(&format!(r#"READY {{"ack": true, "credit": {credit}}}"#));
        worker
    }

    pub fn say(&self, word: &str) {
        self.0.send(word, 0).expect("a send");
    }

    /// Asks for an answer, which comes when all is counted that was said before: nonsense is answered.
    pub fn ask(&self) {
        self.say("HEARD?");
    }

    pub fn ack(&self, event: &Held) {
        self.say(&format!("ACK {}", event.id));
    }

    pub fn nak(&self, event: &Held) {
        self.say(&format!("NAK {}", event.id));
    }

    /// What comes within some milliseconds.
    pub fn hear(&self, ms: i64) -> Option<Heard> {
        if is_silent(&self.0, ms) {
            return None;
        }
        let frames = self.0.recv_multipart(0).expect("a message");
        let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
        let word = text(&frames[0]);
        let words: Vec<&str> = word.split(' ').collect();
        if words[0] == "ERROR" {
            return Some(Heard::Answer);
        }
        assert_eq!((words[0], words.len(), frames.len()), ("EVENT", 3, 3));
        Some(Heard::Event(Held {
            id: words[1].into(),
            attempt: words[2].parse().expect("a number"),
            subject: text(&frames[1]),
            data: text(&frames[2]),
        }))
    }

    /// The next event, if one comes within some milliseconds.
    pub fn hold(&self, ms: i64) -> Option<Held> {
        match self.hear(ms)? {
            Heard::Event(event) => Some(event),
            Heard::Answer => panic!("nothing was asked"),
        }
    }
}

/// Which of these workers something has come for.
pub fn readable(workers: &[Worker], ms: i64) -> Vec<usize> {
    let mut items: Vec<_> = workers
        .iter()
        .map(|worker| worker.0.as_poll_item(zmq::POLLIN))
        .collect();
    zmq::poll(&mut items, ms).expect("a poll");
    let numbered = items.iter().enumerate();
    numbered
        .filter_map(|(at, item)| item.is_readable().then_some(at))
        .collect()
}

/// Ends the threads that look at it, also if a check fails.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
