//! Cheap writers of single reply lines, for answers that are made often.
//!
//! Each appends exactly one value (or the header of one) and cannot fail. Whatever text reaches an error or status
//! line is cleaned on the way: a CR LF in it would be a second reply.

use super::Protocol;

/// Longest text of an error line that we make; the rest is cut off.
pub(super) const ERROR_MAX: usize = 1024;

/// Appends `+text`.
pub fn write_simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    write_clean(out, text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `-text`, cleaned and cut. `text` begins with the error's code.
pub fn write_error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    write_clean(out, cut(text.as_ref()));
    out.extend_from_slice(b"\r\n");
}

/// One error line of its own, as [`write_error`] writes it.
#[must_use]
pub fn error_line(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.as_ref().len().min(ERROR_MAX) + 3);
    write_error(&mut out, text);
    out
}

/// Appends `:number`.
pub fn write_int(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    if number < 0 {
        out.push(b'-');
    }
    write_line(out, number.unsigned_abs());
}

/// Appends `$length` and the bytes.
pub fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'$');
    write_line(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends the bytes of all parts as one bulk.
pub fn write_bulk_parts(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'$');
    write_line(out, parts.iter().map(|part| part.len() as u64).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// Appends the digits of a number as a bulk, as an argument of a request.
pub fn write_bulk_int(out: &mut Vec<u8>, number: i64) {
    let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
    out.push(b'$');
    write_line(out, u64::from(digits + u32::from(number < 0)));
    if number < 0 {
        out.push(b'-');
    }
    write_line(out, number.unsigned_abs());
}

/// Appends a double whose text is known: `,text`.
pub fn write_double(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b',');
    write_clean(out, text);
    out.extend_from_slice(b"\r\n");
}

/// Appends the null of the protocol: `$-1` or `_`.
pub fn write_null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends the header of an array of `elements` values.
pub fn write_array_header(out: &mut Vec<u8>, elements: usize) {
    write_header(out, b'*', elements);
}

/// Appends the header of a map of `pairs` pairs: in RESP2 a flat array of keys and values.
pub fn write_map_header(out: &mut Vec<u8>, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => write_header(out, b'*', pairs * 2),
        Protocol::Resp3 => write_header(out, b'%', pairs),
    }
}

/// Appends the header of a push of `elements` values: in RESP2 an array.
pub fn write_push_header(out: &mut Vec<u8>, protocol: Protocol, elements: usize) {
    write_header(
        out,
        if protocol == Protocol::Resp2 { b'*' } else { b'>' },
        elements,
    );
}

/// Appends a request of our own to a node, in the canonical form.
pub fn write_request(out: &mut Vec<u8>, args: &[&[u8]]) {
    write_array_header(out, args.len());
    for arg in args {
        write_bulk(out, arg);
    }
}

/// A type byte, a count and the end of the line.
pub(super) fn write_header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    write_line(out, count as u64);
}

/// The decimal number and CR LF.
fn write_line(out: &mut Vec<u8>, mut number: u64) {
    let mut line = *b"....................\r\n";
    let mut start = 20;
    loop {
        start -= 1;
        // A digit always fits; the mask tells the compiler so.
        line[start] = b'0' + ((number % 10) & 0xf) as u8;
        number /= 10;
        if number == 0 || start == 0 {
            break;
        }
    }
    out.extend_from_slice(&line[start..]);
}

/// CR, LF and NUL become spaces, as Redis does it.
pub(super) fn write_clean(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|&byte| {
        if matches!(byte, b'\r' | b'\n' | 0) {
            b' '
        } else {
            byte
        }
    }));
}

/// The start of `text` that fits, without half a character at its end.
pub(super) fn cut(text: &[u8]) -> &[u8] {
    let mut end = text.len().min(ERROR_MAX);
    while end > 0 && end < text.len() && text[end] & 0xc0 == 0x80 && ERROR_MAX - end < 4 {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = b"x".to_vec();
        write(&mut out);
        String::from_utf8_lossy(&out[1..]).into_owned()
    }

    #[test]
    fn every_writer_appends_one_value() {
        assert_eq!(written(|out| write_simple(out, "OK")), "+OK\r\n");
        assert_eq!(written(|out| write_int(out, 0)), ":0\r\n");
        assert_eq!(
            written(|out| write_int(out, i64::MIN)),
            ":-9223372036854775808\r\n"
        );
        assert_eq!(
            written(|out| write_int(out, i64::MAX)),
            ":9223372036854775807\r\n"
        );
        assert_eq!(
            written(|out| write_line(out, u64::MAX)),
            "18446744073709551615\r\n"
        );
        assert_eq!(
            written(|out| write_bulk(out, b"hello world")),
            "$11\r\nhello world\r\n"
        );
        assert_eq!(written(|out| write_bulk(out, b"")), "$0\r\n\r\n");
        assert_eq!(
            written(|out| write_bulk_parts(out, &[b"(", b"", b"1.5"])),
            "$4\r\n(1.5\r\n"
        );
        for (number, bytes) in [
            (0, "$1\r\n0\r\n"),
            (9, "$1\r\n9\r\n"),
            (10, "$2\r\n10\r\n"),
            (-801, "$4\r\n-801\r\n"),
            (i64::MIN, "$20\r\n-9223372036854775808\r\n"),
        ] {
            assert_eq!(written(|out| write_bulk_int(out, number)), bytes);
        }
        assert_eq!(written(|out| write_double(out, b"-inf")), ",-inf\r\n");
        assert_eq!(written(|out| write_array_header(out, 1_000)), "*1000\r\n");
        assert_eq!(written(|out| write_map_header(out, Protocol::Resp2, 2)), "*4\r\n");
        assert_eq!(written(|out| write_map_header(out, Protocol::Resp3, 2)), "%2\r\n");
        assert_eq!(
            written(|out| write_push_header(out, Protocol::Resp3, 3)),
            ">3\r\n"
        );
        assert_eq!(written(|out| write_null(out, Protocol::Resp3)), "_\r\n");
        assert_eq!(
            written(|out| write_request(out, &[b"SELECT", b"3"])),
            "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
        );
    }

    #[test]
    fn an_error_is_one_line_of_bounded_length() {
        assert_eq!(
            error_line("ERR unknown 'a\r\n+OK\0'"),
            b"-ERR unknown 'a  +OK '\r\n"
        );
        assert_eq!(error_line(b"ERR \xff"), b"-ERR \xff\r\n");
        assert_eq!(error_line("é".repeat(5_000)).len(), ERROR_MAX + 3);
        let odd = error_line(format!("x{}", "é".repeat(5_000)));
        assert_eq!(odd.len(), ERROR_MAX + 2, "the half character is left out");
        assert!(String::from_utf8(odd).is_ok());
        assert_eq!(
            error_line(vec![0x80; 5_000]).len(),
            ERROR_MAX - 1,
            "bytes that are no text are cut all the same"
        );
    }
}
