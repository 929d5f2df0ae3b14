//! A reply that we make ourselves, or that we had to take apart, as a value; and its bytes in RESP2 and RESP3.
//!
//! Each single value is encoded by `redis-protocol`. The headers of arrays, maps, sets and pushes are written here: its
//! frames hold maps in a hash map, which would lose a repeated key and refuse an array as a key.

use std::borrow::Cow;
use std::slice;

use redis_protocol::resp2::{encode as resp2, types::BorrowedFrame as Resp2};
use redis_protocol::resp3::types::{BorrowedFrame as Resp3, VerbatimStringFormat};
use redis_protocol::resp3::{encode::complete as resp3, types::VerbatimStringFormat::Text};

use super::write::{cut, write_clean, write_error, write_header, write_map_header, write_push_header};

/// The protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Every connection begins with it.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A status line, such as `OK`.
    Simple(Cow<'static, str>),
    /// An error line, its code first. Cleaned and cut when it is encoded.
    Error(String),
    /// A whole number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing: `$-1`, in RESP3 `_`.
    Null,
    /// No array: `*-1`, in RESP3 `_`.
    NullArray,
    /// Truth; 1 or 0 in RESP2.
    Bool(bool),
    /// A floating-point number; its text in RESP2.
    Double(f64),
    /// A number of any size, as its digits; its text in RESP2.
    BigNumber(String),
    /// Text for people; plain bytes in RESP2.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
    /// Values in order.
    Array(Vec<Self>),
    /// Pairs in order, repeated keys kept; a flat array in RESP2.
    Map(Vec<(Self, Self)>),
    /// Values that are meant as a set; an array in RESP2.
    Set(Vec<Self>),
    /// A message that answers no request; an array in RESP2.
    Push(Vec<Self>),
}

/// What is still to be written of an aggregate.
enum Open<'a> {
    Values(slice::Iter<'a, Value>),
    Pairs(slice::Iter<'a, (Value, Value)>, Option<&'a Value>),
}

impl<'a> Iterator for Open<'a> {
    type Item = &'a Value;

    fn next(&mut self) -> Option<&'a Value> {
        match self {
            Self::Values(values) => values.next(),
            Self::Pairs(pairs, held) => held.take().or_else(|| {
                let (key, value) = pairs.next()?;
                *held = Some(value);
                Some(key)
            }),
        }
    }
}

// === impl Value ===

impl Value {
    /// The status `+OK`.
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    /// A bulk of these bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// An error of this text, its code first.
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    /// The bytes of a bulk, status or verbatim string.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) | Self::Verbatim { text: bytes, .. } => Some(bytes),
            Self::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// Appends the reply as this protocol writes it. Always exactly one frame.
    pub fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let mut open: Vec<Open<'_>> = Vec::new();
        let mut next = Some(self);
        while let Some(value) = next {
            if let Some(begun) = value.encode_head(protocol, out) {
                open.push(begun);
            }
            next = loop {
                let Some(innermost) = open.last_mut() else {
                    break None;
                };
                if let Some(value) = innermost.next() {
                    break Some(value);
                }
                open.pop();
            };
        }
    }

    /// Writes a single value, or the header of an aggregate, whose values are then due.
    fn encode_head(&self, protocol: Protocol, out: &mut Vec<u8>) -> Option<Open<'_>> {
        match self {
            Self::Array(values) => {
                write_header(out, b'*', values.len());
                Some(Open::Values(values.iter()))
            }
            Self::Set(values) => {
                write_header(
                    out,
                    if protocol == Protocol::Resp2 { b'*' } else { b'~' },
                    values.len(),
                );
                Some(Open::Values(values.iter()))
            }
            Self::Push(values) => {
                write_push_header(out, protocol, values.len());
                Some(Open::Values(values.iter()))
            }
            Self::Map(pairs) => {
                write_map_header(out, protocol, pairs.len());
                Some(Open::Pairs(pairs.iter(), None))
            }
            single => {
                let start = out.len();
                let encoded = match protocol {
                    Protocol::Resp2 => single.encode_resp2(out),
                    Protocol::Resp3 => single.encode_resp3(out),
                };
                if !encoded {
                    // The room was measured, so this cannot happen; if it does, the client still gets one reply.
                    out.truncate(start);
                    write_error(out, "ERR preshard could not encode this reply, please report it");
                }
                None
            }
        }
    }

    fn encode_resp2(&self, out: &mut Vec<u8>) -> bool {
        let mut clean = Vec::new();
        let lossy;
        let double;
        let frame = match self {
            Self::Simple(text) => {
                write_clean(&mut clean, text.as_bytes());
                Resp2::SimpleString(&clean)
            }
            Self::Error(text) => {
                write_clean(&mut clean, cut(text.as_bytes()));
                lossy = String::from_utf8_lossy(&clean);
                Resp2::Error(&lossy)
            }
            Self::Int(number) => Resp2::Integer(*number),
            Self::Bool(truth) => Resp2::Integer(i64::from(*truth)),
            Self::Bulk(bytes) | Self::Verbatim { text: bytes, .. } => Resp2::BulkString(bytes),
            Self::BigNumber(digits) => Resp2::BulkString(digits.as_bytes()),
            Self::Double(number) => {
                double = double_text(*number);
                Resp2::BulkString(double.as_bytes())
            }
            // Its null is `$-1` only.
            Self::NullArray => {
                out.extend_from_slice(b"*-1\r\n");
                return true;
            }
            Self::Null => Resp2::Null,
            Self::Array(_) | Self::Map(_) | Self::Set(_) | Self::Push(_) => return false,
        };
        let room = grow(out, frame.encode_len(false));
        resp2::encode_borrowed(room, &frame, false).is_ok()
    }

    fn encode_resp3(&self, out: &mut Vec<u8>) -> bool {
        let mut clean = Vec::new();
        let lossy;
        let attributes = None;
        let frame = match self {
            Self::Simple(text) => {
                write_clean(&mut clean, text.as_bytes());
                Resp3::SimpleString {
                    data: &clean,
                    attributes,
                }
            }
            Self::Error(text) => {
                write_clean(&mut clean, cut(text.as_bytes()));
                lossy = String::from_utf8_lossy(&clean);
                Resp3::SimpleError {
                    data: &lossy,
                    attributes,
                }
            }
            Self::Int(number) => Resp3::Number {
                data: *number,
                attributes,
            },
            Self::Bool(truth) => Resp3::Boolean {
                data: *truth,
                attributes,
            },
            Self::Bulk(bytes) => Resp3::BlobString {
                data: bytes,
                attributes,
            },
            Self::BigNumber(digits) => Resp3::BigNumber {
                data: digits.as_bytes(),
                attributes,
            },
            Self::Verbatim { format, text } => match verbatim_format(*format) {
                Some(format) => Resp3::VerbatimString {
                    data: text,
                    format,
                    attributes,
                },
                None => {
                    write_header(out, b'=', text.len() + 4);
                    out.extend_from_slice(format);
                    out.push(b':');
                    out.extend_from_slice(text);
                    out.extend_from_slice(b"\r\n");
                    return true;
                }
            },
            // It would write 1e30 with all its zeros.
            Self::Double(number) => {
                out.push(b',');
                out.extend_from_slice(double_text(*number).as_bytes());
                out.extend_from_slice(b"\r\n");
                return true;
            }
            Self::Null | Self::NullArray => Resp3::Null,
            Self::Array(_) | Self::Map(_) | Self::Set(_) | Self::Push(_) => return false,
        };
        let room = grow(out, frame.encode_len(false));
        resp3::encode_borrowed(room, &frame, false).is_ok()
    }
}

/// The formats that `redis-protocol` knows.
pub(super) fn verbatim_format(format: [u8; 3]) -> Option<VerbatimStringFormat> {
    match &format {
        b"txt" => Some(Text),
        b"mkd" => Some(VerbatimStringFormat::Markdown),
        _ => None,
    }
}

/// Makes room for a frame of known length at the end of `out`.
fn grow(out: &mut Vec<u8>, length: usize) -> &mut [u8] {
    let start = out.len();
    out.resize(start + length, 0);
    &mut out[start..]
}

/// The shortest text that reads back as the same number, without long rows of zeros.
fn double_text(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else if number != 0.0 && !(1e-5..1e17).contains(&size) {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(value: &Value) -> (String, String) {
        let text = |protocol| {
            let mut out = Vec::new();
            value.encode(protocol, &mut out);
            String::from_utf8_lossy(&out).replace("\r\n", " ")
        };
        (text(Protocol::Resp2), text(Protocol::Resp3))
    }

    fn pair(resp2: &str, resp3: &str) -> (String, String) {
        (resp2.to_owned(), resp3.to_owned())
    }

    #[test]
    fn single_values_in_both_protocols() {
        assert_eq!(both(&Value::OK), pair("+OK ", "+OK "));
        assert_eq!(both(&Value::Int(-7)), pair(":-7 ", ":-7 "));
        assert_eq!(both(&Value::bulk("a b")), pair("$3 a b ", "$3 a b "));
        assert_eq!(both(&Value::Null), pair("$-1 ", "_ "));
        assert_eq!(both(&Value::NullArray), pair("*-1 ", "_ "));
        assert_eq!(both(&Value::Bool(true)), pair(":1 ", "#t "));
        assert_eq!(both(&Value::BigNumber("123".into())), pair("$3 123 ", "(123 "));
        let info = Value::Verbatim {
            format: *b"txt",
            text: b"hi".to_vec(),
        };
        assert_eq!(both(&info), pair("$2 hi ", "=6 txt:hi "));
        let other = Value::Verbatim {
            format: *b"xml",
            text: b"hi".to_vec(),
        };
        assert_eq!(both(&other), pair("$2 hi ", "=6 xml:hi "));
        assert_eq!(
            both(&Value::error("ERR a\r\n+OK\0")),
            pair("-ERR a  +OK  ", "-ERR a  +OK  ")
        );
    }

    #[test]
    fn doubles_read_back_and_stay_short() {
        let texts = [
            0.0,
            1.0,
            1.1,
            -2.5,
            1e30,
            1e-7,
            3.0e15,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ]
        .map(double_text);
        assert_eq!(
            texts,
            [
                "0",
                "1",
                "1.1",
                "-2.5",
                "1e30",
                "1e-7",
                "3000000000000000",
                "inf",
                "-inf",
                "nan"
            ]
        );
        assert_eq!(both(&Value::Double(1.5)), pair("$3 1.5 ", ",1.5 "));
    }

    #[test]
    fn a_map_keeps_its_order_its_repeated_keys_and_array_keys() {
        let map = Value::Map(vec![
            (
                Value::bulk("b"),
                Value::Array(vec![Value::Int(1), Value::NullArray]),
            ),
            (Value::bulk("a"), Value::Set(vec![])),
            (Value::bulk("b"), Value::Push(vec![Value::Null])),
            (Value::Array(vec![]), Value::OK),
        ]);
        assert_eq!(
            both(&map),
            pair(
                "*8 $1 b *2 :1 *-1 $1 a *0 $1 b *1 $-1 *0 +OK ",
                "%4 $1 b *2 :1 _ $1 a ~0 $1 b >1 _ *0 +OK "
            )
        );
    }
}
