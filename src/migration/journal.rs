//! How far a reverse stream is, noted on its target with every batch of writes: all of both is done, or nothing of it.
//!
//! ```text
//!  MULTI ─▶ the batch's writes ─▶ SELECT metadata ─▶ HSET preshard:reverse:<task> offset … ─▶ EXEC
//! ```
//!
//! So whoever goes on from the note does each write once, whatever has become of the one before: a leader that has died, a
//! connection that was cut, a target that has come back with what it had on its disk.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Offset;
use crate::control::fence::{Words, words};
use crate::ids::DbIndex;
use crate::rdb::Frames;
use crate::resp::Value;

/// Begin of the keys in the metadata database that hold these notes.
const KEY_PREFIX: &str = "preshard:reverse:";
/// How often it is noted that nothing was to be written.
const IDLE_PACE: Duration = Duration::from_secs(1);

/// The place of a note.
#[derive(Clone, Debug)]
pub struct Journal {
    key: String,
    noted: Option<Instant>,
    /// Whether somebody else may go on from here.
    settled: bool,
}

/// A note, as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Up to where everything was done.
    pub at: Offset,
    /// The source's database that is selected there.
    pub selected: u64,
    /// Nothing expires on the target by itself, and nothing but the stream says what is to be done.
    pub parked: bool,
}

impl Journal {
    /// That of one task.
    #[must_use]
    pub fn of(task: &str) -> Self {
        Self {
            key: format!("{KEY_PREFIX}{task}"),
            noted: None,
            settled: false,
        }
    }

    /// From the next note on, somebody else may go on.
    pub(super) fn settle(&mut self) {
        (self.settled, self.noted) = (true, None);
    }

    /// Puts the note of an offset behind what is to be written. `selected`: the source's database there.
    pub(super) fn note(&mut self, frames: &mut Frames, metadata: DbIndex, offset: u64, selected: u64) {
        let is_due = self.noted.is_none_or(|noted| noted.elapsed() >= IDLE_PACE);
        if frames.is_empty() && !is_due {
            return;
        }
        self.noted = Some(Instant::now());
        let (offset, selected) = (offset.to_string(), selected.to_string());
        let mut note: Vec<&[u8]> = vec![
            b"HSET",
            self.key.as_bytes(),
            b"offset",
            offset.as_bytes(),
            b"selected",
            selected.as_bytes(),
        ];
        // Once: a rollback takes it back.
        if std::mem::take(&mut self.settled) {
            note.extend([&b"parked"[..], b"1"]);
        }
        frames.enclose(metadata, &note);
    }

    /// The first note, where both sides are the same. Nobody else may go on from it before [`Self::settle`].
    pub(super) fn begun(&self, at: &Offset, metadata: DbIndex) -> Vec<Words> {
        let (offset, selected) = (at.offset.to_string(), metadata.to_string());
        vec![
            words(["DEL", &self.key]),
            words([
                "HSET", &self.key, "replid", &at.replid, "offset", &offset, "selected", &selected, "parked",
                "0",
            ]),
        ]
    }

    /// Notes whether nothing expires on the target by itself.
    pub(super) fn parked(&self, parked: bool) -> Words {
        words(["HSET", &self.key, "parked", if parked { "1" } else { "0" }])
    }

    /// Forgets it.
    pub(super) fn forget(&self) -> Words {
        words(["DEL", &self.key])
    }

    /// Asks for it.
    pub(super) fn ask(&self) -> Vec<&str> {
        vec!["HMGET", &self.key, "replid", "offset", "selected", "parked"]
    }

    /// Reads the reply to [`Self::ask`].
    pub(super) fn read(reply: &Value) -> Option<Noted> {
        let Value::Array(parts) = reply else { return None };
        let text = |at: usize| std::str::from_utf8(parts.get(at)?.as_bytes()?).ok();
        Some(Noted {
            at: Offset {
                replid: text(0)?.to_owned(),
                offset: text(1)?.parse().ok()?,
            },
            selected: text(2)?.parse().ok()?,
            parked: text(3) == Some("1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let reply = |words: &[&str]| Value::Array(words.iter().map(|word| Value::bulk(*word)).collect());
        let noted = Journal::read(&reply(&["abc", "42", "7", "1"])).unwrap();
        assert_eq!((noted.at.replid.as_str(), noted.at.offset), ("abc", 42));
        assert_eq!((noted.selected, noted.parked), (7, true));
        assert!(!Journal::read(&reply(&["abc", "42", "7", "0"])).unwrap().parked);
        assert_eq!(Journal::read(&Value::Array(vec![Value::Null; 4])), None);
        assert_eq!(Journal::read(&reply(&["abc", "x", "7", "1"])), None);
        let begun = Journal::of("m1").begun(&noted.at, DbIndex(12));
        let text = String::from_utf8(begun[1].join(&b' ')).unwrap();
        assert_eq!(
            text,
            "HSET preshard:reverse:m1 replid abc offset 42 selected 12 parked 0"
        );
    }

    #[test]
    fn nothing_is_noted_now_and_then_only() {
        let (mut journal, mut frames) = (Journal::of("m1"), Frames::default());
        journal.note(&mut frames, DbIndex(12), 5, 0);
        assert!(!frames.take().is_empty());
        journal.note(&mut frames, DbIndex(12), 6, 0);
        assert!(frames.is_empty(), "a moment ago");
        journal.noted = Instant::now().checked_sub(IDLE_PACE);
        journal.note(&mut frames, DbIndex(12), 7, 0);
        assert!(!frames.is_empty());
    }
}
