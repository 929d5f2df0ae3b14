//! A snapshot, read as it comes: bytes in, requests for the target out.
//!
//! ```text
//!  push ─▶ Input ─▶ Header ─▶ Record ◀──────────────────────────┐
//!                               │ opcode: an event, or nothing  │
//!                               │ key of no wanted database ────┼─▶ Skip
//!                               │ key whose payload the target takes: Hold ──small──▶ RESTORE
//!                               │                                 └─big: back to its beginning ─▶ Decode ─▶ HSET, RPUSH …
//!                               │ key whose payload it does not take ─────────────────────────▶ Decode
//!                               └ end: checksum ─▶ Done; what was pushed behind the end is handed back
//! ```
//!
//! What a caller does is in [`RdbReader::poll`]: write what there is, push what has come, until [`Event::End`].

use super::decode::Decoder;
use super::error::{RdbError, Stop, damaged};
use super::expiry::Ttl;
use super::frames::{Databases, Frames};
use super::grammar::{Holds, Kind, Token, VALKEY, Walk};
use super::hold::{Hold, Size};
use super::input::Input;
use super::limits::Limits;
use super::payload::{Use, restore};
use super::target::Target;
use super::text::Text;
use crate::ids::DbIndex;

/// What is wanted of a snapshot, and for whom.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// The databases to copy.
    pub databases: Databases,
    /// The server that gets them. Its databases are empty: no key is deleted or overwritten.
    pub target: Target,
    /// Payloads where the target takes them, or commands only.
    pub values: Values,
    /// What becomes of expiries.
    pub ttl: Ttl,
    /// How much is held at once.
    pub limits: Limits,
}

/// How values travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// A small value as its payload, if the target takes it; all others as commands.
    #[default]
    Payloads,
    /// All as commands.
    Commands,
}

/// What [`RdbReader::poll`] stopped at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing more without more bytes.
    NeedMore,
    /// So much waits to be written that it should be written first.
    Full,
    /// The snapshot has begun.
    Version {
        /// Version of its format; 80 and above are Valkey's own.
        version: u16,
    },
    /// A fact about the snapshot.
    Aux {
        /// Its name: `repl-stream-db` is the database that is selected in the stream behind the snapshot.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// The keys of a database follow.
    Database {
        /// Its number on the source.
        source: u64,
        /// Where they go, if they are wanted.
        target: Option<DbIndex>,
    },
    /// How many keys follow, at most.
    Sizes {
        /// Keys.
        keys: u64,
        /// Those with an expiry.
        expires: u64,
    },
    /// A library of functions, as `FUNCTION LOAD` takes it.
    Function(Vec<u8>),
    /// Data of a module that belongs to no key; it is passed over.
    ModuleAux(super::ModuleName),
    /// The snapshot has ended, and its checksum is right or was switched off.
    End,
}

/// What was met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys that were passed on as one payload.
    pub restored: u64,
    /// Keys that were written as commands.
    pub rebuilt: u64,
    /// Keys of other databases.
    pub skipped: u64,
    /// Types of all these values, as bits: 1 for type 0, 2 for type 1, 4 for type 2, …
    pub types: u64,
}

/// Reads one snapshot.
#[derive(Debug)]
pub struct RdbReader {
    options: CopyOptions,
    input: Input,
    state: State,
    version: u16,
    target_db: Option<DbIndex>,
    key: Vec<u8>,
    /// What stands before the next key.
    expiry: Option<i64>,
    used: Use,
    kind: Kind,
    walk: Walk,
    decoder: Decoder,
    /// Strings of records that are no keys.
    text: Text,
    hold: Hold,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Record,
    /// Passes over a value; counts it as a key.
    Skip {
        key: bool,
    },
    Hold,
    Decode,
    Done,
    Broken(RdbError),
}

/// Slots of a cluster.
const SLOTS: u64 = 16_384;

impl RdbReader {
    /// A reader before the first byte.
    #[must_use]
    pub fn new(options: CopyOptions) -> Self {
        Self {
            options,
            input: Input::default(),
            state: State::Header,
            version: 0,
            target_db: None,
            key: Vec::new(),
            expiry: None,
            used: Use::default(),
            kind: Kind::module_aux(),
            walk: Walk::default(),
            decoder: Decoder::new(),
            text: Text::default(),
            hold: Hold::default(),
            counts: Counts::default(),
        }
    }

    /// Takes bytes, of any number: about 64 KiB are good.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.buffer().extend_from_slice(bytes);
    }

    /// The buffer behind [`RdbReader::push`], to read a socket into it without a copy. Only append to it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.input.buffer()
    }

    /// Reads on, and appends what the target shall do to `out`.
    ///
    /// # Errors
    /// The snapshot cannot be read. It stays so; `out` may end within a request.
    pub fn poll(&mut self, out: &mut Frames) -> Result<Event, RdbError> {
        loop {
            if out.len() >= self.options.limits.frames_bytes && self.state != State::Done {
                return Ok(Event::Full);
            }
            match self.step(out) {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(event),
                Err(Stop::More) => {
                    self.input.undo();
                    return Ok(Event::NeedMore);
                }
                Err(Stop::Bad(error)) => {
                    self.state = State::Broken(error);
                    return Err(error);
                }
            }
        }
    }

    /// Bytes of the snapshot so far: after [`Event::End`] its exact length.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.input.consumed()
    }

    /// Bytes that are held because they were not read yet, or may have to be read again.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.input.buffered()
    }

    /// Keys so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// What was pushed behind the end: a mark, or the beginning of the stream.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.input.into_rest()
    }

    fn step(&mut self, out: &mut Frames) -> Result<Option<Event>, Stop> {
        match self.state {
            State::Header => self.header().map(Some),
            State::Record => self.record(out),
            State::Skip { key } => {
                self.skip()?;
                if key {
                    self.counts.skipped += 1;
                    self.end_key();
                }
                self.state = State::Record;
                Ok(None)
            }
            State::Hold => self.hold(out).map(|()| None),
            State::Decode => self.decode(out).map(|()| None),
            State::Done => Ok(Some(Event::End)),
            State::Broken(error) => Err(error.into()),
        }
    }

    fn header(&mut self) -> Result<Event, Stop> {
        let header: [u8; 9] = self.input.array()?;
        let (family, digits) = match &header {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (5..=12, &digits[..]),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (VALKEY..=VALKEY, &digits[..]),
            _ => return Err(RdbError::NotRdb.into()),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(RdbError::NotRdb.into());
        }
        let version = digits
            .iter()
            .fold(0, |all, digit| all * 10 + u16::from(digit - b'0'));
        if !family.contains(&version) {
            return Err(RdbError::UnknownVersion { version }.into());
        }
        self.version = version;
        self.state = State::Record;
        self.input.commit();
        Ok(Event::Version { version })
    }

    /// One record that is no value, or the head of one that is.
    fn record(&mut self, out: &mut Frames) -> Result<Option<Event>, Stop> {
        let number = self.input.byte()?;
        let event = match number {
            255 => return self.end().map(Some),
            254 => Some(self.select()?),
            253 => {
                let seconds = i64::from(i32::from_le_bytes(self.input.array()?));
                self.expiry = Some(seconds * 1000);
                None
            }
            252 => {
                self.expiry = Some(self.input.millis()?);
                None
            }
            251 => Some(Event::Sizes {
                keys: self.input.number()?,
                expires: self.input.number()?,
            }),
            250 => Some(Event::Aux {
                name: self.string("the name of a fact")?,
                value: self.string("a fact")?,
            }),
            249 => {
                self.used.frequency = Some(self.input.byte()?);
                None
            }
            248 => {
                self.used.idle_s = Some(self.input.number()?);
                None
            }
            247 => {
                let id = self.input.number()?;
                self.walk.begin(&Kind::module_aux());
                self.state = State::Skip { key: false };
                Some(Event::ModuleAux(super::ModuleName(id)))
            }
            245 => Some(Event::Function(self.string("a library of functions")?)),
            244 => {
                // A slot, its keys, those with an expiry.
                for _ in 0..3 {
                    self.input.number()?;
                }
                None
            }
            243 if self.version >= VALKEY => {
                self.slot_import()?;
                None
            }
            240..=246 => {
                let version = self.version;
                return Err(RdbError::UnknownOpcode { number, version }.into());
            }
            _ => {
                self.begin_key(number, out)?;
                None
            }
        };
        // Whoever began to hold a value back has committed already.
        if self.state != State::Hold {
            self.input.commit();
        }
        Ok(event)
    }

    fn select(&mut self) -> Result<Event, Stop> {
        let source = self.input.number()?;
        let target = self.options.databases.target(source);
        self.target_db = target;
        Ok(Event::Database { source, target })
    }

    /// An import of slots that was under way when the snapshot was made: its name, and ranges.
    fn slot_import(&mut self) -> Result<(), Stop> {
        self.string("the name of an import")?;
        let ranges = self.input.number()?;
        if ranges > SLOTS {
            return Err(damaged("an import of more ranges than there are slots"));
        }
        for _ in 0..ranges {
            self.input.number()?;
            self.input.number()?;
        }
        Ok(())
    }

    fn string(&mut self, what: &'static str) -> Result<Vec<u8>, Stop> {
        let mut string = Vec::new();
        let max = self.options.limits.name_bytes;
        self.text.whole(&mut self.input, what, max, &mut string)?;
        Ok(string)
    }

    fn end(&mut self) -> Result<Event, Stop> {
        let stated: [u8; 8] = *self.input.available().first_chunk().ok_or(Stop::More)?;
        self.input.commit();
        let (computed, stated) = (self.input.checksum(), u64::from_le_bytes(stated));
        self.input.advance(8);
        self.input.commit();
        // Zero says that the server was told to compute none.
        if stated != 0 && stated != computed {
            return Err(RdbError::Checksum { stated, computed }.into());
        }
        self.state = State::Done;
        Ok(Event::End)
    }

    // === keys ===

    fn begin_key(&mut self, number: u8, out: &mut Frames) -> Result<(), Stop> {
        let kind = Kind::of(number, self.version)?;
        let max = self.options.limits.name_bytes;
        self.text.whole(&mut self.input, "a key", max, &mut self.key)?;
        self.kind = kind;
        self.counts.types |= 1 << kind.number;
        self.walk.begin(&kind);
        let Some(db) = self.target_db else {
            self.state = State::Skip { key: true };
            return Ok(());
        };
        out.select(db);
        let hides_expiries =
            matches!(kind.holds, Holds::ExpiringHash(_)) && self.options.ttl.changes_expiries();
        let as_payload = self.options.values == Values::Payloads || kind.holds == Holds::Module;
        if as_payload && self.options.target.restores(kind.since) && !hides_expiries {
            self.state = State::Hold;
            self.hold = Hold::default();
            self.input.hold();
        } else {
            self.begin_decode();
        }
        Ok(())
    }

    fn begin_decode(&mut self) {
        let options = &self.options;
        self.walk.begin(&self.kind);
        self.decoder
            .begin(&self.kind, &self.key, options.limits, options.ttl, options.target);
        self.state = State::Decode;
    }

    fn end_key(&mut self) {
        self.expiry = None;
        self.used = Use::default();
        self.state = State::Record;
    }

    fn skip(&mut self) -> Result<(), Stop> {
        loop {
            self.walk.text.skip(&mut self.input)?;
            let (_, token) = self.walk.next(&mut self.input)?;
            self.input.commit();
            if token == Token::End {
                return Ok(());
            }
        }
    }

    /// Walks over a value until it has ended and is passed on, or is known to be big.
    fn hold(&mut self, out: &mut Frames) -> Result<(), Stop> {
        let limits = &self.options.limits;
        if self
            .hold
            .walk(&self.kind, limits, &mut self.walk, &mut self.input)?
            == Size::Big
        {
            self.input.rewind();
            self.begin_decode();
            return Ok(());
        }
        let expiry = self
            .expiry
            .map(|millis| self.options.ttl.key(millis))
            .transpose()?;
        restore(out, &self.key, &self.kind, self.input.held(), expiry, self.used);
        if let (Some(db), true) = (self.target_db, expiry.is_some_and(|expiry| expiry.owed)) {
            out.owe(db, &self.key);
        }
        self.input.release();
        self.counts.restored += 1;
        self.end_key();
        Ok(())
    }

    /// A value as commands, one part more; at its end its expiry.
    fn decode(&mut self, out: &mut Frames) -> Result<(), Stop> {
        let Some(mut owed) = self.decoder.step(&mut self.walk, &mut self.input, out)? else {
            return Ok(());
        };
        let db = self.target_db.ok_or(damaged("a key outside of any database"))?;
        if let Some(millis) = self.expiry {
            let expiry = self.options.ttl.key(millis)?;
            out.request(&[b"PEXPIREAT", &self.key, expiry.millis.to_string().as_bytes()]);
            owed |= expiry.owed;
        }
        if owed {
            out.owe(db, &self.key);
        }
        self.counts.rebuilt += 1;
        self.end_key();
        Ok(())
    }
}
