//! The words of `CLIENT TRACKING`, judged as Redis judges them.

use std::rc::Rc;

use super::tracker::{Mode, Options};
use crate::resp::Args;

/// Prefixes of one client.
const PREFIXES_MAX: usize = 1000;
/// Bytes of one prefix.
const PREFIX_MAX: usize = 4096;

/// What is wrong with a request to track.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The error line.
    Words(String),
    /// The error line; a limit of preshard's own.
    Limit(String),
}

impl From<&str> for Wrong {
    fn from(line: &str) -> Self {
        Self::Words(line.to_owned())
    }
}

/// What is asked for; `None` for `OFF`.
///
/// # Errors
/// Words that mean nothing, or that do not go together.
pub(super) fn parse(args: &Args<'_>, had: Option<&Options>) -> Result<Option<Options>, Wrong> {
    let (mut bcast, mut optin, mut optout, mut noloop) = (false, false, false, false);
    let mut prefixes: Vec<Rc<[u8]>> = Vec::new();
    let mut at = 3;
    while let Some(word) = args.try_get(at) {
        let value = args.try_get(at + 1);
        match (word.to_ascii_lowercase().as_slice(), value) {
            (b"bcast", _) => bcast = true,
            (b"optin", _) => optin = true,
            (b"optout", _) => optout = true,
            (b"noloop", _) => noloop = true,
            (b"prefix", Some(prefix)) => {
                prefixes.push(prefix.into());
                at += 1;
            }
            (b"redirect", Some(_)) => {
                return Err(
                    "ERR CLIENT TRACKING with REDIRECT is not available through preshard: track from a connection in \
                     RESP3 (HELLO 3), which gets its invalidations itself"
                        .into(),
                );
            }
            _ => return Err("ERR syntax error".into()),
        }
        at += 1;
    }
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => {}
        b"off" => return Ok(None),
        _ => return Err("ERR syntax error".into()),
    }
    if !bcast && !prefixes.is_empty() {
        return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
    }
    if had.is_some_and(|had| (had.mode == Mode::Broadcast) != bcast) {
        return Err(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
             with a different mode."
                .into(),
        );
    }
    if bcast && (optin || optout) {
        return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
    }
    if optin && optout {
        return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
    }
    let had_mode = had.map_or(Mode::Reads, |had| had.mode);
    if optin && had_mode == Mode::OptOut || optout && had_mode == Mode::OptIn {
        return Err(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
             with a different mode."
                .into(),
        );
    }
    let existing = had.map_or(&[][..], |had| &had.prefixes);
    judge_prefixes(existing, &prefixes)?;
    let mode = match (bcast, optin, optout) {
        (true, ..) => Mode::Broadcast,
        (_, true, _) => Mode::OptIn,
        (_, _, true) => Mode::OptOut,
        _ => Mode::Reads,
    };
    Ok(Some(Options {
        mode,
        noloop,
        prefixes,
    }))
}

/// Overlapping prefixes would tell a client the same key twice.
fn judge_prefixes(existing: &[Rc<[u8]>], new: &[Rc<[u8]>]) -> Result<(), Wrong> {
    if existing.len() + new.len() > PREFIXES_MAX || new.iter().any(|prefix| prefix.len() > PREFIX_MAX) {
        return Err(Wrong::Limit(format!(
            "ERR more than {PREFIXES_MAX} prefixes of one client, or one longer than {PREFIX_MAX} bytes"
        )));
    }
    let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
    let shown = |prefix: &[u8]| String::from_utf8_lossy(prefix).into_owned();
    for (place, prefix) in new.iter().enumerate() {
        if let Some(other) = existing.iter().find(|other| overlap(prefix, other)) {
            return Err(Wrong::Words(format!(
                "ERR Prefix '{}' overlaps with an existing prefix '{}'. Prefixes for a single client must not overlap.",
                shown(prefix),
                shown(other)
            )));
        }
        if let Some(other) = new[place + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(Wrong::Words(format!(
                "ERR Prefix '{}' overlaps with another provided prefix '{}'. Prefixes for a single client must not \
                 overlap.",
                shown(prefix),
                shown(other)
            )));
        }
    }
    Ok(())
}
