//! The queue of a service: a stream, and one consumer group, of which each daemon is a member.
//!
//! What a member has had for longer than `ackTimeout` without a word is taken over by others, so a member says
//! again and again that it has it still. What goes back is given that idle time at once.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};

use redis::{RedisError, Value, cmd, pipe};
use tokio::time::{sleep_until, timeout};

use super::super::{Failure, Incoming, Pending, Queue, QueueOf, Receipt, User};
use super::source::{ANSWER_MAX, Entry, entries_of, incoming, read_entries, text, unreadable};
use super::{CONNECT_MAX, Connection, failure};
use crate::ambient::now;
use crate::config::Layout;

/// What the group is called.
const GROUP: &str = "workers";
/// Who has what goes back.
const NOBODY: &str = "nobody";
/// How long a read waits for entries; a stop waits for it.
const READ_MAX: Duration = Duration::from_millis(500);
/// How often it is looked for what others have had for too long, or have given back.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A read that waits: who doesn't wait for it any longer loses none.
type Read = Pin<Box<dyn Future<Output = Result<Value, RedisError>>>>;

/// Where the events of a service are.
pub(super) fn key_of(service: &str) -> String {
    format!("em:service:{service}")
}

/// A member of the group.
pub(in crate::engines) struct RedisQueue {
    /// For reads, which wait; nothing else waits behind them.
    reading: Connection,
    telling: Connection,
    key: String,
    /// What we are called in the group; the same after a restart.
    consumer: String,
    ack_timeout: Duration,
    read: Option<Read>,
    /// Of what this consumer took before: those behind this one are not taken again yet. `None` if all are.
    own_behind: Option<String>,
    look_at: Instant,
    held: BTreeMap<Receipt, String>,
    last: u64,
}

impl RedisQueue {
    /// Connects, and makes the stream and the group unless they are there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        queue: QueueOf<'_>,
    ) -> Result<Self, String> {
        let telling = Connection::open(user).await?;
        let reading = Connection::open(user).await?;
        let key = key_of(queue.service);
        let mut creating = cmd("XGROUP");
        creating.arg("CREATE").arg(&key).arg(GROUP);
        creating.arg("0").arg("MKSTREAM");
        match telling.ask(&creating, CONNECT_MAX).await {
            Ok(_) => {}
            Err(Failure::Refused(why)) if why.contains("BUSYGROUP") => {}
            Err(Failure::Refused(why) | Failure::Lost(why)) => return Err(why),
        }
        Ok(Self {
            reading,
            telling,
            key,
            consumer: user.hub_id.to_string(),
            ack_timeout: queue.ack_timeout,
            read: None,
            own_behind: Some("0".into()),
            look_at: now(),
            held: BTreeMap::new(),
            last: 0,
        })
    }

    fn begin_read(&self, count: usize, from: &str) -> Read {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer);
        command.arg("COUNT").arg(count);
        if from == ">" {
            // What is to be looked for next doesn't wait for it. To 0 it would never end.
            let wait = self.look_at.saturating_duration_since(now()).min(READ_MAX);
            command.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        Box::pin(self.reading.send(command))
    }

    /// What a read has brought, one that was begun before, too.
    async fn read(&mut self, count: usize, from: &str) -> Result<Vec<Entry>, Failure> {
        if self.read.is_none() {
            self.read = Some(self.begin_read(count, from));
        }
        let Some(read) = &mut self.read else {
            return Ok(vec![]);
        };
        let answer = timeout(READ_MAX + ANSWER_MAX, read).await;
        self.read = None;
        match answer {
            Ok(Ok(answer)) => read_entries(answer),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {ANSWER_MAX:?}"))),
        }
    }

    async fn take_some(&mut self, room: usize) -> Result<Vec<Incoming>, Failure> {
        if room == 0 && self.read.is_none() {
            return Err(Failure::Lost(self.telling.lost().await));
        }
        loop {
            let count = room.max(1);
            if self.read.is_none()
                && let Some(behind) = self.own_behind.clone()
            {
                let entries = self.read(count, &behind).await?;
                self.own_behind = entries.last().map(|last| last.id.clone());
                if !entries.is_empty() {
                    return self.given(entries, true).await;
                }
            }
            if self.read.is_none() && now() >= self.look_at {
                let entries = self.claim(count).await?;
                if !entries.is_empty() {
                    return self.given(entries, true).await;
                }
                self.look_at = now() + LOOK_EVERY;
            }
            let entries = self.read(count, ">").await?;
            if !entries.is_empty() {
                return self.given(entries, false).await;
            }
            if room == 0 {
                sleep_until(self.look_at.into()).await;
            }
        }
    }

    /// Takes over what others have had for too long, or have given back.
    async fn claim(&mut self, count: usize) -> Result<Vec<Entry>, Failure> {
        // A claim looks at ten entries for each that is wanted: those that others work on could be all that
        // it ever sees.
        let idle = self.ack_timeout.as_millis() as u64;
        let mut looking = cmd("XPENDING");
        looking.arg(&self.key).arg(GROUP).arg("IDLE").arg(idle);
        looking.arg("-").arg("+").arg(1);
        let Value::Array(found) = self.telling.ask(&looking, ANSWER_MAX).await? else {
            return Err(unreadable());
        };
        let Some(Value::Array(found)) = found.into_iter().next() else {
            return Ok(vec![]);
        };
        let first = found.into_iter().next().and_then(text);
        let mut asked = cmd("XAUTOCLAIM");
        asked.arg(&self.key).arg(GROUP).arg(&self.consumer);
        asked.arg(idle).arg(first.ok_or_else(unreadable)?);
        asked.arg("COUNT").arg(count);
        let Value::Array(parts) = self.telling.ask(&asked, ANSWER_MAX).await? else {
            return Err(unreadable());
        };
        let mut parts = parts.into_iter().skip(1);
        entries_of(parts.next().ok_or_else(unreadable)?)
    }

    async fn given(&mut self, entries: Vec<Entry>, again: bool) -> Result<Vec<Incoming>, Failure> {
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.clone()).collect();
        let counts = match (again, ids.first(), ids.last()) {
            (true, Some(first), Some(last)) => self.counts(first, last, ids.len()).await?,
            _ => HashMap::new(),
        };
        let taken = entries.into_iter().zip(ids).map(|(entry, id)| {
            self.last += 1;
            let receipt = Receipt(self.last);
            let count = counts.get(&id).copied().unwrap_or(1);
            self.held.insert(receipt, id);
            let mut incoming = incoming(entry, receipt, &self.key, Layout::Plain);
            incoming.given_before = count.saturating_sub(1);
            incoming
        });
        Ok(taken.collect())
    }

    /// How often these were given to somebody.
    async fn counts(
        &self,
        first: &str,
        last: &str,
        count: usize,
    ) -> Result<HashMap<String, u32>, Failure> {
        let mut asked = cmd("XPENDING");
        asked.arg(&self.key).arg(GROUP).arg(first).arg(last);
        asked.arg(count).arg(&self.consumer);
        let Value::Array(rows) = self.telling.ask(&asked, ANSWER_MAX).await? else {
            return Err(unreadable());
        };
        let row = |row| {
            let Value::Array(cells) = row else {
                return None;
            };
            let mut cells = cells.into_iter();
            let id = text(cells.next()?)?;
            match cells.nth(2)? {
                Value::Int(times) => Some((id, u32::try_from(times).unwrap_or_default())),
                _ => None,
            }
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    fn ids(&self, receipts: &[Receipt]) -> Vec<String> {
        let ids = receipts.iter().filter_map(|receipt| self.held.get(receipt));
        ids.cloned().collect()
    }

    async fn acknowledge_all(&mut self, done: &[Receipt]) -> Result<(), Failure> {
        let ids = self.ids(done);
        if !ids.is_empty() {
            // Both or none: an entry that is deleted first would come again, empty.
            let mut both = pipe();
            both.atomic();
            both.cmd("XACK").arg(&self.key).arg(GROUP).arg(&ids);
            both.cmd("XDEL").arg(&self.key).arg(&ids);
            let mut telling = self.telling.commands.clone();
            match timeout(ANSWER_MAX, both.query_async::<Value>(&mut telling)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(failure(&error)),
                Err(_) => return Err(Failure::Lost(format!("no answer within {ANSWER_MAX:?}"))),
            }
        }
        done.iter()
            .for_each(|receipt| drop(self.held.remove(receipt)));
        Ok(())
    }

    /// These are somebody's from now on, who has had them for so long.
    async fn claim_for(
        &self,
        consumer: &str,
        held: &[Receipt],
        idle: Duration,
    ) -> Result<(), Failure> {
        let ids = self.ids(held);
        if ids.is_empty() {
            return Ok(());
        }
        let mut claiming = cmd("XCLAIM");
        claiming.arg(&self.key).arg(GROUP).arg(consumer);
        claiming.arg(0).arg(&ids);
        claiming
            .arg("IDLE")
            .arg(idle.as_millis() as u64)
            .arg("JUSTID");
        self.telling.ask(&claiming, ANSWER_MAX).await.map(|_| ())
    }

    async fn give_all_back(&mut self, held: &[Receipt]) -> Result<(), Failure> {
        self.claim_for(NOBODY, held, self.ack_timeout).await?;
        held.iter()
            .for_each(|receipt| drop(self.held.remove(receipt)));
        Ok(())
    }
}

impl Queue for RedisQueue {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(self.take_some(room))
    }

    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>> {
        Box::pin(async {
            let Some(read) = self.read.take() else {
                return vec![];
            };
            let answer = timeout(READ_MAX * 2, read).await;
            let entries = match answer {
                Ok(Ok(answer)) => read_entries(answer).unwrap_or_default(),
                _ => vec![],
            };
            let given = self.given(entries, false).await.unwrap_or_default();
            given.into_iter().map(|incoming| incoming.receipt).collect()
        })
    }

    fn acknowledge<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.acknowledge_all(done))
    }

    fn extend<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        let consumer = self.consumer.clone();
        Box::pin(async move { self.claim_for(&consumer, held, Duration::ZERO).await })
    }

    fn give_back<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.give_all_back(held))
    }

    fn token(&self, held: Receipt) -> Option<String> {
        self.held.get(&held).cloned()
    }

    fn recall(&mut self, token: &str) -> Option<Receipt> {
        self.last += 1;
        let receipt = Receipt(self.last);
        self.held.insert(receipt, token.to_owned());
        Some(receipt)
    }
}
