//! Files that are right, and every way in which they are wrong.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;

/// A folder with an authority and certificates of it.
struct Made {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Made {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("preshard-tls-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join("ca.crt"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a certificate and its key, which ends in that year.
    fn certificate(&self, name: &str, ends: i32) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
        );
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn good_files_are_taken_and_the_end_of_the_certificate_is_known() {
    let made = Made::new("good");
    let files = made.certificate("server", 2050);
    let side = ServerSide::read(&files, None).unwrap();
    assert_eq!(side.ends_at, 2_524_608_000);
    assert_eq!(side, ServerSide::read(&files, None).unwrap());
    let ca = made.path("ca.crt");
    let required = ServerSide::read(&files, Some((&ca, ClientCertificates::Required))).unwrap();
    let optional = ServerSide::read(&files, Some((&ca, ClientCertificates::Optional))).unwrap();
    assert!(
        side != required && required != optional,
        "a reload would not see the change"
    );
    let client = ClientSide::read(&ca, Some(&files), Some("localhost")).unwrap();
    assert_eq!(client.ends_at, Some(side.ends_at));
    assert!(client != ClientSide::read(&ca, Some(&files), None).unwrap());
    assert!(!format!("{side:?} {client:?}").contains("PRIVATE"));
}

#[test]
fn every_wrong_file_is_named_with_what_is_wrong() {
    let made = Made::new("wrong");
    let (certificate, key) = made.certificate("server", 2050);
    let (other, other_key) = made.certificate("other", 2050);
    let expired = made.certificate("expired", 2001);
    fs::write(made.path("text"), "hello\n").unwrap();
    let (ca, text, none) = (made.path("ca.crt"), made.path("text"), made.path("none"));
    let server = |certificate: &Path, key: &Path| {
        ServerSide::read(&(certificate.to_owned(), key.to_owned()), None).unwrap_err()
    };
    let client = |ca: &Path, name| ClientSide::read(ca, None, name).unwrap_err();
    let both = (certificate.clone(), key.clone());
    let of_clients = ServerSide::read(&both, Some((&text, ClientCertificates::Required))).unwrap_err();
    for (error, part, words) in [
        (server(&none, &key), Part::Certificate, "No such file"),
        (server(&certificate, &none), Part::Key, "No such file"),
        (server(&text, &key), Part::Certificate, "no certificate in it"),
        (server(&certificate, &text), Part::Key, "no private key in it"),
        (server(&key, &key), Part::Certificate, "no certificate in it"),
        (
            server(&certificate, &other_key),
            Part::Key,
            "does not belong to the certificate",
        ),
        (
            server(&other, &key),
            Part::Key,
            "does not belong to the certificate",
        ),
        (server(&expired.0, &expired.1), Part::Certificate, "has expired"),
        (of_clients, Part::Authorities, "no certificate in it"),
        (client(&none, None), Part::Authorities, "No such file"),
        (
            client(&ca, Some("no name")),
            Part::ServerName,
            "no name of a server",
        ),
    ] {
        assert!(error.what.contains(words), "{words}: {error}");
        assert_eq!(error.part, part, "{error}");
    }
}
