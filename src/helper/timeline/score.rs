//! Scores: doubles, as Redis reads them from a client.

/// The score that a text says, or `None` if Redis would not take it as one: no number, no spaces, out of range.
/// Of what `strtod` reads only the hexadecimal form is left out.
pub(super) fn parse(text: &[u8]) -> Option<f64> {
    // Nearly all are times or ids: whole numbers that a double holds exactly.
    if (1..=15).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) {
        let digits = text.iter().map(|digit| f64::from(digit - b'0'));
        return Some(digits.fold(0.0, |score, digit| score * 10.0 + digit));
    }
    let text = std::str::from_utf8(text).ok()?;
    let score: f64 = text.parse().ok()?;
    let says_infinity = text.bytes().any(|byte| matches!(byte, b'i' | b'I'));
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let says_zero = !mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    let in_range = score.is_infinite() == says_infinity && (score != 0.0 || says_zero);
    // A negative zero is a zero, in the order too.
    (in_range && !score.is_nan()).then_some(score + 0.0)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn scores_are_what_redis_takes_for_one() {
        for (text, score) in [
            ("0", 0.0),
            ("-0", 0.0),
            ("+5", 5.0),
            ("1.5", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("-1E-3", -0.001),
            ("0.10000000000000001", 0.1),
            ("999999999999999", 999_999_999_999_999.0),
            ("007", 7.0),
            ("1764019200123456", 1_764_019_200_123_456.0),
            ("inf", f64::INFINITY),
            ("+Inf", f64::INFINITY),
            ("-infinity", f64::NEG_INFINITY),
            ("0e999", 0.0),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(score), "{text}");
            assert!(parse(text.as_bytes()).is_some_and(|score| score.is_sign_positive() || score < 0.0));
        }
        for text in [
            "", " 1", "1 ", "nan", "-nan", "x", "(5", "1e999", "-1e999", "1e-999", "1:2", "0x10", "1_0",
            "\u{661}",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\xff"), None);
    }
}
