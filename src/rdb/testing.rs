//! For tests of this room: snapshots made by hand, and the requests that are read out of them.

use super::crc64::crc64;
use super::{
    CopyOptions, Databases, Event, Family, Frames, Limits, RdbError, RdbReader, StreamLimits, StreamReader,
    Target, Ttl, Values,
};
use crate::ids::DbIndex;

/// A snapshot in the making.
pub(super) struct Snapshot(Vec<u8>);

impl Snapshot {
    /// With a header of this version, and database 2 selected.
    pub(super) fn new(header: &str) -> Self {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([254, 2]);
        Self(bytes)
    }

    /// Raw bytes of a record.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A key called `k` of this type, with the bytes of its value.
    pub(super) fn key(self, kind: u8, value: &[u8]) -> Self {
        self.raw(&[kind, 1, b'k']).raw(value)
    }

    /// With its end and checksum.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.push(255);
        let checksum = crc64(0, &self.0).to_le_bytes();
        self.0.extend(checksum);
        self.0
    }
}

/// A length as snapshots write it.
pub(super) fn length(length: usize) -> Vec<u8> {
    match u32::try_from(length).unwrap() {
        short @ 0..64 => vec![u8::try_from(short).unwrap()],
        long => [&[0x80][..], &long.to_be_bytes()].concat(),
    }
}

/// A plain string.
pub(super) fn string(bytes: &[u8]) -> Vec<u8> {
    [length(bytes.len()), bytes.to_vec()].concat()
}

/// A compressed string.
pub(super) fn compressed(plain: &[u8]) -> Vec<u8> {
    let stored = compress(plain);
    [vec![0xc3], length(stored.len()), length(plain.len()), stored].concat()
}

/// A listpack of these entries, each with its length behind it.
pub(super) fn listpack(entries: &[&[u8]]) -> Vec<u8> {
    let body = [entries.concat(), vec![255]].concat();
    let bytes = u32::try_from(body.len() + 6).unwrap().to_le_bytes();
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    [&bytes[..], &count, &body].concat()
}

/// A ziplist of these entries, each with the length before it.
pub(super) fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    [&[0; 8][..], &count, &entries.concat(), &[255]].concat()
}

/// A stream with two entries, a group, a consumer, and one pending entry.
pub(super) fn stream() -> Vec<u8> {
    let id = |ms: u64, seq: u64| [ms.to_be_bytes(), seq.to_be_bytes()].concat();
    let node = listpack(&[
        b"\x02\x01",
        b"\x00\x01",
        b"\x01\x01",
        b"\x81f\x02",
        b"\x00\x01", // the first entry, for its fields
        b"\x02\x01",
        b"\x00\x01",
        b"\x00\x01",
        b"\x81v\x02",
        b"\x04\x01", // flags, id, value, length
        b"\x00\x01",
        b"\x01\x01",
        b"\x00\x01",
        b"\x01\x01",
        b"\x81g\x02",
        b"\x09\x01",
        b"\x06\x01",
    ]);
    [
        vec![1],
        string(&id(5, 1)),
        string(&node),
        vec![2, 6, 1, 5, 1, 0, 0, 2], // length, last, first, deleted, added
        vec![1],
        string(b"readers"),
        vec![5, 1, 1, 1],
        id(5, 1),
        7_i64.to_le_bytes().to_vec(),
        vec![3, 1],
        string(b"me"),
        8_i64.to_le_bytes().to_vec(),
        9_i64.to_le_bytes().to_vec(),
        vec![1],
        id(5, 1),
    ]
    .concat()
}

/// Compresses, not well: literals, and repetitions of the byte before.
fn compress(plain: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut at = 0;
    while at < plain.len() {
        let run = plain[at..]
            .iter()
            .take(264)
            .take_while(|byte| **byte == plain[at])
            .count();
        if at > 0 && plain[at - 1] == plain[at] && run >= 3 {
            let count = run.min(264);
            if count < 9 {
                stored.extend([u8::try_from((count - 2) << 5).unwrap(), 0]);
            } else {
                stored.extend([7 << 5, u8::try_from(count - 9).unwrap(), 0]);
            }
            at += count;
        } else {
            let length = if run >= 4 { 1 } else { 7 };
            let end = plain.len().min(at + length);
            stored.push(u8::try_from(end - at - 1).unwrap());
            stored.extend_from_slice(&plain[at..end]);
            at = end;
        }
    }
    stored
}

/// Database 2 goes to 12 of a server that takes all payloads of Redis.
pub(super) fn options(values: Values) -> CopyOptions {
    CopyOptions {
        databases: Databases::new([(DbIndex(2), DbIndex(12))]),
        target: Target {
            family: Family::Redis,
            major: 8,
            minor: 2,
        },
        values,
        ttl: Ttl::default(),
        limits: Limits::default(),
    }
}

/// Reads a snapshot in chunks of this size. Gives all events but those that ask for something, what is to be written,
/// and the most that was ever buffered of the snapshot and of the requests.
pub(super) fn read(bytes: &[u8], options: CopyOptions, chunk: usize) -> Result<Run, RdbError> {
    let mut reader = RdbReader::new(options);
    let mut frames = Frames::default();
    let mut run = Run::default();
    let mut chunks = bytes.chunks(chunk.max(1));
    loop {
        let event = reader.poll(&mut frames)?;
        run.buffered = run.buffered.max(reader.buffered());
        run.frames = run.frames.max(frames.len());
        run.written.extend(frames.take());
        match event {
            Event::Full => {}
            Event::NeedMore => match chunks.next() {
                Some(chunk) => reader.push(chunk),
                None => return Ok(run),
            },
            Event::End => break,
            event => run.events.push(event),
        }
    }
    run.ended = true;
    run.requests = frames.requests();
    run.consumed = reader.consumed();
    run.rest = reader.into_rest();
    chunks.for_each(|chunk| run.rest.extend_from_slice(chunk));
    Ok(run)
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) ended: bool,
    pub(super) events: Vec<Event>,
    pub(super) written: Vec<u8>,
    pub(super) requests: u64,
    pub(super) consumed: u64,
    pub(super) rest: Vec<u8>,
    pub(super) buffered: usize,
    pub(super) frames: usize,
}

impl Run {
    /// The requests as words, the database's selection left out.
    pub(super) fn told(&self) -> Vec<String> {
        let mut reader = StreamReader::new(0, StreamLimits::default());
        reader.push(&self.written);
        let mut all = Vec::new();
        while let Some(request) = reader.poll().unwrap() {
            let words: Vec<_> = request
                .args
                .iter()
                .map(|arg| arg.escape_ascii().to_string())
                .collect();
            all.push(words.join(" "));
        }
        assert_eq!(reader.offset(), self.written.len() as u64, "whole requests only");
        assert_eq!(all.len() as u64, self.requests);
        all.retain(|words| words != "SELECT 12");
        all
    }
}
