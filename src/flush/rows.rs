//! From the entries of batches to the rows of `delta(member, delta)`: checked, in one spelling, summed, sorted.
//!
//! ```text
//!  "42" +1 (shard 3) ─┐
//!  "042" +2 (shard 9) ┴─▶ ("42", 3)       one row for each member, or `UPDATE … FROM delta` would apply only one of them
//!  "4x" +1 ─────────────▶ bad             told apart before SQL, where it would take the others with it
//! ```
//!
//! Sorted, so that all transactions that touch the same rows lock them in the same order.

use std::borrow::Cow;

use super::batch::Batch;

/// What members must look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberType {
    /// Any text that Postgres can hold.
    #[default]
    Text,
    /// A whole number of 64 bits.
    Bigint,
    /// A UUID.
    Uuid,
}

/// One entry of one batch, its member in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) member: String,
    pub(super) delta: i64,
    /// The index of its batch.
    pub(super) batch: usize,
}

/// An entry that Postgres does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) entry: Entry,
    pub(super) error: String,
}

/// One row of `delta`, with the entries that it is the sum of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) member: String,
    pub(super) delta: i64,
    pub(super) entries: Vec<Entry>,
}

/// The rows of these batches, and what can be none.
pub(super) fn rows<'a>(
    kind: MemberType,
    batches: impl Iterator<Item = (usize, &'a Batch)>,
) -> (Vec<Row>, Vec<Dead>) {
    let (mut entries, mut dead) = (Vec::new(), Vec::new());
    for (number, batch) in batches {
        for (member, delta) in &batch.entries {
            let (delta, batch) = (*delta, number);
            match kind.spell(member) {
                Ok(member) => entries.push(Entry { member, delta, batch }),
                Err(error) => {
                    let member = shown(member);
                    let entry = Entry { member, delta, batch };
                    dead.push(Dead { entry, error });
                }
            }
        }
    }
    entries.sort_by(|a, b| a.member.cmp(&b.member));
    let mut rows: Vec<Row> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(row) = rows.last_mut().filter(|row| row.member == entry.member) else {
            rows.push(Row {
                member: entry.member.clone(),
                delta: entry.delta,
                entries: vec![entry],
            });
            continue;
        };
        match row.delta.checked_add(entry.delta) {
            Some(sum) => {
                row.delta = sum;
                row.entries.push(entry);
            }
            None => dead.push(Dead {
                entry,
                error: "preshard: the sum of this member's deltas does not fit into bigint".into(),
            }),
        }
    }
    (rows, dead)
}

/// All entries of a batch as dead letters, as they are.
pub(super) fn parked(number: usize, batch: &Batch, error: &str) -> Vec<Dead> {
    let dead = |(member, delta): &(Vec<u8>, i64)| Dead {
        entry: Entry {
            member: shown(member),
            delta: *delta,
            batch: number,
        },
        error: error.to_owned(),
    };
    batch.entries.iter().map(dead).collect()
}

// === impl MemberType ===

impl MemberType {
    /// The word of the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Uuid => "uuid",
        }
    }

    /// The one spelling of a member, or why it is none.
    fn spell(self, member: &[u8]) -> Result<String, String> {
        let refused = || format!("preshard: the member is no {}", self.as_str());
        let text = std::str::from_utf8(member).map_err(|_| refused())?;
        match self {
            Self::Text if text.contains('\0') => Err(refused()),
            Self::Text => Ok(text.to_owned()),
            Self::Bigint => text
                .parse::<i64>()
                .map(|number| number.to_string())
                .map_err(|_| refused()),
            Self::Uuid => uuid(text).ok_or_else(refused),
        }
    }
}

/// In the form that Postgres writes; it may be in braces, without hyphens, in capitals.
fn uuid(text: &str) -> Option<String> {
    let inner = text
        .strip_prefix('{')
        .map_or(Some(text), |rest| rest.strip_suffix('}'))?;
    let hyphened = match inner.len() {
        32 => false,
        36 => true,
        _ => return None,
    };
    let mut digits = String::with_capacity(36);
    for (at, c) in inner.char_indices() {
        let here = hyphened && matches!(at, 8 | 13 | 18 | 23);
        if here != (c == '-') || !here && !c.is_ascii_hexdigit() {
            return None;
        }
        if !here {
            if matches!(digits.len(), 8 | 13 | 18 | 23) {
                digits.push('-');
            }
            digits.push(c.to_ascii_lowercase());
        }
    }
    Some(digits)
}

/// Any bytes as a text that Postgres can hold.
fn shown(member: &[u8]) -> String {
    match std::str::from_utf8(member) {
        Ok(text) if !text.contains('\0') => Cow::Borrowed(text),
        Ok(_) | Err(_) => Cow::Owned(member.escape_ascii().to_string()),
    }
    .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(entries: &[(&[u8], i64)]) -> Batch {
        Batch {
            id: "1-1".into(),
            shard: 1,
            seq: 1,
            attempt: 1,
            prev: 0,
            entries: entries
                .iter()
                .map(|(member, delta)| (member.to_vec(), *delta))
                .collect(),
        }
    }

    fn summed(kind: MemberType, batches: &[Batch]) -> (Vec<(String, i64)>, Vec<String>) {
        let (rows, dead) = rows(kind, batches.iter().enumerate());
        let rows = rows.into_iter().map(|row| (row.member, row.delta)).collect();
        (rows, dead.into_iter().map(|dead| dead.entry.member).collect())
    }

    #[test]
    fn a_member_is_one_row_however_it_is_spelt() {
        let batches = [
            batch(&[(b"42", 1), (b"-7", 1)]),
            batch(&[(b"042", 2), (b"+42", 4), (b"4x", 8), (b"", 1), (b" 42", 1)]),
        ];
        let (rows, dead) = summed(MemberType::Bigint, &batches);
        assert_eq!(rows, [("-7".to_owned(), 1), ("42".to_owned(), 7)]);
        assert_eq!(dead, ["4x", "", " 42"]);
        let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let spelt = [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11".to_owned(),
            "a0eebc999c0b4ef8bb6d6bb9bd380a11".to_owned(),
            format!("{{{id}}}"),
            id.to_owned(),
        ];
        let spelt: Vec<(&[u8], i64)> = spelt.iter().map(|text| (text.as_bytes(), 1)).collect();
        assert_eq!(summed(MemberType::Uuid, &[batch(&spelt)]).0, [(id.to_owned(), 4)]);
        for bad in [
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1g",
            "{",
            "a0eebc99-9c0b-4ef8-bb6d6bb9bd380a11-1",
            "€€€€€€€€€€€€",
        ] {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn text_is_what_postgres_can_hold() {
        let (rows, dead) = summed(
            MemberType::Text,
            &[batch(&[(b"b", 1), (b"a", 2), (b"\xff", 3), (b"x\0", 4)])],
        );
        assert_eq!(rows, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(dead, ["\\xff", "x\\x00"]);
    }

    #[test]
    fn a_sum_that_does_not_fit_is_told() {
        let (rows, dead) = summed(
            MemberType::Text,
            &[batch(&[(b"a", i64::MAX)]), batch(&[(b"a", 1)])],
        );
        assert_eq!(rows, [("a".to_owned(), i64::MAX)]);
        assert_eq!(dead, ["a"]);
    }
}
