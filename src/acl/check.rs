//! One request against the rules of its user: the command, then its keys, then its channels, as Redis does it.

use super::Rules;
use crate::command::{self, Class, Counter, Flags, Helper, KeySpec, PubSub, Spec, glob_matches};
use crate::resp::Args;

/// Why a request may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The command, by its full name.
    Command(&'static str),
    /// The key at this place of the request.
    Key(usize),
    /// The channel at this place of the request.
    Channel(usize),
    /// `SORT … BY pattern` or `GET`, which reads keys that it does not name.
    SortOption(&'static str),
}

impl Denied {
    /// The error line, in the words of Redis 7.0.
    #[must_use]
    pub fn line(self) -> String {
        match self {
            Self::Command(name) => format!("NOPERM this user has no permissions to run the '{name}' command"),
            Self::Key(_) => {
                "NOPERM this user has no permissions to access one of the keys used as arguments".to_owned()
            }
            Self::Channel(_) => {
                "NOPERM this user has no permissions to access one of the channels used as arguments"
                    .to_owned()
            }
            Self::SortOption(option) => {
                format!("ERR {option} option of SORT denied due to insufficient ACL permissions.")
            }
        }
    }

    /// What `ACL DRYRUN` says of it.
    #[must_use]
    pub fn told(self, args: &Args<'_>) -> String {
        let what = |place: usize| String::from_utf8_lossy(args.get(place)).into_owned();
        match self {
            Self::Command(name) => format!("This user has no permissions to run the '{name}' command"),
            Self::Key(place) => format!("This user has no permissions to access the '{}' key", what(place)),
            Self::Channel(place) => format!(
                "This user has no permissions to access the '{}' channel",
                what(place)
            ),
            Self::SortOption(option) => {
                format!("{option} option of SORT denied due to insufficient ACL permissions.")
            }
        }
    }
}

impl Rules {
    /// Whether a request may run. `places` is room for the places of its keys.
    ///
    /// Arguments in which no keys can be found pass: the command itself is going to refuse them.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, spec: &'static Spec, args: &Args<'_>, places: &mut Vec<u32>) -> Result<(), Denied> {
        if !self.commands.has(spec.id) && !spec.flags.has(Flags::NO_AUTH) {
            return Err(Denied::Command(spec.name));
        }
        if let Some(patterns) = &self.keys {
            check_keys(patterns, spec, args, places)?;
        }
        if let Some(patterns) = &self.channels {
            check_channels(patterns, spec, args)?;
        }
        Ok(())
    }
}

fn check_keys(
    patterns: &[Vec<u8>],
    spec: &Spec,
    args: &Args<'_>,
    places: &mut Vec<u32>,
) -> Result<(), Denied> {
    let check = |place: usize| match args.try_get(place) {
        Some(key) if !matches_some(patterns, key) => Err(Denied::Key(place)),
        Some(_) | None => Ok(()),
    };
    if let Class::Helper(Helper::Counter(counter)) = spec.class {
        return check_counter(patterns, counter, args);
    }
    match spec.keys {
        KeySpec::None => return Ok(()),
        KeySpec::Fixed { pos } => return check(pos as usize),
        KeySpec::Walk | KeySpec::Special(_) => {}
    }
    if command::keys(spec, args, places).is_err() {
        return Ok(());
    }
    places.iter().try_for_each(|&place| check(place as usize))?;
    command::sort_option_with_other_keys(spec, args).map_or(Ok(()), |option| Err(Denied::SortOption(option)))
}

/// A member of a counter is judged as the key `counter:member`, by which it is placed. What is about all members needs a
/// pattern that surely covers them: one that ends in a star and matches `counter:`; about all counters, a star alone.
fn check_counter(patterns: &[Vec<u8>], counter: Counter, args: &Args<'_>) -> Result<(), Denied> {
    let name = args.get(1);
    if let Some((first, step)) = counter.members(args.len()) {
        let denied = (first..args.len())
            .step_by(step)
            .find(|&at| !matches_some(patterns, &[name, b":", args.get(at)].concat()));
        return denied.map_or(Ok(()), |at| Err(Denied::Key(at)));
    }
    let all = [name, b":"].concat();
    let covers = |pattern: &Vec<u8>| match args.len() {
        1 => pattern == b"*",
        _ => pattern.ends_with(b"*") && glob_matches(pattern, &all, false),
    };
    if patterns.iter().any(covers) {
        Ok(())
    } else {
        Err(Denied::Key(1))
    }
}

fn check_channels(patterns: &[Vec<u8>], spec: &Spec, args: &Args<'_>) -> Result<(), Denied> {
    let Class::PubSub(pubsub) = spec.class else {
        return Ok(());
    };
    let (last, as_pattern) = match pubsub {
        PubSub::Subscribe | PubSub::Ssubscribe => (args.len(), false),
        PubSub::Psubscribe => (args.len(), true),
        PubSub::Publish | PubSub::Spublish => (2, false),
        PubSub::Unsubscribe
        | PubSub::Punsubscribe
        | PubSub::Sunsubscribe
        | PubSub::Channels
        | PubSub::Numpat
        | PubSub::Numsub
        | PubSub::Shardchannels
        | PubSub::Shardnumsub => return Ok(()),
    };
    for place in 1..last {
        let name = args.get(place);
        // A pattern is allowed only as it stands: what it could match cannot be told.
        let allowed = if as_pattern {
            patterns.iter().any(|pattern| pattern == name)
        } else {
            matches_some(patterns, name)
        };
        if !allowed {
            return Err(Denied::Channel(place));
        }
    }
    Ok(())
}

fn matches_some(patterns: &[Vec<u8>], text: &[u8]) -> bool {
    patterns.iter().any(|pattern| glob_matches(pattern, text, false))
}
