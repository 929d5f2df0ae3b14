//! Sizes and durations with their units: `64KiB`, `500ms`.
//!
//! A bare number is refused, because a reader cannot tell seconds from milliseconds; only 0 needs no unit.

use std::time::Duration;

/// Bytes of a KiB.
pub const KIB: u64 = 1024;
/// Bytes of a MiB.
pub const MIB: u64 = 1024 * KIB;
/// Bytes of a GiB.
pub const GIB: u64 = 1024 * MIB;

const SIZES: &[(&str, u64)] = &[
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];
const TIMES: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Minutes are left out: people say 60s as often as 1m, but 90s more often than either.
const SHOWN_TIMES: [(&str, u64); 2] = [("h", 3_600_000), ("s", 1000)];

/// How to write a size.
pub(super) const SIZE_HINT: &str =
    "write a whole number and B, KiB, MiB, GiB, kB, MB or GB, such as \"64MiB\"";
/// How to write a duration.
pub(crate) const TIME_HINT: &str = "write a whole number and ms, s, m or h, such as \"500ms\"";

/// Reads a size in bytes.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, SIZES)
}

/// Reads a duration.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, TIMES).map(Duration::from_millis)
}

/// Writes a size with the largest binary unit that divides it.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    show(bytes, &SIZES[..3], "B")
}

/// Writes a duration with the largest unit that divides it; parts of a millisecond are dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    show(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        &SHOWN_TIMES,
        "ms",
    )
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return (number == 0).then_some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn show(number: u64, units: &[(&str, u64)], least: &str) -> String {
    match units
        .iter()
        .find(|(_, factor)| number != 0 && number.is_multiple_of(*factor))
    {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => format!("{number}{least}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_need_a_unit() {
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("10 kB"), Some(10_000));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for bad in [
            "5",
            "",
            "s",
            "-1s",
            "1.5s",
            "1 day",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(parse_bytes("1K"), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        for bytes in [0, 1, 1000, 1024, 64 << 20, 3 << 30] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }
        assert_eq!(format_duration(Duration::from_millis(90_000)), "90s");
        assert_eq!(format_bytes(64 << 20), "64MiB");
    }
}
