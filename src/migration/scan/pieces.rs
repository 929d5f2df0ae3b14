//! Pieces of a large value as the source gives them.
//!
//! | type | read | written |
//! |---|---|---|
//! | string | `GETRANGE`, 512 KB | `APPEND` |
//! | list | `LRANGE` | `RPUSH` |
//! | set, sorted set, hash | `SSCAN`, `ZSCAN`, `HSCAN` | `SADD`, `ZADD`, `HSET`; expiries of fields with the next piece, `HPEXPIREAT` |
//!
//! A stream has groups and more, which pieces do not bring over.

use super::super::reading::Key;
use super::large::{Kind, PieceAsk};
use crate::control::AskError;
use crate::resp::Value;

/// Bytes in one piece, about.
const PIECE_BYTES: u64 = 512 * 1024;
/// Elements in one piece.
const PIECE_ELEMENTS: u64 = 512;

/// What is in a piece.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    /// The command that adds it to the key, and its arguments.
    pub(super) verb: &'static [u8],
    pub(super) args: Vec<Vec<u8>>,
    /// When fields of the piece before expire.
    pub(super) fields: Vec<(Key, i64)>,
    /// When the key expires, by the source's clock.
    pub(super) expires_ms: Option<i64>,
}

impl Piece {
    /// Of a value that is not what it was.
    pub(super) const fn broken() -> Self {
        Self {
            kind: Kind::Broken,
            verb: b"",
            args: Vec::new(),
            fields: Vec::new(),
            expires_ms: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    List,
    Set,
    Zset,
    Hash,
}

impl Type {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::Text,
            "list" => Self::List,
            "set" => Self::Set,
            "zset" => Self::Zset,
            "hash" => Self::Hash,
            _ => return None,
        })
    }

    const fn count(self) -> &'static [u8] {
        match self {
            Self::Text => b"STRLEN",
            Self::List => b"LLEN",
            Self::Set => b"SCARD",
            Self::Zset => b"ZCARD",
            Self::Hash => b"HLEN",
        }
    }

    const fn verb(self) -> &'static [u8] {
        match self {
            Self::Text => b"APPEND",
            Self::List => b"RPUSH",
            Self::Set => b"SADD",
            Self::Zset => b"ZADD",
            Self::Hash => b"HSET",
        }
    }
}

/// Where the reading of one value is.
#[derive(Debug)]
pub(super) struct Reader {
    key: Key,
    attempt: u64,
    of: Type,
    /// A cursor, or a place.
    at: Vec<u8>,
    has_ended: bool,
    /// In one piece.
    elements: u64,
    /// Fields whose expiries were not asked for.
    names: Vec<Key>,
}

impl Reader {
    /// `name`: what `TYPE` has said. None: it cannot be read in pieces.
    pub(super) fn new(ask: &PieceAsk, name: &str) -> Option<Self> {
        Some(Self {
            key: ask.key.clone(),
            attempt: ask.attempt,
            of: Type::named(name)?,
            at: b"0".to_vec(),
            has_ended: false,
            elements: 0,
            names: Vec::new(),
        })
    }

    pub(super) const fn is_of(&self, attempt: u64) -> bool {
        self.attempt == attempt
    }

    /// How many elements there are.
    pub(super) fn count(&self) -> Vec<&[u8]> {
        vec![self.of.count(), &self.key]
    }

    /// So many of them, which take so much together.
    pub(super) fn size(&mut self, count: u64, bytes: u64) {
        self.elements = match self.of {
            Type::Text => PIECE_BYTES,
            _ => (PIECE_BYTES / (bytes / count.max(1)).max(1)).clamp(1, PIECE_ELEMENTS),
        };
    }

    /// What is asked within a transaction.
    pub(super) fn questions(&self, expiry: &'static [u8]) -> Vec<Vec<Vec<u8>>> {
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let key = self.key.as_slice();
        let mut all = vec![words(&[self.of.count(), key]), words(&[expiry, key])];
        if !self.names.is_empty() {
            let count = self.names.len().to_string();
            let mut fields = words(&[b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()]);
            fields.extend(self.names.iter().cloned());
            all.push(fields);
        }
        if self.has_ended {
            return all;
        }
        let elements = self.elements.to_string();
        let from: u64 = self.place();
        let to = (from + self.elements - 1).to_string();
        all.push(match self.of {
            Type::Text => words(&[b"GETRANGE", key, &self.at, to.as_bytes()]),
            Type::List => words(&[b"LRANGE", key, &self.at, to.as_bytes()]),
            Type::Set => words(&[b"SSCAN", key, &self.at, b"COUNT", elements.as_bytes()]),
            Type::Zset => words(&[b"ZSCAN", key, &self.at, b"COUNT", elements.as_bytes()]),
            Type::Hash => words(&[b"HSCAN", key, &self.at, b"COUNT", elements.as_bytes()]),
        });
        all
    }

    fn place(&self) -> u64 {
        std::str::from_utf8(&self.at)
            .ok()
            .and_then(|at| at.parse().ok())
            .unwrap_or(0)
    }

    /// What was answered to [`Self::questions`]. `now`: what must be added to the key's expiry; `expires_fields`: those of hashes may
    /// have some.
    pub(super) fn read(
        &mut self,
        answers: Vec<Value>,
        now: i64,
        expires_fields: bool,
    ) -> Result<Piece, AskError> {
        let mut piece = Piece {
            verb: self.of.verb(),
            ..Piece::broken()
        };
        let mut answers = answers.into_iter();
        let (count, expiry) = match (answers.next(), answers.next()) {
            // It is another type, or gone: then it was written.
            (Some(Value::Error(_)), _) | (Some(Value::Int(0)), _) => return Ok(piece),
            (Some(Value::Int(count)), Some(Value::Int(expiry))) => (count, expiry),
            _ => return Err(AskError::NotRedis),
        };
        piece.expires_ms = (expiry >= 0).then_some(expiry + now);
        if !self.names.is_empty() {
            let names = std::mem::take(&mut self.names);
            let Some(Value::Array(times)) = answers.next() else {
                return Err(AskError::NotRedis);
            };
            for (name, time) in names.into_iter().zip(times) {
                match time {
                    Value::Int(at @ 0..) => piece.fields.push((name, at)),
                    Value::Int(_) => {}
                    _ => return Err(AskError::NotRedis),
                }
            }
        }
        if !self.has_ended {
            let answer = answers.next().ok_or(AskError::NotRedis)?;
            self.take(
                answer,
                u64::try_from(count).unwrap_or(0),
                expires_fields,
                &mut piece,
            )?;
        }
        let is_last = self.has_ended && self.names.is_empty();
        piece.kind = if is_last { Kind::Last } else { Kind::Part };
        Ok(piece)
    }

    fn take(
        &mut self,
        answer: Value,
        count: u64,
        expires_fields: bool,
        piece: &mut Piece,
    ) -> Result<(), AskError> {
        match (self.of, answer) {
            (Type::Text, Value::Bulk(text)) => {
                let next = self.place() + text.len() as u64;
                self.at = next.to_string().into_bytes();
                self.has_ended = next >= count || text.is_empty();
                piece.args = vec![text];
            }
            (Type::List, Value::Array(elements)) => {
                piece.args = bulks(elements)?;
                let next = self.place() + piece.args.len() as u64;
                self.at = next.to_string().into_bytes();
                self.has_ended = next >= count || piece.args.is_empty();
            }
            (Type::Set | Type::Zset | Type::Hash, Value::Array(parts)) => {
                let mut parts = parts.into_iter();
                let (Some(Value::Bulk(cursor)), Some(Value::Array(found))) = (parts.next(), parts.next())
                else {
                    return Err(AskError::NotRedis);
                };
                self.has_ended = cursor == b"0";
                self.at = cursor;
                piece.args = bulks(found)?;
                if self.of == Type::Zset {
                    piece.args.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
                }
                if self.of == Type::Hash && expires_fields {
                    self.names = piece.args.iter().step_by(2).cloned().collect();
                }
            }
            _ => return Err(AskError::NotRedis),
        }
        Ok(())
    }
}

fn bulks(values: Vec<Value>) -> Result<Vec<Vec<u8>>, AskError> {
    let each = values.into_iter().map(|value| match value {
        Value::Bulk(bytes) => Ok(bytes),
        _ => Err(AskError::NotRedis),
    });
    each.collect()
}
