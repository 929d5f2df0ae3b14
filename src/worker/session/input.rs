//! From a client's bytes to its requests: scanned once, handled in place, kept only when they have not ended.
//!
//! ```text
//!  scratch (shared by all clients of the worker) ──scan──▶ request, handled where it lies
//!        └── what is left of the last request ──▶ the client's own buffer, read into directly from then on
//! ```

use bytes::BufMut as _;

use super::client::{Partial, Pause, Special};
use crate::metrics::{Disconnect, Limit};
use crate::resp::{self, ArgRange, ProtocolError, RequestLimits, RequestScanner, Scan};
use crate::worker::engine::Engine;

/// Reply bytes that a client may leave unread before it has given a password.
const BEFORE_AUTH_OUTPUT: usize = 8 * 1024;
/// A buffer for a large request grows by what has come, at most by this much at once.
const GROWTH_MAX: usize = 4 * 1024 * 1024;
const GROWTH_MIN: usize = 16 * 1024;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Taken {
    /// It is handled, or on its way.
    Yes,
    /// It must wait; the same bytes are to be offered again.
    NotNow,
}

impl Engine {
    /// Handles the requests in `chunk`, which the client does not own; keeps what is left.
    pub(in crate::worker) fn client_input(&mut self, index: usize, chunk: &[u8]) {
        let mut scanner = RequestScanner::default();
        let mut args = std::mem::take(&mut self.args);
        args.clear();
        let (used, missing) = self.handle_requests(index, chunk, &mut scanner, &mut args);
        let left = &chunk[used..];
        let client = &mut self.clients[index];
        client.end_of_read();
        if left.is_empty() || client.closed.is_some() || client.closing.is_some() {
            self.args = args;
            return;
        }
        let mut buf = self.spares.take();
        buf.extend_from_slice(left);
        let client = &mut self.clients[index];
        client.partial = Some(Box::new(Partial {
            buf,
            start: 0,
            scanner,
            args,
            missing,
            counted: 0,
        }));
        self.account_held(index);
    }

    /// Handles what can be handled now of the bytes that the client owns.
    pub(super) fn resume_input(&mut self, index: usize) {
        let Some(mut partial) = self.clients[index].partial.take() else {
            return;
        };
        let (used, missing) = {
            let Partial {
                buf,
                start,
                scanner,
                args,
                ..
            } = &mut *partial;
            self.handle_requests(index, &buf[*start..], scanner, args)
        };
        partial.start += used;
        partial.missing = missing;
        let client = &mut self.clients[index];
        client.end_of_read();
        let ended = partial.start == partial.buf.len();
        if ended || client.closed.is_some() || client.closing.is_some() {
            self.held_bytes -= partial.counted;
            self.spares.give(partial.buf);
            return;
        }
        if partial.start > partial.buf.len() / 2 {
            partial.buf.drain(..partial.start);
            partial.start = 0;
        }
        client.partial = Some(partial);
        self.account_held(index);
    }

    /// Makes room in the client's buffer for the next read. `false` if the memory for requests is used up.
    pub(super) fn reserve_input(&mut self, index: usize) -> bool {
        let Some(partial) = &mut self.clients[index].partial else {
            return true;
        };
        let growth = partial
            .missing
            .clamp(GROWTH_MIN, GROWTH_MAX.max(partial.buf.len().min(GROWTH_MAX)));
        partial.buf.reserve(growth);
        debug_assert!(partial.buf.chunk_mut().len() >= growth);
        self.account_held(index);
        if self.held_bytes <= self.settings.limits.request_memory {
            return true;
        }
        self.metrics.limits[Limit::RequestBytesTotal].inc();
        let generation = self.clients[index].generation;
        self.close_client(index, generation, Disconnect::Memory);
        false
    }

    /// Brings the worker's total up to what the client's buffer has become.
    fn account_held(&mut self, index: usize) {
        if let Some(partial) = &mut self.clients[index].partial {
            let holds = partial.buf.capacity();
            self.held_bytes = self.held_bytes - partial.counted + holds;
            partial.counted = holds;
        }
    }

    /// Handles requests until the bytes end or one has to wait. Returns the bytes used, and those known to be missing.
    fn handle_requests(
        &mut self,
        index: usize,
        bytes: &[u8],
        scanner: &mut RequestScanner,
        args: &mut Vec<ArgRange>,
    ) -> (usize, usize) {
        let mut at = 0;
        while at < bytes.len() {
            if at > 0 {
                self.go_on(index);
            }
            if !self.takes_requests(index) {
                return (at, 0);
            }
            let rest = &bytes[at..];
            let limits = if self.clients[index].authenticated {
                self.settings.limits.request
            } else {
                RequestLimits::BEFORE_AUTH
            };
            match scanner.scan(rest, args, &limits) {
                Scan::Frame { end } => {
                    let taken = self.handle_request(index, &rest[..end], args);
                    scanner.reset();
                    args.clear();
                    if taken == Taken::NotNow {
                        return (at, 0);
                    }
                    at += end;
                }
                Scan::Empty { end } => {
                    // As in Redis: nothing is a request too.
                    self.clients[index].special.unset(Special::SKIPS_NEXT);
                    scanner.reset();
                    args.clear();
                    at += end;
                }
                Scan::Inline { end } => {
                    scanner.reset();
                    args.clear();
                    if self.handle_inline(index, &rest[..end]) == Taken::NotNow {
                        return (at, 0);
                    }
                    at += end;
                }
                Scan::Incomplete { at_least } => {
                    self.go_on(index);
                    return (at, at_least);
                }
                Scan::Fail(error) => {
                    self.protocol_error(index, &error);
                    return (bytes.len(), 0);
                }
            }
        }
        self.go_on(index);
        (at, 0)
    }

    /// What a client waited for has come: its next request may wait anew.
    #[inline]
    fn go_on(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.pause != Pause::No {
            // To wait for the end of a pause is no idleness.
            if client.pause == Pause::Clients {
                client.active_ms = self.shared.now_ms();
            }
            client.pause = Pause::No;
            client.refuse_when_full = false;
        }
    }

    /// A line of words becomes the frame that a client library would have sent.
    fn handle_inline(&mut self, index: usize, line: &[u8]) -> Taken {
        let mut frame = Vec::new();
        if let Err(error) = resp::inline::to_frame(line, &mut frame) {
            self.protocol_error(index, &error);
            return Taken::Yes;
        }
        if frame.is_empty() {
            self.clients[index].special.unset(Special::SKIPS_NEXT);
            return Taken::Yes;
        }
        let mut args = Vec::new();
        let limits = RequestLimits {
            inline_max: 0,
            ..self.settings.limits.request
        };
        match RequestScanner::default().scan(&frame, &mut args, &limits) {
            Scan::Frame { .. } => self.handle_request(index, &frame, &args),
            Scan::Fail(error) => {
                self.protocol_error(index, &error);
                Taken::Yes
            }
            Scan::Incomplete { .. } | Scan::Inline { .. } | Scan::Empty { .. } => Taken::Yes,
        }
    }

    /// The one error after which a client is closed, said in its turn.
    #[cold]
    fn protocol_error(&mut self, index: usize, error: &ProtocolError) {
        if let Some(limit) = limit_of(error) {
            self.metrics.limits[limit].inc();
        }
        match error.reply() {
            Some(line) => {
                self.answer_error(index, &line);
                self.clients[index].closing = Some(Disconnect::ProtocolError);
            }
            None => {
                let generation = self.clients[index].generation;
                let why = if *error == ProtocolError::TlsHello {
                    Disconnect::TlsHello
                } else {
                    Disconnect::ProtocolError
                };
                self.close_client(index, generation, why);
            }
        }
    }

    /// Whether the next request of a client may be handled now; notes why not.
    #[inline]
    fn takes_requests(&mut self, index: usize) -> bool {
        let limits = &self.settings.limits;
        let client = &mut self.clients[index];
        if client.closing.is_some() || client.closed.is_some() {
            return false;
        }
        let output = client.output_bytes();
        let pause = if client.slots.len() >= limits.in_flight
            || client.request_bytes >= limits.in_flight_bytes
        {
            Some(Limit::InFlight)
        } else if output >= limits.output_soft || (!client.authenticated && output >= BEFORE_AUTH_OUTPUT) {
            Some(Limit::OutputSoft)
        } else {
            None
        };
        let Some(limit) = pause else {
            return true;
        };
        if client.pause != Pause::Limits {
            client.pause = Pause::Limits;
            self.metrics.limits[limit].inc();
        }
        false
    }
}

/// The limit that a request has broken, if its error is (as a rule) about one.
#[cold]
fn limit_of(error: &ProtocolError) -> Option<Limit> {
    match error {
        ProtocolError::UnauthenticatedMultibulkLength | ProtocolError::UnauthenticatedBulkLength => {
            Some(Limit::Unauthenticated)
        }
        ProtocolError::InvalidMultibulkLength => Some(Limit::RequestArgs),
        ProtocolError::InvalidBulkLength | ProtocolError::TooBigRequest => Some(Limit::RequestBulk),
        ProtocolError::TooBigInline => Some(Limit::RequestInline),
        ProtocolError::ExpectedBulk(_)
        | ProtocolError::ExpectedMultibulk(_)
        | ProtocolError::InvalidCrlf
        | ProtocolError::UnbalancedQuotes
        | ProtocolError::HttpLike
        | ProtocolError::TlsHello => None,
    }
}
