//! How fast snapshots are read: `cargo bench --bench rdb`. One thread, all bytes in memory, no server.
//!
//! | case | measures |
//! |---|---|
//! | payloads | keys of 100 bytes, each passed on as its payload |
//! | commands | the same keys as `SET` |
//! | skip, small | the same keys in a database that nobody wants |
//! | skip, big | values of 1 MB that nobody wants |
//! | pieces | a hash of a million fields, as `HSET` |
//! | compressed | a string of zeros, decompressed into pieces |
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark prints its figures"
)]

use std::time::Instant;

use preshard::ids::DbIndex;
use preshard::rdb::{CopyOptions, Databases, Event, Family, Frames, Limits, RdbReader, Target, Ttl, Values};

const ROUNDS: usize = 5;
const CHUNK: usize = 64 * 1024;

fn main() {
    let small = snapshot(|out| {
        for key in 0..1_000_000_u32 {
            out.push(0);
            string(out, format!("key:{key:08}").as_bytes());
            string(out, &[b'v'; 100]);
        }
    });
    let big = snapshot(|out| {
        for key in 0..200_u32 {
            out.push(0);
            string(out, &key.to_be_bytes());
            string(out, &vec![b'v'; 1_000_000]);
        }
    });
    let hash = snapshot(|out| {
        out.push(4);
        string(out, b"hash");
        length(out, 1_000_000);
        for field in 0..1_000_000_u32 {
            string(out, format!("field:{field:08}").as_bytes());
            string(out, &[b'v'; 80]);
        }
    });
    let zeros = snapshot(|out| {
        out.push(0);
        string(out, b"zeros");
        let operations = 1_000_000_u32;
        out.push(0xc3);
        length(out, 2 + 3 * operations);
        length(out, 1 + 264 * operations);
        out.extend([0, 0]);
        for _ in 0..operations {
            out.extend([7 << 5, 255, 0]);
        }
    });
    run("payloads", &small, 0, Values::Payloads);
    run("commands", &small, 0, Values::Commands);
    run("skip, small", &small, 1, Values::Payloads);
    run("skip, big", &big, 1, Values::Payloads);
    run("pieces", &hash, 0, Values::Payloads);
    run("compressed", &zeros, 0, Values::Payloads);
}

/// Reads one snapshot several times and prints the median.
fn run(name: &str, snapshot: &[u8], wanted: u16, values: Values) {
    let mut seconds = Vec::new();
    let (mut keys, mut written) = (0, 0);
    for _ in 0..ROUNDS {
        let mut reader = RdbReader::new(CopyOptions {
            databases: Databases::new([(DbIndex(wanted), DbIndex(wanted))]),
            target: Target {
                family: Family::Redis,
                major: 8,
                minor: 2,
            },
            values,
            ttl: Ttl::default(),
            limits: Limits::default(),
        });
        let mut frames = Frames::default();
        written = 0;
        let begin = Instant::now();
        for chunk in snapshot.chunks(CHUNK) {
            reader.push(chunk);
            loop {
                let event = reader.poll(&mut frames).expect("a snapshot in order");
                written += frames.len();
                frames.clear();
                if matches!(event, Event::NeedMore | Event::End) {
                    break;
                }
            }
        }
        seconds.push(begin.elapsed().as_secs_f64());
        let counts = reader.counts();
        keys = counts.restored + counts.rebuilt + counts.skipped;
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[ROUNDS / 2];
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "{name:12} {:9.0} keys/s {:7.0} MB/s read {:7.0} MB/s written  ({keys} keys, {:.0} MB, {:.3} s)",
        keys as f64 / median,
        megabytes(snapshot.len()) / median,
        megabytes(written) / median,
        megabytes(snapshot.len()),
        median
    );
}

/// A snapshot without a checksum in it; it is computed all the same.
fn snapshot(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"REDIS0011\xfe\x00".to_vec();
    fill(&mut out);
    out.push(255);
    out.extend([0; 8]);
    out
}

fn length(out: &mut Vec<u8>, length: u32) {
    out.push(0x80);
    out.extend(length.to_be_bytes());
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(short @ 0..64) => out.push(short),
        Ok(_) | Err(_) => length(out, u32::try_from(bytes.len()).expect("a short string")),
    }
    out.extend_from_slice(bytes);
}
