//! For tests of this room: a request out of words.

use crate::resp::{ArgRange, Args};

/// Calls `with` with the arguments of the request that has these words.
pub(crate) fn request<T>(words: &[impl AsRef<[u8]>], with: impl FnOnce(Args<'_>) -> T) -> T {
    let mut frame = format!("*{}\r\n", words.len()).into_bytes();
    let mut ranges = Vec::new();
    for word in words {
        let word = word.as_ref();
        frame.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        let start = u32::try_from(frame.len()).unwrap();
        frame.extend_from_slice(word);
        ranges.push(ArgRange {
            start,
            end: u32::try_from(frame.len()).unwrap(),
        });
        frame.extend_from_slice(b"\r\n");
    }
    with(Args::new(&frame, &ranges))
}
