//! PEM files: what is read, and everything that can be wrong with it before anybody connects.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::dates;

/// A bundle of every authority there is has some 250 KB.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Which of the files is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate.
    Certificate,
    /// Its key.
    Key,
    /// The authorities that the other side's certificate must come from.
    Authorities,
    /// The name that a node's certificate must have.
    ServerName,
}

/// Why files are of no use.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct TlsError {
    /// The one at fault.
    pub part: Part,
    /// What is wrong, with the path.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
}

/// Identifies what was read: equal files have equal sums.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum(Sha256);

impl Sum {
    pub(super) fn note(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(super) fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// A certificate with what stands between it and its authority, and its key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// When the first of the chain ends, in Unix time.
    pub(super) ends_at: u64,
}

/// Reads a certificate chain and its key. Whether the two fit is seen by who uses them.
pub(super) fn identity(certificate: &Path, key: &Path, sum: &mut Sum) -> Result<Identity, TlsError> {
    let (chain, ends_at) = certificates(certificate, Part::Certificate, sum)?;
    let told = |what: String, hint| TlsError {
        part: Part::Key,
        what,
        hint,
    };
    let pem = read(key, Part::Key)?;
    sum.note(&pem);
    let found = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let what = format!("key file {}: there is no private key in it", key.display());
        told(
            what,
            "name a PEM file with a private key that is not protected by a passphrase",
        )
    })?;
    Ok(Identity {
        chain,
        key: found,
        ends_at,
    })
}

/// Reads the authorities that the other side's certificate must come from.
pub(super) fn authorities(file: &Path, sum: &mut Sum) -> Result<RootCertStore, TlsError> {
    let (found, _) = certificates(file, Part::Authorities, sum)?;
    let mut store = RootCertStore::empty();
    for certificate in found {
        store.add(certificate).map_err(|error| TlsError {
            part: Part::Authorities,
            what: format!("CA file {}: {error}", file.display()),
            hint: "name a PEM file with the certificates of your authorities",
        })?;
    }
    Ok(store)
}

/// All certificates of a file, and the Unix time when the first of them ends that does.
fn certificates(
    file: &Path,
    part: Part,
    sum: &mut Sum,
) -> Result<(Vec<CertificateDer<'static>>, u64), TlsError> {
    let kind = kind(part);
    let told = |what: &str, hint| TlsError {
        part,
        what: format!("{kind} file {}: {what}", file.display()),
        hint,
    };
    let pem = read(file, part)?;
    sum.note(&pem);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| told(&format!("it is no PEM: {error}"), "name a PEM file"))?;
    if found.is_empty() {
        let hint = "name a PEM file that has -----BEGIN CERTIFICATE----- in it";
        return Err(told("there is no certificate in it", hint));
    }
    let mut ends_at = u64::MAX;
    for certificate in &found {
        let end = dates::ends_at(certificate);
        let end = end.ok_or_else(|| told("a certificate in it cannot be read", "make it anew"))?;
        ends_at = ends_at.min(end);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // One authority of many may have ended without harm.
    if part == Part::Certificate && ends_at <= now {
        let what = format!("a certificate in it has expired {} ago", ago(now - ends_at));
        return Err(told(&what, "have it renewed; nobody would accept it"));
    }
    Ok((found, ends_at))
}

const fn kind(part: Part) -> &'static str {
    match part {
        Part::Certificate => "certificate",
        Part::Key => "key",
        Part::Authorities => "CA",
        Part::ServerName => "name",
    }
}

fn ago(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600) {
        (0, 0) => format!("{seconds} seconds"),
        (0, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

fn read(file: &Path, part: Part) -> Result<Vec<u8>, TlsError> {
    let told = |what: String, hint| TlsError {
        part,
        what: format!("{} file {}: {what}", kind(part), file.display()),
        hint,
    };
    let unreadable = |error: std::io::Error| {
        told(
            error.to_string(),
            "check that the file exists and preshard's user may read it",
        )
    };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let mut bytes = Vec::new();
    opened
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(told(
            "it is larger than any such file".to_owned(),
            "name a PEM file",
        ));
    }
    Ok(bytes)
}

/// What the library says of a certificate and a key that it does not take.
pub(super) fn refused(error: &rustls::Error, files: (&Path, &Path)) -> TlsError {
    let (certificate, key) = files;
    if let rustls::Error::InconsistentKeys(_) = error {
        return TlsError {
            part: Part::Key,
            what: format!(
                "key file {}: the key does not belong to the certificate in {}",
                key.display(),
                certificate.display()
            ),
            hint: "name the key that the certificate was made for",
        };
    }
    TlsError {
        part: Part::Certificate,
        what: format!(
            "certificate file {} with key file {}: {error}",
            certificate.display(),
            key.display()
        ),
        hint: "use a key of RSA with 2048 bits or more, of ECDSA, or Ed25519",
    }
}

/// A pair of files.
pub(super) fn pair(files: &(PathBuf, PathBuf)) -> (&Path, &Path) {
    (&files.0, &files.1)
}
