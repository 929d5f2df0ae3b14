//! One node that is read: many keys in one transaction, and where its history stands.

use std::time::Duration;

use tokio::time::Instant;

use super::super::plan::Endpoint;
use super::super::probe::{Keyspace, connect, field, identify, read_keyspace};
use super::batch::Key;
use super::large::Question;
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::rdb::{Family, Target};
use crate::resp::Value;

/// Answers of one batch, at most: its values are a megabyte together, unless they have grown meanwhile.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection to a node that is read.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) client: NodeClient,
    /// It says exactly when a key expires (`PEXPIRETIME`, 7.0).
    pub(super) exact: bool,
    /// Fields of hashes may expire there.
    pub(super) fields: bool,
    /// What a PING takes.
    pub(super) ping: Duration,
    /// Where its history stood when it was read last.
    pub(super) offset: u64,
}

/// A key as a node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What `DUMP` gives; none: there is no such key.
    pub(super) payload: Option<Vec<u8>>,
    /// When it expires, in milliseconds of the node's clock.
    pub(super) expires_ms: Option<i64>,
}

/// What was read of some keys.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) found: Vec<Found>,
    /// Where the node's history stood, if it was asked.
    pub(super) offset: u64,
    /// How long the node was busy with it, about.
    pub(super) took: Duration,
}

type Words<'a> = Vec<&'a [u8]>;

impl Side {
    pub(super) async fn open(node: &Endpoint, silence: Duration) -> Result<Self, AskError> {
        let client = connect(node, silence).await?;
        let mut client = client.with_reply_max(REPLY_BYTES_MAX);
        let server = client.ask_text(&["INFO", "server"]).await?;
        let target = identify(&server).ok_or(AskError::NotRedis)?;
        let begun = Instant::now();
        client.ask(&["PING"]).await?;
        Ok(Self {
            client,
            exact: tells_expiries(target),
            fields: target.expires_fields(),
            ping: begun.elapsed(),
            offset: 0,
        })
    }

    /// Reads keys as they are at one offset.
    pub(super) async fn read_at(&mut self, db: DbIndex, keys: &[Key]) -> Result<Read, AskError> {
        let begun = Instant::now();
        let mut questions = self.of_keys(keys);
        questions.push(vec![b"INFO", b"replication"]);
        let mut answers = self.transaction(Some(db), &questions).await?;
        let offset = offset_of(answers.pop())?;
        self.offset = self.offset.max(offset);
        Ok(Read {
            found: self.found(answers)?,
            offset,
            took: begun.elapsed().saturating_sub(self.ping),
        })
    }

    /// Reads keys of a node that nobody writes to meanwhile.
    pub(super) async fn read(&mut self, db: DbIndex, keys: &[Key]) -> Result<Read, AskError> {
        if keys.is_empty() {
            return Ok(Read::default());
        }
        let begun = Instant::now();
        let questions = self.of_keys(keys);
        let answers = self.all(db, &questions).await?;
        Ok(Read {
            found: self.found(answers)?,
            offset: 0,
            took: begun.elapsed().saturating_sub(self.ping),
        })
    }

    /// Asks questions about a large value at one offset.
    pub(super) async fn ask_at(
        &mut self,
        db: DbIndex,
        questions: &[Question],
    ) -> Result<(Vec<Value>, u64), AskError> {
        let mut asked: Vec<Words<'_>> = questions
            .iter()
            .map(|question| question.words(self.exact))
            .collect();
        asked.push(vec![b"TIME"]);
        asked.push(vec![b"INFO", b"replication"]);
        let mut answers = self.transaction(Some(db), &asked).await?;
        let offset = offset_of(answers.pop())?;
        self.offset = self.offset.max(offset);
        self.with_time(questions, answers)
            .map(|answers| (answers, offset))
    }

    /// The same of a node that nobody writes to.
    pub(super) async fn ask(&mut self, db: DbIndex, questions: &[Question]) -> Result<Vec<Value>, AskError> {
        let mut asked: Vec<Words<'_>> = questions
            .iter()
            .map(|question| question.words(self.exact))
            .collect();
        asked.push(vec![b"TIME"]);
        let answers = self.all(db, &asked).await?;
        self.with_time(questions, answers)
    }

    /// Answers of which the last is the time: what is left of an expiry becomes when it is.
    fn with_time(&self, questions: &[Question], mut answers: Vec<Value>) -> Result<Vec<Value>, AskError> {
        let now = millis_of(answers.pop().as_ref())?;
        if self.exact {
            return Ok(answers);
        }
        for (question, answer) in questions.iter().zip(&mut answers) {
            match answer {
                Value::Int(left) if question.is_expiry() && *left >= 0 => *left += now,
                _ => {}
            }
        }
        Ok(answers)
    }

    /// How many keys there are, at one offset.
    pub(super) async fn count_at(&mut self) -> Result<(Vec<Keyspace>, u64), AskError> {
        let questions = [vec![&b"INFO"[..], b"keyspace"], vec![b"INFO", b"replication"]];
        let mut answers = self.transaction(None, &questions).await?;
        let offset = offset_of(answers.pop())?;
        self.offset = self.offset.max(offset);
        let info = answers.pop();
        let info = info
            .as_ref()
            .and_then(Value::as_bytes)
            .ok_or(AskError::NotRedis)?;
        let info = String::from_utf8_lossy(info);
        Ok((info.lines().filter_map(read_keyspace).collect(), offset))
    }

    fn of_keys<'a>(&self, keys: &'a [Key]) -> Vec<Words<'a>> {
        let expiry: &[u8] = if self.exact { b"PEXPIRETIME" } else { b"PTTL" };
        let mut questions: Vec<Words<'a>> = Vec::with_capacity(2 * keys.len() + 2);
        for key in keys {
            questions.push(vec![b"DUMP", key]);
            questions.push(vec![expiry, key]);
        }
        if !self.exact {
            questions.push(vec![b"TIME"]);
        }
        questions
    }

    fn found(&self, mut answers: Vec<Value>) -> Result<Vec<Found>, AskError> {
        let now = if self.exact {
            0
        } else {
            millis_of(answers.pop().as_ref())?
        };
        let mut found = Vec::with_capacity(answers.len() / 2);
        let mut answers = answers.into_iter();
        while let Some(payload) = answers.next() {
            let payload = match payload {
                Value::Bulk(payload) => Some(payload),
                Value::Null => None,
                Value::Error(error) => return Err(AskError::Refused(error)),
                _ => return Err(AskError::NotRedis),
            };
            let expires_ms = match answers.next() {
                Some(Value::Int(at)) => (at >= 0).then_some(at + now),
                Some(Value::Error(error)) => return Err(AskError::Refused(error)),
                _ => return Err(AskError::NotRedis),
            };
            found.push(Found { payload, expires_ms });
        }
        Ok(found)
    }

    /// The answers within `EXEC`.
    async fn transaction(
        &mut self,
        db: Option<DbIndex>,
        questions: &[Words<'_>],
    ) -> Result<Vec<Value>, AskError> {
        let db = db.map(|db| db.to_string());
        let mut asked: Vec<Words<'_>> = Vec::with_capacity(questions.len() + 3);
        if let Some(db) = &db {
            asked.push(vec![b"SELECT", db.as_bytes()]);
        }
        asked.push(vec![b"MULTI"]);
        asked.extend(questions.iter().cloned());
        asked.push(vec![b"EXEC"]);
        let mut answers = self.client.ask_all(&asked).await?;
        match answers.pop() {
            Some(Value::Array(answers)) if answers.len() == questions.len() => Ok(answers),
            Some(Value::Error(_)) => {
                // What stood before says what it was.
                let refused = answers.into_iter().find_map(|answer| match answer {
                    Value::Error(error) => Some(error),
                    _ => None,
                });
                Err(AskError::Refused(refused.unwrap_or_default()))
            }
            _ => Err(AskError::NotRedis),
        }
    }

    async fn all(&mut self, db: DbIndex, questions: &[Words<'_>]) -> Result<Vec<Value>, AskError> {
        let db = db.to_string();
        let mut asked: Vec<Words<'_>> = vec![vec![b"SELECT", db.as_bytes()]];
        asked.extend(questions.iter().cloned());
        let mut answers = self.client.ask_all(&asked).await?;
        match answers.first() {
            Some(Value::Error(error)) => Err(AskError::Refused(error.clone())),
            _ => Ok(answers.split_off(1)),
        }
    }
}

/// `PEXPIRETIME` is there since 7.0.
const fn tells_expiries(server: Target) -> bool {
    matches!(server.family, Family::Valkey) || server.major >= 7
}

fn offset_of(info: Option<Value>) -> Result<u64, AskError> {
    let info = info
        .as_ref()
        .and_then(Value::as_bytes)
        .ok_or(AskError::NotRedis)?;
    let info = String::from_utf8_lossy(info);
    field(&info, "master_repl_offset")
        .parse()
        .map_err(|_| AskError::NotRedis)
}

/// What `TIME` answers.
fn millis_of(time: Option<&Value>) -> Result<i64, AskError> {
    let Some(Value::Array(parts)) = time else {
        return Err(AskError::NotRedis);
    };
    let number =
        |at: usize| -> Option<i64> { std::str::from_utf8(parts.get(at)?.as_bytes()?).ok()?.parse().ok() };
    match (number(0), number(1)) {
        (Some(seconds), Some(micros)) => Ok(seconds * 1000 + micros / 1000),
        _ => Err(AskError::NotRedis),
    }
}
