//! What is to be written to the target: requests, one behind the other, and how many replies they will bring.
//!
//! A request may still lack its end: a large value is appended in pieces, as it comes. The bytes may be written to the
//! target at any moment all the same, since nothing else is written between two pieces. A snapshot that ends in an
//! error leaves half a request behind, and with it a connection that must be closed.

use crate::ids::DbIndex;
use crate::resp::{write_array_header, write_bulk};

/// Requests for one connection to the target.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    requests: u64,
    selected: Option<DbIndex>,
    debts: Vec<Debt>,
}

/// A key whose expiry is parked, or may be, although expiries are no longer parked in general
/// ([`super::Expiries::ParkUntil`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Its database on the target.
    pub db: DbIndex,
    /// Its name.
    pub key: Vec<u8>,
}

impl Frames {
    /// The bytes that wait to be written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes them; what is appended from then on begins behind them.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Forgets them and keeps their buffer, after they were written.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// How many bytes wait to be written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Requests that were ended since the beginning: as many replies belong to all bytes that ever were here.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    /// Makes one transaction of all that waits, with a request in another database at its end: all of it is done, or nothing.
    /// What waits must hold no transaction and no piece of a request.
    pub fn enclose(&mut self, db: DbIndex, last: &[&[u8]]) {
        let mut inside = std::mem::take(&mut self.bytes);
        self.request(&[b"MULTI"]);
        self.bytes.append(&mut inside);
        self.write(db, last);
        self.request(&[b"EXEC"]);
    }

    /// One request more, in a database.
    pub fn write(&mut self, db: DbIndex, request: &[&[u8]]) {
        self.select(db);
        self.request(request);
    }

    /// Keys whose expiry must still be put right, since this was asked last.
    pub fn take_debts(&mut self) -> Vec<Debt> {
        std::mem::take(&mut self.debts)
    }

    pub(super) fn owe(&mut self, db: DbIndex, key: &[u8]) {
        self.debts.push(Debt {
            db,
            key: key.to_vec(),
        });
    }

    // === whole requests ===

    /// A `SELECT`, unless that database is selected already.
    pub(super) fn select(&mut self, db: DbIndex) {
        if self.selected != Some(db) {
            self.request(&[b"SELECT", db.to_string().as_bytes()]);
            self.selected = Some(db);
        }
    }

    pub(super) fn request(&mut self, args: &[&[u8]]) {
        self.begin(args.len());
        for arg in args {
            self.arg(arg);
        }
        self.end();
    }

    /// A request that lies there as it is.
    pub(super) fn frame(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.end();
    }

    /// Requests that were made elsewhere.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.bytes.append(&mut other.bytes);
        self.requests += std::mem::take(&mut other.requests);
        self.debts.append(&mut other.debts);
        self.selected = other.selected.or(self.selected);
    }

    /// An empty buffer that knows which database is selected here.
    pub(super) fn continued(&self) -> Self {
        Self {
            selected: self.selected,
            ..Self::default()
        }
    }

    // === a request in parts ===

    pub(super) fn begin(&mut self, args: usize) {
        write_array_header(&mut self.bytes, args);
    }

    pub(super) fn arg(&mut self, arg: &[u8]) {
        write_bulk(&mut self.bytes, arg);
    }

    /// An argument of so many bytes, to be given by [`Frames::piece`] and ended by [`Frames::end_arg`].
    pub(super) fn begin_arg(&mut self, length: u64) {
        begin_bulk(&mut self.bytes, length);
    }

    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    pub(super) fn end_arg(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn end(&mut self) {
        self.requests += 1;
    }
}

/// `$length` and the end of its line.
pub(super) fn begin_bulk(out: &mut Vec<u8>, length: u64) {
    out.push(b'$');
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Which databases of the source are wanted, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Databases(Vec<(DbIndex, DbIndex)>);

impl Databases {
    /// Pairs of a database of the source and one of the target. A pair for a database that has one already replaces
    /// it.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (DbIndex, DbIndex)>) -> Self {
        let mut all: Vec<_> = pairs.into_iter().collect();
        // The last of equals is to stay: `dedup` keeps the first.
        all.reverse();
        all.sort_by_key(|(source, _)| *source);
        all.dedup_by_key(|(source, _)| *source);
        Self(all)
    }

    /// Where a database of the source goes, if it is wanted.
    #[must_use]
    pub fn target(&self, source: u64) -> Option<DbIndex> {
        let source = DbIndex(u16::try_from(source).ok()?);
        let place = self.0.binary_search_by_key(&source, |(source, _)| *source).ok()?;
        self.0.get(place).map(|(_, target)| *target)
    }

    /// All databases of the target.
    pub fn targets(&self) -> impl Iterator<Item = DbIndex> {
        self.0.iter().map(|(_, target)| *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_becomes_one_transaction() {
        let mut frames = Frames::default();
        frames.select(DbIndex(3));
        frames.request(&[b"INCR", b"k"]);
        frames.enclose(DbIndex(9), &[b"HSET", b"h", b"f", b"v"]);
        let text = String::from_utf8(frames.take()).unwrap();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']) && !line.is_empty())
            .collect();
        let expected = "MULTI SELECT 3 INCR k SELECT 9 HSET h f v EXEC";
        assert_eq!((words.join(" ").as_str(), frames.requests()), (expected, 6));
        // The next one knows that another database is selected.
        frames.select(DbIndex(3));
        assert!(!frames.is_empty());
    }

    #[test]
    fn a_database_is_selected_once() {
        let mut frames = Frames::default();
        frames.select(DbIndex(3));
        frames.select(DbIndex(3));
        frames.request(&[b"PING"]);
        assert_eq!(
            frames.as_bytes(),
            b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n"
        );
        assert_eq!(frames.requests(), 2);
        assert!(!frames.take().is_empty() && frames.is_empty());
    }

    #[test]
    fn wanted_databases_have_a_target() {
        let wanted = Databases::new([
            (DbIndex(7), DbIndex(1)),
            (DbIndex(2), DbIndex(9)),
            (DbIndex(7), DbIndex(4)),
        ]);
        assert_eq!(wanted.target(7), Some(DbIndex(4)));
        assert_eq!(wanted.target(2), Some(DbIndex(9)));
        assert_eq!(wanted.target(0), None);
        assert_eq!(wanted.target(65_536 + 7), None);
        assert_eq!(wanted.targets().count(), 2);
    }
}
