//! The arguments of one request, as a view on the frame: nothing is copied.

use std::ops::Index;

use super::ArgRange;

/// The arguments of one canonical frame, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    frame: &'a [u8],
    ranges: &'a [ArgRange],
}

impl<'a> Args<'a> {
    /// A view on `frame`; `ranges` are what the scanner found in it.
    #[must_use]
    pub const fn new(frame: &'a [u8], ranges: &'a [ArgRange]) -> Self {
        Self { frame, ranges }
    }

    /// How many arguments, the command's name included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is not even a name. The scanner never gives such a frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `i`, 0 being the command's name. Empty beyond the last one: check the arity first, or use
    /// [`Args::try_get`].
    #[must_use]
    pub fn get(&self, i: usize) -> &'a [u8] {
        self.try_get(i).unwrap_or_default()
    }

    /// Argument `i`, or `None` beyond the last one.
    #[must_use]
    pub fn try_get(&self, i: usize) -> Option<&'a [u8]> {
        let range = self.ranges.get(i)?;
        self.frame.get(range.start as usize..range.end as usize)
    }

    /// Where argument `i` lies in the frame.
    #[must_use]
    pub fn range(&self, i: usize) -> Option<ArgRange> {
        self.ranges.get(i).copied()
    }

    /// The whole frame: the bytes that are forwarded.
    #[must_use]
    pub const fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// All arguments in order, the command's name first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let frame = self.frame;
        self.ranges.iter().map(move |range| {
            frame
                .get(range.start as usize..range.end as usize)
                .unwrap_or_default()
        })
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    /// As [`Args::get`]: empty beyond the last argument, never a panic.
    fn index(&self, i: usize) -> &[u8] {
        self.get(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_views_and_end_quietly() {
        let frame = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        let ranges = [ArgRange { start: 8, end: 11 }, ArgRange { start: 17, end: 18 }];
        let args = Args::new(frame, &ranges);
        assert_eq!((args.len(), args.get(0), &args[1]), (2, &b"GET"[..], &b"k"[..]));
        assert_eq!((args.get(2), args.try_get(2)), (&b""[..], None));
        assert_eq!(args.iter().collect::<Vec<_>>(), [&b"GET"[..], b"k"]);
    }
}
