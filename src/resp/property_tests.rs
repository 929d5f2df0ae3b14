//! Properties of the scanners: the frames do not depend on the chunks, and `redis-protocol` sees the same ones.

use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode_range as resp2_range;
use redis_protocol::resp3::decode::complete::decode_range as resp3_range;

use super::{
    ArgRange, DecodeLimits, Protocol, ReplyScanner, RequestLimits, RequestScanner, Scan, Value, decode,
    elements, inline, write_request,
};

/// One outcome of a scan together with the frame's own bytes and arguments.
type Scanned = (Scan, Vec<u8>, Vec<ArgRange>);

/// Scans all requests of `input`, which arrives in pieces that end at the given offsets.
fn requests(input: &[u8], cuts: &[usize]) -> Vec<Scanned> {
    let limits = RequestLimits {
        bulk_max: 1 << 20,
        ..RequestLimits::default()
    };
    let (mut scanner, mut args) = (RequestScanner::default(), Vec::new());
    let (mut scans, mut start) = (Vec::new(), 0);
    for &arrived in cuts.iter().chain([&input.len()]) {
        loop {
            let buf = input.get(start..arrived).unwrap_or_default();
            let scan = scanner.scan(buf, &mut args, &limits);
            assert!(
                args.len() <= buf.len() / 5,
                "arguments take memory only for bytes that came"
            );
            match scan {
                Scan::Incomplete { at_least } => {
                    assert!(at_least >= 1);
                    break;
                }
                Scan::Frame { end } => {
                    assert!(end > 0 && end <= buf.len());
                    scans.push((scan, buf[..end].to_vec(), args.clone()));
                    start += end;
                }
                Scan::Inline { end } | Scan::Empty { end } => {
                    assert!(end > 0 && end <= buf.len());
                    scans.push((scan, buf[..end].to_vec(), Vec::new()));
                    start += end;
                }
                Scan::Fail(_) => {
                    scans.push((scan, Vec::new(), Vec::new()));
                    return scans;
                }
            }
        }
    }
    scans
}

/// Offsets where replies end in `input`, fed in pieces that end at the given offsets, and whether it went wrong.
fn replies(input: &[u8], cuts: &[usize]) -> (Vec<usize>, Option<super::BadReply>) {
    let mut scanner = ReplyScanner::default();
    let (mut ends, mut at) = (Vec::new(), 0);
    for &cut in cuts.iter().chain([&input.len()]) {
        while at < cut {
            match scanner.feed(&input[at..cut]) {
                Ok(Some(end)) => {
                    assert!(end > 0 && end <= cut - at);
                    at += end;
                    ends.push(at);
                }
                Ok(None) => at = cut,
                Err(bad) => return (ends, Some(bad)),
            }
        }
    }
    (ends, None)
}

fn cuts(length: usize) -> impl Strategy<Value = Vec<usize>> {
    vec(0..=length, 0..12).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

fn with_cuts(input: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    input.prop_flat_map(|input| {
        let cuts = cuts(input.len());
        (Just(input), cuts)
    })
}

/// Bytes that often look like the protocol.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "\r\n", "\r", "\n", "*1\r\n", "*2\r\n", "$1\r\n", "$3\r\n", "a\r\n", "GET\r\n", "*0\r\n", "$-1\r\n", "*", "$",
            "0", "1", "9", "-", "+", ":", "\"", "'", "\\x4", " ", "PING", "+OK\r\n", ":1\r\n", "_\r\n", "#t\r\n", "%1\r\n",
            "~1\r\n", ">1\r\n", "|1\r\n", "(1\r\n", ",1.5\r\n", "=5\r\ntxt:a\r\n", "!1\r\n", "99999999999",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let arg = prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 90..1100), 1 => Just(b"\r\n".to_vec())];
    let http = |args: &Vec<Vec<u8>>| args.first().is_some_and(|name| super::request::is_http(name));
    vec(arg, 1..12).prop_filter("not HTTP", move |args| !http(args))
}

fn request(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(&mut out, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
    out
}

/// Values that both protocols can say; doubles are finite, so that they compare.
fn values(depth: u32) -> impl Strategy<Value = Value> {
    let text = "[ -~é]{0,30}";
    let single = prop_oneof![
        text.prop_map(|text| Value::Simple(text.into())),
        text.prop_map(Value::Error),
        any::<i64>().prop_map(Value::Int),
        vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
        Just(Value::Null),
        Just(Value::NullArray),
        any::<bool>().prop_map(Value::Bool),
        (-1e300..1e300).prop_map(Value::Double),
        any::<f64>()
            .prop_filter("compares", |number| number.is_finite())
            .prop_map(Value::Double),
        "-?[0-9]{1,40}".prop_map(Value::BigNumber),
        (
            prop::sample::select(vec![*b"txt", *b"mkd"]),
            vec(any::<u8>(), 0..20)
        )
            .prop_map(|(format, text)| Value::Verbatim { format, text }),
    ];
    single.prop_recursive(depth, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec(inner.clone(), 0..6).prop_map(Value::Set),
            vec(inner.clone(), 0..6).prop_map(Value::Push),
            vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

fn encoded(value: &Value, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(protocol, &mut out);
    out
}

/// What a client of the protocol can see of a value.
fn seen(value: Value, protocol: Protocol) -> Value {
    let all = |values: Vec<Value>| {
        values
            .into_iter()
            .map(|value| seen(value, protocol))
            .collect::<Vec<_>>()
    };
    match (value, protocol) {
        (Value::NullArray, Protocol::Resp3) => Value::Null,
        (Value::Bool(truth), Protocol::Resp2) => Value::Int(i64::from(truth)),
        (Value::Verbatim { text, .. }, Protocol::Resp2) => Value::Bulk(text),
        (Value::BigNumber(digits), Protocol::Resp2) => Value::bulk(digits),
        (value @ Value::Double(_), Protocol::Resp2) => {
            let line = encoded(&value, Protocol::Resp3);
            Value::bulk(&line[1..line.len() - 2])
        }
        (Value::Array(values), _) | (Value::Set(values) | Value::Push(values), Protocol::Resp2) => {
            Value::Array(all(values))
        }
        (Value::Set(values), Protocol::Resp3) => Value::Set(all(values)),
        (Value::Push(values), Protocol::Resp3) => Value::Push(all(values)),
        (Value::Map(pairs), Protocol::Resp2) => Value::Array(all(pairs
            .into_iter()
            .flat_map(|(key, value)| [key, value])
            .collect())),
        (Value::Map(pairs), Protocol::Resp3) => Value::Map(
            pairs
                .into_iter()
                .map(|(key, value)| (seen(key, protocol), seen(value, protocol)))
                .collect(),
        ),
        (other, _) => other,
    }
}

proptest! {
    #[test]
    fn any_bytes_of_a_client_give_the_same_requests_in_any_chunks((input, cuts) in with_cuts(noise())) {
        let whole = requests(&input, &[]);
        prop_assert_eq!(&requests(&input, &cuts), &whole);
        prop_assert_eq!(&requests(&input, &(0..input.len()).collect::<Vec<_>>()), &whole);
    }

    #[test]
    fn any_bytes_of_a_node_give_the_same_replies_in_any_chunks((input, cuts) in with_cuts(noise())) {
        let whole = replies(&input, &[]);
        prop_assert_eq!(&replies(&input, &cuts), &whole);
        prop_assert_eq!(&replies(&input, &(0..input.len()).collect::<Vec<_>>()), &whole);
    }

    #[test]
    fn pure_noise_never_panics(input in vec(any::<u8>(), 0..200)) {
        requests(&input, &[]);
        replies(&input, &[]);
        let _ = decode(&input, DecodeLimits::default());
        let _ = elements(&input).map(Iterator::count);
        let mut out = Vec::new();
        if inline::to_frame(&input, &mut out).is_err() {
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn what_decodes_is_what_the_scanner_accepts(input in noise()) {
        let scanned = ReplyScanner::default().feed(&input) == Ok(Some(input.len()));
        match decode(&input, DecodeLimits::default()) {
            Ok(value) => {
                prop_assert!(scanned);
                let again = encoded(&value, Protocol::Resp3);
                prop_assert_eq!(ReplyScanner::default().feed(&again), Ok(Some(again.len())));
            }
            Err(error) => prop_assert!(!scanned || matches!(error, super::DecodeError::Malformed(_)), "{error}"),
        }
    }

    #[test]
    fn requests_split_anywhere_are_the_ones_that_were_sent(
        (pipeline, cuts) in vec(arguments(), 1..5).prop_flat_map(|pipeline| {
            let length = pipeline.iter().map(|args| request(args).len()).sum();
            (Just(pipeline), cuts(length))
        })
    ) {
        let input: Vec<u8> = pipeline.iter().flat_map(|args| request(args)).collect();
        let scanned = requests(&input, &cuts);
        prop_assert_eq!(scanned.len(), pipeline.len());
        for ((_, frame, ranges), args) in scanned.iter().zip(&pipeline) {
            let view = super::Args::new(frame, ranges);
            prop_assert!(view.iter().eq(args.iter().map(Vec::as_slice)));
            prop_assert_eq!(&request(args), frame, "the forwarded bytes are canonical");
            let oracle = resp2_range(frame).ok().flatten().map(|(_, end)| end);
            prop_assert_eq!(oracle, Some(frame.len()));
        }
    }

    #[test]
    fn every_split_point_of_a_request_resumes(args in arguments()) {
        let input = request(&args);
        let whole = requests(&input, &[]);
        for cut in 0..input.len() {
            prop_assert_eq!(&requests(&input, &[cut]), &whole);
        }
    }

    #[test]
    fn quoted_words_come_back(args in arguments()) {
        let mut line = Vec::new();
        for arg in &args {
            line.push(b'"');
            for byte in arg {
                line.extend_from_slice(format!("\\x{byte:02X}").as_bytes());
            }
            line.extend_from_slice(b"\" ");
        }
        line.extend_from_slice(b"\r\n");
        let mut frame = Vec::new();
        prop_assert_eq!(inline::to_frame(&line, &mut frame), Ok(()));
        prop_assert_eq!(frame, request(&args));
    }

    #[test]
    fn replies_end_where_redis_protocol_says(value in values(4)) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut input = encoded(&value, protocol);
            let end = input.len();
            let oracle = match protocol {
                Protocol::Resp2 => resp2_range(&input).ok().flatten().map(|(_, end)| end),
                // It refuses aggregates as keys or members, which Redis may send.
                Protocol::Resp3 => resp3_range(&input).ok().flatten().map_or(Some(end), |(_, end)| Some(end)),
            };
            prop_assert_eq!(oracle, Some(end));
            input.extend_from_slice(b"+next\r\n");
            prop_assert_eq!(ReplyScanner::default().feed(&input), Ok(Some(end)));
        }
    }

    #[test]
    fn values_survive_encode_and_decode(value in values(4)) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let bytes = encoded(&value, protocol);
            prop_assert_eq!(decode(&bytes, DecodeLimits::default()), Ok(seen(value.clone(), protocol)));
        }
    }

    #[test]
    fn elements_are_the_values_of_an_array(list in vec(values(3), 0..8)) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let reply = encoded(&Value::Array(list.clone()), protocol);
            let raw: Vec<Vec<u8>> = elements(&reply).into_iter().flatten().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(raw, list.iter().map(|value| encoded(value, protocol)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_is_always_one_line(text in vec(any::<u8>(), 0..3000)) {
        let line = super::error_line(&text);
        prop_assert_eq!(ReplyScanner::default().feed(&line), Ok(Some(line.len())));
    }
}
