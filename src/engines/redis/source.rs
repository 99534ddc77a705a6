//! Events that come from a stream, by a consumer group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Cmd, Value, cmd, pipe};
use tokio::time::timeout;

use super::super::{FLAW, Failure, Incoming, Origin, Pending, Receipt, Source, User};
use super::{CONNECT_MAX, Connection, DATA, OF_BODY, dotmac, failure};
use crate::ambient::now;
use crate::config::Layout;

/// How long a read waits for entries.
const READ_MAX: Duration = Duration::from_secs(2);
/// How long any other answer may take; a read, beyond its wait.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How many entries are asked for first, and how many bytes are wanted at once, about: a server doesn't
/// bound that by itself.
const FIRST_COUNT: usize = 16;
const READ_BYTES: usize = 4 << 20;

/// A member of a consumer group.
pub(in crate::engines) struct RedisSource {
    /// For reads, which wait; nothing else waits behind them.
    reading: Connection,
    telling: Connection,
    key: String,
    group: String,
    /// What we are called in the group; the same after a restart.
    consumer: String,
    /// After how long what others have taken and not settled is taken over.
    claim_after: Duration,
    /// Whether what is settled is deleted.
    deletes: bool,
    layout: Layout,
    /// Of what this consumer took before: those behind this one are not taken again yet. `None` if all are.
    own_behind: Option<String>,
    /// Where to go on taking over, and when it is time to begin again.
    claim_from: String,
    claim_at: Instant,
    /// How many are asked for.
    count: usize,
    /// Taken, and not settled.
    taken: BTreeMap<Receipt, String>,
    next_receipt: u64,
}

/// One of a stream; without fields, it has been deleted since it was given.
pub(super) struct Entry {
    pub(super) id: String,
    fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl RedisSource {
    /// Connects, and sees that the group is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        origin: Origin<'_>,
    ) -> Result<Self, String> {
        let telling = Connection::open(user).await?;
        let reading = Connection::open(user).await?;
        let mut creating = cmd("XGROUP");
        creating
            .arg("CREATE")
            .arg(origin.from)
            .arg(origin.group)
            .arg("0")
            .arg("MKSTREAM");
        match telling.ask(&creating, CONNECT_MAX).await {
            Ok(_) => {}
            Err(Failure::Refused(why)) if why.contains("BUSYGROUP") => {}
            Err(Failure::Refused(why) | Failure::Lost(why)) => return Err(why),
        }
        Ok(Self {
            reading,
            telling,
            key: origin.from.to_owned(),
            group: origin.group.to_owned(),
            consumer: format!("{}.{}", user.hub_id, user.bridge),
            claim_after: origin.claim_after,
            deletes: origin.deletes,
            layout: user.layout,
            own_behind: Some("0".into()),
            claim_from: "0-0".into(),
            claim_at: now(),
            count: FIRST_COUNT,
            taken: BTreeMap::new(),
            next_receipt: 0,
        })
    }

    /// A read by the group: from `from`, or with `>` what nobody has taken.
    fn read(&self, count: usize, wait: Option<Duration>, from: &str) -> Cmd {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer);
        command.arg("COUNT").arg(count);
        if let Some(wait) = wait {
            command.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        command
    }

    async fn take_some(&mut self, room: usize) -> Result<Vec<Incoming>, Failure> {
        loop {
            let count = self.count.clamp(1, room.max(1));
            let entries = if let Some(behind) = &self.own_behind {
                let asked = self.read(count, None, behind);
                let entries = read_entries(self.reading.ask(&asked, ANSWER_MAX).await?)?;
                self.own_behind = entries.last().map(|last| last.id.clone());
                entries
            } else if now() >= self.claim_at {
                self.claim(count).await?
            } else {
                let wait = READ_MAX.min(self.claim_at.saturating_duration_since(now()));
                let asked = self.read(count, Some(wait), ">");
                read_entries(self.reading.ask(&asked, wait + ANSWER_MAX).await?)?
            };
            if !entries.is_empty() {
                self.learn_count(&entries);
                return Ok(entries.into_iter().map(|one| self.given(one)).collect());
            }
        }
    }

    /// Takes over what others have had for too long: they are dead, or as good as that.
    async fn claim(&mut self, count: usize) -> Result<Vec<Entry>, Failure> {
        let mut asked = cmd("XAUTOCLAIM");
        asked.arg(&self.key).arg(&self.group).arg(&self.consumer);
        asked.arg(self.claim_after.as_millis() as u64);
        asked.arg(&self.claim_from).arg("COUNT").arg(count);
        let answer = self.telling.ask(&asked, ANSWER_MAX).await?;
        let Value::Array(parts) = answer else {
            return Err(unreadable());
        };
        let mut parts = parts.into_iter();
        let (Some(next), Some(entries)) = (parts.next().and_then(text), parts.next()) else {
            return Err(unreadable());
        };
        if next == "0-0" {
            self.claim_at = now() + self.claim_after;
        }
        self.claim_from = next;
        let mut entries = entries_of(entries)?;
        // From 7.0 on, it says what was deleted since, and then knows nothing more of it.
        if let Some(Value::Array(deleted)) = parts.next() {
            let ids = deleted.into_iter().filter_map(text);
            entries.extend(ids.map(|id| Entry { id, fields: None }));
        }
        Ok(entries)
    }

    /// As many as make the bytes that are wanted, by what these are; at most twice as many as before.
    fn learn_count(&mut self, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        let fitting = READ_BYTES * entries.len() / bytes.max(1);
        self.count = fitting.clamp(1, self.count.saturating_mul(2));
    }

    fn given(&mut self, entry: Entry) -> Incoming {
        let receipt = Receipt(self.next_receipt);
        self.next_receipt += 1;
        self.taken.insert(receipt, entry.id.clone());
        incoming(entry, receipt, &self.key, self.layout)
    }

    async fn settle_all(&mut self, done: &[Receipt]) -> Result<(), Failure> {
        let ids: Vec<_> = done
            .iter()
            .filter_map(|receipt| self.taken.remove(receipt))
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let of_ids = |name: &str| {
            let mut command = cmd(name);
            command.arg(&self.key);
            command
        };
        let mut settling = of_ids("XACK");
        settling.arg(&self.group).arg(&ids);
        if !self.deletes {
            return self.telling.ask(&settling, ANSWER_MAX).await.map(|_| ());
        }
        // Both or none: an entry that is deleted first would come again, empty.
        let mut deleting = of_ids("XDEL");
        deleting.arg(&ids);
        let mut both = pipe();
        both.atomic().add_command(settling).add_command(deleting);
        let mut telling = self.telling.commands.clone();
        match timeout(ANSWER_MAX, both.query_async::<Value>(&mut telling)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {ANSWER_MAX:?}"))),
        }
    }
}

impl Source for RedisSource {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(self.take_some(room))
    }

    fn settle<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.settle_all(done))
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let fields = self.fields.iter().flatten();
        fields.map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// What an entry of the stream with this key brings.
pub(super) fn incoming(entry: Entry, receipt: Receipt, key: &str, layout: Layout) -> Incoming {
    let position = format!("redis/{}/{}", key, entry.id);
    let (mut headers, mut body) = (vec![], None);
    let is_there = entry.fields.is_some();
    for (name, value) in entry.fields.into_iter().flatten() {
        if name == DATA.as_bytes() && body.is_none() {
            body = Some(Bytes::from(value));
        } else if let (Ok(name), Ok(value)) = (String::from_utf8(name), String::from_utf8(value)) {
            headers.push((name.to_lowercase(), value));
        }
    }
    let (body, flaw) = match body {
        None if is_there => (Bytes::new(), Some(format!("the entry has no field {DATA}"))),
        None => {
            let why = "the entry was deleted before it could be read".to_owned();
            (Bytes::new(), Some(why))
        }
        Some(body) if layout == Layout::DotMac => match of_dotmac(&body, &mut headers) {
            Ok(body) => (body, None),
            Err(why) => (body, Some(why)),
        },
        Some(body) => (body, None),
    };
    headers.extend(flaw.map(|why| (FLAW.to_owned(), why)));
    Incoming {
        receipt,
        position: Some(position),
        subject: key.to_owned(),
        headers,
        body,
        given_before: 0,
    }
}

/// The body of an entry that one of DotMac's has written, as a bridge of ours would have written it.
fn of_dotmac(data: &[u8], headers: &mut Vec<(String, String)>) -> Result<Bytes, String> {
    let read = dotmac::read(data, headers)?;
    headers.retain(|(name, _)| !OF_BODY.contains(&&**name));
    if let Some(id) = read.id
        && !headers.iter().any(|(name, _)| name == "x-em-id")
    {
        headers.push(("x-em-id".into(), id));
    }
    if read.frames.len() > 1 {
        let lengths: Vec<_> = read
            .frames
            .iter()
            .map(|one| one.len().to_string())
            .collect();
        headers.push((OF_BODY[0].into(), lengths.join(",")));
    }
    Ok(read.frames.concat().into())
}

pub(super) fn unreadable() -> Failure {
    Failure::Refused("the server's answer is not that of a Redis from 6.2 on".into())
}

pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The entries of the one stream that was read.
pub(super) fn read_entries(answer: Value) -> Result<Vec<Entry>, Failure> {
    match answer {
        Value::Nil => Ok(vec![]),
        Value::Map(streams) => match streams.into_iter().next() {
            Some((_, entries)) => entries_of(entries),
            None => Ok(vec![]),
        },
        _ => Err(unreadable()),
    }
}

pub(super) fn entries_of(list: Value) -> Result<Vec<Entry>, Failure> {
    let Value::Array(all) = list else {
        return Err(unreadable());
    };
    let known = all.into_iter().filter(|one| *one != Value::Nil);
    known.map(|one| entry(one).ok_or_else(unreadable)).collect()
}

fn entry(one: Value) -> Option<Entry> {
    let Value::Array(parts) = one else {
        return None;
    };
    let mut parts = parts.into_iter();
    let id = text(parts.next()?)?;
    let fields = match parts.next()? {
        Value::Nil => None,
        Value::Array(flat) => Some(pairs(flat)?),
        _ => return None,
    };
    Some(Entry { id, fields })
}

fn pairs(flat: Vec<Value>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let Some(name) = flat.next() {
        match (name, flat.next()?) {
            (Value::BulkString(name), Value::BulkString(value)) => pairs.push((name, value)),
            _ => return None,
        }
    }
    Some(pairs)
}
