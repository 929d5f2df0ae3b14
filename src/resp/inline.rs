//! Inline requests: a line of words, as typed into telnet, made into the canonical frame.
//!
//! The quoting rules are those of Redis: `"…"` knows `\xHH \n \r \t \b \a \\ \"`, `'…'` knows `\'`, a quote may begin
//! inside a word, and a closing quote must end it.

use super::request::is_http;
use super::{ProtocolError, write_array_header, write_bulk};

/// Appends the canonical frame of the words of `line` to `out`; nothing for a line without words.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`], or [`ProtocolError::HttpLike`] if the first word is one of HTTP's. `out` is
/// untouched then.
pub fn to_frame(line: &[u8], out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut rest = skip_space(line);
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = take_word(rest, &mut word)?;
        words.push(word);
        rest = skip_space(rest);
    }
    match words.first() {
        None => return Ok(()),
        Some(name) if is_http(name) => return Err(ProtocolError::HttpLike),
        Some(_) => {}
    }
    write_array_header(out, words.len());
    for word in &words {
        write_bulk(out, word);
    }
    Ok(())
}

/// C's `isspace`, which also knows the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn skip_space(line: &[u8]) -> &[u8] {
    let start = line
        .iter()
        .position(|&byte| !is_space(byte))
        .unwrap_or(line.len());
    &line[start..]
}

/// Reads one word, quoted parts included, and gives the rest of the line.
fn take_word<'a>(line: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    let mut rest = line;
    while let [byte, tail @ ..] = rest {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => break,
            b'"' => return closed(double_quoted(tail, word)?),
            b'\'' => return closed(single_quoted(tail, word)?),
            plain => word.push(*plain),
        }
        rest = tail;
    }
    Ok(rest)
}

/// Behind a closing quote only a space or the end of the line may stand.
fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
        Some(_) | None => Ok(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [plain, tail @ ..] => (*plain, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [plain, tail @ ..] => (*plain, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.to_ascii_lowercase().wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(line: &[u8]) -> Result<String, ProtocolError> {
        let mut out = Vec::new();
        to_frame(line, &mut out)?;
        Ok(String::from_utf8_lossy(&out).replace("\r\n", " "))
    }

    #[test]
    fn words_become_the_canonical_frame() {
        assert_eq!(frame(b"PING\r\n"), Ok("*1 $4 PING ".into()));
        assert_eq!(frame(b"  get \t k \n"), Ok("*2 $3 get $1 k ".into()));
        assert_eq!(frame(b" \t \r\n"), Ok(String::new()));
        assert_eq!(
            frame(b"get \0k\r\n"),
            Ok("*2 $3 get $2 \0k ".into()),
            "NUL is a byte like any other"
        );
    }

    #[test]
    fn quotes_follow_the_rules_of_redis() {
        assert_eq!(
            frame(br#"set "a b" 'c d'"#),
            Ok("*3 $3 set $3 a b $3 c d ".into())
        );
        assert_eq!(
            frame(br#"echo "\x41\n\r\t\b\a\\\"\q""#),
            Ok("*2 $4 echo $9 A\n\r\t\x08\x07\\\"q ".into())
        );
        assert_eq!(frame(br#"echo "\xZZ""#), Ok("*2 $4 echo $3 xZZ ".into()));
        assert_eq!(
            frame(br"echo 'it\'s' '\n'"),
            Ok("*3 $4 echo $4 it's $2 \\n ".into())
        );
        assert_eq!(
            frame(br#"echo pre"fix" """#),
            Ok("*3 $4 echo $6 prefix $0  ".into())
        );
    }

    #[test]
    fn open_or_glued_quotes_are_refused() {
        for line in [
            &br#"set "a b"#[..],
            br"set 'a",
            br#"set "a"b"#,
            br"set 'a'b",
            br#"echo "a\"#,
            b"echo \"a\\\"\r\n",
        ] {
            assert_eq!(
                frame(line),
                Err(ProtocolError::UnbalancedQuotes),
                "{}",
                line.escape_ascii()
            );
        }
    }

    #[test]
    fn http_is_seen_through_quotes() {
        assert_eq!(
            frame(br#""po"st / HTTP/1.1"#),
            Err(ProtocolError::UnbalancedQuotes)
        );
        assert_eq!(frame(br#""post" /"#), Err(ProtocolError::HttpLike));
        assert_eq!(frame(b"hOsT: x"), Err(ProtocolError::HttpLike));
    }
}
