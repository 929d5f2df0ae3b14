//! What becomes of each class of requests, as a table: what the stream says, what the target is told, and the outcome.

use super::crc64::crc64;
use super::{
    Databases, Expiries, Family, Frames, Outcome, PARK_FIELD_MS, PARK_KEY_MS, RdbError, Restart,
    StreamFilter, StreamLimits, StreamOptions, StreamReader, Target, Ttl,
};
use crate::ids::DbIndex;

const NOW: i64 = 1_700_000_000_000;

fn target(family: Family, major: u16, minor: u16) -> Target {
    Target { family, major, minor }
}

/// Database 3 goes to 13, 4 to 14.
fn options(target: Target) -> StreamOptions {
    StreamOptions {
        databases: Databases::new([(DbIndex(3), DbIndex(13)), (DbIndex(4), DbIndex(14))]),
        target,
        limits: StreamLimits::default(),
        from: 0,
        selected: Some(3),
    }
}

struct Stream {
    reader: StreamReader,
    filter: StreamFilter,
    frames: Frames,
    ttl: Ttl,
}

impl Stream {
    fn new(options: StreamOptions) -> Self {
        Self {
            reader: StreamReader::new(0, options.limits),
            filter: StreamFilter::new(options),
            frames: Frames::default(),
            ttl: Ttl::default(),
        }
    }

    fn say(&mut self, words: &[&[u8]]) -> (String, Outcome) {
        let mut frame = Vec::new();
        crate::resp::write_request(&mut frame, words);
        self.reader.push(&frame);
        let request = self.reader.poll().unwrap().unwrap();
        let before = self.frames.requests();
        let outcome = self.filter.handle(&request, self.ttl, NOW, &mut self.frames);
        let told = read(&self.frames.take());
        assert_eq!(told.len() as u64, self.frames.requests() - before);
        (told.join("; "), outcome)
    }

    fn line(&mut self, line: &str) -> (String, Outcome) {
        self.say(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }
}

/// The requests of these bytes, as words.
fn read(bytes: &[u8]) -> Vec<String> {
    let mut reader = StreamReader::new(0, StreamLimits::default());
    reader.push(bytes);
    let mut all = Vec::new();
    while let Some(request) = reader.poll().unwrap() {
        let words: Vec<_> = request
            .args
            .iter()
            .map(|arg| arg.escape_ascii().to_string())
            .collect();
        all.push(words.join(" "));
    }
    assert_eq!(reader.offset(), bytes.len() as u64);
    all
}

fn redis_8() -> Target {
    target(Family::Redis, 8, 2)
}

fn check(target: Target, ttl: Ttl, cases: &[(&str, &str, Outcome)]) {
    for (line, told, outcome) in cases {
        let mut stream = Stream::new(options(target));
        stream.ttl = ttl;
        stream.frames.select(DbIndex(13));
        stream.frames.clear();
        let (found, what) = stream.line(line);
        assert_eq!((found.as_str(), what), (*told, *outcome), "{line}");
    }
}

#[test]
fn what_needs_no_change_goes_on_as_it_is() {
    let lines = [
        "SET k v",
        "SET k v KEEPTTL",
        "SET k v NX",
        "DEL k j",
        "UNLINK k",
        "RPUSH k a b",
        "INCRBY k 3",
        "RENAME k j",
        "XADD s 1-1 f v",
        "XCLAIM s g c 0 1-1 TIME 5 RETRYCOUNT 1 FORCE JUSTID",
        "XGROUP CREATE s g 0",
        "PERSIST k",
        "SORT k STORE j",
        "COPY k j",
        "PFCOUNT k",
        "HDEL h f",
        "HPERSIST h FIELDS 1 f",
        "ZUNIONSTORE k 1 j",
        "set k EX",
        "SET EX PX",
        "FLUSHDB",
        "FLUSHDB ASYNC",
        "HSETEX h KEEPTTL FIELDS 1 EX PX",
        "MSETEX 1 EX PX NX",
    ];
    let cases: Vec<_> = lines
        .iter()
        .map(|line| (*line, *line, Outcome::Applied))
        .collect();
    check(redis_8(), Ttl::default(), &cases);
}

#[test]
fn expiries_become_absolute() {
    let at = |rest: &str| format!("PEXPIREAT k {rest}");
    check(
        redis_8(),
        Ttl::default(),
        &[
            ("EXPIRE k 50", &at("1700000050000"), Outcome::Applied),
            ("EXPIRE k 50 GT", &at("1700000050000"), Outcome::Applied),
            ("PEXPIRE k 50", &at("1700000000050"), Outcome::Applied),
            ("EXPIREAT k 1800000000", &at("1800000000000"), Outcome::Applied),
            (
                "PEXPIREAT k 1800000000001 XX",
                &at("1800000000001"),
                Outcome::Applied,
            ),
            ("PEXPIREAT k -5", &at("1"), Outcome::Applied),
            ("SETEX k 9 v", "SET k v PXAT 1700000009000", Outcome::Applied),
            ("PSETEX k 9 v", "SET k v PXAT 1700000000009", Outcome::Applied),
            ("SET k v EX 9", "SET k v PXAT 1700000009000", Outcome::Applied),
            (
                "SET k v NX px 9 GET",
                "SET k v NX PXAT 1700000000009 GET",
                Outcome::Applied,
            ),
            (
                "SET k EX EXAT 1800000000",
                "SET k EX PXAT 1800000000000",
                Outcome::Applied,
            ),
            (
                "SET k v PXAT 1800000000001",
                "SET k v PXAT 1800000000001",
                Outcome::Applied,
            ),
            ("GETEX k PX 9", &at("1700000000009"), Outcome::Applied),
            ("GETEX k PERSIST", "PERSIST k", Outcome::Applied),
            ("GETEX k", "", Outcome::Applied),
            (
                "MSETEX 2 a EX b EX NX EX 9",
                "MSETEX 2 a EX b EX NX PXAT 1700000009000",
                Outcome::Applied,
            ),
        ],
    );
}

#[test]
fn expiries_of_fields_become_absolute() {
    check(
        redis_8(),
        Ttl::default(),
        &[
            (
                "HEXPIRE k 9 FIELDS 1 f",
                "HPEXPIREAT k 1700000009000 FIELDS 1 f",
                Outcome::Applied,
            ),
            (
                "HPEXPIRE k 9 NX FIELDS 1 f",
                "HPEXPIREAT k 1700000000009 NX FIELDS 1 f",
                Outcome::Applied,
            ),
            (
                "HEXPIREAT k 1800000000 FIELDS 1 f",
                "HPEXPIREAT k 1800000000000 FIELDS 1 f",
                Outcome::Applied,
            ),
            (
                "HPEXPIREAT k 18 FIELDS 1 f",
                "HPEXPIREAT k 18 FIELDS 1 f",
                Outcome::Applied,
            ),
            (
                "HSETEX k FNX EX 9 FIELDS 1 f v",
                "HSETEX k FNX PXAT 1700000009000 FIELDS 1 f v",
                Outcome::Applied,
            ),
            (
                "HGETEX k EX 9 FIELDS 1 f",
                "HPEXPIREAT k 1700000009000 FIELDS 1 f",
                Outcome::Applied,
            ),
            (
                "HGETEX k PERSIST FIELDS 1 f",
                "HPERSIST k FIELDS 1 f",
                Outcome::Applied,
            ),
            ("HGETEX k FIELDS 1 f", "", Outcome::Applied),
        ],
    );
}

#[test]
fn expiries_are_parked_with_the_clocks_difference() {
    let park = Ttl {
        expiries: Expiries::Park,
        skew_ms: 7,
    };
    let key = |real: i64| real + 7 + PARK_KEY_MS;
    let field = |real: i64| real + 7 + PARK_FIELD_MS;
    check(
        redis_8(),
        park,
        &[
            (
                "EXPIRE k 50",
                &format!("PEXPIREAT k {}", key(NOW + 50_000)),
                Outcome::Applied,
            ),
            (
                "SET k v PXAT 18",
                &format!("SET k v PXAT {}", key(18)),
                Outcome::Applied,
            ),
            (
                "HPEXPIREAT k 18 FIELDS 1 f",
                &format!("HPEXPIREAT k {} FIELDS 1 f", field(18)),
                Outcome::Applied,
            ),
            (
                "HSETEX k PXAT 18 FIELDS 1 f v",
                &format!("HSETEX k PXAT {} FIELDS 1 f v", field(18)),
                Outcome::Applied,
            ),
        ],
    );
}

#[test]
fn what_is_renamed_while_parking_begins_is_owed() {
    let mut stream = Stream::new(options(redis_8()));
    stream.ttl.expiries = Expiries::Parking;
    let (told, _) = stream.line("PEXPIREAT k 1700000010001");
    assert_eq!(
        told.rsplit(' ').next().unwrap(),
        (NOW + 10_001 + PARK_KEY_MS).to_string()
    );
    let compared = stream.line("HPEXPIREAT h 1700000000000 lt FIELDS 1 f");
    assert_eq!(compared.1, Outcome::Restart(Restart::Compared));
    for line in ["RENAME a b", "COPY a c", "RENAMENX a d"] {
        stream.line(line);
    }
    let owed = stream.frames.take_debts();
    let owed: Vec<_> = owed.iter().map(|debt| debt.key.as_slice()).collect();
    assert_eq!(owed, [b"b", b"c", b"d"]);
}

#[test]
fn what_expires_soon_while_parking_ends_is_owed() {
    let mut stream = Stream::new(options(redis_8()));
    stream.ttl.expiries = Expiries::ParkUntil(NOW + 10_000);
    let (told, _) = stream.line("PEXPIREAT k 1700000010001");
    assert!(told.ends_with("PEXPIREAT k 1700000010001"), "{told}");
    assert_eq!(stream.frames.take_debts(), []);
    let (told, _) = stream.line("PEXPIREAT k 1700000010000");
    assert_eq!(told, format!("PEXPIREAT k {}", NOW + 10_000 + PARK_KEY_MS));
    stream.line("HPEXPIREAT h 1700000000000 FIELDS 1 f");
    let compared = stream.line("HPEXPIREAT h 1700000000000 gt FIELDS 1 f");
    assert_eq!(compared.1, Outcome::Restart(Restart::Compared));
    stream.line("RENAME a b");
    stream.line("COPY a c");
    stream.line("MULTI");
    stream.line("SET j v PX 5");
    let owed: Vec<_> = stream
        .frames
        .take_debts()
        .into_iter()
        .map(|debt| debt.key)
        .collect();
    assert_eq!(owed, [&b"k"[..], b"h", b"b", b"c"]);
    stream.line("EXEC");
    let owed = stream.frames.take_debts();
    assert_eq!(owed.len(), 1);
    assert_eq!((owed[0].db, owed[0].key.as_slice()), (DbIndex(13), &b"j"[..]));
}

#[test]
fn what_concerns_nobody_here_is_ignored() {
    let lines = [
        "PING",
        "REPLCONF GETACK *",
        "PUBLISH c m",
        "SPUBLISH c m",
        "SCRIPT LOAD x",
        "SCRIPT FLUSH",
        "FUNCTION LOAD x",
        "FUNCTION FLUSH",
        "SELECT 3",
        "SELECT 9",
        "GET k",
        "SWAPDB 1 2",
        "CLIENT NO-TOUCH ON",
    ];
    let cases: Vec<_> = lines.iter().map(|line| (*line, "", Outcome::Ignored)).collect();
    check(redis_8(), Ttl::default(), &cases);
    let mut stream = Stream::new(options(redis_8()));
    stream.line("SELECT 9");
    for line in [
        "SET k v",
        "FLUSHDB",
        "EXPIRE k x",
        "MOVE k 8",
        "COPY k j DB 8",
        "NOSUCHCOMMAND k",
        "SPOP k",
    ] {
        assert_eq!(stream.line(line), (String::new(), Outcome::Ignored), "{line}");
    }
}

#[test]
fn what_cannot_be_followed_begins_the_copy_again() {
    let restart = Outcome::Restart;
    check(
        redis_8(),
        Ttl::default(),
        &[
            ("SWAPDB 1 3", "", restart(Restart::Swapped)),
            ("SWAPDB 4 0", "", restart(Restart::Swapped)),
            ("MOVE k 9", "", restart(Restart::MovedKey)),
            ("COPY k j REPLACE DB 9", "", restart(Restart::MovedKey)),
            ("EVAL x 0", "", restart(Restart::Script)),
            ("EVALSHA x 0", "", restart(Restart::Script)),
            ("FCALL f 0", "", restart(Restart::Script)),
            ("SPOP k", "", restart(Restart::Unexpected("spop"))),
            ("BLPOP k 0", "", restart(Restart::Unexpected("blpop"))),
            (
                "XREADGROUP GROUP g c STREAMS s >",
                "",
                restart(Restart::Unexpected("xreadgroup")),
            ),
            ("MIGRATE h 1 k 0 5", "", restart(Restart::Unexpected("migrate"))),
            ("NOSUCHCOMMAND k", "", restart(Restart::UnknownCommand)),
            ("XGROUP NOSUCH s", "", restart(Restart::UnknownCommand)),
            ("EXPIRE k x", "", restart(Restart::Malformed("expire"))),
            (
                "EXPIRE k 9223372036854775807",
                "",
                restart(Restart::Malformed("expire")),
            ),
            ("SET k v EX", "", restart(Restart::Malformed("set"))),
            ("SELECT x", "", restart(Restart::Malformed("select"))),
            ("EXEC", "", restart(Restart::Malformed("exec"))),
            (
                "RESTORE k 0 short",
                "",
                restart(Restart::Value(RdbError::Damaged("a payload without an end"))),
            ),
        ],
    );
    let mut stream = Stream::new(options(redis_8()));
    stream.line("SELECT 9");
    assert_eq!(stream.line("MOVE k 4").1, restart(Restart::MovedKey));
    assert_eq!(stream.line("COPY k j DB 3").1, restart(Restart::MovedKey));
    let mut nowhere = Stream::new(StreamOptions {
        selected: None,
        ..options(redis_8())
    });
    assert_eq!(nowhere.line("PING").1, Outcome::Ignored);
    assert_eq!(nowhere.line("SET k v").1, restart(Restart::UnknownDatabase));
}

#[test]
fn databases_are_followed_and_mapped() {
    let mut stream = Stream::new(options(redis_8()));
    assert_eq!(stream.line("SET a 1").0, "SELECT 13; SET a 1");
    stream.line("SELECT 4");
    assert_eq!(stream.line("SET a 2").0, "SELECT 14; SET a 2");
    stream.line("SELECT 9");
    stream.line("SELECT 4");
    assert_eq!(stream.line("SET a 3").0, "SET a 3");
    stream.line("SELECT 9");
    assert_eq!(
        stream.line("FLUSHALL ASYNC").0,
        "SELECT 13; FLUSHDB ASYNC; SELECT 14; FLUSHDB ASYNC"
    );
}

#[test]
fn a_transaction_keeps_what_is_wanted_and_stays_one() {
    let mut stream = Stream::new(options(redis_8()));
    for line in [
        "MULTI",
        "SET a 1",
        "SELECT 9",
        "SET b 2",
        "PUBLISH c m",
        "SELECT 4",
        "EXPIRE a 1",
    ] {
        assert_eq!(stream.line(line), (String::new(), Outcome::Buffered), "{line}");
        assert!(stream.filter.is_in_transaction());
    }
    let whole = "MULTI; SELECT 13; SET a 1; SELECT 14; PEXPIREAT a 1700000001000; EXEC";
    assert_eq!(stream.line("EXEC"), (whole.to_owned(), Outcome::Applied));
    assert_eq!(
        stream.line("SET a 3").0,
        "SET a 3",
        "the database of the transaction stays selected"
    );
    for line in ["MULTI", "SELECT 9", "SET b 2"] {
        assert_eq!(stream.line(line).1, Outcome::Buffered);
    }
    assert_eq!(stream.line("EXEC"), (String::new(), Outcome::Ignored));
}

#[test]
fn a_transaction_has_a_limit() {
    let mut stream = Stream::new(StreamOptions {
        limits: StreamLimits {
            transaction_bytes: 100,
            ..StreamLimits::default()
        },
        ..options(redis_8())
    });
    stream.line("MULTI");
    assert_eq!(stream.line("SET k v").1, Outcome::Buffered);
    let large = "x".repeat(100);
    assert_eq!(
        stream.line(&format!("SET k {large}")).1,
        Outcome::Restart(Restart::TransactionTooLarge)
    );
}

#[test]
fn what_the_snapshot_has_is_not_applied_again() {
    let mut stream = Stream::new(StreamOptions {
        selected: None,
        from: 23 + 27,
        ..options(redis_8())
    });
    assert_eq!(stream.line("SELECT 3").1, Outcome::Ignored);
    assert_eq!(stream.line("SET k v").1, Outcome::Ignored);
    assert_eq!(stream.reader.offset(), 50);
    assert_eq!(stream.line("SET k w").0, "SELECT 13; SET k w");
}

#[test]
fn a_write_behind_the_freeze_is_an_alarm() {
    let mut stream = Stream::new(options(redis_8()));
    assert_eq!(stream.line("SET k v").1, Outcome::Applied);
    stream.filter.freeze(stream.reader.offset());
    for line in [
        "PING",
        "DEL k",
        "UNLINK k",
        "HDEL h f",
        "PFCOUNT k",
        "SELECT 9",
        "SET k v",
        "SELECT 3",
    ] {
        assert_eq!(stream.line(line), (String::new(), Outcome::Ignored), "{line}");
    }
    for line in ["SET k v", "PEXPIREAT k 5", "FLUSHDB", "FLUSHALL"] {
        assert_eq!(stream.line(line), (String::new(), Outcome::Alarm), "{line}");
    }
}

#[test]
fn payloads_in_the_stream_are_taken_over() {
    let mut stream = Stream::new(options(target(Family::Redis, 6, 2)));
    let mut payload = b"\x00\x01v\x0c\x00".to_vec();
    let checksum = crc64(0, &payload).to_le_bytes();
    payload.extend(checksum);
    let (told, outcome) = stream.say(&[b"RESTORE", b"k", b"50", &payload, b"REPLACE"]);
    assert_eq!(outcome, Outcome::Applied);
    let begin = "SELECT 13; DEL k; RESTORE k 1700000000050 \\x00\\x01v\\t\\x00";
    assert!(told.starts_with(begin) && told.ends_with(" ABSTTL"), "{told}");
    // A set in a listpack is nothing that 6.2 knows.
    let mut payload = b"\x14\x0b\x0b\x00\x00\x00\x02\x00\x01\x01\x81a\x02\xff".to_vec();
    payload[1] = 12;
    payload.splice(2..6, 12_u32.to_le_bytes());
    payload.extend(b"\x0b\x00");
    let checksum = crc64(0, &payload).to_le_bytes();
    payload.extend(checksum);
    let (told, _) = stream.say(&[b"RESTORE", b"k", b"0", &payload]);
    assert_eq!(told, "DEL k; SADD k 1 a");
    payload[9] ^= 1;
    let (_, outcome) = stream.say(&[b"RESTORE", b"k", b"0", &payload]);
    assert!(
        matches!(outcome, Outcome::Restart(Restart::Value(_))),
        "{outcome:?}"
    );
}

#[test]
fn fields_cannot_expire_everywhere() {
    let refused = Outcome::Restart(Restart::Value(RdbError::FieldExpiry));
    check(
        target(Family::Valkey, 8, 1),
        Ttl::default(),
        &[("HPEXPIREAT k 18 FIELDS 1 f", "", refused)],
    );
}

#[test]
fn a_target_before_6_2_is_told_in_two_requests() {
    check(
        target(Family::Redis, 6, 0),
        Ttl::default(),
        &[
            (
                "SETEX k 9 v",
                "SET k v; PEXPIREAT k 1700000009000",
                Outcome::Applied,
            ),
            (
                "SET k v XX EX 9",
                "SET k v XX; PEXPIREAT k 1700000009000",
                Outcome::Applied,
            ),
        ],
    );
}
