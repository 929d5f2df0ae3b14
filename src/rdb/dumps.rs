//! Values that `DUMP` has given, one by one, as requests for a target: each is read as a record of a snapshot is, so all that holds for
//! those holds here (payloads or commands, large ones in pieces, expiries parked).

use super::error::RdbError;
use super::expiry::Ttl;
use super::frames::Frames;
use super::grammar::VALKEY;
use super::payload;
use super::reader::{CopyOptions, Counts, Event, RdbReader};
use super::target::Target;
use crate::ids::DbIndex;

/// Reads values of one source.
#[derive(Debug)]
pub struct DumpReader {
    reader: RdbReader,
    /// Version of the source's format; none: nothing was pushed.
    version: Option<u16>,
    /// The source's database of the record before.
    db: Option<DbIndex>,
    ttl: Ttl,
    target: Target,
}

impl DumpReader {
    /// A reader before the first value. Keys must not be there on the target.
    #[must_use]
    pub fn new(options: CopyOptions) -> Self {
        Self {
            ttl: options.ttl,
            target: options.target,
            reader: RdbReader::new(options),
            version: None,
            db: None,
        }
    }

    /// Takes a key of a database of the source, with what `DUMP` gave, and when it expires.
    ///
    /// # Errors
    /// It is no payload, or of another version than those before.
    pub fn push(
        &mut self,
        db: DbIndex,
        key: &[u8],
        dump: &[u8],
        expires_ms: Option<i64>,
    ) -> Result<(), RdbError> {
        let (kind, raw) = payload::open(dump)?;
        let version = payload::version(dump).ok_or(RdbError::Damaged("a payload without an end"))?;
        let out = self.reader.buffer();
        match self.version {
            None if version >= VALKEY => out.extend_from_slice(format!("VALKEY{version:03}").as_bytes()),
            None => out.extend_from_slice(format!("REDIS{version:04}").as_bytes()),
            Some(known) if known == version => {}
            Some(_) => return Err(RdbError::Damaged("payloads of two versions")),
        }
        self.version = Some(version);
        if self.db != Some(db) {
            out.push(254);
            write_length(out, u32::from(db.0));
            self.db = Some(db);
        }
        if let Some(expires_ms) = expires_ms {
            out.push(252);
            out.extend_from_slice(&expires_ms.to_le_bytes());
        }
        out.push(kind.number);
        let length = u32::try_from(key.len()).map_err(|_| RdbError::Damaged("a key without an end"))?;
        write_length(out, length);
        out.extend_from_slice(key);
        out.extend_from_slice(raw);
        Ok(())
    }

    /// Appends what the target shall do to `out`. Says whether so much waits to be written that it should be written first.
    ///
    /// # Errors
    /// A value cannot be read. `out` may end within a request.
    pub fn poll(&mut self, out: &mut Frames) -> Result<bool, RdbError> {
        loop {
            match self.reader.poll(out)? {
                Event::Full => return Ok(true),
                Event::NeedMore if self.reader.buffered() > 0 => {
                    return Err(RdbError::Damaged("a payload ends within its value"));
                }
                Event::NeedMore => return Ok(false),
                Event::End => return Err(RdbError::Damaged("an end between payloads")),
                Event::Version { .. }
                | Event::Aux { .. }
                | Event::Database { .. }
                | Event::Sizes { .. }
                | Event::Function(_)
                | Event::ModuleAux(_) => {}
            }
        }
    }

    /// When a key of the target expires that came otherwise.
    ///
    /// # Errors
    /// It is too far away.
    pub fn expire(&self, db: DbIndex, key: &[u8], expires_ms: i64, out: &mut Frames) -> Result<(), RdbError> {
        let expiry = self.ttl.key(expires_ms)?;
        out.write(db, &[b"PEXPIREAT", key, expiry.millis.to_string().as_bytes()]);
        if expiry.owed {
            out.owe(db, key);
        }
        Ok(())
    }

    /// When fields of a hash of the target expire that came otherwise.
    ///
    /// # Errors
    /// One is too far away, or no field expires there.
    pub fn expire_fields(
        &self,
        db: DbIndex,
        key: &[u8],
        fields: &[(Vec<u8>, i64)],
        out: &mut Frames,
    ) -> Result<(), RdbError> {
        for (field, expires_ms) in fields {
            if !self.target.expires_fields() {
                return Err(RdbError::FieldExpiry);
            }
            let expiry = self.ttl.field(*expires_ms)?;
            let millis = expiry.millis.to_string();
            out.write(
                db,
                &[b"HPEXPIREAT", key, millis.as_bytes(), b"FIELDS", b"1", field],
            );
            if expiry.owed {
                out.owe(db, key);
            }
        }
        Ok(())
    }

    /// Keys so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.reader.counts()
    }
}

/// A length as snapshots write it.
fn write_length(out: &mut Vec<u8>, length: u32) {
    match u8::try_from(length) {
        Ok(short @ 0..64) => out.push(short),
        _ => {
            out.push(0x80);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{compressed, length, options, string};
    use super::super::{PARK_KEY_MS, StreamLimits, StreamReader, Ttl, Values};
    use super::*;
    use crate::rdb::Expiries;

    /// What `DUMP` would give.
    fn dump(kind: u8, raw: &[u8], version: u16) -> Vec<u8> {
        let value = [&[kind], raw, &version.to_le_bytes()].concat();
        let checksum = super::super::crc64::crc64(0, &value);
        [value, checksum.to_le_bytes().to_vec()].concat()
    }

    fn reader() -> DumpReader {
        let ttl = Ttl {
            expiries: Expiries::Park,
            skew_ms: 0,
        };
        DumpReader::new(CopyOptions {
            ttl,
            ..options(Values::Payloads)
        })
    }

    fn told(frames: &mut Frames) -> Vec<String> {
        let mut reader = StreamReader::new(0, StreamLimits::default());
        reader.push(&frames.take());
        let mut all = Vec::new();
        while let Some(request) = reader.poll().unwrap() {
            let words: Vec<_> = request.args.iter().take(3).map(String::from_utf8_lossy).collect();
            all.push(words.join(" "));
        }
        all
    }

    #[test]
    fn values_become_requests_one_by_one_with_their_expiries_parked() {
        let (mut reader, mut out) = (reader(), Frames::default());
        let name = [b'n'; 100];
        for (key, expires_ms) in [(&b"a"[..], None), (&name, Some(77))] {
            reader
                .push(DbIndex(2), key, &dump(0, &string(b"v"), 12), expires_ms)
                .unwrap();
            assert!(!reader.poll(&mut out).unwrap());
        }
        // A database that nobody wants.
        reader
            .push(DbIndex(3), b"b", &dump(0, &string(b"v"), 12), None)
            .unwrap();
        assert!(!reader.poll(&mut out).unwrap());
        let long = String::from_utf8(name.to_vec()).unwrap();
        assert_eq!(
            told(&mut out),
            [
                "SELECT 12".to_owned(),
                "RESTORE a 0".to_owned(),
                format!("RESTORE {long} {}", PARK_KEY_MS + 77)
            ]
        );
        assert_eq!((reader.counts().restored, reader.counts().skipped), (2, 1));
    }

    #[test]
    fn a_large_collection_comes_in_pieces() {
        let (mut reader, mut out) = (reader(), Frames::default());
        let elements: Vec<u8> = (0..2_000)
            .flat_map(|n| string(format!("element {n}").as_bytes()))
            .collect();
        let raw = [length(2_000), elements].concat();
        reader.push(DbIndex(2), b"s", &dump(2, &raw, 10), None).unwrap();
        let mut all = Vec::new();
        while reader.poll(&mut out).unwrap() {
            all.extend(told(&mut out));
        }
        all.extend(told(&mut out));
        assert!(
            all.len() > 3 && all[1..].iter().all(|line| line.starts_with("SADD s ")),
            "{all:?}"
        );
    }

    #[test]
    fn what_is_no_payload_is_refused() {
        let good = dump(0, &compressed(b"aaaaaaaaaaaaaaaaaaaaaaaa"), 10);
        for cut in 0..good.len() {
            assert!(reader().push(DbIndex(2), b"k", &good[..cut], None).is_err());
        }
        let (mut reader, mut out) = (reader(), Frames::default());
        // Its checksum is right, and its string has no end.
        reader
            .push(DbIndex(2), b"k", &dump(0, &[5, b'x'], 10), None)
            .unwrap();
        assert!(reader.poll(&mut out).is_err());
    }
}
