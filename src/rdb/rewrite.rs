//! Requests that set an expiry, as the target gets them: absolute, in milliseconds, parked or real.
//!
//! | of the stream | becomes |
//! |---|---|
//! | `EXPIRE` `PEXPIRE` `EXPIREAT` `PEXPIREAT` | `PEXPIREAT key ms`; conditions are dropped, the source has found them true |
//! | `SETEX` `PSETEX`, `SET … EX PX EXAT PXAT` | `SET … PXAT ms`; before 6.2 `SET` and `PEXPIREAT` |
//! | `GETEX` | `PEXPIREAT` or `PERSIST` |
//! | `MSETEX … EX PX EXAT PXAT` | the same with `PXAT ms` |
//! | `RESTORE`, `RESTORE-ASKING` | `RESTORE … ABSTTL` with a payload that the target takes, or the commands that build the value |
//! | `HEXPIRE` `HPEXPIRE` `HEXPIREAT` `HPEXPIREAT` | `HPEXPIREAT key ms …` |
//! | `HSETEX … EX PX EXAT PXAT` | the same with `PXAT ms` |
//! | `HGETEX` | `HPEXPIREAT` or `HPERSIST` |

use super::decode::Decoder;
use super::error::{RdbError, Stop};
use super::expiry::{Expiry, Ttl};
use super::filter::Restart;
use super::frames::Frames;
use super::grammar::{Holds, Kind, Walk};
use super::input::Input;
use super::limits::Limits;
use super::payload::{self, Use};
use super::target::Target;
use crate::ids::DbIndex;
use crate::resp::Args;

/// What a request is rewritten for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewrite {
    pub(super) name: &'static str,
    pub(super) db: DbIndex,
    pub(super) ttl: Ttl,
    pub(super) received_ms: i64,
    pub(super) target: Target,
}

/// Appends what a request becomes, and says whether it had to be changed at all.
pub(super) fn rewrite(to: &Rewrite, args: &Args<'_>, out: &mut Frames) -> Result<bool, Restart> {
    match to.name {
        "expire" => to.expire(to.millis(args, 2, Unit::Seconds, true)?, args, out)?,
        "pexpire" => to.expire(to.millis(args, 2, Unit::Millis, true)?, args, out)?,
        "expireat" => to.expire(to.millis(args, 2, Unit::Seconds, false)?, args, out)?,
        "pexpireat" => to.expire(to.millis(args, 2, Unit::Millis, false)?, args, out)?,
        "setex" => to.set_with(to.millis(args, 2, Unit::Seconds, true)?, args, out)?,
        "psetex" => to.set_with(to.millis(args, 2, Unit::Millis, true)?, args, out)?,
        "set" => return to.set(args, out),
        "getex" => to.getex(args, out)?,
        "msetex" => return to.msetex(args, out),
        "restore" | "restore-asking" => to.restore(args, out)?,
        "hexpire" => to.expire_fields(to.millis(args, 2, Unit::Seconds, true)?, args, 3, out)?,
        "hpexpire" => to.expire_fields(to.millis(args, 2, Unit::Millis, true)?, args, 3, out)?,
        "hexpireat" => to.expire_fields(to.millis(args, 2, Unit::Seconds, false)?, args, 3, out)?,
        "hpexpireat" => to.expire_fields(to.millis(args, 2, Unit::Millis, false)?, args, 3, out)?,
        "hsetex" => return to.hsetex(args, out),
        "hgetex" => to.hgetex(args, out)?,
        _ => return Ok(false),
    }
    Ok(true)
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Millis,
}

/// Where the words of an expiry stand among the options, and what they say.
struct Stated {
    at: usize,
    millis: i64,
}

impl Rewrite {
    const fn malformed(&self) -> Restart {
        Restart::Malformed(self.name)
    }

    /// A time of the source, in milliseconds since 1970.
    fn millis(&self, args: &Args<'_>, at: usize, unit: Unit, relative: bool) -> Result<i64, Restart> {
        let number = args
            .try_get(at)
            .and_then(number)
            .ok_or_else(|| self.malformed())?;
        let millis = match unit {
            Unit::Seconds => number.checked_mul(1000),
            Unit::Millis => Some(number),
        };
        let begin = if relative { self.received_ms } else { 0 };
        millis
            .and_then(|millis| millis.checked_add(begin))
            .ok_or_else(|| self.malformed())
    }

    /// `EX`, `PX`, `EXAT` or `PXAT` with its number, between two places of the arguments.
    fn option(&self, args: &Args<'_>, from: usize, to: usize) -> Result<Option<Stated>, Restart> {
        for at in from..to.min(args.len()) {
            let word = args.get(at);
            let (unit, relative) = match word.len() {
                2 if word.eq_ignore_ascii_case(b"EX") => (Unit::Seconds, true),
                2 if word.eq_ignore_ascii_case(b"PX") => (Unit::Millis, true),
                4 if word.eq_ignore_ascii_case(b"EXAT") => (Unit::Seconds, false),
                4 if word.eq_ignore_ascii_case(b"PXAT") => (Unit::Millis, false),
                _ => continue,
            };
            let millis = self.millis(args, at + 1, unit, relative)?;
            return Ok(Some(Stated { at, millis }));
        }
        Ok(None)
    }

    fn of_key(&self, millis: i64, key: &[u8], out: &mut Frames) -> Result<Expiry, Restart> {
        let expiry = self.ttl.key(millis)?;
        if expiry.owed {
            out.owe(self.db, key);
        }
        Ok(expiry)
    }

    fn of_field(&self, millis: i64, key: &[u8], out: &mut Frames) -> Result<Expiry, Restart> {
        if !self.target.expires_fields() {
            return Err(RdbError::FieldExpiry.into());
        }
        let expiry = self.ttl.field(millis)?;
        if expiry.owed {
            out.owe(self.db, key);
        }
        Ok(expiry)
    }

    // === keys ===

    fn expire(&self, millis: i64, args: &Args<'_>, out: &mut Frames) -> Result<(), Restart> {
        let expiry = self.of_key(millis, args.get(1), out)?;
        out.request(&[b"PEXPIREAT", args.get(1), expiry.millis.to_string().as_bytes()]);
        Ok(())
    }

    /// `SETEX key time value`
    fn set_with(&self, millis: i64, args: &Args<'_>, out: &mut Frames) -> Result<(), Restart> {
        let expiry = self.of_key(millis, args.get(1), out)?.millis.to_string();
        let set: [&[u8]; 3] = [
            b"SET",
            args.get(1),
            args.try_get(3).ok_or_else(|| self.malformed())?,
        ];
        if self.target.is_6_2() {
            out.request(&[set[0], set[1], set[2], b"PXAT", expiry.as_bytes()]);
        } else {
            out.request(&set);
            out.request(&[b"PEXPIREAT", set[1], expiry.as_bytes()]);
        }
        Ok(())
    }

    fn set(&self, args: &Args<'_>, out: &mut Frames) -> Result<bool, Restart> {
        let Some(option) = self.option(args, 3, args.len())? else {
            return Ok(false);
        };
        let expiry = self.of_key(option.millis, args.get(1), out)?;
        if self.target.is_6_2() {
            with_option(args, &option, expiry, out);
        } else {
            let others: Vec<&[u8]> = without_option(args, &option).collect();
            out.request(&others);
            out.request(&[b"PEXPIREAT", args.get(1), expiry.millis.to_string().as_bytes()]);
        }
        Ok(true)
    }

    fn getex(&self, args: &Args<'_>, out: &mut Frames) -> Result<(), Restart> {
        if let Some(option) = self.option(args, 2, args.len())? {
            return self.expire(option.millis, args, out);
        }
        if args.get(2).eq_ignore_ascii_case(b"PERSIST") {
            out.request(&[b"PERSIST", args.get(1)]);
        }
        Ok(())
    }

    /// `MSETEX numkeys key value … [NX | XX] [EX seconds | …]`
    fn msetex(&self, args: &Args<'_>, out: &mut Frames) -> Result<bool, Restart> {
        let keys = args
            .try_get(1)
            .and_then(number)
            .and_then(|keys| usize::try_from(keys).ok());
        let keys = keys
            .filter(|keys| *keys <= args.len())
            .ok_or_else(|| self.malformed())?;
        let Some(option) = self.option(args, 2 + 2 * keys, args.len())? else {
            return Ok(false);
        };
        let expiry = self.ttl.key(option.millis)?;
        for key in args.iter().skip(2).step_by(2).take(keys).filter(|_| expiry.owed) {
            out.owe(self.db, key);
        }
        with_option(args, &option, expiry, out);
        Ok(true)
    }

    /// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`
    fn restore(&self, args: &Args<'_>, out: &mut Frames) -> Result<(), Restart> {
        let (key, payload) = (args.get(1), args.try_get(3).ok_or_else(|| self.malformed())?);
        let option = |word: &[u8]| (4..args.len()).find(|&at| args.get(at).eq_ignore_ascii_case(word));
        let value = |word| option(word).and_then(|at| number(args.get(at + 1)));
        let used = Use {
            idle_s: value(b"IDLETIME").and_then(|idle| idle.try_into().ok()),
            frequency: value(b"FREQ").and_then(|frequency| frequency.try_into().ok()),
        };
        let expiry = match args.try_get(2).and_then(number).ok_or_else(|| self.malformed())? {
            0 => None,
            _ => {
                let relative = option(b"ABSTTL").is_none();
                let millis = self.millis(args, 2, Unit::Millis, relative)?;
                Some(self.of_key(millis, key, out)?)
            }
        };
        let (kind, raw) = payload::open(payload)?;
        let hides_expiries = matches!(kind.holds, Holds::ExpiringHash(_)) && self.ttl.changes_expiries();
        out.request(&[b"DEL", key]);
        if self.target.restores(kind.since) && !hides_expiries {
            payload::restore(out, key, &kind, raw, expiry, used);
            return Ok(());
        }
        if self.rebuild(key, &kind, raw, out)? {
            out.owe(self.db, key);
        }
        if let Some(expiry) = expiry {
            out.request(&[b"PEXPIREAT", key, expiry.millis.to_string().as_bytes()]);
        }
        Ok(())
    }

    /// A payload's value as commands.
    fn rebuild(&self, key: &[u8], kind: &Kind, raw: &[u8], out: &mut Frames) -> Result<bool, RdbError> {
        let (mut input, mut walk, mut decoder) = (Input::default(), Walk::default(), Decoder::new());
        input.buffer().extend_from_slice(raw);
        walk.begin(kind);
        decoder.begin(kind, key, Limits::default(), self.ttl, self.target);
        loop {
            match decoder.step(&mut walk, &mut input, out) {
                Ok(None) => {}
                Ok(Some(owed)) => return Ok(owed),
                Err(Stop::More) => return Err(RdbError::Damaged("a payload ends within its value")),
                Err(Stop::Bad(error)) => return Err(error),
            }
        }
    }

    // === fields of hashes ===

    /// `HPEXPIREAT key ms` with the arguments from `from` on: a condition, and the fields. The condition stays, since it
    /// is judged for each field.
    fn expire_fields(
        &self,
        millis: i64,
        args: &Args<'_>,
        from: usize,
        out: &mut Frames,
    ) -> Result<(), Restart> {
        // Half of the fields may be parked and half not: comparing them means nothing then.
        let compares = [b"GT", b"LT"]
            .iter()
            .any(|word| args.get(from).eq_ignore_ascii_case(*word));
        if compares && self.ttl.is_mixed() {
            return Err(Restart::Compared);
        }
        let expiry = self.of_field(millis, args.get(1), out)?.millis.to_string();
        let all: Vec<&[u8]> = [b"HPEXPIREAT", args.get(1), expiry.as_bytes()]
            .into_iter()
            .chain(args.iter().skip(from))
            .collect();
        out.request(&all);
        Ok(())
    }

    fn hsetex(&self, args: &Args<'_>, out: &mut Frames) -> Result<bool, Restart> {
        let Some(option) = self.option(args, 2, fields_at(args).ok_or_else(|| self.malformed())?)? else {
            return Ok(false);
        };
        let expiry = self.of_field(option.millis, args.get(1), out)?;
        with_option(args, &option, expiry, out);
        Ok(true)
    }

    fn hgetex(&self, args: &Args<'_>, out: &mut Frames) -> Result<(), Restart> {
        let fields = fields_at(args).ok_or_else(|| self.malformed())?;
        if let Some(option) = self.option(args, 2, fields)? {
            return self.expire_fields(option.millis, args, fields, out);
        }
        if args.get(2).eq_ignore_ascii_case(b"PERSIST") {
            let all: Vec<&[u8]> = [b"HPERSIST", args.get(1)]
                .into_iter()
                .chain(args.iter().skip(fields))
                .collect();
            out.request(&all);
        }
        Ok(())
    }
}

/// Where the fields begin, with their word.
fn fields_at(args: &Args<'_>) -> Option<usize> {
    (2..args.len()).find(|&at| args.get(at).eq_ignore_ascii_case(b"FIELDS"))
}

fn without_option<'a>(args: &Args<'a>, option: &Stated) -> impl Iterator<Item = &'a [u8]> {
    let at = option.at;
    let places = args.iter().enumerate();
    places
        .filter(move |(place, _)| *place != at && *place != at + 1)
        .map(|(_, arg)| arg)
}

/// The request with this expiry instead of its own.
fn with_option(args: &Args<'_>, option: &Stated, expiry: Expiry, out: &mut Frames) {
    let millis = expiry.millis.to_string();
    let all: Vec<&[u8]> = args
        .iter()
        .enumerate()
        .map(|(at, arg)| match at {
            _ if at == option.at => &b"PXAT"[..],
            _ if at == option.at + 1 => millis.as_bytes(),
            _ => arg,
        })
        .collect();
    out.request(&all);
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
