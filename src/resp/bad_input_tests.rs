//! What the scanners say to bad bytes, as tables: one row per input, on the client's side and on the node's.
//!
//! Every row is tried whole and byte by byte: the answer may not depend on how the bytes arrive.

use super::ProtocolError::{
    ExpectedBulk, ExpectedMultibulk, HttpLike, InvalidBulkLength, InvalidCrlf, InvalidMultibulkLength,
    TlsHello, TooBigInline, UnauthenticatedBulkLength, UnauthenticatedMultibulkLength, UnbalancedQuotes,
};
use super::{BadReply, ProtocolError, ReplyScanner, RequestLimits, RequestScanner, Scan, inline};

/// How a connection's bytes end: the requests as words, then what is left.
#[derive(Debug, PartialEq)]
enum End {
    Waits,
    Closed(ProtocolError),
}

/// Reads everything that arrives, `step` bytes at a time, as a session would.
fn session(input: &[u8], step: usize, limits: &RequestLimits) -> (Vec<String>, End) {
    let (mut scanner, mut args) = (RequestScanner::default(), Vec::new());
    let (mut requests, mut start, mut arrived) = (Vec::new(), 0, 0);
    loop {
        let buf = &input[start..arrived];
        let end = match scanner.scan(buf, &mut args, limits) {
            Scan::Incomplete { at_least } => {
                assert!(at_least >= 1);
                if arrived == input.len() {
                    return (requests, End::Waits);
                }
                arrived = input.len().min(arrived + step);
                continue;
            }
            Scan::Frame { end } => {
                let words = args.iter().map(|arg| {
                    buf[arg.start as usize..arg.end as usize]
                        .escape_ascii()
                        .to_string()
                });
                requests.push(words.collect::<Vec<_>>().join(" "));
                end
            }
            Scan::Inline { end } => {
                let mut frame = Vec::new();
                if let Err(error) = inline::to_frame(&buf[..end], &mut frame) {
                    return (requests, End::Closed(error));
                }
                if !frame.is_empty() {
                    requests.extend(session(&frame, frame.len(), limits).0);
                }
                end
            }
            Scan::Empty { end } => end,
            Scan::Fail(error) => return (requests, End::Closed(error)),
        };
        start += end;
    }
}

fn check(rows: &[(&[u8], &[&str], End)], limits: &RequestLimits) {
    for (input, requests, end) in rows {
        for step in [input.len().max(1), 1, 3] {
            let (seen, ended) = session(input, step, limits);
            let shown = input[..input.len().min(60)].escape_ascii();
            assert_eq!(seen, *requests, "{shown} in steps of {step}");
            assert_eq!(ended, *end, "{shown} in steps of {step}");
        }
    }
}

#[test]
fn lengths_are_canonical_and_limited() {
    let count = || End::Closed(InvalidMultibulkLength);
    let bulk = || End::Closed(InvalidBulkLength);
    check(
        &[
            (b"*0\r\n*1\r\n$4\r\nPING\r\n*0\r\n", &["PING"], End::Waits),
            (b"*-1\r\n*-10\r\n*1\r\n$4\r\nPING\r\n", &["PING"], End::Waits),
            (b"*3000000000\r\n", &[], count()),
            (b"*2147483647\r\n", &[], count()),
            (b"*2147483648\r\n", &[], count()),
            (b"*4294967296\r\n", &[], count()),
            (b"*9223372036854775807\r\n", &[], count()),
            (b"*9223372036854775808\r\n", &[], count()),
            (b"*18446744073709551616\r\n", &[], count()),
            (b"*99999999999999999999\r\n", &[], count()),
            (b"*1048577\r\n", &[], count()),
            (b"*1048576\r\n", &[], End::Waits),
            (b"*abc\r\n", &[], count()),
            (b"*\r\n", &[], count()),
            (b"*+1\r\n", &[], count()),
            (b"* 1\r\n", &[], count()),
            (b"*1 \r\n", &[], count()),
            (b"*01\r\n", &[], count()),
            (b"*00\r\n", &[], count()),
            (b"*-0\r\n", &[], count()),
            (b"*-01\r\n", &[], count()),
            (b"*--1\r\n", &[], count()),
            (b"*-99999999999999999999\r\n", &[], count()),
            (b"*2\r\n$3\r\nGET\r\n$01\r\nk\r\n", &[], bulk()),
            (b"*1\r\n$03\r\nGET\r\n", &[], bulk()),
            (b"*1\r\n$-1\r\n", &[], bulk()),
            (b"*1\r\n$-10\r\n", &[], bulk()),
            (b"*1\r\n$abc\r\n", &[], bulk()),
            (b"*1\r\n$+3\r\nGET\r\n", &[], bulk()),
            (b"*1\r\n$ 3\r\nGET\r\n", &[], bulk()),
            (b"*1\r\n$\r\n", &[], bulk()),
            (b"*1\r\n$67108865\r\n", &[], bulk()),
            (b"*1\r\n$67108864\r\n", &[], End::Waits),
            (b"*1\r\n$536870913\r\n", &[], bulk()),
            (b"*1\r\n$2000000000\r\n", &[], bulk()),
            (b"*1\r\n$2147483648\r\n", &[], bulk()),
            (b"*1\r\n$4294967296\r\n", &[], bulk()),
            (b"*1\r\n$9223372036854775808\r\n", &[], bulk()),
            (b"*1\r\n$99999999999999999999\r\n", &[], bulk()),
            (b"*1\r\n$0\r\n\r\n", &[""], End::Waits),
        ],
        &RequestLimits::default(),
    );
    let generous = RequestLimits {
        bulk_max: usize::MAX,
        ..RequestLimits::default()
    };
    check(
        &[
            (b"*1\r\n$536870912\r\n", &[], End::Waits),
            (b"*1\r\n$536870913\r\n", &[], bulk()),
        ],
        &generous,
    );
}

#[test]
fn a_stranger_may_send_little() {
    check(
        &[
            (b"*10\r\n", &[], End::Waits),
            (b"*11\r\n", &[], End::Closed(UnauthenticatedMultibulkLength)),
            (b"*3000000000\r\n", &[], End::Closed(InvalidMultibulkLength)),
            (b"*1\r\n$16384\r\n", &[], End::Waits),
            (b"*1\r\n$16385\r\n", &[], End::Closed(UnauthenticatedBulkLength)),
            (b"*1\r\n$536870913\r\n", &[], End::Closed(InvalidBulkLength)),
        ],
        &RequestLimits::BEFORE_AUTH,
    );
}

#[test]
fn frames_are_flat_and_end_where_they_said() {
    let crlf = || End::Closed(InvalidCrlf);
    let nested = b"*1\r\n".repeat(10_000);
    check(
        &[
            (b"*1\r\n:1\r\n", &[], End::Closed(ExpectedBulk(b':'))),
            (b"*1\r\n+a\r\n", &[], End::Closed(ExpectedBulk(b'+'))),
            (&nested, &[], End::Closed(ExpectedBulk(b'*'))),
            (b"*1\r\n$3\r\nGETX\r\n", &[], crlf()),
            (b"*1\r\n$3\r\nGETXX", &[], crlf()),
            (b"*1\r\n$3\r\nGET\n\n", &[], crlf()),
            (b"*1\r\n$3\r\nGET\r\r\n", &[], crlf()),
            (b"*1\n$4\nPING\n", &[], crlf()),
            (b"*1\rX$4\rYPING\r\n", &[], crlf()),
            (b"*1\r\n$4\nPING\r\n", &[], crlf()),
            (b"*1\r\n$4\rXPING\r\n", &[], crlf()),
            (
                b"*2\r\n$3\r\nGET\r\n$5\r\na\r\nb\0\r\n",
                &["GET a\\r\\nb\\x00"],
                End::Waits,
            ),
            (b"*2\r\n$3\r\nGET\r\n$1\r\n", &[], End::Waits),
        ],
        &RequestLimits::default(),
    );
}

#[test]
fn inline_requests_follow_redis() {
    let long = vec![b'a'; 70 * 1024];
    let mut fits = vec![b'a'; 64 * 1024 - 1];
    fits.push(b'\n');
    let name = String::from_utf8_lossy(&fits[..fits.len() - 1]).into_owned();
    let mut above = vec![b'a'; 64 * 1024];
    above.push(b'\n');
    check(
        &[
            (b"PING\r\n", &["PING"], End::Waits),
            (b"PING\n", &["PING"], End::Waits),
            (b"\r\nPING\r\n\n", &["PING"], End::Waits),
            (b" \r\n", &[], End::Waits),
            (b"\0PING\r\n", &["\\x00PING"], End::Waits),
            (b"*1\r\n$5\r\nGET\0X\r\n", &["GET\\x00X"], End::Waits),
            (b"SET \"a b\r\n", &[], End::Closed(UnbalancedQuotes)),
            (b"SET \"\\x41\" ''\r\n", &["SET A "], End::Waits),
            (&fits, &[&name], End::Waits),
            (&above, &[], End::Closed(TooBigInline)),
            (&long, &[], End::Closed(TooBigInline)),
        ],
        &RequestLimits::default(),
    );
}

#[test]
fn other_protocols_are_not_answered_or_run() {
    check(
        &[
            (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET a b\r\n",
                &["GET / HTTP/1.1"],
                End::Closed(HttpLike),
            ),
            (
                b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a b\r\n",
                &[],
                End::Closed(HttpLike),
            ),
            (b"  post\r\n", &[], End::Closed(HttpLike)),
            (b"'HOST:' x\r\n", &[], End::Closed(HttpLike)),
            (b"*2\r\n$4\r\npost\r\n$1\r\n/\r\n", &[], End::Closed(HttpLike)),
            (b"*1\r\n$5\r\nHost:\r\n", &[], End::Closed(HttpLike)),
            (b"*2\r\n$3\r\nGET\r\n$4\r\npost\r\n", &["GET post"], End::Waits),
            (b"POSTS\r\n", &["POSTS"], End::Waits),
            (b"\x16\x03\x01\x02\x00\x01", &[], End::Closed(TlsHello)),
            (b">1\r\n+a\r\n", &[], End::Closed(ExpectedMultibulk(b'>'))),
            (b"%1\r\n", &[], End::Closed(ExpectedMultibulk(b'%'))),
            (b"+OK\r\n", &[], End::Closed(ExpectedMultibulk(b'+'))),
            (b"-ERR\r\n", &[], End::Closed(ExpectedMultibulk(b'-'))),
            (b"$-1\r\n", &[], End::Closed(ExpectedMultibulk(b'$'))),
        ],
        &RequestLimits::default(),
    );
    assert_eq!((HttpLike.reply(), TlsHello.reply()), (None, None));
}

#[test]
fn the_words_are_those_of_redis() {
    let rows = [
        (
            InvalidMultibulkLength,
            "ERR Protocol error: invalid multibulk length",
        ),
        (InvalidBulkLength, "ERR Protocol error: invalid bulk length"),
        (ExpectedBulk(b'*'), "ERR Protocol error: expected '$', got '*'"),
        (ExpectedBulk(b'\r'), "ERR Protocol error: expected '$', got '\\r'"),
        (TooBigInline, "ERR Protocol error: too big inline request"),
        (
            UnbalancedQuotes,
            "ERR Protocol error: unbalanced quotes in request",
        ),
        (
            UnauthenticatedMultibulkLength,
            "ERR Protocol error: unauthenticated multibulk length",
        ),
        (
            UnauthenticatedBulkLength,
            "ERR Protocol error: unauthenticated bulk length",
        ),
        (InvalidCrlf, "ERR Protocol error: invalid CRLF in request"),
    ];
    for (error, text) in rows {
        assert_eq!(error.reply().as_deref(), Some(text));
    }
}

#[test]
fn a_large_argument_tells_how_much_is_missing() {
    let (mut scanner, mut args) = (RequestScanner::default(), Vec::new());
    let buf = b"*2\r\n$3\r\nGET\r\n$1000000\r\nabc";
    let scan = scanner.scan(buf, &mut args, &RequestLimits::default());
    assert_eq!(
        scan,
        Scan::Incomplete {
            at_least: 1_000_000 + 2 - 3
        }
    );
    assert!(args.capacity() < 16, "the announced count reserves nothing");
}

#[test]
fn the_scanners_are_small() {
    assert!(size_of::<RequestScanner>() <= 40);
    assert!(size_of::<ReplyScanner>() <= 64);
}

/// What a node's bytes come to: lengths of the whole replies, then the mistake.
fn link(input: &[u8], step: usize) -> (Vec<usize>, Option<BadReply>) {
    let mut scanner = ReplyScanner::default();
    let (mut replies, mut length) = (Vec::new(), 0);
    for mut chunk in input.chunks(step) {
        while !chunk.is_empty() {
            match scanner.feed(chunk) {
                Ok(Some(end)) => {
                    replies.push(length + end);
                    length = 0;
                    chunk = &chunk[end..];
                    assert!(scanner.is_fresh());
                }
                Ok(None) => {
                    length += chunk.len();
                    break;
                }
                Err(bad) => {
                    assert_eq!(scanner.feed(b"+OK\r\n"), Err(bad), "a broken link stays broken");
                    return (replies, Some(bad));
                }
            }
        }
    }
    (replies, None)
}

/// Lengths of the whole replies in these bytes, then the mistake.
type Row<'a> = (&'a [u8], &'a [usize], Option<BadReply>);

fn check_link(rows: &[Row<'_>]) {
    for (input, replies, bad) in rows {
        for step in [input.len(), 1, 2, 3] {
            let seen = link(input, step);
            assert_eq!(
                (&seen.0[..], seen.1),
                (*replies, *bad),
                "{} in steps of {step}",
                input.escape_ascii()
            );
        }
    }
}

#[test]
fn replies_of_every_type_end_where_they_end() {
    check_link(&[
        (b"+OK\r\n", &[5], None),
        (b"+OK\r\n-ERR x\r\n", &[5, 8], None),
        (b"$-1\r\n*-1\r\n_\r\n*0\r\n", &[5, 5, 3, 4], None),
        (b":-9223372036854775808\r\n", &[23], None),
        (b":+5\r\n:-0\r\n", &[5, 5], None),
        (b"|1\r\n+a\r\n+b\r\n*1\r\n|0\r\n:1\r\n", &[24], None),
        (b"%1\r\n+a\r\n~2\r\n#t\r\n,-1.5e3\r\n", &[25], None),
        (b"(-123\r\n=6\r\ntxt:hi\r\n!2\r\nab\r\n", &[7, 12, 8], None),
    ]);
}

#[test]
fn a_node_that_lies_about_a_length_is_found_out() {
    check_link(&[
        (b"$-2\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"*-2\r\n", &[], Some(BadReply::InvalidLength(b'*'))),
        (b"%-1\r\n", &[], Some(BadReply::InvalidLength(b'%'))),
        (b">-1\r\n", &[], Some(BadReply::InvalidLength(b'>'))),
        (b"=3\r\nabc\r\n", &[], Some(BadReply::InvalidLength(b'='))),
        (b"$03\r\nabc\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"$+3\r\nabc\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"$?\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"$\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"$-\r\n", &[], Some(BadReply::InvalidLength(b'$'))),
        (b"$99999999999\r\n", &[], Some(BadReply::TooLong(99_999_999_999))),
        (b"$536870912\r\n", &[], None),
        (b"$536870913\r\n", &[], Some(BadReply::TooLong(536_870_913))),
        (
            b"$99999999999999999999\r\n",
            &[],
            Some(BadReply::InvalidLength(b'$')),
        ),
        (b"*4294967296\r\n", &[], None),
        (
            b"*4294967297\r\n",
            &[],
            Some(BadReply::TooManyElements(4_294_967_297)),
        ),
    ]);
}

#[test]
fn a_node_that_sends_garbage_is_found_out() {
    check_link(&[
        (
            b":123456789012345678901234567890\r\n",
            &[],
            Some(BadReply::InvalidScalar(b':')),
        ),
        (
            b":9223372036854775808\r\n",
            &[],
            Some(BadReply::InvalidScalar(b':')),
        ),
        (b":\r\n", &[], Some(BadReply::InvalidScalar(b':'))),
        (b":1x\r\n", &[], Some(BadReply::InvalidScalar(b':'))),
        (b":1\n", &[], Some(BadReply::InvalidCrlf)),
        (b"$5\r\nabcdefg\r\n", &[], Some(BadReply::InvalidCrlf)),
        (b"$3\r\nabc\n\n", &[], Some(BadReply::InvalidCrlf)),
        (b"$3\r\nabc\rX", &[], Some(BadReply::InvalidCrlf)),
        (b"$3\r+OK\r\n", &[], Some(BadReply::InvalidCrlf)),
        (b"+a\nb\r\n", &[], Some(BadReply::InvalidCrlf)),
        (b"+a\rb\r\n", &[], Some(BadReply::InvalidCrlf)),
        (b"#x\r\n", &[], Some(BadReply::InvalidScalar(b'#'))),
        (b"#\r\n", &[], Some(BadReply::InvalidScalar(b'#'))),
        (b"#tf\r\n", &[], Some(BadReply::InvalidScalar(b'#'))),
        (b"_x\r\n", &[], Some(BadReply::InvalidScalar(b'_'))),
        (b"(-\r\n", &[], Some(BadReply::InvalidScalar(b'('))),
        (b"(1-\r\n", &[], Some(BadReply::InvalidScalar(b'('))),
        (b",\r\n", &[], Some(BadReply::InvalidScalar(b','))),
        (b",one\r\n", &[], Some(BadReply::InvalidScalar(b','))),
        (b"HTTP/1.1 200 OK\r\n", &[], Some(BadReply::UnknownType(b'H'))),
    ]);
}

#[test]
fn long_lines_end_at_their_limit() {
    for (kind, limit) in [(b'+', 65_536), (b'-', 65_536), (b'(', 65_536), (b',', 64)] {
        for (length, bad) in [(limit, None), (limit + 1, Some(BadReply::LineTooLong(kind)))] {
            let mut line = vec![kind];
            line.resize(1 + length, b'1');
            line.extend_from_slice(b"\r\n");
            for step in [line.len(), 1, 1000] {
                assert_eq!(
                    link(&line, step).1,
                    bad,
                    "{} of {length} in steps of {step}",
                    char::from(kind)
                );
            }
        }
        let endless = vec![b'1'; 1 << 20];
        let mut scanner = ReplyScanner::default();
        assert_eq!(scanner.feed(&[kind]), Ok(None));
        assert_eq!(scanner.feed(&endless), Err(BadReply::LineTooLong(kind)));
    }
}

#[test]
fn depth_costs_nothing() {
    let mut nested = b"*1\r\n".repeat(100_000);
    nested.extend_from_slice(b":1\r\n+next\r\n");
    for step in [nested.len(), 1, 8192] {
        assert_eq!(link(&nested, step), (vec![400_004, 7], None));
    }
}

#[test]
fn announced_counts_are_only_added_up() {
    let mut scanner = ReplyScanner::default();
    let header = b"%4294967296\r\n".repeat(1024);
    for _ in 0..64 {
        assert_eq!(scanner.feed(&header), Ok(None));
    }
    assert!(!scanner.is_fresh());
}

#[test]
fn the_first_byte_tells_errors_and_pushes() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.first(), None);
    let rows: [(&[u8], u8); 6] = [
        (b"-ERR x\r\n", b'-'),
        (b"!3\r\nERR\r\n", b'!'),
        (b">2\r\n-a\r\n:1\r\n", b'>'),
        (b"*1\r\n-ERR x\r\n", b'*'),
        (b"|1\r\n+a\r\n-b\r\n-ERR x\r\n", b'-'),
        (b"|1\r\n+a\r\n-b\r\n:1\r\n", b':'),
    ];
    for (reply, first) in rows {
        for step in [reply.len(), 1] {
            let mut ended = None;
            for chunk in reply.chunks(step) {
                ended = scanner.feed(chunk).unwrap();
            }
            assert!(ended.is_some() && scanner.is_fresh());
            assert_eq!(scanner.first(), Some(first), "{}", reply.escape_ascii());
            assert_eq!(scanner.is_error(), matches!(first, b'-' | b'!'));
            assert_eq!(scanner.is_push(), first == b'>');
        }
    }
}
