//! Passwords: never printed, compared in constant time.

use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

const REDACTED: &str = "<redacted>";

/// Text that must be sent but never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What a client's password must hash to.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash([u8; 32]);

// === impl Secret ===

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

// === impl PasswordHash ===

impl PasswordHash {
    /// The hash of a password in the clear.
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// Reads 64 hexadecimal digits, with or without the `#` of Redis's ACL files.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.strip_prefix('#').unwrap_or(text).as_bytes();
        let (pairs, rest) = text.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(hash))
    }

    /// In the form of Redis's ACL: `#` and 64 hexadecimal digits.
    #[must_use]
    pub fn to_acl(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        std::iter::once("#".to_owned()).chain(digits).collect()
    }

    /// Whether both are of the same password; takes the same time for every pair.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Whether a given password is the right one; takes the same time for every wrong one of a length.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.is(&Self::of(given))
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_printed() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(
            format!("{secret} {secret:?} {:?}", PasswordHash::of(b"hunter2")),
            "<redacted> <redacted> <redacted>"
        );
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_hash_is_read_as_redis_writes_it() {
        let hex = "#5E884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        let hash = PasswordHash::from_hex(hex).unwrap();
        assert!(hash.matches(b"password"));
        assert!(!hash.matches(b"Password") && !hash.matches(b""));
        assert_eq!(hash, PasswordHash::of(b"password"));
        assert_eq!(hash.to_acl(), hex.to_ascii_lowercase());
        for bad in ["", "#", &hex[..64], &hex.replace('8', "g")] {
            assert_eq!(PasswordHash::from_hex(bad), None, "{bad}");
        }
    }
}
