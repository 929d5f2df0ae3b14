//! Frames: where a request or a reply ends, what it says, and how replies of our own are written.
//!
//! ```text
//!  client ──bytes──▶ RequestScanner ──Frame──▶ Args (a view, no copy) ──▶ command, route
//!                        │  └─Inline─▶ inline::to_frame ─┘   (words → the canonical frame)
//!                        └─Fail──▶ ProtocolError ──▶ one error line, or nothing; then close
//!
//!  node ───bytes──▶ ReplyScanner ──boundary──▶ forwarded as it came
//!                        ├─elements──▶ merge by splicing raw elements
//!                        ├─decode────▶ Value ──▶ merges, handshakes, control plane
//!                        └─BadReply──▶ the link is in doubt: close it
//!
//!  ourselves ──Value / write_*──▶ RESP2 or RESP3 bytes
//! ```
//!
//! Three rules hold in this room.
//!
//! 1. **Forwarded bytes are canonical because only canonical frames are accepted.** A length with a leading zero, a
//!    lone LF or a bulk that does not end where it said is refused here, so a node never reads a request in another
//!    way than we did.
//! 2. **Nothing recurses and nothing is reserved ahead.** Nesting is a counter, and an announced length is a number
//!    until its bytes have arrived.
//! 3. **Nothing is read twice.** A frame that arrives in pieces is resumed; at most one length line is read again.
//!
//! The crate `redis-protocol` decodes the single values of a reply for us and encodes those that we make; it never
//! sees a byte that these scanners have not judged, and it is the oracle of their tests.

mod args;
mod decode;
mod elements;
mod error;
pub mod inline;
mod number;
mod reply;
mod request;
mod value;
mod write;

pub use args::Args;
pub use decode::{DecodeError, DecodeLimits, decode};
pub use elements::{Elements, bulk, elements};
pub use error::{BadReply, ProtocolError};
pub use reply::ReplyScanner;
pub use request::{ArgRange, RequestLimits, RequestScanner, Scan};
pub use value::{Protocol, Value};
pub use write::{
    error_line, write_array_header, write_bulk, write_bulk_int, write_bulk_parts, write_double, write_error,
    write_int, write_map_header, write_null, write_push_header, write_request, write_simple,
};

/// The longest bulk that anybody may send: Redis's own default of `proto-max-bulk-len`.
pub const BULK_HARD_MAX: usize = 512 * 1024 * 1024;

#[cfg(test)]
mod bad_input_tests;
#[cfg(test)]
mod property_tests;
