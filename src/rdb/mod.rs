//! Snapshots and replication streams of a source, as requests for a target: the reading half of moving a shard.
//!
//! ```text
//!  source ──PSYNC──▶ snapshot ─bytes─▶ RdbReader ────────────▶ Frames ──▶ target
//!                                        │ small values as payloads (RESTORE), big ones in pieces
//!                                        ▼ what was pushed behind the end
//!                    stream ───bytes─▶ StreamReader ─request, end offset─▶ StreamFilter ─▶ Frames ──▶ target
//!                                                                            └─▶ ignore · restart · alarm
//! ```
//!
//! Beside them [`DumpReader`] takes values as `DUMP` gives them, and [`Digest`] tells whether two servers hold the same value.
//!
//! Nothing here opens a socket or reads a clock: bytes and the time of their receipt are arguments. Both readers go on at
//! any byte and hold a bounded number of them ([`Limits`], [`StreamLimits`]); how much is passed on at once is the
//! writer's to say ([`Event::Full`]).
//!
//! Known are the formats of Redis 5 to 8.2 and of Valkey 7.2 to 9.1. What is not known is refused by its number.

mod collection;
mod crc64;
#[cfg(test)]
mod damage_tests;
mod decode;
mod digest;
#[cfg(test)]
mod digest_tests;
mod dumps;
mod error;
mod expiry;
mod filter;
#[cfg(test)]
mod filter_tests;
mod frames;
mod grammar;
mod hold;
mod input;
mod limits;
mod lzf;
mod payload;
mod reader;
#[cfg(test)]
mod reader_tests;
mod replication;
mod rewrite;
mod stream_value;
mod target;
#[cfg(test)]
mod testing;
mod text;
mod unpack;

pub use digest::{Digest, unparked_field, unparked_key};
pub use dumps::DumpReader;
pub use error::{ModuleName, RdbError};
pub use expiry::{Expiries, PARK_FIELD_MS, PARK_KEY_MS, Ttl};
pub use filter::{Asked, Outcome, Restart, StreamFilter, StreamOptions};
pub use frames::{Databases, Debt, Frames};
pub use limits::Limits;
pub use reader::{CopyOptions, Counts, Event, RdbReader, Values};
pub use replication::{StreamError, StreamLimits, StreamReader, StreamRequest};
pub use target::{Family, Target};
