//! How long a command may keep its client waiting, as its own arguments say.
//!
//! | command | where | unit |
//! |---|---|---|
//! | `BLPOP` `BRPOP` `BZPOPMIN` `BZPOPMAX` `BLMOVE` `BRPOPLPUSH` | last argument | seconds, may be a fraction |
//! | `BLMPOP` `BZMPOP` | first argument | seconds |
//! | `XREAD` `XREADGROUP` | behind `BLOCK` | milliseconds |

use std::ops::Range;
use std::time::Duration;

use super::resolve::block_at;
use super::spec::Spec;
use crate::resp::{self, Args, bulk, elements};

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For ever.
    Forever,
    /// As long as this.
    UpTo(Duration),
    /// Not at all: the argument is none, and the node will say so.
    No,
}

/// How long a blocking command waits.
#[must_use]
pub fn wait_of(spec: &Spec, args: &Args<'_>) -> Wait {
    match place_of(spec, args) {
        Some((place, Unit::Seconds)) => seconds(args.get(place)),
        Some((place, Unit::Milliseconds)) => milliseconds(args.get(place)),
        None => Wait::No,
    }
}

/// In what a command counts its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
}

fn place_of(spec: &Spec, args: &Args<'_>) -> Option<(usize, Unit)> {
    match spec.name {
        "blmpop" | "bzmpop" => Some((1, Unit::Seconds)),
        "xread" | "xreadgroup" => block_at(args).map(|at| (at + 1, Unit::Milliseconds)),
        _ => Some((args.len() - 1, Unit::Seconds)),
    }
}

/// A blocking command that can be asked again, with what is left of its wait.
///
/// `XREAD … $` waits for what comes after this moment. Asked again later it would miss what came in between. So before it, the node is
/// asked for the last entry of each such stream; whoever asks again names that entry instead of `$`.
#[derive(Clone, Debug)]
pub struct Waiting {
    frame: Box<[u8]>,
    /// The frame's piece that says how long.
    piece: Range<usize>,
    unit: Unit,
    wait: Wait,
    /// Streams of which only what is new is wanted.
    news: Vec<News>,
}

/// One `$` of an `XREAD`.
#[derive(Clone, Debug)]
struct News {
    /// The frame's piece that is the `$`.
    piece: Range<usize>,
    key: Box<[u8]>,
    /// The entry behind which it waits, once it is known.
    id: Option<Box<[u8]>>,
}

/// An id that is before all others.
const BEFORE_ALL: &[u8] = b"0-0";

impl Waiting {
    /// The command of a request; none if it does not wait.
    #[must_use]
    pub fn of(spec: &Spec, args: &Args<'_>) -> Option<Self> {
        let (place, unit) = place_of(spec, args)?;
        let wait = wait_of(spec, args);
        let piece = piece(args, place)?;
        (wait != Wait::No).then(|| Self {
            frame: args.frame().into(),
            piece,
            unit,
            wait,
            news: if spec.name == "xread" {
                news(args)
            } else {
                Vec::new()
            },
        })
    }

    /// What is to be asked first: the frames, and how many there are. Their replies are to be told in order: [`Self::learn`].
    #[must_use]
    pub fn prefaces(&self) -> (Vec<u8>, u32) {
        let mut frames = Vec::new();
        let mut count = 0;
        for news in self.news.iter().filter(|news| news.id.is_none()) {
            resp::write_request(
                &mut frames,
                &[b"XREVRANGE", &news.key, b"+", b"-", b"COUNT", b"1"],
            );
            count += 1;
        }
        (frames, count)
    }

    /// Takes in the reply to the first preface that has had none. An error is left to the command itself.
    pub fn learn(&mut self, reply: &[u8]) {
        let Some(news) = self.news.iter_mut().find(|news| news.id.is_none()) else {
            return;
        };
        let last = elements(reply).map(|mut entries| entries.next());
        let id = match last {
            Some(Some(entry)) => elements(entry).and_then(|mut entry| entry.next()).and_then(bulk),
            Some(None) | None => Some(BEFORE_ALL),
        };
        news.id = Some(id.unwrap_or(BEFORE_ALL).into());
    }

    /// What is left of its wait, after it has waited for so long. None: it waits for ever.
    #[must_use]
    pub fn left(&self, waited: Duration) -> Option<Duration> {
        match self.wait {
            // Zero would be for ever, and what is below some milliseconds is zero to older servers.
            Wait::UpTo(wait) => Some(wait.saturating_sub(waited).max(Duration::from_millis(10))),
            Wait::Forever | Wait::No => None,
        }
    }

    /// The frame, after it has waited for so long. It never begins to wait for ever.
    #[must_use]
    pub fn frame_after(&self, waited: Duration) -> Vec<u8> {
        let mut pieces: Vec<(&Range<usize>, Vec<u8>)> = Vec::new();
        if let Some(left) = self.left(waited) {
            let left = match self.unit {
                Unit::Seconds => format!("{:.3}", left.as_secs_f64()),
                Unit::Milliseconds => left.as_millis().to_string(),
            };
            pieces.push((&self.piece, left.into_bytes()));
        }
        for news in &self.news {
            pieces.extend(news.id.as_ref().map(|id| (&news.piece, id.to_vec())));
        }
        pieces.sort_by_key(|(piece, _)| piece.start);
        let mut frame = Vec::new();
        let mut at = 0;
        for (piece, text) in pieces {
            frame.extend_from_slice(&self.frame[at..piece.start]);
            resp::write_bulk(&mut frame, &text);
            at = piece.end;
        }
        frame.extend_from_slice(&self.frame[at..]);
        frame
    }
}

/// Where an argument stands in its frame, from its `$` on to behind its CR LF.
fn piece(args: &Args<'_>, place: usize) -> Option<Range<usize>> {
    let (before, own) = (args.range(place.checked_sub(1)?)?, args.range(place)?);
    // Behind each argument stands CR LF.
    Some(before.end as usize + 2..own.end as usize + 2)
}

fn news(args: &Args<'_>) -> Vec<News> {
    let streams = (1..args.len()).find(|&at| args.get(at).eq_ignore_ascii_case(b"STREAMS"));
    let Some(first) = streams.map(|at| at + 1) else {
        return Vec::new();
    };
    let count = (args.len() - first) / 2;
    let of_new = (first..first + count).filter(|&key| args.get(key + count) == b"$");
    let one = |key: usize| {
        Some(News {
            piece: piece(args, key + count)?,
            key: args.get(key).into(),
            id: None,
        })
    };
    of_new.filter_map(one).collect()
}

fn seconds(text: &[u8]) -> Wait {
    let seconds: Option<f64> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(Duration::ZERO)) => Wait::Forever,
        Some(Ok(wait)) => Wait::UpTo(wait),
        Some(Err(_)) | None => Wait::No,
    }
}

fn milliseconds(text: &[u8]) -> Wait {
    match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(0) => Wait::Forever,
        Some(wait) => Wait::UpTo(Duration::from_millis(wait)),
        None => Wait::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::command::testing::request;

    #[test]
    fn what_has_waited_waits_for_the_rest() {
        let again = |line: &str, waited| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let spec = lookup(words[0]).unwrap();
            let waiting = request(&words, |args| Waiting::of(spec, &args));
            let frame = waiting.unwrap().frame_after(Duration::from_millis(waited));
            let lines: Vec<_> = frame.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            let words = lines.iter().skip(2).step_by(2);
            words
                .map(|word| String::from_utf8(word[..word.len() - 1].to_vec()).unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(again("BLPOP a 0", 5_000), "BLPOP a 0");
        assert_eq!(again("BLPOP a 1.5", 500), "BLPOP a 1.000");
        assert_eq!(again("BLPOP a 1", 5_000), "BLPOP a 0.010");
        assert_eq!(again("BLMPOP 2 1 a LEFT", 1_000), "BLMPOP 1.000 1 a LEFT");
        assert_eq!(
            again("XREAD BLOCK 250 STREAMS a $", 50),
            "XREAD BLOCK 200 STREAMS a $"
        );
        assert_eq!(
            again("XREADGROUP GROUP block block BLOCK 250 STREAMS block >", 50),
            "XREADGROUP GROUP block block BLOCK 200 STREAMS block >"
        );
        let none = request(&["XREAD", "STREAMS", "a", "0"], |args| {
            Waiting::of(lookup(b"xread").unwrap(), &args).is_none()
        });
        assert!(none);
    }

    #[test]
    fn what_waits_for_news_goes_on_behind_the_entry_that_was_the_last() {
        let words = [
            "XREAD", "BLOCK", "0", "STREAMS", "a", "b", "c", "d", "$", "5-1", "$", "$",
        ];
        let spec = lookup(b"xread").unwrap();
        let mut waiting = request(&words, |args| Waiting::of(spec, &args)).unwrap();
        let (frames, count) = waiting.prefaces();
        let frames = String::from_utf8(frames).unwrap();
        assert_eq!((frames.matches("XREVRANGE").count(), count), (3, 3));
        assert!(!frames.contains("$1\r\nb\r\n"), "its place is named: {frames}");
        waiting.learn(b"*1\r\n*2\r\n$3\r\n7-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        waiting.learn(b"*0\r\n");
        assert_eq!(waiting.prefaces().1, 1, "what is not known yet is asked again");
        let frame = String::from_utf8(waiting.frame_after(Duration::ZERO)).unwrap();
        let expected = ["7-0", "5-1", "0-0", "$"].map(|id| format!("${}\r\n{id}\r\n", id.len()));
        assert!(frame.ends_with(&expected.concat()), "{frame}");
        waiting.learn(b"-WRONGTYPE\r\n");
        assert_eq!(waiting.prefaces().1, 0);
        let group = request(
            &["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "a", ">"],
            |args| Waiting::of(lookup(b"xreadgroup").unwrap(), &args),
        );
        assert_eq!(group.unwrap().prefaces().1, 0);
    }

    #[test]
    fn the_wait_is_read_where_each_command_has_it() {
        let ms = |ms| Wait::UpTo(Duration::from_millis(ms));
        for (line, wait) in [
            ("BLPOP a b 0", Wait::Forever),
            ("BLPOP a 1.5", ms(1500)),
            ("BLPOP a -1", Wait::No),
            ("BLPOP a x", Wait::No),
            ("BLPOP a nan", Wait::No),
            ("BLPOP a inf", Wait::No),
            ("BLPOP a 1e300", Wait::No),
            ("BLMPOP 2 1 a LEFT", ms(2000)),
            ("BZMPOP 0 1 a MIN", Wait::Forever),
            ("BLMOVE a b LEFT RIGHT 3", ms(3000)),
            ("XREAD COUNT 1 BLOCK 250 STREAMS a $", ms(250)),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS a >", Wait::Forever),
            ("XREADGROUP GROUP block 7 BLOCK 0 STREAMS a >", Wait::Forever),
            ("XREADGROUP GROUP g BLOCK BLOCK 250 STREAMS a >", ms(250)),
            ("XREADGROUP GROUP g c BLOCK 250 STREAMS block 0-1", ms(250)),
            ("XREAD BLOCK 0 BLOCK 250 STREAMS a $", ms(250)),
            ("XREAD BLOCK -1 STREAMS a $", Wait::No),
            ("XREAD COUNT 1 BLOCK", Wait::No),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let spec = lookup(words[0]).unwrap();
            request(&words, |args| assert_eq!(wait_of(spec, &args), wait, "{line}"));
        }
    }
}
