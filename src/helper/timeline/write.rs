//! What a timeline is written to with: `ZADD`, and behind it the trims, as one piece of bytes.
//!
//! ```text
//!  ZADD key [NX|GT] score member …     its reply is the answer
//!  ZREMRANGEBYRANK key 0 -(n+1)        ranks count from the oldest: the last of those beyond the n newest
//!  ZREMRANGEBYSCORE key -inf (s
//! ```
//!
//! No transaction: between two of them a reader may see an item too many, and so does who comes after a node that died
//! there, until the next item is added.

use super::options::{Condition, Writing};
use crate::resp;

/// Appends the commands that add items to a timeline and trim it. Returns how many. `items` are scores and members.
pub(super) fn write_add<'a>(
    out: &mut Vec<u8>,
    key: &[u8],
    writing: &Writing<'_>,
    items: impl ExactSizeIterator<Item = &'a [u8]>,
) -> u32 {
    let condition = writing.condition.map(Condition::word);
    resp::write_array_header(out, 2 + usize::from(condition.is_some()) + items.len());
    resp::write_bulk(out, b"ZADD");
    resp::write_bulk(out, key);
    if let Some(word) = condition {
        resp::write_bulk(out, word);
    }
    items.for_each(|item| resp::write_bulk(out, item));
    1 + write_trim(out, key, writing)
}

/// Appends the commands that trim a timeline. Returns how many.
pub(super) fn write_trim(out: &mut Vec<u8>, key: &[u8], writing: &Writing<'_>) -> u32 {
    let mut commands = 0;
    if let Some(length) = writing.max_len {
        resp::write_array_header(out, 4);
        resp::write_bulk(out, b"ZREMRANGEBYRANK");
        resp::write_bulk(out, key);
        resp::write_bulk(out, b"0");
        resp::write_bulk_int(out, -1 - length);
        commands += 1;
    }
    if let Some(score) = writing.min_score {
        resp::write_array_header(out, 4);
        resp::write_bulk(out, b"ZREMRANGEBYSCORE");
        resp::write_bulk(out, key);
        resp::write_bulk(out, b"-inf");
        resp::write_bulk_parts(out, &[b"(", score]);
        commands += 1;
    }
    commands
}
