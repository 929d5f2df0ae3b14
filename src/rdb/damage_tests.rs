//! Damaged snapshots and streams: an error, or other requests, each whole; never a panic, never more than a bound.

use super::testing::{Snapshot, compressed, listpack, options, read, stream, string, ziplist};
use super::{
    Databases, Frames, Outcome, StreamFilter, StreamLimits, StreamOptions, StreamReader, Ttl, Values,
};
use crate::ids::DbIndex;

/// What is damaged ends in an error or in whole requests, and never in a panic or without a bound.
#[test]
fn damage_of_a_snapshot_is_survived() {
    let listed = listpack(&[b"\x81a\x02", b"\x01\x01", b"\x81b\x02", b"\x02\x01"]);
    let snapshot = Snapshot::new("REDIS0012")
        .raw(b"\xfa\x03ver\x019\xfb\x05\x02\xf5\x04code")
        .key(1, b"\x03\x01a\xc0\x07\x03abc")
        .raw(b"\xfc\x05\0\0\0\0\0\0\0")
        .key(3, b"\x02\x01a\x031.5\x01b\xfe")
        .key(
            4,
            &[&b"\x02\x01f\x01v\x01g"[..], &compressed(&[b'x'; 400])].concat(),
        )
        .key(16, &compressed(&listed))
        .key(17, &string(&listed))
        .key(10, &string(&ziplist(&[b"\x00\x01a", b"\x02\xc0\xff\xff"])))
        .key(11, &string(b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0"))
        .key(18, &[&b"\x01\x02"[..], &string(&listed)].concat())
        .key(5, b"\x01\x01a\0\0\0\0\0\0\xf8\x3f")
        .key(9, b"\x09\x01\x01f\x02\x01vv?\xff")
        .key(
            14,
            &[&b"\x01"[..], &string(&ziplist(&[b"\x00\x01a", b"\x02\xf1"]))].concat(),
        )
        .key(20, &compressed(&listed))
        .key(23, &string(&listpack(&[b"\x81a\x02", b"\x01\x01", b"\x05\x01"])))
        .key(24, b"\x05\0\0\0\0\0\0\0\x01\x02\x01f\x01v")
        .key(7, b"\x81\0\0\0\0\0\0\x04\x00\x02\x07\x05\x03abc\x00")
        .key(21, &stream())
        .end();
    let mut random = fastrand::Rng::with_seed(20_261_125);
    let (mut errors, mut ends) = (0, 0);
    for round in 0..6_000 {
        let mut bytes = snapshot.clone();
        for _ in 0..=random.usize(0..3) {
            let at = random.usize(9..bytes.len());
            match random.u8(0..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(0..8),
                2 => bytes.truncate(at.max(20)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        // Half of them without a checksum, so that more than it is seen.
        if round % 2 == 0 && bytes.len() > 20 {
            let end = bytes.len();
            bytes[end - 8..].fill(0);
        }
        let values = if round % 3 == 0 {
            Values::Payloads
        } else {
            Values::Commands
        };
        match read(&bytes, options(values), random.usize(1..200)) {
            Ok(run) => {
                assert!(run.buffered <= 2 * bytes.len() && run.frames < 1_000_000);
                if run.ended {
                    run.told();
                    ends += 1;
                }
            }
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 1_000 && ends > 100, "{errors} errors, {ends} ends");
}

/// Damaged streams end in an error, or go on as other requests; nothing panics.
#[test]
fn damage_of_a_stream_is_survived() {
    let lines = [
        "SELECT 3",
        "SET k v EX 9",
        "MULTI",
        "EXPIRE k 5",
        "SELECT 4",
        "HSETEX h PX 5 FIELDS 1 f v",
        "EXEC",
        "MSETEX 1 a b EX 9",
        "RESTORE k 5 payload ABSTTL",
        "COPY a b DB 4",
        "GETEX k PX 5",
        "FLUSHALL",
        "HGETEX h EX 9 FIELDS 1 f",
        "XGROUP CREATE s g 0",
        "SWAPDB 1 2",
        "PSETEX k 5 v",
    ];
    let mut whole = Vec::new();
    for line in lines {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        crate::resp::write_request(&mut whole, &words);
    }
    let options = StreamOptions {
        databases: Databases::new([(DbIndex(3), DbIndex(13)), (DbIndex(4), DbIndex(14))]),
        target: options(Values::Payloads).target,
        limits: StreamLimits::default(),
        from: 0,
        selected: Some(3),
    };
    let mut random = fastrand::Rng::with_seed(20_261_125);
    let (mut errors, mut restarts, mut applied) = (0, 0, 0);
    for _ in 0..4_000 {
        let mut bytes = whole.clone();
        damage(&mut bytes, &mut random);
        let mut reader = StreamReader::new(0, options.limits);
        let (mut filter, mut frames) = (StreamFilter::new(options.clone()), Frames::default());
        for chunk in bytes.chunks(random.usize(1..100)) {
            reader.push(chunk);
            loop {
                match reader.poll() {
                    Ok(None) => break,
                    Ok(Some(request)) => {
                        let outcome = filter.handle(&request, Ttl::default(), 1_700_000_000_000, &mut frames);
                        restarts += u32::from(matches!(outcome, Outcome::Restart(_)));
                        applied += u32::from(outcome == Outcome::Applied);
                    }
                    Err(_) => {
                        errors += 1;
                        break;
                    }
                }
            }
        }
        assert!(frames.len() < 10_000);
        let mut written = StreamReader::new(0, options.limits);
        written.push(frames.as_bytes());
        while written.poll().unwrap().is_some() {}
        assert_eq!(written.offset(), frames.len() as u64, "whole requests only");
    }
    assert!(
        errors > 1_000 && restarts > 1_000 && applied > 1_000,
        "{errors} {restarts} {applied}"
    );
}

/// A few bytes changed, lost or added.
fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..=random.usize(0..3) {
        let at = random.usize(0..bytes.len());
        match random.u8(0..4) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] = *random.choice(b"0123456789-$*\r\n").unwrap(),
            2 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, random.u8(..)),
        }
    }
}
