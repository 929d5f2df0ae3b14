//! What `COUNTER.TAKE` hands out, in RESP2 and in RESP3.
//!
//! ```text
//!  RESP2  [id, attempt, [member, delta, …], prev]
//!  RESP3  {id, attempt, entries: {member: delta, …}, prev}          id = "<shard>-<seq>"
//! ```

use std::collections::BTreeSet;

use crate::resp::Value;

/// One batch of one shard. Its content never changes until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// What it is acknowledged by.
    pub(super) id: String,
    pub(super) shard: i32,
    /// Greater than that of every batch of this shard before.
    pub(super) seq: i64,
    /// How often it has been handed out; 1 the first time.
    pub(super) attempt: u32,
    /// The shard's batch before this one; 0 if it knows of none.
    pub(super) prev: i64,
    pub(super) entries: Vec<(Vec<u8>, i64)>,
}

/// Takes an answer of `COUNTER.TAKE` apart, by shard. `None`: it is none.
pub(super) fn batches(answer: &Value) -> Option<Vec<Batch>> {
    let Value::Array(found) = answer else { return None };
    let mut batches: Vec<Batch> = found.iter().map(batch).collect::<Option<_>>()?;
    batches.sort_by_key(|batch| batch.shard);
    let shards: BTreeSet<i32> = batches.iter().map(|batch| batch.shard).collect();
    // A shard has one batch outstanding. Two would be mixed up by their marker.
    (shards.len() == batches.len()).then_some(batches)
}

fn batch(value: &Value) -> Option<Batch> {
    let (id, attempt, entries, prev) = match value {
        Value::Array(fields) => match fields.as_slice() {
            [id, attempt, entries, prev] => (id, attempt, entries, prev),
            _ => return None,
        },
        Value::Map(pairs) => {
            let field = |name: &str| {
                let found = pairs
                    .iter()
                    .find(|(key, _)| key.as_bytes() == Some(name.as_bytes()));
                found.map(|(_, value)| value)
            };
            (field("id")?, field("attempt")?, field("entries")?, field("prev")?)
        }
        _ => return None,
    };
    let id = text(id)?;
    let (shard, seq) = id.split_once('-')?;
    Some(Batch {
        shard: shard.parse().ok().filter(|shard| *shard >= 0)?,
        seq: seq.parse().ok().filter(|seq| *seq > 0)?,
        attempt: number(attempt)?.try_into().ok()?,
        prev: number(prev)?,
        entries: pairs(entries)?,
        id,
    })
}

fn pairs(entries: &Value) -> Option<Vec<(Vec<u8>, i64)>> {
    let entry = |member: &Value, delta: &Value| Some((member.as_bytes()?.to_vec(), number(delta)?));
    match entries {
        Value::Map(pairs) => pairs.iter().map(|(member, delta)| entry(member, delta)).collect(),
        Value::Array(flat) => {
            let (pairs, rest) = flat.as_chunks::<2>();
            rest.is_empty().then_some(())?;
            pairs.iter().map(|[member, delta]| entry(member, delta)).collect()
        }
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(other)?.parse().ok(),
    }
}

fn text(value: &Value) -> Option<String> {
    String::from_utf8(value.as_bytes()?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{DecodeLimits, decode};

    fn of(bytes: &str) -> Option<Vec<Batch>> {
        batches(&decode(bytes.replace(' ', "\r\n").as_bytes(), DecodeLimits::default()).unwrap())
    }

    #[test]
    fn both_protocols_say_the_same() {
        let expected = Batch {
            id: "17-1795".into(),
            shard: 17,
            seq: 1795,
            attempt: 2,
            prev: 9,
            entries: vec![(b"a".to_vec(), 5), (b"b".to_vec(), -1)],
        };
        let two = of("*1 *4 $7 17-1795 :2 *4 $1 a :5 $1 b :-1 $1 9 ");
        assert_eq!(two, Some(vec![expected.clone()]));
        let three = of("*1 %4 $2 id $7 17-1795 $7 attempt :2 $7 entries %2 $1 a :5 $1 b :-1 $4 prev $1 9 ");
        assert_eq!(three, Some(vec![expected]));
        assert_eq!(of("*0 "), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_batch_is_refused_as_a_whole() {
        for wrong in [
            "+OK ",
            "*1 *3 $3 1-2 :1 *0 ",
            "*1 *4 $2 12 :1 *0 :0 ",
            "*1 *4 $4 -1-2 :1 *0 :0 ",
            "*1 *4 $3 1-0 :1 *0 :0 ",
            "*1 *4 $3 1-2 :-1 *0 :0 ",
            "*1 *4 $3 1-2 :1 *1 $1 a :0 ",
            "*1 *4 $3 1-2 :1 *2 $1 a $1 x :0 ",
            // Two of one shard.
            "*2 *4 $3 1-2 :1 *0 :0 *4 $3 1-3 :1 *0 :0 ",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
