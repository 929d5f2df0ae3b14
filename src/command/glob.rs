//! Redis's glob patterns: `*`, `?`, `[a-c]`, `[^a]`, `\` before a literal.
//!
//! Matching walks both texts once and goes back to the last `*` only, so that no pattern can make it recurse or
//! explode.

/// Whether `text` matches `pattern`; `fold` ignores the case of ASCII letters.
#[must_use]
pub fn glob_matches(pattern: &[u8], text: &[u8], fold: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, which then swallows one byte more.
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if let Some(width) = one(&pattern[p..], text[t], fold) {
            p += width;
            t += 1;
            continue;
        }
        let Some((behind, swallowed)) = retry else {
            return false;
        };
        retry = Some((behind, swallowed + 1));
        (p, t) = (behind, swallowed + 1);
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// If the first element of `pattern` matches `byte`: how long that element is.
fn one(pattern: &[u8], byte: u8, fold: bool) -> Option<usize> {
    let same = |a: u8, b: u8| if fold { a.eq_ignore_ascii_case(&b) } else { a == b };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let (matched, width) = class(set, byte, fold);
            matched.then_some(width + 1)
        }
        [b'\\', literal, ..] => same(*literal, byte).then_some(2),
        [literal, ..] => same(*literal, byte).then_some(1),
    }
}

/// A set in brackets, behind the opening one: whether it holds `byte`, and its length with the closing bracket. One
/// that is not closed ends with the pattern.
fn class(set: &[u8], byte: u8, fold: bool) -> (bool, usize) {
    let lower = |byte: u8| if fold { byte.to_ascii_lowercase() } else { byte };
    let byte = lower(byte);
    let negated = set.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &set[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= lower(*literal) == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                let (from, to) = (lower(*from), lower(*to));
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= lower(*literal) == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_says() {
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("a?c", "abc"),
            ("a[bc]d", "acd"),
            ("[^a]", "b"),
            ("[a-c]x", "bx"),
            ("[c-a]", "b"),
            ("\\*", "*"),
            ("**a**", "bab"),
            ("*abc*abd", "abcabcabd"),
            ("[a", "a"),
            ("GET*", "getex"),
            ("[\\]]", "]"),
        ] {
            assert!(
                glob_matches(pattern.as_bytes(), text.as_bytes(), true),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a?c", "ac"),
            ("[^a]", "a"),
            ("\\*", "a"),
            ("a*b", "ac"),
            ("[a-", "z"),
        ] {
            assert!(
                !glob_matches(pattern.as_bytes(), text.as_bytes(), true),
                "{pattern} {text}"
            );
        }
        assert!(!glob_matches(b"GET", b"get", false));
    }
}
