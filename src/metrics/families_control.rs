//! The families about what the control side does for all workers: TLS handshakes, certificates, the config.

use super::facts::Certificate;
use super::family::{CERTIFICATE, Family, HANDSHAKE, RELOAD, counter, gauge};
use super::labels::Handshake;
use super::read::each_cell;

/// The families about these.
pub(super) static FAMILIES: &[Family] = &[
    counter(
        "preshard_tls_handshakes_total",
        &[HANDSHAKE],
        "Handshakes of clients that came to a port that speaks TLS, by how they ended.",
        |s, out| {
            each_cell(s, out, |w, ended: Handshake| &w.handshakes[ended]);
        },
    ),
    gauge(
        "preshard_tls_certificate_expiry_timestamp_seconds",
        &[CERTIFICATE],
        "Unix time at which a certificate of preshard's own ends; a certificate that is not set has no row.",
        |s, out| {
            for which in Certificate::ALL {
                if let Some(ends_at) = s.facts.certificate_end(which) {
                    out.count(&[which.name()], ends_at);
                }
            }
        },
    ),
    counter(
        "preshard_config_reloads_total",
        &[RELOAD],
        "Reloads of the config, by how they ended.",
        |s, out| {
            let (ok, failed) = s.facts.config_reloads();
            out.count(&["ok"], ok);
            out.count(&["failed"], failed);
        },
    ),
    gauge(
        "preshard_config_last_success_timestamp_seconds",
        &[],
        "Unix time at which a config was put in force last: at the start, or by a reload.",
        |s, out| {
            out.count(&[], s.facts.config_loaded_at());
        },
    ),
    gauge(
        "preshard_config_restart_pending",
        &[],
        "Keys whose value in the file waits for a restart.",
        |s, out| {
            out.count(&[], s.facts.restart_pending());
        },
    ),
];
