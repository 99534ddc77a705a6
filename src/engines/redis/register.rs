//! Entries, each a hash of Redis: its revision, and who holds it. One server's promise: what a failover
//! forgets, it forgets.

use redis::{Value, cmd, from_redis_value};

use super::super::register::Heard;
use super::super::{Failure, Register, User};
use super::{CONNECT_MAX, Connection};
use event_manager_core::leases::candidate::{Answer, Ask, Entry};

/// Replaces the entry if it has the revision that is named; gives the new one, or 0.
const REPLACE: &str = "
local revision = tonumber(redis.call('HGET', KEYS[1], 'revision') or '0')
if revision ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'revision', revision + 1, 'claim', ARGV[2])
return revision + 1";

pub(in crate::engines) struct RedisRegister {
    connection: Connection,
}

impl RedisRegister {
    /// # Errors
    /// Why there is no connection, and what to do.
    pub(in crate::engines) async fn connect(user: User<'_>) -> Result<Self, String> {
        Ok(Self {
            connection: Connection::open(user).await?,
        })
    }

    async fn read(&self, key: &str) -> Result<Answer<Vec<u8>>, Failure> {
        let mut command = cmd("HMGET");
        command.arg(key).arg("revision").arg("claim");
        let said = self.connection.ask(&command, CONNECT_MAX).await?;
        let (revision, claim): (Option<u64>, Option<Vec<u8>>) = read_as(said)?;
        Ok(Answer::Is(Entry {
            revision: revision.unwrap_or(0),
            content: claim.unwrap_or_default(),
        }))
    }

    async fn put(&self, key: &str, expected: u64, text: &str) -> Result<Answer<Vec<u8>>, Failure> {
        let mut command = cmd("EVAL");
        command.arg(REPLACE).arg(1).arg(key).arg(expected).arg(text);
        let said = self.connection.ask(&command, CONNECT_MAX).await?;
        Ok(match read_as(said)? {
            0 => Answer::Changed,
            revision => Answer::Stored(revision),
        })
    }
}

fn read_as<T: redis::FromRedisValue>(said: Value) -> Result<T, Failure> {
    from_redis_value(said).map_err(|error| Failure::Refused(format!("a strange answer: {error}")))
}

impl Register for RedisRegister {
    fn ask<'a>(&'a mut self, name: &'a str, ask: &'a Ask<String>) -> Heard<'a> {
        Box::pin(async move {
            let key = format!("event-manager:lease:{name}");
            match ask {
                Ask::Read => self.read(&key).await,
                Ask::Put(expected, text) => self.put(&key, *expected, text).await,
            }
        })
    }
}
