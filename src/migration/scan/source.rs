//! The side that is read: sizes first, then values, expiries and the replication offset in one transaction.
//!
//! ```text
//!  Ask ─▶ SCAN cursor · MEMORY USAGE key … ─▶ MULTI (DUMP key, PEXPIRETIME key)* INFO replication EXEC ─▶ Answer
//!                          │ too much at once: left for the next question
//! ```

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::error::CopyError;
use super::super::plan::Endpoint;
use super::super::probe::{connect, field};
use super::large::{Kind, PieceAsk};
use super::pieces::{Piece, Reader};
use super::shelf::{Ask, Found, Key, TOGETHER};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::rdb::Target;
use crate::resp::Value;

/// A larger value stops the source for longer than its clients should notice while it is dumped.
pub(super) const LARGE_BYTES: u64 = 1024 * 1024;
/// A stream up to this size is dumped all the same: it lies there in large blocks, which is quick, and has no pieces.
const STREAM_BYTES: u64 = 8 * 1024 * 1024;
/// What is dumped in one transaction takes about so much.
const TOGETHER_BYTES: u64 = 1024 * 1024;
/// Elements that are looked at for the size of a value.
const SAMPLES: &[u8] = b"5";
/// Values of one answer take a megabyte together, unless they have grown meanwhile.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

type Words<'a> = Vec<&'a [u8]>;

/// A key as the source had it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) key: Key,
    /// What `DUMP` gave; none: there was no such key.
    pub(super) dump: Option<Vec<u8>>,
    /// When it expires, by the source's clock.
    pub(super) expires_ms: Option<i64>,
}

/// What was read, and at which offset of the source's history that was true.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) ask: Ask,
    pub(super) offset: u64,
    pub(super) read: Vec<Read>,
    pub(super) found: Found,
    /// A piece of a large value.
    pub(super) piece: Option<Piece>,
}

/// A connection to the source that answers one question after the other. It ends with its handle.
#[derive(Debug)]
pub(super) struct Source {
    asks: mpsc::Sender<Ask>,
    answers: mpsc::Receiver<Result<Answer, CopyError>>,
    _task: JoinSet<()>,
}

impl Source {
    /// `server`: what the node is.
    pub(super) async fn open(node: &Endpoint, silence: Duration, server: Target) -> Result<Self, CopyError> {
        let client = connect(node, silence).await.map_err(CopyError::of_source)?;
        let mut reading = Reading {
            client: client.with_reply_max(REPLY_BYTES_MAX),
            exact: server.tells_expiries(),
            expires_fields: server.expires_fields(),
            selected: None,
            pieces: None,
        };
        // Where it is known (7.2), what is read here does not count as used.
        match reading.client.ask(&["CLIENT", "NO-TOUCH", "ON"]).await {
            Ok(_) | Err(AskError::Refused(_)) => {}
            Err(error) => return Err(CopyError::of_source(error)),
        }
        let (asks, mut asked) = mpsc::channel(1);
        let (answer, answers) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(ask) = asked.recv().await {
                let answered = reading.answer(ask).await;
                let is_over = answered.is_err();
                if answer.send(answered).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Self {
            asks,
            answers,
            _task: task,
        })
    }

    /// Asks. There is one question at a time.
    pub(super) fn ask(&self, ask: Ask) -> Result<(), CopyError> {
        self.asks.try_send(ask).map_err(|_| gone())
    }

    /// The answer. Nothing is lost if this is not waited for.
    pub(super) async fn answer(&mut self) -> Result<Answer, CopyError> {
        self.answers.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

fn gone() -> CopyError {
    CopyError::Source("it is not asked any more".to_owned())
}

#[derive(Debug)]
struct Reading {
    client: NodeClient,
    /// It says when a key expires (`PEXPIRETIME`).
    exact: bool,
    /// Fields of hashes may expire.
    expires_fields: bool,
    selected: Option<DbIndex>,
    /// The large value that is read.
    pieces: Option<Reader>,
}

impl Reading {
    async fn answer(&mut self, ask: Ask) -> Result<Answer, CopyError> {
        let (scanned, sizes) = self.look(&ask).await.map_err(CopyError::of_source)?;
        if let Some(piece) = ask.piece.as_ref().filter(|piece| piece.is_first) {
            self.pieces = self.begin(piece).await?;
        }
        let (mut now, mut left, mut large, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (key, size) in ask.keys.iter().zip(sizes) {
            if size > LARGE_BYTES && !(size <= STREAM_BYTES && self.is_stream(key).await?) {
                large.push((key.clone(), size));
            } else if bytes + size > TOGETHER_BYTES && !now.is_empty() {
                left.push(key.clone());
            } else {
                bytes += size;
                now.push(key);
            }
        }
        let read = self.read(&now, ask.piece.as_ref()).await;
        let (read, piece, offset) = read.map_err(CopyError::of_source)?;
        let found = Found {
            scanned,
            left,
            large,
            piece: piece.as_ref().map(|piece| piece.kind),
        };
        Ok(Answer {
            offset,
            read,
            found,
            piece,
            ask,
        })
    }

    async fn is_stream(&mut self, key: &Key) -> Result<bool, CopyError> {
        let kind = self.client.ask_bytes(&[b"TYPE", key]).await;
        match kind.map_err(CopyError::of_source)? {
            Value::Simple(kind) => Ok(&*kind == "stream"),
            _ => Err(CopyError::of_source(AskError::NotRedis)),
        }
    }

    /// Begins with a large value. None: it is gone, or another one.
    async fn begin(&mut self, ask: &PieceAsk) -> Result<Option<Reader>, CopyError> {
        let kind = self.client.ask_bytes(&[b"TYPE", &ask.key]).await;
        let Value::Simple(kind) = kind.map_err(CopyError::of_source)? else {
            return Err(CopyError::of_source(AskError::NotRedis));
        };
        if &*kind == "none" {
            return Ok(None);
        }
        let Some(mut reader) = Reader::new(ask, &kind) else {
            return Err(CopyError::TooLarge { bytes: ask.size });
        };
        match self.client.ask_bytes(&reader.count()).await {
            Ok(Value::Int(count)) => reader.size(u64::try_from(count).unwrap_or(0), ask.size),
            Err(AskError::Refused(_)) => return Ok(None),
            Ok(_) => return Err(CopyError::of_source(AskError::NotRedis)),
            Err(error) => return Err(CopyError::of_source(error)),
        }
        Ok(Some(reader))
    }

    /// Goes on with `SCAN`, and asks how large values are.
    async fn look(&mut self, ask: &Ask) -> Result<(Option<(Vec<u8>, Vec<Key>)>, Vec<u64>), AskError> {
        let db = ask.source.to_string();
        let count = TOGETHER.to_string();
        let mut questions: Vec<Words<'_>> = Vec::with_capacity(ask.keys.len() + 2);
        let selects = self.selected != Some(ask.source);
        if selects {
            questions.push(vec![b"SELECT", db.as_bytes()]);
        }
        if let Some(cursor) = &ask.cursor {
            questions.push(vec![b"SCAN", cursor, b"COUNT", count.as_bytes()]);
        }
        for key in &ask.keys {
            questions.push(vec![b"MEMORY", b"USAGE", key, b"SAMPLES", SAMPLES]);
        }
        if questions.is_empty() {
            return Ok((None, Vec::new()));
        }
        let mut answers = self.client.ask_all(&questions).await?.into_iter();
        if selects {
            fine(answers.next())?;
            self.selected = Some(ask.source);
        }
        let scanned = match &ask.cursor {
            Some(_) => Some(scanned(fine(answers.next())?).ok_or(AskError::NotRedis)?),
            None => None,
        };
        let sizes = answers.map(|size| match fine(Some(size))? {
            Value::Int(bytes) => Ok(u64::try_from(bytes).unwrap_or(0)),
            Value::Null => Ok(0),
            _ => Err(AskError::NotRedis),
        });
        Ok((scanned, sizes.collect::<Result<_, _>>()?))
    }

    /// Values and expiries as they are at one offset.
    async fn read(
        &mut self,
        keys: &[&Key],
        piece: Option<&PieceAsk>,
    ) -> Result<(Vec<Read>, Option<Piece>, u64), AskError> {
        let mut reader = self
            .pieces
            .take_if(|reader| piece.is_some_and(|piece| reader.is_of(piece.attempt)));
        let expiry: &'static [u8] = if self.exact { b"PEXPIRETIME" } else { b"PTTL" };
        let mut questions: Vec<Words<'_>> = Vec::with_capacity(2 * keys.len() + 4);
        questions.push(vec![b"MULTI"]);
        for key in keys {
            questions.push(vec![b"DUMP", key]);
            questions.push(vec![expiry, key]);
        }
        let of_piece = reader
            .as_ref()
            .map(|reader| reader.questions(expiry))
            .unwrap_or_default();
        for words in &of_piece {
            questions.push(words.iter().map(Vec::as_slice).collect());
        }
        if !self.exact {
            questions.push(vec![b"TIME"]);
        }
        questions.push(vec![b"INFO", b"replication"]);
        questions.push(vec![b"EXEC"]);
        let mut answers = self.client.ask_all(&questions).await?;
        let Some(Value::Array(mut values)) = answers.pop() else {
            let refused = answers.into_iter().find_map(|answer| match answer {
                Value::Error(error) => Some(error),
                _ => None,
            });
            return Err(refused.map_or(AskError::NotRedis, AskError::Refused));
        };
        let info = fine(values.pop())?;
        let info = String::from_utf8_lossy(info.as_bytes().unwrap_or_default()).into_owned();
        if field(&info, "role") != "master" {
            return Err(AskError::Refused("it is a replica now".to_owned()));
        }
        let offset = field(&info, "master_repl_offset").parse();
        let offset = offset.map_err(|_| AskError::NotRedis)?;
        let now = if self.exact {
            0
        } else {
            millis(&fine(values.pop())?)?
        };
        if values.len() != 2 * keys.len() + of_piece.len() {
            return Err(AskError::NotRedis);
        }
        let of_piece = values.split_off(2 * keys.len());
        let piece = match (&mut reader, piece) {
            (Some(reader), Some(_)) => Some(reader.read(of_piece, now, self.expires_fields)?),
            (None, Some(_)) => Some(Piece::broken()),
            (_, None) => None,
        };
        if piece.as_ref().is_some_and(|piece| piece.kind == Kind::Part) {
            self.pieces = reader;
        }
        let read = values_of(keys, values, now)?;
        Ok((read, piece, offset))
    }
}

/// Keys, each with what `DUMP` and the question for its expiry have answered. `now`: what must be added to that.
fn values_of(keys: &[&Key], values: Vec<Value>, now: i64) -> Result<Vec<Read>, AskError> {
    let mut values = values.into_iter();
    let mut read = Vec::with_capacity(keys.len());
    for key in keys {
        let dump = match fine(values.next())? {
            Value::Bulk(dump) => Some(dump),
            Value::Null => None,
            _ => return Err(AskError::NotRedis),
        };
        let Value::Int(left) = fine(values.next())? else {
            return Err(AskError::NotRedis);
        };
        read.push(Read {
            key: (*key).clone(),
            // -2: it has expired between the two.
            dump: dump.filter(|_| left != -2),
            expires_ms: (left >= 0).then_some(left + now),
        });
    }
    Ok(read)
}

/// An answer that is no error.
fn fine(answer: Option<Value>) -> Result<Value, AskError> {
    match answer {
        Some(Value::Error(error)) => Err(AskError::Refused(error)),
        Some(answer) => Ok(answer),
        None => Err(AskError::NotRedis),
    }
}

/// What `SCAN` answers.
fn scanned(reply: Value) -> Option<(Vec<u8>, Vec<Key>)> {
    let Value::Array(parts) = reply else { return None };
    let mut parts = parts.into_iter();
    let (Some(Value::Bulk(cursor)), Some(Value::Array(keys))) = (parts.next(), parts.next()) else {
        return None;
    };
    let names = keys.into_iter().map(|key| match key {
        Value::Bulk(name) => Some(name),
        _ => None,
    });
    Some((cursor, names.collect::<Option<Vec<_>>>()?))
}

/// What `TIME` answers.
fn millis(time: &Value) -> Result<i64, AskError> {
    let Value::Array(parts) = time else {
        return Err(AskError::NotRedis);
    };
    let number =
        |at: usize| -> Option<i64> { std::str::from_utf8(parts.get(at)?.as_bytes()?).ok()?.parse().ok() };
    match (number(0), number(1)) {
        (Some(seconds), Some(micros)) => Ok(seconds * 1000 + micros / 1000),
        _ => Err(AskError::NotRedis),
    }
}
