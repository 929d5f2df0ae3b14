//! What a row of the table of keys is made of.

use super::keys::KEYS;
use super::units::{SIZE_HINT, TIME_HINT, format_bytes, format_duration};
use std::time::Duration;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`, as in the file.
    pub path: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default as plain text; none for a key that is unset unless given.
    pub default: Option<&'static str>,
    /// A value to show in the sample file where there is no default.
    pub example: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What it costs, or what goes wrong at either end.
    pub cost: &'static str,
}

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// One address or a list of them.
    Addresses,
    /// One address, or `off`.
    AddressOrOff,
    /// A whole number between two bounds.
    Count(u64, u64),
    /// `true` or `false`, as TOML writes them.
    Switch,
    /// `auto`, or a whole number between two bounds.
    CountOrAuto(u64, u64),
    /// A size with its unit, between two bounds in bytes.
    Bytes(u64, u64),
    /// A duration with its unit, between two bounds.
    Time(Duration, Duration),
    /// A duration with its unit, or 0 for the meaning given last.
    TimeOrZero(Duration, Duration, &'static str),
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A path; a relative one starts at the folder of the config file.
    File,
    /// Other text, checked on its own; how it looks.
    Text(&'static str),
}

// === impl Key ===

impl Key {
    /// The row of a path.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The part before the dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path
            .split_once('.')
            .map_or(self.path, |(section, _)| section)
    }

    /// The part after the dot.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

// === impl Kind ===

impl Kind {
    /// The values, to follow "must be".
    pub(super) fn describe(self) -> String {
        match self {
            Self::Addresses => "an address or a list of addresses".into(),
            Self::AddressOrOff => "an address or \"off\"".into(),
            Self::Count(min, max) => format!("a whole number between {min} and {max}"),
            Self::Switch => "true or false".into(),
            Self::CountOrAuto(min, max) => format!("\"auto\" or a whole number between {min} and {max}"),
            Self::Bytes(min, max) => {
                format!("a size between {} and {}", format_bytes(min), format_bytes(max))
            }
            Self::Time(min, max) => {
                format!(
                    "a duration between {} and {}",
                    format_duration(min),
                    format_duration(max)
                )
            }
            Self::TimeOrZero(min, max, zero) => {
                format!(
                    "0 ({zero}) or a duration between {} and {}",
                    format_duration(min),
                    format_duration(max)
                )
            }
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::File => "a path".into(),
            Self::Text(looks) => looks.into(),
        }
    }

    /// How to spell a value; may be empty.
    pub(super) const fn spelling(self) -> &'static str {
        match self {
            Self::Bytes(..) => SIZE_HINT,
            Self::Time(..) | Self::TimeOrZero(..) => TIME_HINT,
            Self::Count(..) | Self::Switch => "write it without quotes",
            Self::Addresses
            | Self::AddressOrOff
            | Self::CountOrAuto(..)
            | Self::Choice(_)
            | Self::File
            | Self::Text(_) => "put it in quotes",
        }
    }
}
