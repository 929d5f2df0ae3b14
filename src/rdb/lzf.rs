//! LZF, the compression of strings in snapshots, one operation at a time.
//!
//! ```text
//!  000LLLLL                     L + 1 bytes follow as they are
//!  LLLooooo oooooooo            L + 2 bytes again that were written o + 1 bytes ago
//!  111ooooo LLLLLLLL oooooooo   the same with L + 9
//! ```

use super::error::{RdbError, Stop};

/// How far back an operation can reach.
pub(super) const WINDOW: usize = 8192;
/// The most that one stored byte can stand for: three for 264.
pub(super) const RATIO: u64 = 88;

/// What the next operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// So many bytes follow the one byte of the operation.
    Literal(usize),
    /// The operation is `bytes` long and repeats `count` bytes from `back` bytes ago.
    Again { bytes: usize, back: usize, count: usize },
}

/// The operation at the start of `stored`.
pub(super) fn operation(stored: &[u8]) -> Result<Operation, Stop> {
    let control = usize::from(*stored.first().ok_or(Stop::More)?);
    if control < 32 {
        return Ok(Operation::Literal(control + 1));
    }
    let byte = |at: usize| stored.get(at).copied().map(usize::from).ok_or(Stop::More);
    let (bytes, count) = match control >> 5 {
        7 => (3, byte(1)? + 9),
        short => (2, short + 2),
    };
    let back = ((control & 0x1f) << 8 | byte(bytes - 1)?) + 1;
    Ok(Operation::Again { bytes, back, count })
}

/// Repeats what was written before. `plain` holds at least the last [`WINDOW`] bytes, if there are so many.
pub(super) fn again(plain: &mut Vec<u8>, back: usize, count: usize) -> Result<(), RdbError> {
    let start = plain
        .len()
        .checked_sub(back)
        .ok_or(RdbError::Damaged("compressed bytes reach before their beginning"))?;
    if back >= count {
        plain.extend_from_within(start..start + count);
    } else {
        for at in start..start + count {
            let byte = plain[at];
            plain.push(byte);
        }
    }
    Ok(())
}

/// The first bytes of a compressed string, `count` of them or a few more, or all that `stored` gives. Nothing is to
/// follow `stored` that would be needed.
pub(super) fn head(mut stored: &[u8], count: usize) -> Result<Vec<u8>, RdbError> {
    const CUT: RdbError = RdbError::Damaged("compressed bytes end within an operation");
    let mut plain = Vec::with_capacity(count.min(stored.len() * 2) + 264);
    while plain.len() < count && !stored.is_empty() {
        match operation(stored).map_err(|_| CUT)? {
            Operation::Literal(length) => {
                let end = stored.len().min(length + 1);
                plain.extend_from_slice(&stored[1..end]);
                stored = &stored[end..];
            }
            Operation::Again { bytes, back, count } => {
                again(&mut plain, back, count)?;
                stored = stored.get(bytes..).ok_or(CUT)?;
            }
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_liblzf_writes_them() {
        assert_eq!(operation(&[0]), Ok(Operation::Literal(1)));
        assert_eq!(operation(&[31]), Ok(Operation::Literal(32)));
        assert_eq!(
            operation(&[0x20, 0]),
            Ok(Operation::Again {
                bytes: 2,
                back: 1,
                count: 3
            })
        );
        assert_eq!(
            operation(&[0xff, 255, 255]),
            Ok(Operation::Again {
                bytes: 3,
                back: 8192,
                count: 264
            })
        );
        for short in [&[][..], &[0x20], &[0xe0, 1]] {
            assert_eq!(operation(short), Err(Stop::More));
        }
    }

    #[test]
    fn a_repetition_may_overlap_itself_and_not_reach_too_far() {
        let mut plain = b"ab".to_vec();
        again(&mut plain, 2, 5).unwrap();
        assert_eq!(plain, b"abababa");
        assert!(again(&mut plain, 8, 1).is_err());
        assert_eq!(head(&[1, b'a', b'b', 0x60, 1], 4), Ok(b"abababa".to_vec()));
    }
}
