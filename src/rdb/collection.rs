//! Elements of a collection become requests: some hundred elements each, or one that is long, as it comes.
//!
//! ```text
//!  element ─▶ chunk ──full──▶ RPUSH · SADD · ZADD · HSET key … ─▶ (HPEXPIREAT key when FIELDS n field … for each expiry)
//!     └─ longer than a chunk ─▶ the chunk first, then a request of its own, piece by piece
//! ```
//!
//! Fields of hashes and members of sorted sets are held whole, because what belongs to them may come behind them.

use super::error::RdbError;
use super::expiry::Ttl;
use super::frames::{Frames, begin_bulk};
use super::grammar::{Holds, Packed};
use super::input::within;
use super::limits::Limits;
use super::target::Target;
use super::unpack::Elements;

#[derive(Debug, Default)]
pub(super) struct Collection {
    verb: &'static str,
    part: Part,
    /// Whether a number that is an expiry follows each value.
    expiry_behind: bool,
    limits: Limits,
    ttl: Ttl,
    /// Whether the target lets fields expire.
    expires_fields: bool,
    key: Vec<u8>,
    /// Arguments of the next request, with their number, and that of the elements they are.
    chunk: Vec<u8>,
    args: usize,
    elements: usize,
    /// The field or member whose value or score is next.
    held: Vec<u8>,
    score: Vec<u8>,
    /// The present element goes straight into a request of its own.
    alone: bool,
    /// Expiry of the present field, where it comes before it.
    expiry: Option<i64>,
    /// Expiries of fields in the chunk.
    expiring: Vec<(i64, Vec<u8>)>,
    expiring_bytes: usize,
    owed: bool,
}

/// Which part of an element is next, or comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Element,
    Member,
    Score,
    Field,
    Value,
    Expiry,
}

/// The longest decimal that is a score or an expiry.
const NUMBER_MAX: u64 = 128;

impl Collection {
    pub(super) fn begin(&mut self, holds: Holds, key: &[u8], limits: Limits, ttl: Ttl, target: Target) {
        let (verb, part) = match holds {
            Holds::List(_) => ("RPUSH", Part::Element),
            Holds::Zset(_) => ("ZADD", Part::Member),
            Holds::Hash(_) | Holds::ExpiringHash(_) => ("HSET", Part::Field),
            Holds::Set(_) | Holds::Text | Holds::Stream | Holds::Module => ("SADD", Part::Element),
        };
        let old = std::mem::take(self);
        *self = Self {
            verb,
            part,
            expiry_behind: holds == Holds::ExpiringHash(Packed::Listpack),
            limits,
            ttl,
            expires_fields: target.expires_fields(),
            key: key.to_vec(),
            chunk: cleared(old.chunk),
            held: cleared(old.held),
            score: cleared(old.score),
            ..Self::default()
        };
    }

    /// The value has ended. Says whether some field's expiry is owed.
    pub(super) fn finish(&mut self, out: &mut Frames) -> Result<bool, RdbError> {
        if !matches!(self.part, Part::Element | Part::Member | Part::Field) {
            return Err(RdbError::Damaged(
                "a field without its value, or a member without its score",
            ));
        }
        self.flush(out);
        Ok(self.owed)
    }

    /// The expiry of the field that comes next.
    pub(super) const fn expire_next(&mut self, millis: i64) {
        self.expiry = Some(millis);
    }

    /// The expiry of the field whose value has just come.
    pub(super) fn expire_last(&mut self, millis: i64) -> Result<(), RdbError> {
        if !self.expires_fields {
            return Err(RdbError::FieldExpiry);
        }
        let expiry = self.ttl.field(millis)?;
        self.owed |= expiry.owed;
        self.expiring_bytes += self.held.len();
        self.expiring.push((expiry.millis, self.held.clone()));
        Ok(())
    }

    pub(super) fn score(&mut self, score: f64, out: &mut Frames) -> Result<(), RdbError> {
        if score.is_nan() {
            return Err(RdbError::Damaged("a score that is no number"));
        }
        self.score.clear();
        // As few digits as give this very number again.
        self.score.extend_from_slice(format!("{score:e}").as_bytes());
        self.end(out)
    }

    fn add(&mut self, arg: &[u8]) {
        begin_bulk(&mut self.chunk, arg.len() as u64);
        self.chunk.extend_from_slice(arg);
        self.chunk.extend_from_slice(b"\r\n");
        self.args += 1;
    }

    /// An element of this length begins in the chunk, or alone.
    fn open(&mut self, length: u64, out: &mut Frames) {
        let is_value = self.part == Part::Value;
        self.alone = length > self.limits.chunk_bytes;
        if self.alone {
            self.flush(out);
            out.begin(if is_value { 4 } else { 3 });
            out.arg(self.verb.as_bytes());
            out.arg(&self.key);
            if is_value {
                out.arg(&self.held);
            }
            out.begin_arg(length);
            return;
        }
        if is_value {
            let held = std::mem::take(&mut self.held);
            self.add(&held);
            self.held = held;
        }
        begin_bulk(&mut self.chunk, length);
    }

    fn close(&mut self, out: &mut Frames) {
        if self.alone {
            out.end_arg();
            out.end();
            self.alone = false;
        } else {
            self.chunk.extend_from_slice(b"\r\n");
            self.args += 1;
        }
    }

    fn finish_element(&mut self, out: &mut Frames) {
        self.elements += 1;
        let bytes = (self.chunk.len() + self.expiring_bytes) as u64;
        if self.elements >= self.limits.chunk_elements || bytes >= self.limits.chunk_bytes {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Frames) {
        if self.args > 0 {
            out.begin(2 + self.args);
            out.arg(self.verb.as_bytes());
            out.arg(&self.key);
            out.piece(&self.chunk);
            out.end();
        }
        self.chunk.clear();
        self.args = 0;
        self.elements = 0;
        self.expiring.sort_by_key(|(millis, _)| *millis);
        for together in self.expiring.chunk_by(|one, other| one.0 == other.0) {
            let millis = together.first().map_or(0, |(millis, _)| *millis);
            out.begin(5 + together.len());
            out.arg(b"HPEXPIREAT");
            out.arg(&self.key);
            out.arg(millis.to_string().as_bytes());
            out.arg(b"FIELDS");
            out.arg(together.len().to_string().as_bytes());
            for (_, field) in together {
                out.arg(field);
            }
            out.end();
        }
        self.expiring.clear();
        self.expiring_bytes = 0;
    }
}

fn cleared(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}

impl Elements for Collection {
    fn number(&mut self, number: i64, out: &mut Frames) -> Result<(), RdbError> {
        if self.part == Part::Expiry {
            if number != 0 {
                self.expire_last(number)?;
            }
            self.part = Part::Field;
            self.finish_element(out);
            return Ok(());
        }
        let text = number.to_string();
        self.begin_element(text.len() as u64, out)?;
        self.bytes(text.as_bytes(), out)?;
        self.end(out)
    }

    fn begin_element(&mut self, length: u64, out: &mut Frames) -> Result<(), RdbError> {
        match self.part {
            Part::Element | Part::Value => {
                // The server takes no longer argument.
                within("an element", length, crate::resp::BULK_HARD_MAX as u64)?;
                self.open(length, out);
            }
            Part::Field | Part::Member => {
                within("a field or member", length, self.limits.name_bytes)?;
                self.held.clear();
            }
            Part::Score => {
                within("a score", length, NUMBER_MAX)?;
                self.score.clear();
            }
            Part::Expiry => return Err(RdbError::Damaged("a field's expiry that is no number")),
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8], out: &mut Frames) -> Result<(), RdbError> {
        match self.part {
            Part::Element | Part::Value if self.alone => out.piece(bytes),
            Part::Element | Part::Value => self.chunk.extend_from_slice(bytes),
            Part::Field | Part::Member => self.held.extend_from_slice(bytes),
            Part::Score | Part::Expiry => self.score.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Frames) -> Result<(), RdbError> {
        match self.part {
            Part::Element => {
                self.close(out);
                self.finish_element(out);
            }
            Part::Member => self.part = Part::Score,
            Part::Score => {
                let (score, member) = (std::mem::take(&mut self.score), std::mem::take(&mut self.held));
                self.add(&score);
                self.add(&member);
                (self.score, self.held) = (score, member);
                self.part = Part::Member;
                self.finish_element(out);
            }
            Part::Field => self.part = Part::Value,
            Part::Value => {
                self.close(out);
                if let Some(millis) = self.expiry.take() {
                    self.expire_last(millis)?;
                }
                if self.expiry_behind {
                    self.part = Part::Expiry;
                } else {
                    self.part = Part::Field;
                    self.finish_element(out);
                }
            }
            Part::Expiry => return Err(RdbError::Damaged("a field's expiry that is no number")),
        }
        Ok(())
    }
}
