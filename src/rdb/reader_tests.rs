//! Snapshots made by hand: types that no server at hand writes any more, records, ends, limits, damage.

use super::testing::{Snapshot, compressed, length, listpack, options, read, stream, string, ziplist};
use super::{Event, Expiries, Limits, ModuleName, PARK_KEY_MS, RdbError, Ttl, Values};
use crate::ids::DbIndex;

/// What is told of one value, as commands.
fn commands(header: &str, kind: u8, value: &[u8]) -> String {
    let bytes = Snapshot::new(header).key(kind, value).end();
    let mut all = Vec::new();
    for chunk in [1, 3, 1_000] {
        all.push(
            read(&bytes, options(Values::Commands), chunk)
                .unwrap()
                .told()
                .join("; "),
        );
    }
    assert!(all.iter().all(|told| *told == all[0]), "{all:?}");
    all.remove(0)
}

#[test]
fn old_types_are_read() {
    for (kind, value, told) in [
        (1, &b"\x02\x01a\xc0\x07"[..], "RPUSH k a 7"),
        (2, b"\x01\xc1\x00\x80", "SADD k -32768"),
        (
            3,
            b"\x03\x01a\x031.5\x01b\xfe\x01c\xff",
            "ZADD k 1.5e0 a inf b -inf c",
        ),
        (5, b"\x01\x01a\0\0\0\0\0\0\xf8\x3f", "ZADD k 1.5e0 a"),
        (4, b"\x01\x01f\xc2\0\0\0\x80", "HSET k f -2147483648"),
        (0, b"\x00", "SET k "),
        (0, b"\xc0\xff", "SET k -1"),
        (0, b"\x41\x00", ""),
        (9, b"\x09\x01\x01f\x02\x01vv?\xff", "HSET k f vv"),
    ] {
        if told.is_empty() {
            let long = [value, &[b'x'; 256]].concat();
            assert_eq!(
                commands("REDIS0007", kind, &long),
                format!("SET k {}", "x".repeat(256))
            );
        } else {
            assert_eq!(commands("REDIS0007", kind, value), told);
        }
    }
}

#[test]
fn packed_entries_of_each_form_are_read() {
    let forms = ziplist(&[
        b"\x00\x01a",
        b"\x02\x40\x01b",
        b"\x02\x80\0\0\0\x01c",
        b"\x02\xc0\xff\xff",
        b"\x02\xd0\0\0\0\x80",
        b"\x02\xe0\x01\0\0\0\0\0\0\x80",
        b"\x02\xf0\xff\xff\x7f",
        b"\xfe\0\0\0\0\xfe\x80",
        b"\x02\xf1",
        b"\x02\xfd",
    ]);
    assert_eq!(
        commands("REDIS0009", 10, &string(&forms)),
        "RPUSH k a b c -1 -2147483648 -9223372036854775807 8388607 -128 0 12"
    );
    let forms = listpack(&[
        b"\x7f\x01",
        b"\x81a\x02",
        b"\xc0\x80\x02",
        b"\xdf\xff\x02",
        b"\xe0\x01b\x03",
        b"\xf0\x01\0\0\0c\x06",
        b"\xf1\0\x80\x03",
        b"\xf2\0\0\x80\x04",
        b"\xf3\0\0\0\x80\x05",
        b"\xf4\0\0\0\0\0\0\0\x80\x09",
    ]);
    assert_eq!(
        commands("REDIS0011", 20, &string(&forms)),
        "SADD k 127 a 128 -1 b c -32768 -8388608 -2147483648 -9223372036854775808"
    );
    let nodes = [&b"\x02\x01\x05plain\x02"[..], &string(&listpack(&[b"\x01\x01"]))].concat();
    assert_eq!(commands("REDIS0010", 18, &nodes), "RPUSH k plain 1");
    let numbers = b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0";
    assert_eq!(commands("REDIS0009", 11, &string(numbers)), "SADD k -1 5");
    assert_eq!(
        commands(
            "REDIS0009",
            11,
            &compressed(&[&b"\x08\0\0\0\x01\0\0\0"[..], &[0; 8]].concat())
        ),
        "SADD k 0"
    );
}

#[test]
fn fields_with_expiries_are_read_in_each_form() {
    let least = 1_900_000_000_000_i64.to_le_bytes();
    let told = "HSET k a 1 b 2; HPEXPIREAT k 1900000000001 FIELDS 1 b";
    let pairs = [&least[..], b"\x02\x00\x01a\xc0\x01\x02\x01b\xc0\x02"].concat();
    assert_eq!(commands("REDIS0012", 24, &pairs), told);
    let early = [
        &b"\x02\x00\x01a\xc0\x01\x81"[..],
        &1_900_000_000_001_u64.to_be_bytes(),
        b"\x01b\xc0\x02",
    ];
    assert_eq!(commands("REDIS0012", 22, &early.concat()), told);
    let valkey = [
        &b"\x02\x01a\xc0\x01"[..],
        &(-1_i64).to_le_bytes(),
        b"\x01b\xc0\x02",
        &1_900_000_000_001_i64.to_le_bytes(),
    ];
    assert_eq!(commands("VALKEY080", 22, &valkey.concat()), told);
    let expiry = [&b"\xf4"[..], &1_900_000_000_001_i64.to_le_bytes(), b"\x09"].concat();
    let packed = listpack(&[
        b"\x81a\x02",
        b"\x01\x01",
        b"\x00\x01",
        b"\x81b\x02",
        b"\x02\x01",
        &expiry,
    ]);
    assert_eq!(commands("REDIS0012", 23, &string(&packed)), told);
    assert_eq!(
        commands("REDIS0012", 25, &[&least[..], &string(&packed)].concat()),
        told
    );
}

#[test]
fn fields_cannot_expire_everywhere() {
    let pairs = [&5_i64.to_le_bytes()[..], b"\x01\x01\x01a\xc0\x01"].concat();
    let bytes = Snapshot::new("REDIS0012").key(24, &pairs).end();
    let mut old = options(Values::Payloads);
    old.target.major = 7;
    assert_eq!(read(&bytes, old, 9).unwrap_err(), RdbError::FieldExpiry);
}

#[test]
fn records_around_keys_are_read() {
    let bytes = Snapshot::new("VALKEY080")
        .raw(b"\xfa\x03ver\x019")
        .raw(b"\xf5\x04code")
        .raw(b"\xfb\x05\x02")
        .raw(b"\xf4\x01\x02\x03")
        .raw(b"\xf3\x03job\x02\x00\x05\x07\x09")
        .raw(b"\xf7\x81\0\0\0\0\0\0\x04\x00\x02\x01\x05\x03abc\x02\x07\x04\0\0\0\0\0\0\0\0\x00")
        .raw(b"\xfc\x05\0\0\0\0\0\0\0\xf8\x09")
        .key(0, b"\x01v")
        .raw(b"\xfd\x06\0\0\0\xf9\x07")
        .key(0, b"\x01w")
        .raw(b"\xfe\x03")
        .key(4, b"\x01\x01f\x01v")
        .raw(b"\xfe\x02")
        .key(0, b"\x01x")
        .end();
    let run = read(&bytes, options(Values::Payloads), 5).unwrap();
    let database = |source, target| Event::Database { source, target };
    assert_eq!(
        run.events,
        [
            Event::Version { version: 80 },
            database(2, Some(DbIndex(12))),
            Event::Aux {
                name: b"ver".to_vec(),
                value: b"9".to_vec()
            },
            Event::Function(b"code".to_vec()),
            Event::Sizes { keys: 5, expires: 2 },
            Event::ModuleAux(ModuleName(1024)),
            database(3, None),
            database(2, Some(DbIndex(12))),
        ]
    );
    let told = run.told();
    let starts = [
        "RESTORE k 5 \\x00\\x01v\\t\\x00",
        "RESTORE k 6000 \\x00\\x01w\\t\\x00",
        "RESTORE k 0 \\x00\\x01x\\t\\x00",
    ];
    assert!(
        told.iter()
            .zip(starts)
            .all(|(told, start)| told.starts_with(start)),
        "{told:?}"
    );
    let ends = ["ABSTTL IDLETIME 9", "ABSTTL FREQ 7", "ABSTTL"];
    assert!(
        told.iter().zip(ends).all(|(told, end)| told.ends_with(end)),
        "{told:?}"
    );
}

#[test]
fn a_modules_value_is_passed_on_whole_or_not_at_all() {
    let value = b"\x81\0\0\0\0\0\0\x04\x00\x02\x07\x05\x03abc\x03\0\0\0\0\x00";
    let bytes = Snapshot::new("REDIS0009").key(7, value).end();
    let told = read(&bytes, options(Values::Commands), 4).unwrap().told();
    assert!(told[0].starts_with("RESTORE k 0 \\x07\\x81"), "{told:?}");
    let mut small = options(Values::Payloads);
    small.limits.module_bytes = 10;
    let error = read(&bytes, small, 4).unwrap_err();
    assert!(
        matches!(
            error,
            RdbError::TooLong {
                what: "a module's value",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_is_not_known_is_named() {
    let refused = |bytes: &[u8]| read(bytes, options(Values::Payloads), 3).unwrap_err().to_string();
    assert_eq!(
        refused(b"RADISH009"),
        "the snapshot does not begin as an RDB does"
    );
    assert_eq!(
        refused(b"REDIS00x9"),
        "the snapshot does not begin as an RDB does"
    );
    assert!(refused(b"REDIS0013").contains("version 13"));
    assert!(refused(b"VALKEY081").contains("version 81"));
    let with = |header: &str, raw: &[u8]| refused(&Snapshot::new(header).raw(raw).end());
    assert_eq!(
        with("REDIS0012", &[26]),
        "value type 26 is not known in RDB version 12"
    );
    assert_eq!(
        with("VALKEY080", &[24]),
        "value type 24 is not known in RDB version 80"
    );
    assert_eq!(
        with("REDIS0011", &[22]),
        "value type 22 is not known in RDB version 11"
    );
    assert_eq!(
        with("REDIS0012", &[6]),
        "value type 6 is not known in RDB version 12"
    );
    assert_eq!(
        with("REDIS0012", &[243]),
        "opcode 243 is not known in RDB version 12"
    );
    assert_eq!(
        with("REDIS0010", &[246]),
        "opcode 246 is not known in RDB version 10"
    );
    assert_eq!(
        with("REDIS0009", b"\x07\x01k\x01\x06"),
        "opcode 6 of a module's value is not known"
    );
}

#[test]
fn the_end_is_found_to_the_byte_wherever_it_is_cut() {
    let mark: Vec<u8> = (0..40).collect();
    let snapshot = Snapshot::new("REDIS0011").key(0, b"\x01v").end();
    let all = [snapshot.clone(), mark.clone()].concat();
    for chunk in 1..=all.len() {
        let run = read(&all, options(Values::Payloads), chunk).unwrap();
        assert!(run.ended);
        assert_eq!(
            (run.consumed, &run.rest),
            (snapshot.len() as u64, &mark),
            "{chunk}"
        );
    }
}

#[test]
fn the_checksum_is_checked_unless_there_is_none() {
    let mut snapshot = Snapshot::new("REDIS0011").key(0, b"\x01v").end();
    let at = snapshot.len() - 10;
    snapshot[at] ^= 1;
    let error = read(&snapshot, options(Values::Payloads), 7).unwrap_err();
    assert!(matches!(error, RdbError::Checksum { .. }), "{error}");
    let end = snapshot.len();
    snapshot[end - 8..].fill(0);
    assert!(read(&snapshot, options(Values::Payloads), 7).unwrap().ended);
}

#[test]
fn big_values_are_cut_where_the_limits_say() {
    let limits = Limits {
        small_elements: 2,
        small_bytes: 20,
        chunk_elements: 2,
        chunk_bytes: 8,
        piece_bytes: 5,
        ..Limits::default()
    };
    let told = |kind: u8, value: &[u8]| {
        let bytes = Snapshot::new("REDIS0011")
            .raw(b"\xfc\x05\0\0\0\0\0\0\0")
            .key(kind, value)
            .end();
        let mut options = options(Values::Payloads);
        options.limits = limits;
        read(&bytes, options, 4).unwrap().told()
    };
    assert_eq!(
        told(1, b"\x05\x01a\x01b\x09123456789\x01c\x01d"),
        [
            "RPUSH k a b",
            "RPUSH k 123456789",
            "RPUSH k c",
            "RPUSH k d",
            "PEXPIREAT k 5"
        ]
    );
    assert_eq!(
        told(4, b"\x03\x01f\x01v\x01g\x09123456789\x01h\x01w"),
        ["HSET k f v", "HSET k g 123456789", "HSET k h w", "PEXPIREAT k 5"]
    );
    let long = "abcdefghijklmnopqrstuvw";
    assert_eq!(
        told(0, &string(long.as_bytes())),
        [
            "SETRANGE k 22 \\x00",
            "SETRANGE k 0 abcde",
            "SETRANGE k 5 fghij",
            "SETRANGE k 10 klmno",
            "SETRANGE k 15 pqrst",
            "SETRANGE k 20 uvw",
            "PEXPIREAT k 5"
        ]
    );
    let zeros = told(0, &compressed(&[b'0'; 21]));
    assert_eq!(zeros.len(), 7);
    assert_eq!(told(1, b"\x02\x01a\x01b").len(), 1, "a small one is a payload");
    let packed = listpack(&[b"\x01\x01", b"\x02\x01", b"\x03\x01"]);
    assert_eq!(
        told(20, &string(&packed)),
        ["SADD k 1 2", "SADD k 3", "PEXPIREAT k 5"]
    );
    let nodes = [&b"\x01\x02"[..], &compressed(&packed)].concat();
    assert_eq!(told(18, &nodes), ["RPUSH k 1 2", "RPUSH k 3", "PEXPIREAT k 5"]);
}

#[test]
fn expiries_are_parked_and_too_far_ones_refused() {
    let park = |millis: i64| {
        let record = [&b"\xfc"[..], &millis.to_le_bytes()].concat();
        let bytes = Snapshot::new("REDIS0011").raw(&record).key(0, b"\x01v").end();
        let mut options = options(Values::Payloads);
        options.ttl = Ttl {
            expiries: Expiries::Park,
            skew_ms: 1,
        };
        read(&bytes, options, 100).map(|run| run.told().remove(0))
    };
    let parked = park(1_000).unwrap();
    assert!(
        parked.starts_with(&format!("RESTORE k {} ", 1_001 + PARK_KEY_MS)),
        "{parked}"
    );
    assert_eq!(
        park(i64::MAX).unwrap_err(),
        RdbError::ExpiryTooFar { millis: i64::MAX }
    );
}

/// A hash of 200 MB, one field of which alone has 20 MB: never more than 2 MB of it are held.
#[test]
fn a_big_value_is_never_held_whole() {
    let (fields, value) = (200_000_u32, [b'v'; 900]);
    let mut reader = super::RdbReader::new(options(Values::Payloads));
    let mut frames = super::Frames::default();
    let (mut most, mut written) = (0, 0_usize);
    let mut feed = |bytes: &[u8]| {
        for bytes in bytes.chunks(64 * 1024) {
            reader.push(bytes);
            loop {
                let event = reader.poll(&mut frames).unwrap();
                most = most.max(reader.buffered() + frames.len());
                written += frames.len();
                frames.clear();
                match event {
                    Event::NeedMore => break,
                    Event::End => panic!("it has no end"),
                    _ => {}
                }
            }
        }
    };
    feed(b"REDIS0011\xfe\x02\x04\x01k");
    feed(&length(fields as usize + 2));
    for field in 0..fields {
        feed(&string(&field.to_be_bytes()));
        feed(&string(&value));
    }
    let huge = vec![b'h'; 20_000_000];
    feed(&string(b"plain"));
    feed(&string(&huge));
    feed(&string(b"compressed"));
    feed(&compressed(&huge));
    assert!(written > 220_000_000, "{written}");
    assert!(most < 2 * 1024 * 1024, "{most} bytes were held at once");
}

#[test]
fn a_stream_becomes_commands() {
    assert_eq!(
        commands("REDIS0011", 21, &stream()),
        "XADD k 5-1 f v; XADD k 6-1 g 9; XSETID k 6-1 ENTRIESADDED 2 MAXDELETEDID 0-0; \
         XGROUP CREATE k readers 5-1 ENTRIESREAD 1; XGROUP CREATECONSUMER k readers me; \
         XCLAIM k readers me 0 5-1 TIME 7 RETRYCOUNT 3 FORCE JUSTID"
    );
    let mut few = options(Values::Commands);
    few.limits.pending_max = 0;
    let bytes = Snapshot::new("REDIS0011").key(21, &stream()).end();
    assert_eq!(
        read(&bytes, few, 9).unwrap_err(),
        RdbError::TooManyPending { count: 1, max: 0 }
    );
}
