//! What an error of Postgres means for a batch: its code decides, in one table.
//!
//! | fault | codes | what is done |
//! |---|---|---|
//! | `Data` | 21, 22, 23, 44, P0001 | the members at fault are told apart, and go to `preshard_dead` |
//! | `Contention` | 40, 55P03, 57014 | the batch is put back for a moment |
//! | `Unavailable` | 08, 25006, 53, 57, 58 | likewise, for longer |
//! | `Statement` | all others: 42 no such table, no right, … | likewise, and it is an error for the operator |

use std::time::Duration;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A value that the tables do not take; the same again would fail the same.
    Data,
    /// Others were in the way.
    Contention,
    /// The server cannot now.
    Unavailable,
    /// The statement, the tables or the rights are wrong.
    Statement,
}

impl Fault {
    /// By an SQLSTATE.
    pub(super) fn of(code: &str) -> Self {
        match code {
            "55P03" | "57014" => Self::Contention,
            "25006" => Self::Unavailable,
            "P0001" => Self::Data,
            _ => match code.get(..2) {
                Some("21" | "22" | "23" | "44") => Self::Data,
                Some("40") => Self::Contention,
                Some("08" | "53" | "57" | "58") => Self::Unavailable,
                _ => Self::Statement,
            },
        }
    }

    /// The word of logs and metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Contention => "contention",
            Self::Unavailable => "unavailable",
            Self::Statement => "statement",
        }
    }

    /// How long a batch is put back that has been handed out so often; `chance` is in 0 to 1.
    pub(super) fn back_off(self, attempt: u32, chance: f64) -> Duration {
        let (first, longest) = match self {
            Self::Contention => (100, 10_000),
            Self::Unavailable => (500, 30_000),
            Self::Data | Self::Statement => (5_000, 60_000),
        };
        doubled(
            Duration::from_millis(first),
            Duration::from_millis(longest),
            attempt,
            chance,
        )
    }
}

/// A pause that doubles with each attempt, between three and five quarters of it.
pub(super) fn doubled(first: Duration, longest: Duration, attempt: u32, chance: f64) -> Duration {
    let factor = 1_u32 << attempt.saturating_sub(1).min(20);
    let pause = first.saturating_mul(factor).min(longest);
    pause.mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_fault() {
        let cases = [
            (Fault::Data, "22P02 23505 23503 21000 44000 P0001 22003"),
            (Fault::Contention, "40001 40P01 55P03 57014"),
            (Fault::Unavailable, "08006 53300 53100 57P01 57P03 25006 58030"),
            (
                Fault::Statement,
                "42P01 42501 42601 0A000 28P01 3D000 XX000 x P0002",
            ),
        ];
        for (fault, codes) in cases {
            for code in codes.split(' ') {
                assert_eq!(Fault::of(code), fault, "{code}");
            }
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let at = |attempt| Fault::Contention.back_off(attempt, 0.5).as_millis();
        assert_eq!([at(0), at(1), at(2), at(3), at(99)], [100, 100, 200, 400, 10_000]);
        assert_eq!(Fault::Statement.back_off(9, 1.0), Duration::from_secs(75));
        assert_eq!(Fault::Statement.back_off(9, 0.0), Duration::from_secs(45));
    }
}
