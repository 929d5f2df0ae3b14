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
use super::super::reading::{
    Asking, Key, LARGE_BYTES, REPLY_BYTES_MAX, Scanned, TOGETHER_BYTES, expiry, info, look, millis, value,
    values,
};
use super::large::{Kind, PieceAsk};
use super::pieces::{Piece, Reader};
use super::shelf::{Ask, Found, TOGETHER};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::rdb::Target;
use crate::resp::Value;

/// A stream up to this size is dumped all the same: it lies there in large blocks, which is quick, and has no pieces.
const STREAM_BYTES: u64 = 8 * 1024 * 1024;

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
        let read = self.read(ask.source, &now, ask.piece.as_ref()).await;
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
    async fn look(&mut self, ask: &Ask) -> Result<(Option<Scanned>, Vec<u64>), AskError> {
        let cursor = ask.cursor.as_deref();
        if self.selected == Some(ask.source) && cursor.is_none() && ask.keys.is_empty() {
            return Ok((None, Vec::new()));
        }
        let looked = look(&mut self.client, ask.source, cursor, TOGETHER, &ask.keys).await?;
        self.selected = Some(ask.source);
        Ok(looked)
    }

    /// Values and expiries as they are at one offset.
    async fn read(
        &mut self,
        db: DbIndex,
        keys: &[&Key],
        piece: Option<&PieceAsk>,
    ) -> Result<(Vec<Read>, Option<Piece>, u64), AskError> {
        let mut reader = self
            .pieces
            .take_if(|reader| piece.is_some_and(|piece| reader.is_of(piece.attempt)));
        let mut asking = Asking::at_once(Some(db));
        for key in keys {
            asking.value_of(key, self.exact);
        }
        let of_piece = reader
            .as_ref()
            .map(|reader| reader.questions(expiry(self.exact)))
            .unwrap_or_default();
        for words in &of_piece {
            asking.push(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        if !self.exact {
            asking.push(&[b"TIME"]);
        }
        asking.push(&[b"INFO", b"replication"]);
        let answers = asking.of(&mut self.client).await?;
        let mut all = answers.all();
        let info = info(all.pop())?;
        if field(&info, "role") != "master" {
            return Err(AskError::Refused("it is a replica now".to_owned()));
        }
        let offset = field(&info, "master_repl_offset").parse();
        let offset = offset.map_err(|_| AskError::NotRedis)?;
        let now = if self.exact { 0 } else { millis(all.pop())? };
        let (of_keys, of_piece) = all.split_at(2 * keys.len());
        let of_piece = of_piece.iter().map(|answer| value(answer));
        let of_piece = of_piece.collect::<Result<Vec<Value>, _>>()?;
        let piece = match (&mut reader, piece) {
            (Some(reader), Some(_)) => Some(reader.read(of_piece, now, self.expires_fields)?),
            (None, Some(_)) => Some(Piece::broken()),
            (_, None) => None,
        };
        if piece.as_ref().is_some_and(|piece| piece.kind == Kind::Part) {
            self.pieces = reader;
        }
        let read = keys.iter().zip(values(of_keys, now)?).map(|(key, found)| Read {
            key: (*key).clone(),
            dump: found.payload.map(<[u8]>::to_vec),
            expires_ms: found.expires_ms,
        });
        Ok((read.collect(), piece, offset))
    }
}
