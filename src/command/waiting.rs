//! How long a command may keep its client waiting, as its own arguments say.
//!
//! | command | where | unit |
//! |---|---|---|
//! | `BLPOP` `BRPOP` `BZPOPMIN` `BZPOPMAX` `BLMOVE` `BRPOPLPUSH` | last argument | seconds, may be a fraction |
//! | `BLMPOP` `BZMPOP` | first argument | seconds |
//! | `XREAD` `XREADGROUP` | behind `BLOCK` | milliseconds |

use std::ops::Range;
use std::time::Duration;

use super::spec::Spec;
use crate::resp::Args;

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
        "xread" | "xreadgroup" => {
            let mut places = 1..args.len();
            let block = places.find(|&at| args.get(at).eq_ignore_ascii_case(b"BLOCK"));
            block.map(|at| (at + 1, Unit::Milliseconds))
        }
        _ => Some((args.len() - 1, Unit::Seconds)),
    }
}

/// A blocking command that can be asked again, with what is left of its wait.
#[derive(Clone, Debug)]
pub struct Waiting {
    frame: Box<[u8]>,
    /// The frame's piece that says how long.
    piece: Range<usize>,
    unit: Unit,
    wait: Wait,
}

impl Waiting {
    /// The command of a request; none if it does not wait.
    #[must_use]
    pub fn of(spec: &Spec, args: &Args<'_>) -> Option<Self> {
        let (place, unit) = place_of(spec, args)?;
        let wait = wait_of(spec, args);
        let (before, own) = (args.range(place - 1)?, args.range(place)?);
        // Behind each argument stands CR LF.
        let piece = before.end as usize + 2..own.end as usize;
        (wait != Wait::No).then(|| Self {
            frame: args.frame().into(),
            piece,
            unit,
            wait,
        })
    }

    /// The frame, after it has waited for so long. It never begins to wait for ever.
    #[must_use]
    pub fn frame_after(&self, waited: Duration) -> Vec<u8> {
        let Wait::UpTo(wait) = self.wait else {
            return self.frame.to_vec();
        };
        // Zero would be for ever, and what is below some milliseconds is zero to older servers.
        let left = wait.saturating_sub(waited).max(Duration::from_millis(10));
        let left = match self.unit {
            Unit::Seconds => format!("{:.3}", left.as_secs_f64()),
            Unit::Milliseconds => left.as_millis().to_string(),
        };
        let mut frame = self.frame[..self.piece.start].to_vec();
        frame.extend_from_slice(format!("${}\r\n{left}", left.len()).as_bytes());
        frame.extend_from_slice(&self.frame[self.piece.end..]);
        frame
    }
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
        let none = request(&["XREAD", "STREAMS", "a", "0"], |args| {
            Waiting::of(lookup(b"xread").unwrap(), &args).is_none()
        });
        assert!(none);
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
            ("XREAD BLOCK -1 STREAMS a $", Wait::No),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let spec = lookup(words[0]).unwrap();
            request(&words, |args| assert_eq!(wait_of(spec, &args), wait, "{line}"));
        }
    }
}
