//! What becomes of expiries on the way to the target.
//!
//! While the target may lag behind, it must not expire anything by itself: a key whose expiry is renewed on the source
//! every second would be gone on the target after one second of lag, and what is written to it next would begin from
//! nothing. So expiries are *parked*: pushed so far into the future that nobody reaches them, by a constant that is taken
//! off again before the target serves anybody.

use super::error::RdbError;

/// What is added to the expiry of a key while it is parked, in milliseconds.
pub const PARK_KEY_MS: i64 = 1 << 52;
/// What is added to the expiry of a hash's field: Redis takes none from 2^46 on.
pub const PARK_FIELD_MS: i64 = 1 << 45;

/// Which expiries the target gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiries {
    /// The real ones.
    #[default]
    Real,
    /// Parked ones.
    Park,
    /// The same while those that are there are being parked: the new names of keys that are renamed or copied meanwhile are noted as
    /// [`super::Debt`], since such a key may be a real one, and its new name a place that was looked at already.
    Parking,
    /// Real ones from this moment on, in milliseconds of the target's clock. Those that come before are parked, and
    /// their keys are noted as [`super::Debt`]; so are the new names of keys that are renamed or copied meanwhile.
    ParkUntil(i64),
}

/// How expiries of the source become those of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// Real or parked.
    pub expiries: Expiries,
    /// The target's clock less the source's, in milliseconds.
    pub skew_ms: i64,
}

/// An expiry for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    pub(super) millis: i64,
    /// It is parked, and must be put right one by one.
    pub(super) owed: bool,
}

impl Ttl {
    /// Whether some expiries are not the real ones, so that none may hide in a payload.
    pub(super) const fn changes_expiries(&self) -> bool {
        self.skew_ms != 0 || !matches!(self.expiries, Expiries::Real)
    }

    /// Whether some keys of the target have parked expiries and others real ones.
    pub(super) const fn is_mixed(&self) -> bool {
        matches!(self.expiries, Expiries::Parking | Expiries::ParkUntil(_))
    }

    pub(super) fn key(&self, millis: i64) -> Result<Expiry, RdbError> {
        self.of(millis, PARK_KEY_MS)
    }

    pub(super) fn field(&self, millis: i64) -> Result<Expiry, RdbError> {
        self.of(millis, PARK_FIELD_MS)
    }

    fn of(&self, millis: i64, park: i64) -> Result<Expiry, RdbError> {
        let too_far = RdbError::ExpiryTooFar { millis };
        // 0 and less would be a mistake in the command; what is long past is past in any case.
        let real = millis.checked_add(self.skew_ms).ok_or(too_far)?.max(1);
        let (parked, owed) = match self.expiries {
            Expiries::Real => (false, false),
            Expiries::Park | Expiries::Parking => (true, false),
            Expiries::ParkUntil(moment) => (real <= moment, real <= moment),
        };
        if self.expiries != Expiries::Real && real >= park {
            return Err(too_far);
        }
        Ok(Expiry {
            millis: if parked { real + park } else { real },
            owed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_are_real_parked_or_owed() {
        let of = |expiries| Ttl {
            expiries,
            skew_ms: -5,
        };
        let plain = |millis, owed| Ok(Expiry { millis, owed });
        assert_eq!(of(Expiries::Real).key(1_000), plain(995, false));
        assert_eq!(of(Expiries::Real).key(-9), plain(1, false));
        assert_eq!(of(Expiries::Park).key(1_000), plain(995 + PARK_KEY_MS, false));
        assert_eq!(of(Expiries::Park).field(1_000), plain(995 + PARK_FIELD_MS, false));
        assert_eq!(
            of(Expiries::ParkUntil(995)).key(1_000),
            plain(995 + PARK_KEY_MS, true)
        );
        assert_eq!(of(Expiries::ParkUntil(994)).key(1_000), plain(995, false));
    }

    #[test]
    fn what_cannot_be_parked_is_refused() {
        let park = Ttl {
            expiries: Expiries::Park,
            skew_ms: 0,
        };
        for (millis, taken) in [(PARK_KEY_MS - 1, true), (PARK_KEY_MS, false), (i64::MAX, false)] {
            assert_eq!(park.key(millis).is_ok(), taken);
        }
        assert!(park.field(PARK_FIELD_MS).is_err());
        assert!(
            Ttl {
                skew_ms: 1,
                ..Ttl::default()
            }
            .key(i64::MAX)
            .is_err()
        );
    }
}
