//! A stream becomes requests: its entries, its counters, its groups, their consumers, what these have pending.
//!
//! ```text
//!  nodes ─▶ XADD key id field value …   (an empty stream: one entry that is trimmed at once)
//!  ids, counters ─▶ XSETID
//!  group ─▶ XGROUP CREATE · pending entries are held · consumer ─▶ XGROUP CREATECONSUMER · its ids ─▶ XCLAIM … FORCE JUSTID
//! ```
//!
//! As with Redis's own log of requests, three things are lost that no request can write: pending entries whose entry was
//! deleted, and when a consumer was seen and active last.

use super::error::{RdbError, Stop, damaged};
use super::frames::Frames;
use super::grammar::{Role, StreamId, Token};
use super::input::within;
use super::limits::Limits;
use super::target::Target;
use super::unpack::Elements;

#[derive(Debug)]
pub(super) struct StreamWriter {
    key: Vec<u8>,
    limits: Limits,
    target: Target,
    /// The string that is coming in, where it is none of a node.
    name: Vec<u8>,
    /// Entries of the node.
    entries: Entries,
    any_entry: bool,
    last: StreamId,
    deleted: StreamId,
    added: Option<u64>,
    group: Vec<u8>,
    group_last: StreamId,
    group_read: Option<u64>,
    pending: Vec<Pending>,
    consumer: Vec<u8>,
}

/// An entry that was delivered and is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    id: StreamId,
    millis: i64,
    count: u64,
}

/// What is known while a node's entries come in.
#[derive(Debug, Default)]
struct Entries {
    state: EntryPart,
    /// The first id, from which all others count.
    base: StreamId,
    /// Names of the fields that most entries have.
    fields: Vec<Vec<u8>>,
    fields_bytes: u64,
    id: StreamId,
    /// Flags of the present entry.
    flags: i64,
    /// Fields of the present entry, and the strings of it that are still to come.
    count: u64,
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EntryPart {
    #[default]
    Valid,
    Deleted,
    FieldCount,
    Fields,
    FieldsEnd,
    Flags,
    Ms,
    Seq,
    Count,
    Strings,
    Back,
}

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;
/// No entry has more fields than a request could name.
const FIELDS_MAX: i64 = 1 << 30;

impl StreamWriter {
    pub(super) fn new(key: &[u8], limits: Limits, target: Target) -> Self {
        Self {
            key: key.to_vec(),
            limits,
            target,
            name: Vec::new(),
            entries: Entries::default(),
            any_entry: false,
            last: StreamId::default(),
            deleted: StreamId::default(),
            added: None,
            group: Vec::new(),
            group_last: StreamId::default(),
            group_read: None,
            pending: Vec::new(),
            consumer: Vec::new(),
        }
    }

    /// Any part but a string.
    pub(super) fn token(&mut self, role: Role, token: Token, out: &mut Frames) -> Result<(), Stop> {
        match (role, token) {
            (Role::LastMs, Token::Number(number)) => self.last.ms = number,
            (Role::LastSeq, Token::Number(number)) => self.last.seq = number,
            (Role::DeletedMs, Token::Number(number)) => self.deleted.ms = number,
            (Role::DeletedSeq, Token::Number(number)) => self.deleted.seq = number,
            (Role::Added, Token::Number(number)) => self.added = Some(number),
            (Role::Groups, Token::Count(_)) => self.finish_entries(out),
            (Role::GroupMs, Token::Number(number)) => self.group_last.ms = number,
            (Role::GroupSeq, Token::Number(number)) => self.group_last.seq = number,
            (Role::GroupRead, Token::Number(number)) => self.group_read = Some(number),
            (Role::Pending, Token::Count(count)) => {
                if count > self.limits.pending_max {
                    let max = self.limits.pending_max;
                    return Err(RdbError::TooManyPending { count, max }.into());
                }
                self.create_group(out);
            }
            (Role::PendingId, Token::Id(id)) => {
                if self.pending.last().is_some_and(|before| before.id >= id) {
                    return Err(damaged("pending entries out of order"));
                }
                self.pending.push(Pending {
                    id,
                    millis: 0,
                    count: 0,
                });
            }
            (Role::PendingTime, Token::Millis(millis)) => {
                if let Some(pending) = self.pending.last_mut() {
                    pending.millis = millis;
                }
            }
            (Role::PendingCount, Token::Number(count)) => {
                if let Some(pending) = self.pending.last_mut() {
                    pending.count = count;
                }
            }
            (Role::Owned, Token::Count(_)) if self.target.is_6_2() => {
                out.request(&[
                    b"XGROUP",
                    b"CREATECONSUMER",
                    &self.key,
                    &self.group,
                    &self.consumer,
                ]);
            }
            (Role::OwnedId, Token::Id(id)) => self.claim(id, out)?,
            _ => {}
        }
        Ok(())
    }

    // === strings ===

    pub(super) fn begin_name(&mut self, length: u64) -> Result<(), RdbError> {
        within("a name in a stream", length, self.limits.name_bytes)?;
        self.name.clear();
        Ok(())
    }

    pub(super) fn name_bytes(&mut self, bytes: &[u8]) {
        self.name.extend_from_slice(bytes);
    }

    pub(super) fn end_name(&mut self, role: Role) -> Result<(), RdbError> {
        match role {
            Role::StreamNodeId => {
                let id = *self
                    .name
                    .first_chunk()
                    .ok_or(RdbError::Damaged("a stream's node without an id"))?;
                self.entries.begin(StreamId::of(id));
            }
            Role::Group => {
                self.group.clone_from(&self.name);
                self.group_read = None;
                self.pending.clear();
            }
            _ => self.consumer.clone_from(&self.name),
        }
        Ok(())
    }

    /// A node's string has ended.
    pub(super) fn end_node(&self) -> Result<(), RdbError> {
        if self.entries.state != EntryPart::Flags {
            return Err(RdbError::Damaged("a stream's node ends within an entry"));
        }
        Ok(())
    }

    // === requests ===

    fn finish_entries(&mut self, out: &mut Frames) {
        let last = self.last.to_string();
        if !self.any_entry {
            let id = self.last.max(StreamId { ms: 0, seq: 1 }).to_string();
            out.request(&[b"XADD", &self.key, b"MAXLEN", b"0", id.as_bytes(), b"x", b"y"]);
        }
        match self.added.filter(|_| self.target.knows_stream_counters()) {
            Some(added) => out.request(&[
                b"XSETID",
                &self.key,
                last.as_bytes(),
                b"ENTRIESADDED",
                added.to_string().as_bytes(),
                b"MAXDELETEDID",
                self.deleted.to_string().as_bytes(),
            ]),
            None => out.request(&[b"XSETID", &self.key, last.as_bytes()]),
        }
    }

    fn create_group(&self, out: &mut Frames) {
        let last = self.group_last.to_string();
        let create: [&[u8]; 5] = [b"XGROUP", b"CREATE", &self.key, &self.group, last.as_bytes()];
        // The greatest number stands for "not known".
        let read = self.group_read.and_then(|read| i64::try_from(read).ok());
        match read.filter(|_| self.target.knows_stream_counters()) {
            Some(read) => {
                let read = read.to_string();
                let all: Vec<&[u8]> = create
                    .into_iter()
                    .chain([&b"ENTRIESREAD"[..], read.as_bytes()])
                    .collect();
                out.request(&all);
            }
            None => out.request(&create),
        }
    }

    fn claim(&self, id: StreamId, out: &mut Frames) -> Result<(), Stop> {
        let place = self.pending.binary_search_by_key(&id, |pending| pending.id);
        let pending = place.ok().and_then(|place| self.pending.get(place));
        let pending = pending.ok_or(damaged("a consumer has an entry that its group has not"))?;
        out.request(&[
            b"XCLAIM",
            &self.key,
            &self.group,
            &self.consumer,
            b"0",
            id.to_string().as_bytes(),
            b"TIME",
            pending.millis.to_string().as_bytes(),
            b"RETRYCOUNT",
            pending.count.to_string().as_bytes(),
            b"FORCE",
            b"JUSTID",
        ]);
        Ok(())
    }

    /// The present entry has all its numbers: its request begins.
    fn open_entry(&mut self, count: u64, out: &mut Frames) -> Result<(), RdbError> {
        let entries = &mut self.entries;
        entries.count = count;
        let same = entries.flags & SAME_FIELDS != 0;
        entries.left = if same { count } else { count * 2 };
        if count == 0 {
            return Err(FIELDS);
        }
        entries.state = EntryPart::Strings;
        if entries.flags & DELETED == 0 {
            let args = usize::try_from(3 + 2 * count).map_err(|_| FIELDS)?;
            out.begin(args);
            out.arg(b"XADD");
            out.arg(&self.key);
            out.arg(entries.id.to_string().as_bytes());
            self.any_entry = true;
        }
        Ok(())
    }

    /// A string of the present entry begins: before a value its field, where that stands elsewhere.
    fn open_string(&self, length: u64, out: &mut Frames) -> Result<(), RdbError> {
        within(
            "a field or value of a stream",
            length,
            crate::resp::BULK_HARD_MAX as u64,
        )?;
        let entries = &self.entries;
        if entries.flags & DELETED != 0 {
            return Ok(());
        }
        if entries.flags & SAME_FIELDS != 0 {
            let at = usize::try_from(entries.count - entries.left).unwrap_or(usize::MAX);
            out.arg(entries.fields.get(at).ok_or(FIELDS)?);
        }
        out.begin_arg(length);
        Ok(())
    }

    fn close_string(&mut self, out: &mut Frames) {
        let entries = &mut self.entries;
        let shown = entries.flags & DELETED == 0;
        entries.left -= 1;
        if shown {
            out.end_arg();
        }
        if entries.left == 0 {
            entries.state = EntryPart::Back;
            if shown {
                out.end();
            }
        }
    }
}

const FIELDS: RdbError = RdbError::Damaged("a stream's entry with an impossible number of fields");
const ENTRY: RdbError = RdbError::Damaged("a stream's entry has a string where a number belongs");

impl Entries {
    fn begin(&mut self, base: StreamId) {
        *self = Self {
            base,
            ..Self::default()
        };
    }
}

impl Elements for StreamWriter {
    fn number(&mut self, number: i64, out: &mut Frames) -> Result<(), RdbError> {
        let entries = &mut self.entries;
        entries.state = match entries.state {
            EntryPart::Valid => EntryPart::Deleted,
            EntryPart::Deleted => EntryPart::FieldCount,
            EntryPart::FieldCount => {
                entries.left = count(number)?;
                if number == 0 {
                    EntryPart::FieldsEnd
                } else {
                    EntryPart::Fields
                }
            }
            EntryPart::FieldsEnd | EntryPart::Back => EntryPart::Flags,
            EntryPart::Flags => {
                entries.flags = number;
                EntryPart::Ms
            }
            EntryPart::Ms => {
                entries.id.ms = entries.base.ms.wrapping_add(number.cast_unsigned());
                EntryPart::Seq
            }
            EntryPart::Seq => {
                entries.id.seq = entries.base.seq.wrapping_add(number.cast_unsigned());
                if entries.flags & SAME_FIELDS != 0 {
                    let count = entries.fields.len() as u64;
                    return self.open_entry(count, out);
                }
                EntryPart::Count
            }
            EntryPart::Count => {
                let count = count(number)?;
                return self.open_entry(count, out);
            }
            EntryPart::Fields | EntryPart::Strings => {
                let text = number.to_string();
                self.begin_element(text.len() as u64, out)?;
                self.bytes(text.as_bytes(), out)?;
                return self.end(out);
            }
        };
        Ok(())
    }

    fn begin_element(&mut self, length: u64, out: &mut Frames) -> Result<(), RdbError> {
        match self.entries.state {
            EntryPart::Fields => {
                let bytes = self.entries.fields_bytes.saturating_add(length);
                within("the fields of a stream", bytes, self.limits.name_bytes)?;
                self.entries.fields_bytes = bytes;
                self.entries.fields.push(Vec::new());
                Ok(())
            }
            EntryPart::Strings => self.open_string(length, out),
            EntryPart::Valid
            | EntryPart::Deleted
            | EntryPart::FieldCount
            | EntryPart::FieldsEnd
            | EntryPart::Flags
            | EntryPart::Ms
            | EntryPart::Seq
            | EntryPart::Count
            | EntryPart::Back => Err(ENTRY),
        }
    }

    fn bytes(&mut self, bytes: &[u8], out: &mut Frames) -> Result<(), RdbError> {
        if self.entries.state == EntryPart::Fields {
            if let Some(field) = self.entries.fields.last_mut() {
                field.extend_from_slice(bytes);
            }
        } else if self.entries.flags & DELETED == 0 {
            out.piece(bytes);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Frames) -> Result<(), RdbError> {
        if self.entries.state == EntryPart::Fields {
            self.entries.left -= 1;
            if self.entries.left == 0 {
                self.entries.state = EntryPart::FieldsEnd;
            }
        } else {
            self.close_string(out);
        }
        Ok(())
    }
}

/// A number of fields.
fn count(number: i64) -> Result<u64, RdbError> {
    match u64::try_from(number) {
        Ok(count) if number <= FIELDS_MAX => Ok(count),
        _ => Err(FIELDS),
    }
}
