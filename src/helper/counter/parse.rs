//! The arguments of counter commands, and what is said of wrong ones.

use crate::resp::Args;

/// The longest name of a counter.
pub(super) const COUNTER_MAX: usize = 255;
const MEMBER_MAX: usize = 65_535;

pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const SYNTAX: &str = "ERR syntax error";
pub(super) const TOO_MANY: &str = "ERR too many arguments in one command";

/// The counter's name: the first argument. Empty if there is none, which only `COUNTER.PENDING` allows.
pub(super) fn counter<'a>(args: &Args<'a>) -> Result<&'a [u8], String> {
    match args.try_get(1) {
        Some(name) if name.is_empty() || name.len() > COUNTER_MAX => {
            Err(format!("ERR the name of a counter has 1 to {COUNTER_MAX} bytes"))
        }
        name => Ok(name.unwrap_or_default()),
    }
}

pub(super) fn member(member: &[u8]) -> Result<&[u8], String> {
    if member.is_empty() || member.len() > MEMBER_MAX {
        return Err(format!("ERR a member has 1 to {MEMBER_MAX} bytes"));
    }
    Ok(member)
}

/// A signed number of 64 bits, as Redis reads one: no plus, no leading zero, no space.
pub(super) fn integer(text: &[u8]) -> Result<i64, String> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let number = std::str::from_utf8(text).ok().filter(|_| canonical);
    number
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| NOT_AN_INTEGER.to_owned())
}

/// A number within bounds.
pub(super) fn bounded(text: &[u8], min: u64, max: u64, what: &str) -> Result<u64, String> {
    let number = integer(text)?;
    let number = u64::try_from(number)
        .ok()
        .filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("ERR {what} must be between {min} and {max}"))
}

const COUNT_MAX: u64 = 10_000;
pub(super) const LEASE_MAX_MS: u64 = 3_600_000;
const EVERY_MAX_MS: u64 = 86_400_000;

/// The options of `COUNTER.TAKE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TakeOptions {
    pub(super) count: usize,
    pub(super) lease_ms: u64,
    pub(super) every_ms: u64,
    /// No lease: what is answered is gone.
    pub(super) no_ack: bool,
}

impl TakeOptions {
    /// Reads what stands behind the counter. An option that stands twice means what it says last, as in Redis.
    pub(super) fn parse(args: &Args<'_>) -> Result<Self, String> {
        let mut options = Self {
            count: 1000,
            lease_ms: 30_000,
            every_ms: 0,
            no_ack: false,
        };
        let mut at = 2;
        while let Some(word) = args.try_get(at) {
            let value = || args.try_get(at + 1).ok_or_else(|| SYNTAX.to_owned());
            match word.to_ascii_uppercase().as_slice() {
                b"COUNT" => {
                    let count = bounded(value()?, 1, COUNT_MAX, "COUNT")?;
                    options.count = usize::try_from(count).unwrap_or(1);
                }
                b"LEASE" => options.lease_ms = bounded(value()?, 1, LEASE_MAX_MS, "LEASE")?,
                b"EVERY" => options.every_ms = bounded(value()?, 0, EVERY_MAX_MS, "EVERY")?,
                b"NOACK" => {
                    options.no_ack = true;
                    at += 1;
                    continue;
                }
                _ => return Err(SYNTAX.to_owned()),
            }
            at += 2;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, number) in [
            ("0", 0),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()), Ok(number), "{text}");
        }
        for text in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
            "0x1",
            "--1",
        ] {
            assert_eq!(integer(text.as_bytes()), Err(NOT_AN_INTEGER.to_owned()), "{text}");
        }
    }
}
