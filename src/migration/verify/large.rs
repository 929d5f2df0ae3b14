//! Large values: their size, and about a thousand of their elements, asked of both sides in the same words.
//!
//! | type | asked |
//! |---|---|
//! | string | `STRLEN`, pieces of 1 KB (`GETRANGE`) |
//! | list | `LLEN`, pieces (`LRANGE`) |
//! | set, sorted set, hash | `SCARD`, `ZCARD`, `HLEN`; elements that `SCAN` of the type finds from a place by chance on: `SISMEMBER`, `ZSCORE`, `HGET`, `HPEXPIRETIME` |
//! | stream | `XLEN`, both ends and pieces between them (`XRANGE`), `XINFO GROUPS` |

use super::super::reading::Key;
use super::compare::{Difference, Rules};
use super::side::Side;
use crate::control::AskError;
use crate::ids::DbIndex;
use crate::resp::Value;

/// Questions that are asked at one offset.
pub(super) const TOGETHER: usize = 100;
/// Elements of one value.
const ELEMENTS: u64 = 1_000;
/// Bytes of them, about.
const BYTES: u64 = 512 * 1024;
/// Elements in one piece of a list or stream.
const PIECE: u64 = 20;
/// Bytes of a piece of a string.
const STRING_PIECE: u64 = 1024;
/// Looks for elements, at most.
const SCANS: u64 = 20;

/// One question about a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    ask: Ask,
    words: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// When the key expires.
    Expiry,
    /// When fields of a hash do.
    Fields,
    Score,
    /// Groups of a stream: name, and what was delivered last.
    Groups,
    /// Anything that is the same when it is equal.
    Plain(&'static str),
}

impl Question {
    fn new(ask: Ask, words: &[&[u8]]) -> Self {
        Self {
            ask,
            words: words.iter().map(|word| word.to_vec()).collect(),
        }
    }

    /// `exact`: the node says when a key expires.
    pub(super) fn words(&self, exact: bool) -> Vec<&[u8]> {
        let mut words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        if let (Ask::Expiry, false, Some(verb)) = (self.ask, exact, words.first_mut()) {
            *verb = b"PTTL";
        }
        words
    }

    pub(super) fn is_expiry(&self) -> bool {
        self.ask == Ask::Expiry
    }

    pub(super) fn is_same(&self, source: &Value, target: &Value, rules: &Rules) -> bool {
        let moment = |value: &Value| match value {
            Value::Int(at) if *at >= 0 => Some(*at),
            _ => None,
        };
        match self.ask {
            Ask::Plain(_) => source == target,
            // -2: there is no such key.
            Ask::Expiry if (*source == Value::Int(-2)) != (*target == Value::Int(-2)) => false,
            Ask::Expiry => rules.is_same_expiry(moment(source), moment(target)),
            Ask::Score => score(source) == score(target),
            Ask::Groups => groups(source) == groups(target),
            Ask::Fields => match (source, target) {
                (Value::Array(source), Value::Array(target)) if source.len() == target.len() => {
                    source.iter().zip(target).all(|pair| match pair {
                        (Value::Int(source), Value::Int(target)) => {
                            rules.is_same_field_expiry(*source, *target)
                        }
                        (source, target) => source == target,
                    })
                }
                (source, target) => source == target,
            },
        }
    }

    pub(super) const fn difference(&self, source: &Value, target: &Value) -> Difference {
        match (self.ask, source, target) {
            (Ask::Expiry, Value::Int(-2), _) => Difference::SourceLacks,
            (Ask::Expiry, _, Value::Int(-2)) => Difference::TargetLacks,
            (Ask::Expiry, ..) => Difference::Part("when it expires"),
            (Ask::Fields, ..) => Difference::Part("when a field expires"),
            (Ask::Score, ..) => Difference::Part("a score"),
            (Ask::Groups, ..) => Difference::Part("a group of the stream"),
            (Ask::Plain(what), ..) => Difference::Part(what),
        }
    }
}

fn score(value: &Value) -> Option<f64> {
    std::str::from_utf8(value.as_bytes()?).ok()?.parse().ok()
}

fn groups(value: &Value) -> Option<Vec<(Value, Value)>> {
    let Value::Array(groups) = value else { return None };
    let each = groups.iter().map(|group| {
        let Value::Array(fields) = group else { return None };
        let field = |name: &[u8]| {
            let mut pairs = fields.chunks_exact(2);
            pairs.find_map(|pair| (pair[0].as_bytes() == Some(name)).then(|| pair[1].clone()))
        };
        Some((field(b"name")?, field(b"last-delivered-id")?))
    });
    each.collect()
}

/// What to ask about a value, out of a look at it. An empty list: it is gone, or has become something else.
pub(super) async fn questions(
    source: &mut Side,
    db: DbIndex,
    key: &Key,
    fields: bool,
) -> Result<Vec<Question>, AskError> {
    let client = &mut source.client;
    client.ask(&["SELECT", &db.to_string()]).await?;
    let Value::Simple(kind) = client.ask_bytes(&[b"TYPE", key]).await? else {
        return Err(AskError::NotRedis);
    };
    let first = Question::new(Ask::Expiry, &[b"PEXPIRETIME", key]);
    let Some(of) = Of::named(&kind) else {
        return Ok(vec![first]);
    };
    let count = source.number(&[of.count, key]).await?;
    let bytes = source
        .number(&[b"MEMORY", b"USAGE", key, b"SAMPLES", b"5"])
        .await?;
    let mut all = vec![
        first,
        Question::new(Ask::Plain("how much is in it"), &[of.count, key]),
    ];
    if count == 0 {
        return Ok(all);
    }
    // Of large elements fewer.
    let each = (bytes / count).max(1);
    let wanted = (BYTES / each).clamp(4, ELEMENTS);
    match of.elements {
        Elements::Bytes => strings(&mut all, key, count),
        Elements::Places => {
            let piece = wanted.min(PIECE);
            for _ in 0..wanted / piece {
                let from = fastrand::u64(0..count);
                let (from, to) = (from.to_string(), (from + piece - 1).to_string());
                let words: [&[u8]; 4] = [b"LRANGE", key, from.as_bytes(), to.as_bytes()];
                all.push(Question::new(Ask::Plain("an element"), &words));
            }
        }
        Elements::Ids => streams(source, &mut all, key, wanted).await?,
        Elements::Names { scan, ask, verb } => {
            let names = names(source, key, scan, verb != b"SISMEMBER", wanted).await?;
            for name in &names {
                all.push(Question::new(ask, &[verb, key, name]));
            }
            if scan == b"HSCAN" && fields {
                for some in names.chunks(50) {
                    let count = some.len().to_string();
                    let mut words: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
                    words.extend(some.iter().map(Vec::as_slice));
                    all.push(Question::new(Ask::Fields, &words));
                }
            }
        }
    }
    Ok(all)
}

/// How values of a type are asked.
struct Of {
    count: &'static [u8],
    elements: Elements,
}

enum Elements {
    Bytes,
    Places,
    Ids,
    Names {
        scan: &'static [u8],
        ask: Ask,
        verb: &'static [u8],
    },
}

impl Of {
    fn named(kind: &str) -> Option<Self> {
        let names = |scan, ask, verb| Elements::Names { scan, ask, verb };
        let (count, elements): (&[u8], Elements) = match kind {
            "string" => (b"STRLEN", Elements::Bytes),
            "list" => (b"LLEN", Elements::Places),
            "set" => (b"SCARD", names(b"SSCAN", Ask::Plain("a member"), b"SISMEMBER")),
            "zset" => (b"ZCARD", names(b"ZSCAN", Ask::Score, b"ZSCORE")),
            "hash" => (b"HLEN", names(b"HSCAN", Ask::Plain("a field"), b"HGET")),
            "stream" => (b"XLEN", Elements::Ids),
            _ => return None,
        };
        Some(Self { count, elements })
    }
}

fn strings(all: &mut Vec<Question>, key: &Key, length: u64) {
    let mut piece = |from: u64| {
        let (from, to) = (from.to_string(), (from + STRING_PIECE - 1).to_string());
        let words: [&[u8]; 4] = [b"GETRANGE", key, from.as_bytes(), to.as_bytes()];
        all.push(Question::new(Ask::Plain("a piece of it"), &words));
    };
    piece(0);
    piece(length.saturating_sub(STRING_PIECE));
    (0..BYTES / STRING_PIECE).for_each(|_| piece(fastrand::u64(0..length)));
}

/// Elements that a scan of the value finds. `pairs`: each is followed by something that belongs to it.
async fn names(
    source: &mut Side,
    key: &Key,
    scan: &[u8],
    pairs: bool,
    wanted: u64,
) -> Result<Vec<Key>, AskError> {
    let at_once = wanted.div_ceil(SCANS).max(4).to_string();
    let mut found = Vec::new();
    for _ in 0..SCANS {
        // Any number is a place in a table.
        let cursor = fastrand::u32(..).to_string();
        let words: [&[u8]; 5] = [scan, key, cursor.as_bytes(), b"COUNT", at_once.as_bytes()];
        let Value::Array(parts) = source.client.ask_bytes(&words).await? else {
            return Err(AskError::NotRedis);
        };
        let Some(Value::Array(elements)) = parts.into_iter().nth(1) else {
            return Err(AskError::NotRedis);
        };
        let step = if pairs { 2 } else { 1 };
        let names = elements
            .into_iter()
            .step_by(step)
            .filter_map(|element| match element {
                Value::Bulk(name) => Some(name),
                _ => None,
            });
        found.extend(names);
        if found.len() as u64 >= wanted {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    // A value that lies in one string is given whole.
    fastrand::shuffle(&mut found);
    found.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    Ok(found)
}

async fn streams(source: &mut Side, all: &mut Vec<Question>, key: &Key, wanted: u64) -> Result<(), AskError> {
    let piece = wanted.min(PIECE);
    let count = piece.to_string();
    all.push(Question::new(Ask::Groups, &[b"XINFO", b"GROUPS", key]));
    let mut range = |verb: &[u8], from: &[u8], to: &[u8]| {
        let words: [&[u8]; 6] = [verb, key, from, to, b"COUNT", count.as_bytes()];
        all.push(Question::new(Ask::Plain("an entry"), &words));
    };
    range(b"XRANGE", b"-", b"+");
    range(b"XREVRANGE", b"+", b"-");
    let first = source
        .end_of_stream(&[b"XRANGE", key, b"-", b"+", b"COUNT", b"1"])
        .await?;
    let last = source
        .end_of_stream(&[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"])
        .await?;
    if let (Some(first), Some(last)) = (first, last) {
        for _ in 0..wanted / piece {
            let from = fastrand::u64(first..=last.max(first)).to_string();
            range(b"XRANGE", from.as_bytes(), b"+");
        }
    }
    Ok(())
}

impl Side {
    async fn number(&mut self, words: &[&[u8]]) -> Result<u64, AskError> {
        match self.client.ask_bytes(words).await {
            Ok(Value::Int(number)) => Ok(u64::try_from(number).unwrap_or(0)),
            // Gone, or something else by now: the next look at it will tell.
            Ok(Value::Null) | Err(AskError::Refused(_)) => Ok(0),
            Ok(_) => Err(AskError::NotRedis),
            Err(error) => Err(error),
        }
    }

    /// The milliseconds in the id of the one entry that is asked for.
    async fn end_of_stream(&mut self, words: &[&[u8]]) -> Result<Option<u64>, AskError> {
        let Value::Array(entries) = self.client.ask_bytes(words).await? else {
            return Ok(None);
        };
        let Some(Value::Array(entry)) = entries.first() else {
            return Ok(None);
        };
        let id = entry
            .first()
            .and_then(Value::as_bytes)
            .and_then(|id| std::str::from_utf8(id).ok());
        Ok(id.and_then(|id| id.split('-').next()?.parse().ok()))
    }
}
