//! Values as `DUMP` gives them and `RESTORE` takes them: type, raw bytes, RDB version, checksum.
//!
//! The version that a payload carries is the first one that has the type of its value, not the source's: a list that Redis
//! 8.2 wrote is the same list in the format of 7.0, and a server refuses a version above its own without looking
//! further.

use super::crc64::crc64;
use super::error::RdbError;
use super::expiry::Expiry;
use super::frames::Frames;
use super::grammar::Kind;

/// How recently or often a key was used, as the snapshot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) idle_s: Option<u64>,
    pub(super) frequency: Option<u8>,
}

/// Version and checksum.
const FOOTER: usize = 10;

/// Appends `RESTORE key expiry payload ABSTTL …`.
pub(super) fn restore(
    out: &mut Frames,
    key: &[u8],
    kind: &Kind,
    raw: &[u8],
    expiry: Option<Expiry>,
    used: Use,
) {
    let version = kind.since.to_le_bytes();
    let mut checksum = crc64(0, &[kind.number]);
    checksum = crc64(crc64(checksum, raw), &version);
    let recency = match used {
        Use {
            frequency: Some(frequency),
            ..
        } => Some(("FREQ", frequency.to_string())),
        Use {
            idle_s: Some(idle), ..
        } => Some(("IDLETIME", idle.to_string())),
        Use {
            idle_s: None,
            frequency: None,
        } => None,
    };
    out.begin(if recency.is_some() { 7 } else { 5 });
    out.arg(b"RESTORE");
    out.arg(key);
    out.arg(expiry.map_or(0, |expiry| expiry.millis).to_string().as_bytes());
    out.begin_arg((1 + raw.len() + FOOTER) as u64);
    out.piece(&[kind.number]);
    out.piece(raw);
    out.piece(&version);
    out.piece(&checksum.to_le_bytes());
    out.end_arg();
    out.arg(b"ABSTTL");
    if let Some((word, value)) = recency {
        out.arg(word.as_bytes());
        out.arg(value.as_bytes());
    }
    out.end();
}

/// The RDB version that a payload says it has.
pub(super) fn version(payload: &[u8]) -> Option<u16> {
    let [low, high, ..] = *payload.last_chunk::<FOOTER>()?;
    Some(u16::from_le_bytes([low, high]))
}

/// Type and raw bytes of a payload whose checksum is right.
pub(super) fn open(payload: &[u8]) -> Result<(Kind, &[u8]), RdbError> {
    let short = RdbError::Damaged("a payload without an end");
    let (value, footer) = payload.split_last_chunk::<FOOTER>().ok_or(short)?;
    let (number, raw) = value.split_first().ok_or(short)?;
    let [low, high, stated @ ..] = *footer;
    let stated = u64::from_le_bytes(stated);
    let computed = crc64(crc64(0, value), &[low, high]);
    if stated != 0 && stated != computed {
        return Err(RdbError::Checksum { stated, computed });
    }
    Ok((Kind::of(*number, u16::from_le_bytes([low, high]))?, raw))
}
