//! The elements of an array reply as they came: for merges that splice bytes instead of taking values apart.

use memchr::memchr;

use super::ReplyScanner;

/// The raw elements of one array, set or push, in order. See [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    due: usize,
}

/// The elements of `reply`, which is one whole reply as [`ReplyScanner`] found it. `None` if it is no array, set or
/// push (an error, a null), or has attributes of its own.
#[must_use]
pub fn elements(reply: &[u8]) -> Option<Elements<'_>> {
    let line = memchr(b'\n', reply)?;
    let (b'*' | b'~' | b'>', digits) = reply
        .get(..line)?
        .split_first()
        .map(|(kind, line)| (*kind, line))?
    else {
        return None;
    };
    let due = std::str::from_utf8(digits.strip_suffix(b"\r")?)
        .ok()?
        .parse()
        .ok()?;
    Some(Elements {
        rest: &reply[line + 1..],
        due,
    })
}

impl<'a> Elements<'a> {
    /// How many are left, by the header's word.
    #[must_use]
    pub fn count_left(&self) -> usize {
        self.due
    }

    /// The bytes of all that are left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// The bytes of `reply`, which is one whole bulk string. `None` if it is none (a null, an error).
#[must_use]
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    let line = memchr(b'\n', reply)?;
    reply.starts_with(b"$").then_some(())?;
    reply.get(line + 1..)?.strip_suffix(b"\r\n")
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.due = self.due.checked_sub(1)?;
        let end = ReplyScanner::default().feed(self.rest).ok().flatten();
        let Some((element, rest)) = end.and_then(|end| self.rest.split_at_checked(end)) else {
            // Only if `reply` was not whole.
            self.due = 0;
            return None;
        };
        self.rest = rest;
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Three bytes are the shortest element: nothing is reserved for what has not come.
        (0, Some(self.due.min(self.rest.len() / 3)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reply: &'static str) -> Option<Vec<&'static str>> {
        elements(reply.as_bytes()).map(|all| all.map(|raw| std::str::from_utf8(raw).unwrap_or("?")).collect())
    }

    #[test]
    fn elements_are_raw_and_in_order() {
        assert_eq!(
            of("*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:1\r\n"),
            Some(vec!["$1\r\na\r\n", "$-1\r\n", "*1\r\n:1\r\n"])
        );
        assert_eq!(of("*0\r\n"), Some(vec![]));
        assert_eq!(of("~1\r\n_\r\n"), Some(vec!["_\r\n"]));
        assert_eq!(of("*-1\r\n"), None);
        assert_eq!(of("-ERR x\r\n"), None);
        assert_eq!(of("*2\r\n:1\r\n"), Some(vec![":1\r\n"]));
    }
}
