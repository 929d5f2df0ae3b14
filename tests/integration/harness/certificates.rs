//! An authority and certificates of it, made anew for each test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::process::Scratch;

/// Certificates and keys as PEM files, all of one authority.
pub(crate) struct Certificates {
    dir: Scratch,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let dir = Scratch::new("tls");
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate for its own issuer if the names are equal.
        let name = format!("authority {}", fastrand::u64(..));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.file("ca.crt"), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.file(file).display().to_string()
    }

    pub(crate) fn ca(&self) -> String {
        self.path("ca.crt")
    }

    /// Makes `NAME.crt` and `NAME.key` for a host; what was there under that name is replaced.
    pub(crate) fn make(&self, name: &str, host: &str) -> (String, String) {
        self.make_until(name, host, 2050)
    }

    /// The same, ending in that year.
    pub(crate) fn make_until(&self, name: &str, host: &str, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
        );
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// What a client needs that trusts this authority, and shows the certificate of that name.
    pub(crate) fn client(&self, own: Option<&str>) -> Arc<ClientConfig> {
        let mut trusted = RootCertStore::empty();
        trusted
            .add(CertificateDer::from_pem_file(self.ca()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |kind: &str| PathBuf::from(self.path(&format!("{name}.{kind}")));
                let certificate = CertificateDer::from_pem_file(file("crt")).unwrap();
                let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        })
    }
}
