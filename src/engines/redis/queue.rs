//! The queue of a service: a stream, and one consumer group, of which each daemon is a member.
//!
//! What a member has had for longer than `ackTimeout` without a word is taken over by others, so a member says
//! again and again that it has it still. What goes back is given that idle time at once.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};

use redis::{Value, cmd, pipe};
use tokio::time::timeout;

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

/// What is looked for.
#[derive(Debug, Clone, Copy)]
enum Sought {
    /// What this consumer took before, and nothing was heard of.
    Own,
    /// What others have had for too long, or have given back.
    Idle,
    /// What nobody has had.
    New,
}

/// What was found, and how often each was given to somebody.
type Found = Vec<(Entry, u32)>;

/// Something that was begun. Whatever it finds is this consumer's at the server by then, so it is waited for again by
/// who comes next, when who waits for it doesn't any longer.
struct Begun {
    sought: Sought,
    finding: Pin<Box<dyn Future<Output = Result<Found, Failure>>>>,
}

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
    begun: Option<Begun>,
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
            begun: None,
            own_behind: Some("0".into()),
            look_at: now(),
            held: BTreeMap::new(),
            last: 0,
        })
    }

    /// What is to be done next: what was left comes first, and what nobody has had last.
    fn begin(&self, count: usize) -> Begun {
        let reader = Reader {
            reading: self.reading.clone(),
            telling: self.telling.clone(),
            key: self.key.clone(),
            consumer: self.consumer.clone(),
        };
        match self.own_behind.clone() {
            Some(behind) => Begun {
                sought: Sought::Own,
                finding: Box::pin(async move { reader.own(count, &behind).await }),
            },
            None if now() >= self.look_at => {
                let idle = self.ack_timeout;
                Begun {
                    sought: Sought::Idle,
                    finding: Box::pin(async move { reader.claim(count, idle).await }),
                }
            }
            None => {
                // What is to be looked for next doesn't wait for it.
                let wait = self.look_at.saturating_duration_since(now()).min(READ_MAX);
                Begun {
                    sought: Sought::New,
                    finding: Box::pin(async move { reader.unseen(count, wait).await }),
                }
            }
        }
    }

    /// What that which was begun has found.
    async fn finish(&mut self) -> Result<Vec<Incoming>, Failure> {
        let Some(begun) = &mut self.begun else {
            return Ok(vec![]);
        };
        let sought = begun.sought;
        let found = begun.finding.as_mut().await;
        // Nothing is waited for from here on.
        self.begun = None;
        let found = found?;
        match sought {
            Sought::Own => self.own_behind = found.last().map(|(last, _)| last.id.clone()),
            Sought::Idle if found.is_empty() => self.look_at = now() + LOOK_EVERY,
            Sought::Idle | Sought::New => {}
        }
        Ok(self.given(found))
    }

    async fn take_some(&mut self, room: usize) -> Result<Vec<Incoming>, Failure> {
        loop {
            if self.begun.is_none() {
                if room == 0 {
                    return Err(Failure::Lost(self.telling.lost().await));
                }
                self.begun = Some(self.begin(room));
            }
            let taken = self.finish().await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    fn given(&mut self, found: Found) -> Vec<Incoming> {
        let taken = found.into_iter().map(|(entry, count)| {
            self.last += 1;
            let receipt = Receipt(self.last);
            self.held.insert(receipt, entry.id.clone());
            let mut incoming = incoming(entry, receipt, &self.key, Layout::Plain);
            incoming.given_before = count.saturating_sub(1);
            incoming
        });
        taken.collect()
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

/// Who finds entries, on the connections of a queue.
struct Reader {
    reading: Connection,
    telling: Connection,
    key: String,
    consumer: String,
}

impl Reader {
    /// Has the server give entries to the consumer: from `from`, or with `>` what nobody has had.
    async fn read(
        &self,
        count: usize,
        wait: Option<Duration>,
        from: &str,
    ) -> Result<Vec<Entry>, Failure> {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer);
        command.arg("COUNT").arg(count);
        if let Some(wait) = wait {
            // With 0 it would never end.
            command.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        let answer_max = wait.unwrap_or_default() + ANSWER_MAX;
        match timeout(answer_max, self.reading.send(command)).await {
            Ok(Ok(answer)) => read_entries(answer),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {ANSWER_MAX:?}"))),
        }
    }

    async fn unseen(&self, count: usize, wait: Duration) -> Result<Found, Failure> {
        let entries = self.read(count, Some(wait), ">").await?;
        Ok(entries.into_iter().map(|entry| (entry, 1)).collect())
    }

    /// What this consumer has had before, behind this entry.
    async fn own(&self, count: usize, behind: &str) -> Result<Found, Failure> {
        let entries = self.read(count, None, behind).await?;
        self.counted(entries).await
    }

    /// Takes over what others have had for so long, or have given back.
    async fn claim(&self, count: usize, idle: Duration) -> Result<Found, Failure> {
        // A claim looks at ten entries for each that is wanted: those that others work on could be all that
        // it ever sees.
        let idle = idle.as_millis() as u64;
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
        self.counted(entries_of(parts.next().ok_or_else(unreadable)?)?)
            .await
    }

    /// With each, how often it was given to somebody.
    async fn counted(&self, entries: Vec<Entry>) -> Result<Found, Failure> {
        let counts = match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => self.counts(&first.id, &last.id, entries.len()).await?,
            _ => HashMap::new(),
        };
        let with_count = |entry: Entry| {
            let count = counts.get(&entry.id).copied().unwrap_or(1);
            (entry, count)
        };
        Ok(entries.into_iter().map(with_count).collect())
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
}

impl Queue for RedisQueue {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(self.take_some(room))
    }

    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>> {
        Box::pin(async {
            let came = timeout(READ_MAX * 2, self.finish()).await;
            let came = came.ok().and_then(Result::ok).unwrap_or_default();
            came.into_iter().map(|incoming| incoming.receipt).collect()
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
