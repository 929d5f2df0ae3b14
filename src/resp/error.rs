//! What can be wrong with bytes from a client ([`ProtocolError`]) or from a node ([`BadReply`]).
//!
//! The two differ in whom they concern: a client gets Redis's own words and loses its connection; a node's link is
//! closed and its words go to the log only.

use thiserror::Error;

/// A client broke the protocol. The connection is closed after [`ProtocolError::reply`], if there is one.
///
/// Displays the text that follows `-ERR Protocol error: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The number after `*` is not canonical, or above the limit.
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    /// The number after `$` is not canonical, negative, or above the limit.
    #[error("invalid bulk length")]
    InvalidBulkLength,
    /// More arguments than a client may send before it has authenticated.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// A longer argument than a client may send before it has authenticated.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// An argument that is not a bulk.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// A request that begins like a reply or a RESP3 type.
    #[error("expected '*', got '{}'", .0.escape_ascii())]
    ExpectedMultibulk(u8),
    /// A header or a bulk that does not end in CR LF.
    #[error("invalid CRLF in request")]
    InvalidCrlf,
    /// An inline request longer than the limit.
    #[error("too big inline request")]
    TooBigInline,
    /// A quote of an inline request that is not closed, or not followed by a space.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A frame longer than 4 GiB.
    #[error("too big multibulk request")]
    TooBigRequest,
    /// `POST` or `Host:` as the command: a browser was tricked into speaking to us.
    #[error("HTTP request on the Redis port")]
    HttpLike,
    /// The first byte of a TLS handshake.
    #[error("TLS handshake on a port without TLS")]
    TlsHello,
}

impl ProtocolError {
    /// The error line without `-` and CR LF, or `None` where the connection is closed without a word: whatever speaks
    /// HTTP or TLS must not be given bytes that it could take for an answer.
    #[must_use]
    pub fn reply(&self) -> Option<String> {
        match self {
            Self::HttpLike | Self::TlsHello => None,
            Self::InvalidMultibulkLength
            | Self::InvalidBulkLength
            | Self::UnauthenticatedMultibulkLength
            | Self::UnauthenticatedBulkLength
            | Self::ExpectedBulk(_)
            | Self::ExpectedMultibulk(_)
            | Self::InvalidCrlf
            | Self::TooBigInline
            | Self::UnbalancedQuotes
            | Self::TooBigRequest => Some(format!("ERR Protocol error: {self}")),
        }
    }
}

/// A node sent bytes that are no reply. Which reply belongs to which request can no longer be known: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadReply {
    /// A byte that begins no type of RESP2 or RESP3.
    #[error("reply begins with '{}', which is no RESP type", .0.escape_ascii())]
    UnknownType(u8),
    /// A length that is not a canonical number, or negative where that has no meaning.
    #[error("reply of type '{}' has an invalid length", .0.escape_ascii())]
    InvalidLength(u8),
    /// A number, boolean, double or null that is none.
    #[error("reply of type '{}' has an invalid value", .0.escape_ascii())]
    InvalidScalar(u8),
    /// A bulk above 512 MiB.
    #[error("reply announces a bulk of {0} bytes, more than 512 MiB")]
    TooLong(u64),
    /// More elements than anybody can mean.
    #[error("reply announces {0} elements, more than 2^32")]
    TooManyElements(u64),
    /// A status, error or number line that does not end.
    #[error("reply line of type '{}' is longer than its limit", .0.escape_ascii())]
    LineTooLong(u8),
    /// A CR without LF, an LF without CR, or a bulk that does not end where it said.
    #[error("reply has no CR LF where its end was announced")]
    InvalidCrlf,
}
