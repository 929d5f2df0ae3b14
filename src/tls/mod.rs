//! TLS: from PEM files to what listens and connects, exchanged while it is used.
//!
//! ```text
//!  certificate, key, CA files ─▶ files.rs: read, checked ─▶ ServerSide ─▶ Acceptor  ─▶ handshake.rs: one a connection
//!                                                       └─▶ ClientSide ─▶ Connector ─▶ nodes, etcd
//!                                    dates.rs: when a certificate ends
//! ```
//!
//! Files are read when the config is, and never on the way of a connection: what is served is one immutable set-up,
//! taken as a whole by each handshake. A reload puts another one in its place; connections that are there keep
//! theirs to their end.

mod client;
mod dates;
mod files;
mod handshake;
mod server;

#[cfg(test)]
mod tests;

pub use client::{ClientSide, Connector};
pub use files::{Part, TlsError};
pub use handshake::{Listening, Secure};
pub use server::{Acceptor, ClientCertificates, ServerSide};

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
