//! A source that is written to while it is copied: snapshot and stream by `PSYNC`, applied to another server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

use preshard::ids::DbIndex;
use preshard::rdb::{
    CopyOptions, Databases, Event, Frames, Limits, Outcome, RdbReader, StreamFilter, StreamLimits,
    StreamOptions, StreamReader, Ttl, Values,
};

use crate::data::describe;
use crate::server::{Server, at_hand, bytes, is_error};

/// Wanted databases, and one that nobody wants.
const WANTED: [u16; 2] = [0, 3];
const OTHER: u16 = 1;
const MOVED: u16 = 10;

fn databases() -> Databases {
    Databases::new(WANTED.map(|db| (DbIndex(db), DbIndex(db + MOVED))))
}

/// The link of a replica, up to the first byte of the snapshot.
struct Link {
    socket: UnixStream,
    /// The offset of the snapshot.
    offset: u64,
    snapshot_bytes: u64,
}

impl Link {
    fn open(source: &Server) -> Self {
        let mut socket = source.connect();
        socket.write_all(b"PSYNC ? -1\r\n").unwrap();
        let mut line = || loop {
            let mut line = Vec::new();
            let mut byte = [0];
            while byte != *b"\n" {
                socket.read_exact(&mut byte).unwrap();
                line.extend(byte);
            }
            let line = String::from_utf8(line).unwrap();
            // Empty lines keep the link alive while the source forks.
            if line.len() > 2 {
                break line.trim().to_owned();
            }
        };
        let answer = line();
        let offset = answer.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(answer.starts_with("+FULLRESYNC"), "{answer}");
        let snapshot_bytes = line().strip_prefix('$').unwrap().parse().unwrap();
        Self {
            socket,
            offset,
            snapshot_bytes,
        }
    }
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Applies what there is.
fn apply(frames: &mut Frames, answered: &mut u64, target: &mut Server) {
    let due = frames.requests() - *answered;
    for reply in target.exchange(&frames.take(), due) {
        assert!(!is_error(&reply), "{reply:?}");
    }
    *answered += due;
}

/// One random write, or several in a transaction.
fn write(source: &mut Server, random: &mut fastrand::Rng) {
    if random.u8(0..12) == 0 {
        let db = [WANTED[0], WANTED[1], OTHER][random.usize(0..3)];
        source.well(&format!("SELECT {db}"));
    }
    if random.u8(0..10) == 0 {
        source.well("MULTI");
        for _ in 0..random.u8(1..5) {
            let line = line(source, random);
            source.line(&line);
        }
        source.line("EXEC");
        return;
    }
    let line = line(source, random);
    source.line(&line);
}

/// What is written: `{s}`, `{t}` and so on are keys, `{n}` is a number.
const LINES: [&str; 48] = [
    "SET {s} {n}",
    "SETEX {s} 5000 {n}",
    "PSETEX {s} 5000000 {n}",
    "SET {s} {n} EX 5000",
    "SET {s} {n} PX 5000000 XX",
    "SET {s} {n} KEEPTTL",
    "EXPIRE {s} 7000",
    "PEXPIRE {l} 7000000",
    "EXPIREAT {h} {later}",
    "PEXPIREAT {z} {ms}",
    "PERSIST {s}",
    "INCRBYFLOAT {s} 1.5",
    "GETSET {s} {n}",
    "APPEND {s} {n}",
    "GETEX {s} EX 6000",
    "GETDEL {s}",
    "RENAME {s} {t}",
    "COPY {s} {t} REPLACE",
    "DEL {s} {l}",
    "UNLINK {z}",
    "RPUSH {l} {n} a b",
    "LPOP {l}",
    "LMOVE {l} {m} LEFT RIGHT",
    "LTRIM {l} 0 20",
    "BLPOP {l} {m} 0.01",
    "HSET {h} f{n} {n} g 1",
    "HINCRBYFLOAT {h} g 0.25",
    "HDEL {h} g",
    "ZADD {z} {n}.5 m{n}",
    "ZPOPMIN {z}",
    "ZUNIONSTORE {z} 1 {z}",
    "SADD {e} {n} x{n}",
    "SPOP {e}",
    "SPOP {e} 3",
    "SORT {l} ALPHA STORE {m}",
    "XADD {x} * f {n}",
    "XADD {x} MAXLEN ~ 20 * f {n} g h",
    "XTRIM {x} MAXLEN 5",
    "XGROUP CREATE {x} g 0 MKSTREAM",
    "XREADGROUP GROUP g c{third} COUNT 2 STREAMS {x} >",
    "XAUTOCLAIM {x} g c 0 0 COUNT 2",
    "EVAL redis.call('incr',KEYS[1]);redis.call('pexpire',KEYS[1],9000000) 1 {s}",
    "PUBLISH c m",
    "PING",
    "SCRIPT FLUSH",
    "PFADD p{third} {n}",
    "PFCOUNT p{third}",
    "PFMERGE p0 p{third}",
];

/// The same for servers whose fields expire.
const FIELD_LINES: [&str; 5] = [
    "HEXPIRE {h} 5000 FIELDS 1 g",
    "HPEXPIREAT {h} {ms} FIELDS 2 g f{n}",
    "HPERSIST {h} FIELDS 1 g",
    "HSETEX {h} EX 5000 FIELDS 1 g {n}",
    "HGETEX {h} PX 5000000 FIELDS 1 g",
];

fn line(source: &Server, random: &mut fastrand::Rng) -> String {
    if random.u8(0..200) == 0 {
        return "FLUSHDB".to_owned();
    }
    let lines = if source.target.expires_fields() && random.u8(0..8) == 0 {
        &FIELD_LINES[..]
    } else {
        &LINES[..]
    };
    let mut line = (*random.choice(lines).unwrap()).to_owned();
    let n = random.u64(0..1_000);
    for (place, kind) in [
        ("{s}", "s"),
        ("{t}", "s"),
        ("{l}", "l"),
        ("{m}", "l"),
        ("{h}", "h"),
        ("{z}", "z"),
        ("{e}", "e"),
        ("{x}", "x"),
    ] {
        line = line.replace(place, &format!("{kind}{}", random.u8(0..6)));
    }
    for (place, number) in [
        ("{n}", n),
        ("{third}", n % 3),
        ("{later}", 1_900_000_000 + n),
        ("{ms}", 1_900_000_000_000 + n),
    ] {
        line = line.replace(place, &number.to_string());
    }
    line
}

/// The expiry taken out of a key's description, and the rest.
fn parts(text: &str) -> (i64, String) {
    let (kind, rest) = text.split_once(" until ").unwrap();
    let (expiry, value) = rest.split_once(':').unwrap();
    // A consumer without entries may have been made by `XAUTOCLAIM`, which tells its replicas nothing of it.
    let parts = value.split(" name=");
    let kept: Vec<&str> = parts
        .filter(|part| !part.ends_with("pel-count=Int(0) pending=Array([])"))
        .collect();
    (
        expiry.parse().unwrap_or(0),
        format!("{kind}:{}", kept.join(" name=")),
    )
}

fn assert_same(source: &mut Server, target: &mut Server, exact: bool, what: &str) {
    for db in WANTED {
        let (expected, found) = (describe(source, db), describe(target, db + MOVED));
        assert_eq!(
            expected.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>(),
            "{what}, database {db}"
        );
        for (key, value) in &expected {
            let ((expiry, value), (other_expiry, other)) = (parts(value), parts(&found[key]));
            assert_eq!(value, other, "{what}: {key}");
            // A relative expiry begins when it is received; and who is old tells it to ten seconds.
            let apart = if exact { 0 } else { 15_000 };
            assert!(
                (expiry - other_expiry).abs() <= apart,
                "{what}: {key}: {expiry}, {other_expiry}"
            );
        }
    }
}

fn follows(name: &str, other: &str) {
    let (mut source, mut target) = (Server::start(name), Server::start(other));
    // Of a server that needs longer than a replica's silence may last nobody would be left.
    source.line("CONFIG SET repl-diskless-sync no");
    let mut random = fastrand::Rng::with_seed(20_261_125);
    for _ in 0..500 {
        write(&mut source, &mut random);
    }
    let mut link = Link::open(&source);
    for _ in 0..4_000 {
        write(&mut source, &mut random);
    }
    let info = String::from_utf8(bytes(source.line("INFO replication"))).unwrap();
    let end: u64 = info
        .lines()
        .find_map(|line| line.strip_prefix("master_repl_offset:"))
        .and_then(|offset| offset.parse().ok())
        .unwrap();

    // The snapshot, and with its last bytes the first of the stream.
    let mut reader = RdbReader::new(CopyOptions {
        databases: databases(),
        target: target.target,
        values: Values::Payloads,
        ttl: Ttl::default(),
        limits: Limits::default(),
    });
    let (mut frames, mut answered) = (Frames::default(), 0);
    loop {
        match reader.poll(&mut frames).unwrap() {
            Event::NeedMore => {
                let mut chunk = [0; 4096];
                let read = link.socket.read(&mut chunk).unwrap();
                assert!(read > 0);
                reader.push(&chunk[..read]);
            }
            Event::End => break,
            _ => {}
        }
        apply(&mut frames, &mut answered, &mut target);
    }
    assert_eq!(reader.consumed(), link.snapshot_bytes);

    let mut stream = StreamReader::new(link.offset, StreamLimits::default());
    stream.push(&reader.into_rest());
    let mut filter = StreamFilter::new(StreamOptions {
        databases: databases(),
        target: target.target,
        limits: StreamLimits::default(),
        from: link.offset,
        selected: None,
    });
    let mut applied = 0;
    while stream.offset() < end {
        while let Some(request) = stream.poll().unwrap() {
            let shown = format!("{:?}", request.args.frame().escape_ascii().to_string());
            match filter.handle(&request, Ttl::default(), now_ms(), &mut frames) {
                Outcome::Applied => applied += 1,
                Outcome::Ignored | Outcome::Buffered => {}
                outcome => panic!("{outcome:?}: {shown}"),
            }
        }
        apply(&mut frames, &mut answered, &mut target);
        if stream.offset() < end {
            let mut chunk = [0; 1013];
            let read = link.socket.read(&mut chunk).unwrap();
            assert!(read > 0);
            stream.push(&chunk[..read]);
        }
    }
    assert_eq!(stream.offset(), end);
    assert!(applied > 1_000, "{applied}");
    let exact = source.target.restores(10) && target.target.restores(10);
    assert_same(&mut source, &mut target, exact, &format!("{name} to {other}"));
}

#[test]
fn a_source_is_followed_while_it_is_written_to() {
    for name in at_hand() {
        follows(name, name);
    }
}

#[test]
fn a_stream_goes_to_an_older_server_and_to_the_other_family() {
    let servers = at_hand();
    for (source, target) in [
        ("redis 7.0", "redis 6.2"),
        ("redis 6.2", "valkey 9.1"),
        ("redis 8.2", "valkey 9.1"),
        ("valkey 9.1", "redis 8.2"),
    ] {
        if servers.contains(&source) && servers.contains(&target) {
            follows(source, target);
        }
    }
}
