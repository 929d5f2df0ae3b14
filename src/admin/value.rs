//! Small makers of the values that words answer with.

use std::fmt::Display;
use std::str::FromStr;

use crate::resp::Value;

/// A number; what a signed 64-bit integer cannot hold becomes the largest one.
pub(super) fn int(number: impl TryInto<i64>) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// A text.
pub(super) fn text(text: impl Into<String>) -> Value {
    Value::Bulk(text.into().into_bytes())
}

/// One row, or one list of fields.
pub(super) fn row<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::Map(
        fields
            .into_iter()
            .map(|(name, value)| (Value::bulk(name), value))
            .collect(),
    )
}

/// A word of a client as it may stand in an error: short and printable.
pub(super) fn shown(word: &[u8]) -> String {
    const SHOWN_MAX: usize = 64;
    let mut text = String::from_utf8_lossy(&word[..word.len().min(SHOWN_MAX)]).into_owned();
    if word.len() > SHOWN_MAX {
        text.push('…');
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A plain decimal number, without sign or leading zeros.
pub(super) fn number<T: FromStr + Display>(word: &[u8]) -> Option<T> {
    let number: T = std::str::from_utf8(word).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == word).then_some(number)
}
