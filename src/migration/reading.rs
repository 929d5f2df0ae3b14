//! Many keys of one node, read at once: what is asked, and what the answers mean. `scan` copies what it reads, `verify` compares.
//!
//! ```text
//!  look      SCAN cursor · MEMORY USAGE key …                              names, and which of them are too large for this
//!  Asking    SELECT [MULTI] (DUMP key, PEXPIRETIME key)* … [EXEC]          values: as they are at one moment, or of a node that rests
//! ```
//!
//! Answers stay as they came and are read where they lie: of a million keys there are many millions.

use crate::control::{AskError, NodeClient, Questions, Replies};
use crate::ids::DbIndex;
use crate::resp::{self, DecodeLimits, Value};

/// A larger value stops a node for longer than its clients should notice while it is dumped.
pub(super) const LARGE_BYTES: u64 = 1024 * 1024;
/// What is dumped at once takes about so much.
pub(super) const TOGETHER_BYTES: u64 = 1024 * 1024;
/// Values of one answer take a megabyte together, unless they have grown meanwhile.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Elements that are looked at for the size of a value.
const SAMPLES: &[u8] = b"5";

/// The name of a key.
pub(super) type Key = Vec<u8>;

/// A key as a node has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// What `DUMP` gives; none: there is no such key.
    pub(super) payload: Option<&'a [u8]>,
    /// When it expires, in milliseconds of the node's clock.
    pub(super) expires_ms: Option<i64>,
}

/// What `SCAN` says: where it goes on, and names.
pub(super) type Scanned = (Vec<u8>, Vec<Key>);

/// Questions for one node, to be asked in one piece.
#[derive(Debug)]
pub(super) struct Asking {
    questions: Questions,
    /// Replies before those that are wanted.
    before: usize,
    at_once: bool,
}

impl Asking {
    /// Questions about a database, one behind the other.
    pub(super) fn plainly(db: DbIndex) -> Self {
        let mut questions = Questions::default();
        questions.push(&[b"SELECT", db.to_string().as_bytes()]);
        Self {
            before: questions.count(),
            questions,
            at_once: false,
        }
    }

    /// In one transaction: all answers are of the same moment.
    pub(super) fn at_once(db: Option<DbIndex>) -> Self {
        let mut questions = Questions::default();
        if let Some(db) = db {
            questions.push(&[b"SELECT", db.to_string().as_bytes()]);
        }
        questions.push(&[b"MULTI"]);
        Self {
            before: questions.count(),
            questions,
            at_once: true,
        }
    }

    /// One question more.
    pub(super) fn push(&mut self, words: &[&[u8]]) {
        self.questions.push(words);
    }

    /// What a key holds, and when it expires. `exact`: the node says when, not how long it is until then.
    pub(super) fn value_of(&mut self, key: &Key, exact: bool) {
        self.push(&[b"DUMP", key]);
        self.push(&[expiry(exact), key]);
    }

    /// Asks.
    ///
    /// # Errors
    /// The node gives no answer, or refuses the transaction or the database. Answers that are errors are left in their places.
    pub(super) async fn of(mut self, client: &mut NodeClient) -> Result<Answers, AskError> {
        let wanted = self.questions.count() - self.before;
        if self.at_once {
            self.questions.push(&[b"EXEC"]);
        }
        let replies = client.ask_raw(&self.questions).await?;
        let answers = Answers {
            replies,
            before: self.before,
            at_once: self.at_once,
        };
        if answers.all().len() == wanted {
            return Ok(answers);
        }
        // What stood before the end says what it was.
        match answers.replies.iter().find_map(error) {
            Some(refused) => Err(AskError::Refused(refused)),
            None => Err(AskError::NotRedis),
        }
    }
}

/// What gives the expiry of a key.
pub(super) const fn expiry(exact: bool) -> &'static [u8] {
    if exact { b"PEXPIRETIME" } else { b"PTTL" }
}

/// Answers to all questions, as they came.
#[derive(Debug, Default)]
pub(super) struct Answers {
    replies: Replies,
    before: usize,
    at_once: bool,
}

impl Answers {
    /// The bytes of each.
    pub(super) fn all(&self) -> Vec<&[u8]> {
        if self.at_once {
            let answers = resp::elements(self.replies.last());
            return answers.into_iter().flatten().collect();
        }
        // A database that was not selected has answered nothing.
        if self
            .replies
            .iter()
            .take(self.before)
            .any(|reply| error(reply).is_some())
        {
            return Vec::new();
        }
        self.replies.iter().skip(self.before).collect()
    }
}

/// The words of an answer that is an error.
fn error(answer: &[u8]) -> Option<String> {
    let words = answer.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(words).trim_end().to_owned())
}

/// Why an answer is not what was asked for.
fn misfit(answer: &[u8]) -> AskError {
    error(answer).map_or(AskError::NotRedis, AskError::Refused)
}

fn is_null(answer: &[u8]) -> bool {
    matches!(answer, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n")
}

/// A text; none: there is no such thing.
pub(super) fn text(answer: &[u8]) -> Result<Option<&[u8]>, AskError> {
    match resp::bulk(answer) {
        None if is_null(answer) => Ok(None),
        None => Err(misfit(answer)),
        found => Ok(found),
    }
}

/// A number; none: there is no such thing.
pub(super) fn number(answer: &[u8]) -> Result<Option<i64>, AskError> {
    let digits = answer
        .strip_prefix(b":")
        .and_then(|line| line.strip_suffix(b"\r\n"));
    let Some(digits) = digits else {
        return if is_null(answer) {
            Ok(None)
        } else {
            Err(misfit(answer))
        };
    };
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or(AskError::NotRedis)
}

/// Anything that is no error, taken apart.
pub(super) fn value(answer: &[u8]) -> Result<Value, AskError> {
    let limits = DecodeLimits {
        bytes: REPLY_BYTES_MAX,
        ..DecodeLimits::default()
    };
    resp::decode(answer, limits).map_err(|_| AskError::NotRedis)
}

/// An `INFO`.
pub(super) fn info(answer: Option<&[u8]>) -> Result<String, AskError> {
    let info = text(answer.unwrap_or_default())?.ok_or(AskError::NotRedis)?;
    Ok(String::from_utf8_lossy(info).into_owned())
}

/// What `TIME` says, in milliseconds.
pub(super) fn millis(answer: Option<&[u8]>) -> Result<i64, AskError> {
    let answer = answer.unwrap_or_default();
    let parts: Vec<i64> = resp::elements(answer)
        .ok_or_else(|| misfit(answer))?
        .filter_map(|part| std::str::from_utf8(resp::bulk(part)?).ok()?.parse().ok())
        .collect();
    match parts[..] {
        [seconds, micros] => Ok(seconds * 1000 + micros / 1000),
        _ => Err(AskError::NotRedis),
    }
}

/// What was answered to [`Asking::value_of`], for each key. `now`: what must be added to an expiry.
pub(super) fn values<'a>(answers: &[&'a [u8]], now: i64) -> Result<Vec<Found<'a>>, AskError> {
    let each = answers.chunks_exact(2).map(|pair| {
        let (payload, left) = (text(pair[0])?, number(pair[1])?.ok_or(AskError::NotRedis)?);
        Ok(Found {
            // -2: it has expired between the two.
            payload: payload.filter(|_| left != -2),
            expires_ms: (left >= 0).then_some(left + now),
        })
    });
    each.collect()
}

/// Goes on with `SCAN`, if there is a cursor, and asks what values take. What is gone takes nothing.
pub(super) async fn look(
    client: &mut NodeClient,
    db: DbIndex,
    cursor: Option<&[u8]>,
    count: usize,
    keys: &[Key],
) -> Result<(Option<Scanned>, Vec<u64>), AskError> {
    let mut asking = Asking::plainly(db);
    if let Some(cursor) = cursor {
        asking.push(&[b"SCAN", cursor, b"COUNT", count.to_string().as_bytes()]);
    }
    for key in keys {
        asking.push(&[b"MEMORY", b"USAGE", key, b"SAMPLES", SAMPLES]);
    }
    let answers = asking.of(client).await?;
    let all = answers.all();
    let (scan, sizes) = all.split_at(usize::from(cursor.is_some()));
    let found = scan.first().map(|scan| scanned(scan)).transpose()?;
    let sizes = sizes.iter().map(|size| {
        let bytes = number(size)?.unwrap_or(0);
        Ok(u64::try_from(bytes).unwrap_or(0))
    });
    Ok((found, sizes.collect::<Result<_, AskError>>()?))
}

/// What `SCAN` answers.
fn scanned(answer: &[u8]) -> Result<Scanned, AskError> {
    let mut parts = resp::elements(answer).ok_or_else(|| misfit(answer))?;
    let cursor = parts.next().and_then(resp::bulk);
    let names = parts.next().and_then(resp::elements);
    let (Some(cursor), Some(names)) = (cursor, names) else {
        return Err(AskError::NotRedis);
    };
    let names = names.map(|name| resp::bulk(name).map(<[u8]>::to_vec));
    let names = names.collect::<Option<_>>().ok_or(AskError::NotRedis)?;
    Ok((cursor.to_vec(), names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_where_they_lie() {
        assert_eq!(text(b"$3\r\na\r\n\r\n").unwrap(), Some(&b"a\r\n"[..]));
        assert_eq!(text(b"$-1\r\n").unwrap(), None);
        assert!(matches!(text(b":1\r\n"), Err(AskError::NotRedis)));
        assert!(matches!(text(b"-ERR no\r\n"), Err(AskError::Refused(why)) if why == "ERR no"));
        assert_eq!(number(b":-2\r\n").unwrap(), Some(-2));
        assert_eq!(number(b"$-1\r\n").unwrap(), None);
        assert!(number(b"$1\r\n7\r\n").is_err() && number(b"").is_err());
        assert_eq!(millis(Some(b"*2\r\n$1\r\n3\r\n$4\r\n4500\r\n")).unwrap(), 3_004);
        assert!(millis(Some(b"*1\r\n$1\r\n3\r\n")).is_err() && millis(None).is_err());
        let found = values(
            &[
                b"$1\r\nx\r\n",
                b":5\r\n",
                b"$1\r\ny\r\n",
                b":-1\r\n",
                b"$-1\r\n",
                b":-2\r\n",
            ],
            7,
        );
        let of = |payload: Option<&'static [u8]>, expires_ms| Found { payload, expires_ms };
        assert_eq!(
            found.unwrap(),
            [of(Some(b"x"), Some(12)), of(Some(b"y"), None), of(None, None)]
        );
        let gone = values(&[b"$1\r\nx\r\n", b":-2\r\n"], 0).unwrap();
        assert_eq!(gone, [Found::default()], "it has expired between the two answers");
        assert!(values(&[b"-NOPERM\r\n", b":-1\r\n"], 0).is_err());
    }

    #[test]
    fn a_scan_gives_a_cursor_and_names() {
        let answer = b"*2\r\n$2\r\n17\r\n*2\r\n$1\r\na\r\n$0\r\n\r\n";
        assert_eq!(
            scanned(answer).unwrap(),
            (b"17".to_vec(), vec![b"a".to_vec(), Vec::new()])
        );
        assert!(scanned(b"*2\r\n$2\r\n17\r\n*1\r\n:1\r\n").is_err());
        assert!(scanned(b"-LOADING\r\n").is_err());
    }
}
