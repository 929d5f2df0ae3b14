//! How long a command may keep its client waiting, as its own arguments say.
//!
//! | command | where | unit |
//! |---|---|---|
//! | `BLPOP` `BRPOP` `BZPOPMIN` `BZPOPMAX` `BLMOVE` `BRPOPLPUSH` | last argument | seconds, may be a fraction |
//! | `BLMPOP` `BZMPOP` | first argument | seconds |
//! | `XREAD` `XREADGROUP` | behind `BLOCK` | milliseconds |

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
    match spec.name {
        "blmpop" | "bzmpop" => seconds(args.get(1)),
        "xread" | "xreadgroup" => {
            let place = (1..args.len()).find(|&at| args.get(at).eq_ignore_ascii_case(b"BLOCK"));
            place.map_or(Wait::No, |at| milliseconds(args.get(at + 1)))
        }
        _ => seconds(args.get(args.len() - 1)),
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
