//! The keys about TLS: the files are read with the config, so that whatever is wrong with them is told with its line.

use super::mistake::Origin;
use super::raw::Raw;
use super::validate::Reader;
use super::{Config, Outbound, StorePlace, Tls};
use crate::tls::{ClientCertificates, ClientSide, Part, ServerSide, TlsError};
use std::path::PathBuf;

/// The names of the keys of one kind of connection.
#[derive(Clone, Copy)]
pub(super) struct OutboundKeys {
    on: &'static str,
    ca_file: &'static str,
    certificate_file: &'static str,
    key_file: &'static str,
    server_name: Option<&'static str>,
}

pub(super) const NODES: OutboundKeys = OutboundKeys {
    on: "nodes.tls",
    ca_file: "nodes.tls_ca_file",
    certificate_file: "nodes.tls_certificate_file",
    key_file: "nodes.tls_key_file",
    server_name: Some("nodes.tls_server_name"),
};

pub(super) const STORE: OutboundKeys = OutboundKeys {
    on: "topology.store_tls",
    ca_file: "topology.store_ca_file",
    certificate_file: "topology.store_certificate_file",
    key_file: "topology.store_key_file",
    server_name: None,
};

impl Tls {
    /// Whether a client that comes to a listener that speaks TLS has shown who it is.
    #[must_use]
    pub fn requires_client_certificates(&self) -> bool {
        self.client_ca_file.is_some() && self.client_certificates == ClientCertificates::Required
    }
}

impl Reader<'_> {
    pub(super) fn tls(&mut self) -> Tls {
        let (certificate, key, ca) = ("tls.certificate_file", "tls.key_file", "tls.client_ca_file");
        let words = [
            ("required", ClientCertificates::Required),
            ("optional", ClientCertificates::Optional),
        ];
        let client_certificates = self.choice("tls.client_certificates", &words);
        let (files, own) = self.own_certificate(certificate, key);
        let client_ca = self.file(ca);
        if let Some((_, origin)) = client_ca.as_ref().filter(|_| files == (None, None)) {
            let what = format!("{ca} is set without {certificate}");
            self.raw
                .tell(origin.clone(), what, "add the listeners' certificate and its key");
        }
        let client_ca_file = client_ca.map(|(path, _)| path);
        let side = own.and_then(|own| {
            let clients = client_ca_file.as_deref().map(|file| (file, client_certificates));
            ServerSide::read(&own, clients)
                .map_err(|error| {
                    let path = match error.part {
                        Part::Certificate | Part::ServerName => certificate,
                        Part::Key => key,
                        Part::Authorities => ca,
                    };
                    self.tell_file(path, &error);
                })
                .ok()
        });
        let (certificate_file, key_file) = files;
        Tls {
            certificate_file,
            key_file,
            client_ca_file,
            client_certificates,
            side,
        }
    }

    pub(super) fn outbound(&mut self, keys: OutboundKeys) -> Outbound {
        let on = self.switch(keys.on);
        let ca_file = self.file(keys.ca_file).map(|(path, _)| path);
        let (files, own) = self.own_certificate(keys.certificate_file, keys.key_file);
        let server_name = keys.server_name.and_then(|name| self.given(name));
        let server_name = server_name
            .map(|given| given.text)
            .filter(|name| !name.is_empty());
        let mut side = None;
        match &ca_file {
            None if on => {
                let what = format!("{} is true without {}", keys.on, keys.ca_file);
                let hint = "name the file with the authorities that the other side's certificates come from";
                self.raw.tell(self.raw.origin(keys.on), what, hint);
            }
            Some(ca) if on && files.0.is_some() == own.is_some() => {
                match ClientSide::read(ca, own.as_ref(), server_name.as_deref()) {
                    Ok(read) => side = Some(read),
                    Err(error) => {
                        let path = match error.part {
                            Part::Certificate => keys.certificate_file,
                            Part::Key => keys.key_file,
                            Part::Authorities => keys.ca_file,
                            Part::ServerName => keys.server_name.unwrap_or(keys.ca_file),
                        };
                        self.tell_file(path, &error);
                    }
                }
            }
            None | Some(_) => {}
        }
        let (certificate_file, key_file) = files;
        Outbound {
            on,
            ca_file,
            certificate_file,
            key_file,
            server_name,
            side,
        }
    }

    /// A certificate's file and its key's, each as given and both together, if there are both.
    #[expect(
        clippy::type_complexity,
        reason = "two views of the same two paths, taken apart at once"
    )]
    fn own_certificate(
        &mut self,
        certificate: &'static str,
        key: &'static str,
    ) -> ((Option<PathBuf>, Option<PathBuf>), Option<(PathBuf, PathBuf)>) {
        let files = (self.file(certificate), self.file(key));
        let lacking = match &files {
            (Some((_, origin)), None) => Some((origin.clone(), certificate, key)),
            (None, Some((_, origin))) => Some((origin.clone(), key, certificate)),
            (Some(_), Some(_)) | (None, None) => None,
        };
        if let Some((origin, there, lacking)) = lacking {
            let what = format!("{there} is set without {lacking}");
            self.raw
                .tell(origin, what, "a certificate is of use only with its key");
        }
        let (certificate, key) = (files.0.map(|(path, _)| path), files.1.map(|(path, _)| path));
        let both = certificate.clone().zip(key.clone());
        ((certificate, key), both)
    }

    fn tell_file(&mut self, path: &str, error: &TlsError) {
        let origin = self.raw.origin(path);
        self.raw.tell(origin, format!("{path}: {error}"), error.hint);
    }
}

/// Tells what does not go together.
pub(super) fn check(raw: &mut Raw, config: &Config) {
    let (proxy, admin) = (&config.proxy, &config.admin);
    let data = proxy
        .listen_tls
        .iter()
        .map(|address| ("proxy.listen_tls", address));
    let others = [
        ("admin.listen_tls", admin.listen_tls.as_ref()),
        ("admin.http_tls", admin.http_tls.as_ref()),
    ];
    let others = others
        .into_iter()
        .filter_map(|(path, address)| address.map(|address| (path, address)));
    let listeners: Vec<_> = data.chain(others).collect();
    for (path, address) in &listeners {
        if address.unix_path().is_some() {
            let what = format!("{path} {address} is a path, and TLS is spoken over TCP only");
            raw.tell(raw.origin(path), what, "write host:port");
        }
    }
    let given = config.tls.certificate_file.is_some() || config.tls.key_file.is_some();
    if let Some((path, _)) = listeners.first().filter(|_| !given) {
        let what = format!("{path} is set without tls.certificate_file");
        let hint = "add [tls] with certificate_file and key_file";
        raw.tell(raw.origin(path), what, hint);
    }
    if config.topology.store_tls.on && matches!(config.topology.store, StorePlace::File(_)) {
        let origin = match raw.origin("topology.store_tls") {
            Origin::Whole => raw.origin("topology.store"),
            origin => origin,
        };
        let what = "topology.store_tls is true, and the store is a file";
        raw.tell(origin, what, "remove the key, or use an etcd:// store");
    }
}

/// What has no effect.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let admin = &config.admin;
    let listens =
        !config.proxy.listen_tls.is_empty() || admin.listen_tls.is_some() || admin.http_tls.is_some();
    if config.tls.side.is_some() && !listens {
        warnings.push("[tls] has no effect: no listener speaks TLS, see proxy.listen_tls".to_owned());
    }
    for (keys, outbound) in [(NODES, &config.nodes.tls), (STORE, &config.topology.store_tls)] {
        if !outbound.on && (outbound.ca_file.is_some() || outbound.certificate_file.is_some()) {
            warnings.push(format!("{} has no effect: {} is false", keys.ca_file, keys.on));
        }
    }
    warnings
}
