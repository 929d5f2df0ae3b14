//! The connecting side: towards nodes, towards etcd, and `preshard admin`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{self, Part, Sum, TlsError};
use super::provider;

/// One set-up of the connecting side.
#[derive(Clone)]
pub struct ClientSide {
    config: Arc<ClientConfig>,
    /// The name that the other side's certificate must have; none: the host that is connected to.
    server_name: Option<ServerName<'static>>,
    /// Unix time at which its own certificate ends, if it has one.
    pub ends_at: Option<u64>,
    sum: [u8; 32],
}

impl ClientSide {
    /// Reads the files: the authorities that the other side's certificate must come from, and the own certificate with
    /// its key.
    ///
    /// # Errors
    /// A file that is missing, that holds something else, that does not fit the other, or that has expired; a name
    /// that is none.
    pub fn read(
        ca: &Path,
        own: Option<&(PathBuf, PathBuf)>,
        server_name: Option<&str>,
    ) -> Result<Self, TlsError> {
        let mut sum = Sum::default();
        let authorities = files::authorities(ca, &mut sum)?;
        let builder = builder(Part::Authorities)?.with_root_certificates(authorities);
        let (config, ends_at) = own_certificate(builder, own, &mut sum)?;
        sum.note(server_name.unwrap_or_default().as_bytes());
        let server_name = server_name.map(|name| {
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError {
                part: Part::ServerName,
                what: format!("'{name}' is no name of a server"),
                hint: "write a host name or an IP address, as it stands in the certificate",
            })
        });
        Ok(Self {
            config: Arc::new(config),
            server_name: server_name.transpose()?,
            ends_at,
            sum: sum.end(),
        })
    }

    /// One that takes whatever certificate the other side shows. Who stands between the two can read and change all.
    ///
    /// # Errors
    /// As [`Self::read`], about the own certificate.
    pub fn trusting_anybody(own: Option<&(PathBuf, PathBuf)>) -> Result<Self, TlsError> {
        let mut sum = Sum::default();
        let builder = builder(Part::Certificate)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())));
        let (config, ends_at) = own_certificate(builder, own, &mut sum)?;
        Ok(Self {
            config: Arc::new(config),
            server_name: None,
            ends_at,
            sum: sum.end(),
        })
    }

    fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "TLS needs a host name or an IP address",
                )
            }),
        }
    }

    /// A connection to `host` that has not begun.
    ///
    /// # Errors
    /// The host is no name that a certificate can have.
    pub fn connection(&self, host: &str) -> io::Result<ClientConnection> {
        ClientConnection::new(Arc::clone(&self.config), self.name(host)?).map_err(io::Error::other)
    }

    /// The handshake over a connected socket.
    ///
    /// # Errors
    /// The network failed, or the other side is not who it should be.
    pub async fn connect<S>(&self, host: &str, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name(host)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        Box::pin(connector.connect(name, socket)).await
    }
}

type Builder<State> = rustls::ConfigBuilder<ClientConfig, State>;

fn builder(part: Part) -> Result<Builder<rustls::WantsVerifier>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError {
            part,
            what: error.to_string(),
            hint: "",
        })
}

fn own_certificate(
    builder: Builder<rustls::client::WantsClientCert>,
    own: Option<&(PathBuf, PathBuf)>,
    sum: &mut Sum,
) -> Result<(ClientConfig, Option<u64>), TlsError> {
    let Some(own) = own else {
        return Ok((builder.with_no_client_auth(), None));
    };
    let (certificate, key) = files::pair(own);
    let identity = files::identity(certificate, key, sum)?;
    let config = builder
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(|error| files::refused(&error, (certificate, key)))?;
    Ok((config, Some(identity.ends_at)))
}

impl PartialEq for ClientSide {
    fn eq(&self, other: &Self) -> bool {
        self.sum == other.sum
    }
}

impl Eq for ClientSide {}

impl fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSide")
            .field("server_name", &self.server_name)
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

/// A [`ClientSide`] that can be exchanged.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ArcSwap<ClientSide>>);

impl Connector {
    /// One that begins with this set-up.
    #[must_use]
    pub fn new(side: ClientSide) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(side)))
    }

    /// From now on new connections are made with another set-up.
    pub fn exchange(&self, side: ClientSide) {
        self.0.store(Arc::new(side));
    }

    /// The set-up for one connection.
    #[must_use]
    pub fn current(&self) -> Arc<ClientSide> {
        self.0.load_full()
    }
}

/// Takes every certificate; still, the other side must have its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
