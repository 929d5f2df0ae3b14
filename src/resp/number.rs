//! The one number that both scanners read all the time: a canonical length and its CR LF.

/// What a length line is, read from its first digit.
pub(super) enum Line {
    /// A number; the next line begins at `next`.
    Length { value: usize, next: usize },
    /// Good so far, but not ended.
    Short,
    /// Not a number to the letter.
    NotCanonical,
    /// A number, but CR LF does not follow.
    NoCrlf,
}

/// Reads a canonical, unsigned number and its CR LF: no leading zero, plus or space, 19 digits at most. (Twenty would
/// be above 2^63 in any case, and nineteen cannot overflow.)
#[inline(always)]
pub(super) fn length_line(buf: &[u8], first: usize) -> Line {
    // Names, keys and small values: one or two digits.
    match buf.get(first..) {
        Some(&[a @ b'0'..=b'9', b'\r', b'\n', ..]) => Line::Length {
            value: usize::from(a - b'0'),
            next: first + 3,
        },
        Some(&[a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..]) => Line::Length {
            value: usize::from(a - b'0') * 10 + usize::from(b - b'0'),
            next: first + 4,
        },
        Some(_) => any_length(buf, first),
        None => Line::Short,
    }
}

fn any_length(buf: &[u8], first: usize) -> Line {
    let mut value: usize = 0;
    let mut at = first;
    let stop = loop {
        let Some(&byte) = buf.get(at) else {
            return unfinished(buf, first);
        };
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break byte;
        }
        if at - first >= 19 {
            return Line::NotCanonical;
        }
        value = value.wrapping_mul(10).wrapping_add(usize::from(digit));
        at += 1;
    };
    let digits = at - first;
    if digits == 0 || (digits > 1 && buf[first] == b'0') {
        return Line::NotCanonical;
    }
    match (stop, buf.get(at + 1)) {
        (b'\r', Some(b'\n')) => Line::Length { value, next: at + 2 },
        (b'\r', None) => Line::Short,
        (b'\r' | b'\n', _) => Line::NoCrlf,
        _ => Line::NotCanonical,
    }
}

/// All digits so far: wait for more, unless it can no longer become canonical.
#[cold]
fn unfinished(buf: &[u8], first: usize) -> Line {
    match buf.get(first..) {
        Some([b'0', _, ..]) => Line::NotCanonical,
        Some(_) | None => Line::Short,
    }
}
