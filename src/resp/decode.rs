//! A reply as a [`Value`]: for merges that must look inside, for handshakes, for the control plane. Not the hot path.
//!
//! ```text
//!  bytes ──▶ length ≤ limit ──▶ ReplyScanner: exactly one reply ──▶ single values: redis-protocol
//!                                                                   aggregates: a stack of our own ──▶ Value
//! ```
//!
//! `redis-protocol` recurses over nested arrays, makes `*-1` a `$-1`, refuses `$-1` in RESP3, reorders maps and wants
//! UTF-8 in errors. So it is handed one single value at a time, already known to be well framed, and asked for ranges
//! only; what nests is put together here, in order, to a depth that the caller limits.

use memchr::memchr;
use redis_protocol::resp3::decode::complete::decode_range;
use redis_protocol::resp3::types::RangeFrame;
use thiserror::Error;

use super::{BadReply, ReplyScanner, Value};

/// How large a reply may be that is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Arrays in arrays; a single value has depth 0.
    pub depth: usize,
    /// Values in all, aggregates and the values of attributes counted too.
    pub elements: usize,
    /// Bytes of the whole reply.
    pub bytes: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            depth: 32,
            elements: 1024 * 1024,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Why a reply was not decoded. The link is in order except after [`DecodeError::Bad`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes are no reply.
    #[error(transparent)]
    Bad(#[from] BadReply),
    /// The reply has not ended.
    #[error("the reply is not complete")]
    Incomplete,
    /// More than one reply.
    #[error("{0} bytes follow the reply")]
    Trailing(usize),
    /// Nested deeper than the limit.
    #[error("the reply nests deeper than {0} levels")]
    TooDeep(usize),
    /// More values than the limit.
    #[error("the reply has more than {0} values")]
    TooManyElements(usize),
    /// Longer than the limit.
    #[error("the reply has {0} bytes, which is above the limit")]
    TooLong(usize),
    /// A single value that makes no sense, such as a double of letters.
    #[error("a value of the reply is malformed: {0}")]
    Malformed(String),
}

/// An aggregate whose values are being collected.
struct Open {
    kind: u8,
    /// Values still due.
    due: usize,
    values: Vec<Value>,
}

/// Decodes `buf`, which must hold exactly one reply, of RESP2 or RESP3.
///
/// Attributes are skipped. A bulk error becomes a [`Value::Error`], and what is not UTF-8 in an error, status or big
/// number is replaced.
///
/// # Errors
/// The bytes are not exactly one reply, or are above a limit.
pub fn decode(buf: &[u8], limits: DecodeLimits) -> Result<Value, DecodeError> {
    if buf.len() > limits.bytes {
        return Err(DecodeError::TooLong(buf.len()));
    }
    match ReplyScanner::default().feed(buf)? {
        Some(end) if end == buf.len() => {}
        Some(end) => return Err(DecodeError::Trailing(buf.len() - end)),
        None => return Err(DecodeError::Incomplete),
    }
    let mut rest = buf;
    let mut open: Vec<Open> = Vec::new();
    let mut elements = 0;
    loop {
        elements += 1;
        if elements > limits.elements {
            return Err(DecodeError::TooManyElements(limits.elements));
        }
        let (head, tail) = split_head(rest)?;
        rest = tail;
        let mut done = match aggregate(head)? {
            Some(begun) => {
                if open.len() >= limits.depth {
                    return Err(DecodeError::TooDeep(limits.depth));
                }
                open.push(begun);
                None
            }
            None => Some(single(head)?),
        };
        // Hands what is complete to what it belongs to, as far out as that goes.
        loop {
            if let Some(value) = done.take() {
                let Some(parent) = open.last_mut() else {
                    return Ok(value);
                };
                parent.values.push(value);
                parent.due = parent.due.saturating_sub(1);
            }
            match open.pop_if(|innermost| innermost.due == 0) {
                Some(complete) => done = close(complete),
                None => break,
            }
            if done.is_none() {
                break;
            }
        }
    }
}

/// Splits the next single value, or the header of the next aggregate, off the front.
fn split_head(rest: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let line = memchr(b'\n', rest).ok_or(DecodeError::Incomplete)? + 1;
    let end = match rest.first() {
        Some(b'$' | b'=' | b'!') => match usize::try_from(number(&rest[..line])?) {
            Ok(length) => line + length + 2,
            Err(_) => line,
        },
        Some(_) | None => line,
    };
    rest.split_at_checked(end).ok_or(DecodeError::Incomplete)
}

/// The number of a header line.
fn number(line: &[u8]) -> Result<i64, DecodeError> {
    let digits = line.get(1..line.len().saturating_sub(2)).unwrap_or_default();
    let text = String::from_utf8_lossy(digits);
    text.parse()
        .map_err(|_| DecodeError::Malformed(format!("'{text}' is no length")))
}

/// The aggregate that this header begins; `None` for a single value, the null array among them.
fn aggregate(head: &[u8]) -> Result<Option<Open>, DecodeError> {
    let Some(&kind @ (b'*' | b'%' | b'~' | b'>' | b'|')) = head.first() else {
        return Ok(None);
    };
    let Ok(count) = usize::try_from(number(head)?) else {
        return Ok(None);
    };
    let due = if matches!(kind, b'%' | b'|') {
        count.saturating_mul(2)
    } else {
        count
    };
    Ok(Some(Open {
        kind,
        due,
        values: Vec::new(),
    }))
}

/// The value of a complete aggregate; `None` for attributes, which are dropped.
fn close(complete: Open) -> Option<Value> {
    let values = complete.values;
    match complete.kind {
        b'|' => None,
        b'~' => Some(Value::Set(values)),
        b'>' => Some(Value::Push(values)),
        b'%' => {
            let mut pairs = Vec::with_capacity(values.len() / 2);
            let mut values = values.into_iter();
            while let (Some(key), Some(value)) = (values.next(), values.next()) {
                pairs.push((key, value));
            }
            Some(Value::Map(pairs))
        }
        _ => Some(Value::Array(values)),
    }
}

/// A single value.
fn single(head: &[u8]) -> Result<Value, DecodeError> {
    match head {
        b"$-1\r\n" | b"_\r\n" => return Ok(Value::Null),
        b"*-1\r\n" => return Ok(Value::NullArray),
        [b'=', ..] => return verbatim(head),
        _ => {}
    }
    let (frame, _) = decode_range(head)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?
        .ok_or(DecodeError::Incomplete)?;
    let bytes = |(start, end)| head.get(start..end).unwrap_or_default();
    let text = |range| String::from_utf8_lossy(bytes(range)).into_owned();
    Ok(match frame {
        RangeFrame::BlobString { data, .. } => Value::Bulk(bytes(data).to_vec()),
        RangeFrame::SimpleString { data, .. } => Value::Simple(text(data).into()),
        RangeFrame::SimpleError { data, .. } | RangeFrame::BlobError { data, .. } => Value::Error(text(data)),
        RangeFrame::Number { data, .. } => Value::Int(data),
        RangeFrame::Double { data, .. } => Value::Double(data),
        RangeFrame::Boolean { data, .. } => Value::Bool(data),
        RangeFrame::BigNumber { data, .. } => Value::BigNumber(text(data)),
        other => return Err(DecodeError::Malformed(format!("unexpected {:?}", other.kind()))),
    })
}

/// A verbatim string, whose format may be one that `redis-protocol` does not know.
fn verbatim(head: &[u8]) -> Result<Value, DecodeError> {
    let start = memchr(b'\n', head).map_or(head.len(), |line| line + 1);
    match head.get(start..head.len().saturating_sub(2)) {
        Some([a, b, c, b':', text @ ..]) => Ok(Value::Verbatim {
            format: [*a, *b, *c],
            text: text.to_vec(),
        }),
        Some(_) | None => Err(DecodeError::Malformed(
            "a verbatim string without its format".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Value, DecodeError> {
        decode(text.replace(' ', "\r\n").as_bytes(), DecodeLimits::default())
    }

    #[test]
    fn what_redis_protocol_alone_would_change_is_kept() {
        assert_eq!(of("*-1 "), Ok(Value::NullArray));
        assert_eq!(of("*2 $-1 _ "), Ok(Value::Array(vec![Value::Null, Value::Null])));
        let keys = |text| match of(text) {
            Ok(Value::Map(pairs)) => pairs.into_iter().map(|(key, _)| key).collect(),
            other => vec![Value::Error(format!("{other:?}"))],
        };
        assert_eq!(
            keys("%3 +c :1 +a :2 +c :3 "),
            ["c", "a", "c"].map(|key| Value::Simple(key.into()))
        );
        assert_eq!(keys("%1 *1 :1 :2 "), [Value::Array(vec![Value::Int(1)])]);
        assert_eq!(
            decode(b"-ERR \xff\r\n", DecodeLimits::default()),
            Ok(Value::Error("ERR \u{fffd}".into()))
        );
        assert_eq!(
            of("=5 xml:a "),
            Ok(Value::Verbatim {
                format: *b"xml",
                text: b"a".to_vec()
            })
        );
        assert_eq!(
            of("=4 txt: "),
            Ok(Value::Verbatim {
                format: *b"txt",
                text: vec![]
            })
        );
        assert_eq!(of("!5 ERR\u{1}x "), Ok(Value::Error("ERR\u{1}x".into())));
        assert_eq!(of(",inf "), Ok(Value::Double(f64::INFINITY)));
        assert_eq!(of("*0 "), Ok(Value::Array(vec![])));
        assert_eq!(of("%0 "), Ok(Value::Map(vec![])));
    }

    #[test]
    fn attributes_are_skipped_wherever_they_stand() {
        assert_eq!(
            of("|1 +a *1 :1 *2 |1 +b +c :1 |0 :2 "),
            Ok(Value::Array(vec![Value::Int(1), Value::Int(2)]))
        );
    }

    #[test]
    fn limits_are_named() {
        let limits = DecodeLimits {
            depth: 2,
            elements: 4,
            bytes: 30,
        };
        let limited = |text: &str| decode(text.replace(' ', "\r\n").as_bytes(), limits);
        assert_eq!(
            limited("*1 *1 :1 "),
            Ok(Value::Array(vec![Value::Array(vec![Value::Int(1)])]))
        );
        assert_eq!(limited("*1 *1 *1 :1 "), Err(DecodeError::TooDeep(2)));
        assert_eq!(limited("*4 :1 :1 :1 :1 "), Err(DecodeError::TooManyElements(4)));
        assert_eq!(
            limited(&format!("+{} ", "x".repeat(28))),
            Err(DecodeError::TooLong(31))
        );
        assert_eq!(limited(":1 :2 "), Err(DecodeError::Trailing(4)));
        assert_eq!(limited("*2 :1 "), Err(DecodeError::Incomplete));
        assert_eq!(limited(",1e1e1 "), of(",1e1e1 "));
        assert!(matches!(of(",1e1e1 "), Err(DecodeError::Malformed(_))));
        assert_eq!(limited("$3 abcd "), Err(DecodeError::Bad(BadReply::InvalidCrlf)));
    }

    #[test]
    fn ten_thousand_levels_are_an_error_and_no_crash() {
        let nested = format!("{}:1 ", "*1 ".repeat(10_000));
        assert_eq!(of(&nested), Err(DecodeError::TooDeep(32)));
    }
}
