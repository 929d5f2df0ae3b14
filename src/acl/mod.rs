//! What a user may do: commands, keys and channels, in the words of Redis's access control lists.
//!
//! ```text
//!  rights = ["read"]      rights.rs  a right ─▶ the commands that it stands for ┐
//!  commands = ["+@list"]  words.rs   ACL words change them, one after the other ┴▶ Allowed: a bit for each command
//!  keys, channels                    glob patterns                                 Rules ──check.rs──▶ Ok, or Denied
//! ```
//!
//! Rules are made once, when the settings are read. A check looks at one bit and compares the keys with the patterns
//! where they lie; it allocates nothing. What is checked, and in which order, is what Redis 7 does.

mod check;
mod rights;
mod words;

pub use check::Denied;
pub use rights::Rights;
pub use words::{Allowed, is_command_word};

/// What one user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    rights: Rights,
    commands: Allowed,
    /// None: all keys.
    keys: Option<Vec<Vec<u8>>>,
    /// None: all channels.
    channels: Option<Vec<Vec<u8>>>,
    /// No request needs to be looked at.
    unlimited: bool,
}

impl Rules {
    /// Rules out of rights, of ACL words that change what these allow, and of patterns; no patterns at all (`None`), or `*` among them,
    /// means every key or channel. Words that are none are left out: see [`is_command_word`].
    #[must_use]
    pub fn new(
        rights: Rights,
        words: &[String],
        keys: Option<Vec<Vec<u8>>>,
        channels: Option<Vec<Vec<u8>>>,
    ) -> Self {
        let mut commands = Allowed::by_rights(rights);
        for word in words {
            commands.apply(word);
        }
        // As in Redis, where `~*` is no pattern but all keys.
        let limit = |patterns: Option<Vec<Vec<u8>>>| {
            patterns.filter(|patterns| !patterns.iter().any(|pattern| pattern == b"*"))
        };
        let (keys, channels) = (limit(keys), limit(channels));
        Self {
            rights,
            unlimited: keys.is_none() && channels.is_none() && commands.is_all(),
            commands,
            keys,
            channels,
        }
    }

    /// Everything that a client may ask, and no word of `PRESHARD`.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            rights: Rights::NONE,
            commands: Allowed::all(),
            keys: None,
            channels: None,
            unlimited: true,
        }
    }

    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            rights: Rights::NONE,
            commands: Allowed::none(),
            keys: Some(Vec::new()),
            channels: Some(Vec::new()),
            unlimited: false,
        }
    }

    /// The rights as such: they decide about the words of `PRESHARD`.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Whether no request needs to be looked at.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.unlimited
    }

    /// Whether only some keys may be used.
    #[must_use]
    pub const fn has_key_limit(&self) -> bool {
        self.keys.is_some()
    }

    /// The commands.
    #[must_use]
    pub const fn commands(&self) -> &Allowed {
        &self.commands
    }

    /// Whether whoever listens under `old` rules may go on under these.
    #[must_use]
    pub fn covers_channels_of(&self, old: &Self) -> bool {
        match (&self.channels, &old.channels) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(new), Some(old)) => old.iter().all(|pattern| new.contains(pattern)),
        }
    }

    /// The key patterns as Redis writes them: `~a:* ~b`.
    #[must_use]
    pub fn keys_text(&self) -> String {
        patterns_text('~', self.keys.as_deref())
    }

    /// The channel patterns as Redis writes them: `&news.*`.
    #[must_use]
    pub fn channels_text(&self) -> String {
        patterns_text('&', self.channels.as_deref())
    }
}

fn patterns_text(mark: char, patterns: Option<&[Vec<u8>]>) -> String {
    let Some(patterns) = patterns else {
        return format!("{mark}*");
    };
    let texts: Vec<String> = patterns
        .iter()
        .map(|pattern| format!("{mark}{}", String::from_utf8_lossy(pattern)))
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests;
