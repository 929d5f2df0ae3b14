//! Why a snapshot or a replication stream cannot be read on. Each names what was met, never a key or a value.

use thiserror::Error;

/// What ends the reading of a snapshot. Nothing that came before it is taken back: whoever applies the frames starts
/// the copy again, on an empty database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RdbError {
    /// The first nine bytes are no `REDIS` or `VALKEY` with a version.
    #[error("the snapshot does not begin as an RDB does")]
    NotRdb,
    /// A format that was made after this reader.
    #[error("RDB version {version} is not known; known are 5 to 12 of Redis and 80 of Valkey")]
    UnknownVersion {
        /// As the header says.
        version: u16,
    },
    /// A value of a type that this reader does not know.
    #[error("value type {number} is not known in RDB version {version}")]
    UnknownType {
        /// The type byte.
        number: u8,
        /// Version of the snapshot.
        version: u16,
    },
    /// A record that is neither a value nor known.
    #[error("opcode {number} is not known in RDB version {version}")]
    UnknownOpcode {
        /// The opcode.
        number: u8,
        /// Version of the snapshot.
        version: u16,
    },
    /// A part of a module's value that is not known.
    #[error("opcode {number} of a module's value is not known")]
    UnknownModuleOpcode {
        /// The opcode.
        number: u64,
    },
    /// The bytes contradict themselves.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// The checksum at the end is another one.
    #[error("the snapshot is damaged: its checksum is {computed:016x}, it says {stated:016x}")]
    Checksum {
        /// What the snapshot says.
        stated: u64,
        /// What its bytes give.
        computed: u64,
    },
    /// A part that must be held whole is longer than its limit.
    #[error("{what} of {bytes} bytes is above the limit of {max}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length as announced.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// More pending entries of one consumer group than are held.
    #[error("a consumer group has {count} pending entries, above the limit of {max}")]
    TooManyPending {
        /// How many.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// A value of a module must be written as commands, which nobody but the module could do.
    #[error("a value of module {0} cannot be written as commands, and the target does not take its payload")]
    ModuleValue(ModuleName),
    /// A field of a hash expires, and the target does not know of such.
    #[error("a field of a hash expires, which the target cannot do")]
    FieldExpiry,
    /// An expiry that parking would push out of range.
    #[error("an expiry of {millis} ms is too far away to be parked")]
    ExpiryTooFar {
        /// Milliseconds since 1970.
        millis: i64,
    },
}

/// The name of a module's type, out of the 54 bits that stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleName(pub u64);

impl std::fmt::Display for ModuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for place in 0..9 {
            let letter = self.0 >> (58 - 6 * place) & 63;
            write!(f, "{}", char::from(LETTERS[usize::try_from(letter).unwrap_or(0)]))?;
        }
        Ok(())
    }
}

/// Why a step did not end: it wants bytes that are not there yet, or the bytes are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Come again with more bytes; nothing was consumed.
    More,
    /// It will never end.
    Bad(RdbError),
}

impl From<RdbError> for Stop {
    fn from(error: RdbError) -> Self {
        Self::Bad(error)
    }
}

/// Shorthand for contradictions.
pub(super) const fn damaged(what: &'static str) -> Stop {
    Stop::Bad(RdbError::Damaged(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_its_name_in_its_number() {
        // `ReJSON-RL`, version 3, as its documentation spells it.
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut number = 0_u64;
        for byte in b"ReJSON-RL" {
            number = number << 6 | letters.iter().position(|letter| letter == byte).unwrap() as u64;
        }
        assert_eq!(ModuleName(number << 10 | 3).to_string(), "ReJSON-RL");
    }
}
