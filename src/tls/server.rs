//! The listening side.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::files::{self, Part, Sum, TlsError};
use super::provider;

/// Whether clients must show a certificate, where there are authorities to judge it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Who has none is refused.
    #[default]
    Required,
    /// Who has none may come, who has a wrong one not.
    Optional,
}

/// One set-up of the listening side.
#[derive(Clone)]
pub struct ServerSide {
    config: Arc<ServerConfig>,
    /// Unix time at which its certificate ends.
    pub ends_at: u64,
    sum: [u8; 32],
}

impl ServerSide {
    /// Reads the files: certificate with key, and the authorities of clients, if those must show certificates.
    ///
    /// # Errors
    /// A file that is missing, that holds something else, that does not fit the other, or that has expired.
    pub fn read(
        files: &(PathBuf, PathBuf),
        clients: Option<(&Path, ClientCertificates)>,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = files::pair(files);
        let mut sum = Sum::default();
        let identity = files::identity(certificate, key, &mut sum)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| files::refused(&error, (certificate, key)))?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((file, which)) => {
                sum.note(format!("{which:?}").as_bytes());
                builder.with_client_cert_verifier(verifier(file, which, &mut sum)?)
            }
        };
        let config = builder
            .with_single_cert(identity.chain, identity.key)
            .map_err(|error| files::refused(&error, (certificate, key)))?;
        Ok(Self {
            config: Arc::new(config),
            ends_at: identity.ends_at,
            sum: sum.end(),
        })
    }
}

fn verifier(
    file: &Path,
    which: ClientCertificates,
    sum: &mut Sum,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let authorities = files::authorities(file, sum)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider());
    let builder = match which {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError {
        part: Part::Authorities,
        what: format!("CA file {}: {error}", file.display()),
        hint: "name a PEM file with the certificates of your authorities",
    })
}

impl PartialEq for ServerSide {
    fn eq(&self, other: &Self) -> bool {
        self.sum == other.sum
    }
}

impl Eq for ServerSide {}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSide")
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

/// What listeners ask for the set-up of the next connection.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<ArcSwap<ServerSide>>);

impl Acceptor {
    /// One that begins with this set-up.
    #[must_use]
    pub fn new(side: ServerSide) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(side)))
    }

    /// From now on new connections get another set-up.
    pub fn exchange(&self, side: ServerSide) {
        self.0.store(Arc::new(side));
    }

    /// The set-up for one handshake.
    #[must_use]
    pub(super) fn current(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.0.load().config).into()
    }
}
