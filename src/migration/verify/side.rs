//! One node that is read: many keys in one transaction, and where its history stands.

use std::time::Duration;

use tokio::time::Instant;

use super::super::plan::Endpoint;
use super::super::probe::{Keyspace, connect, field, identify, read_keyspace};
use super::super::reading::{Answers, Asking, Found, Key, REPLY_BYTES_MAX, info, millis, value, values};
use super::large::Question;
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::resp::Value;

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

/// What was read of some keys.
#[derive(Debug, Default)]
pub(super) struct Read {
    answers: Answers,
    keys: usize,
    /// What must be added to an expiry.
    now: i64,
    /// Where the node's history stood, if it was asked.
    pub(super) offset: u64,
    /// How long the node was busy with it, about.
    pub(super) took: Duration,
}

impl Read {
    /// The keys, in the order asked.
    pub(super) fn found(&self) -> Result<Vec<Found<'_>>, AskError> {
        values(
            self.answers.all().get(..2 * self.keys).unwrap_or_default(),
            self.now,
        )
    }
}

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
            exact: target.tells_expiries(),
            fields: target.expires_fields(),
            ping: begun.elapsed(),
            offset: 0,
        })
    }

    /// Reads keys as they are at one offset.
    pub(super) async fn read_at(&mut self, db: DbIndex, keys: &[Key]) -> Result<Read, AskError> {
        let mut asking = Asking::at_once(Some(db));
        self.ask_values(&mut asking, keys);
        asking.push(&[b"INFO", b"replication"]);
        self.read_by(asking, keys.len(), true).await
    }

    /// Reads keys of a node that nobody writes to meanwhile.
    pub(super) async fn read(&mut self, db: DbIndex, keys: &[Key]) -> Result<Read, AskError> {
        if keys.is_empty() {
            return Ok(Read::default());
        }
        let mut asking = Asking::plainly(db);
        self.ask_values(&mut asking, keys);
        self.read_by(asking, keys.len(), false).await
    }

    fn ask_values(&self, asking: &mut Asking, keys: &[Key]) {
        for key in keys {
            asking.value_of(key, self.exact);
        }
        if !self.exact {
            asking.push(&[b"TIME"]);
        }
    }

    async fn read_by(&mut self, asking: Asking, keys: usize, with_offset: bool) -> Result<Read, AskError> {
        let begun = Instant::now();
        let answers = asking.of(&mut self.client).await?;
        let took = begun.elapsed().saturating_sub(self.ping);
        let mut all = answers.all();
        let offset = if with_offset { self.pass(all.pop())? } else { 0 };
        let now = if self.exact { 0 } else { millis(all.pop())? };
        Ok(Read {
            answers,
            keys,
            now,
            offset,
            took,
        })
    }

    /// Takes down where the node's history stood.
    fn pass(&mut self, answer: Option<&[u8]>) -> Result<u64, AskError> {
        let offset = field(&info(answer)?, "master_repl_offset").parse();
        let offset = offset.map_err(|_| AskError::NotRedis)?;
        self.offset = self.offset.max(offset);
        Ok(offset)
    }

    /// Asks questions about a large value at one offset.
    pub(super) async fn ask_at(
        &mut self,
        db: DbIndex,
        questions: &[Question],
    ) -> Result<(Vec<Value>, u64), AskError> {
        let mut asking = Asking::at_once(Some(db));
        self.ask_questions(&mut asking, questions);
        asking.push(&[b"INFO", b"replication"]);
        let answers = asking.of(&mut self.client).await?;
        let mut all = answers.all();
        let offset = self.pass(all.pop())?;
        Ok((self.with_time(questions, all)?, offset))
    }

    /// The same of a node that nobody writes to.
    pub(super) async fn ask(&mut self, db: DbIndex, questions: &[Question]) -> Result<Vec<Value>, AskError> {
        let mut asking = Asking::plainly(db);
        self.ask_questions(&mut asking, questions);
        let answers = asking.of(&mut self.client).await?;
        self.with_time(questions, answers.all())
    }

    fn ask_questions(&self, asking: &mut Asking, questions: &[Question]) {
        for question in questions {
            asking.push(&question.words(self.exact));
        }
        asking.push(&[b"TIME"]);
    }

    /// Answers of which the last is the time: what is left of an expiry becomes when it is.
    fn with_time(&self, questions: &[Question], mut answers: Vec<&[u8]>) -> Result<Vec<Value>, AskError> {
        let now = millis(answers.pop())?;
        let answers = answers.into_iter().map(value);
        let mut answers = answers.collect::<Result<Vec<Value>, _>>()?;
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
        let mut asking = Asking::at_once(None);
        asking.push(&[b"INFO", b"keyspace"]);
        asking.push(&[b"INFO", b"replication"]);
        let answers = asking.of(&mut self.client).await?;
        let mut all = answers.all();
        let offset = self.pass(all.pop())?;
        let info = info(all.pop())?;
        Ok((info.lines().filter_map(read_keyspace).collect(), offset))
    }
}
