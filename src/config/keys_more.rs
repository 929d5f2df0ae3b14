//! Rows of the table of keys: moves of shards, the slow log, TLS, the log.

use super::key::{Key, Kind};
use super::keys::{HOUR, MILLISECOND, MINUTE, SECOND, WEEK, key, unset};
use super::units::{GIB, KIB, MIB};
use std::time::Duration;

/// Sizes of spools end here.
const TIB: u64 = 1024 * GIB;

/// The rows.
pub(super) const ROWS: &[Key] = &[
    key(
        "migration.rate",
        Kind::BytesOrZero(16 * KIB, 100 * GIB, "as fast as both nodes can"),
        "0",
        "Bytes a second that the copy of one move writes to the target; `SHARD MOVE … RATE` says it for one move.",
        "A lower one spares both nodes and the network and makes moves longer. What is written to the moving shards meanwhile \
         comes on top: nothing slows writers down.",
    ),
    key(
        "migration.max_pause",
        Kind::Time(MILLISECOND, Duration::from_secs(3)),
        "500ms",
        "How long a cutover may hold its shards before it is given up and tried again; `SHARD MOVE … MAXPAUSE` says it for one \
         move.",
        "Too short, and busy shards never move; requests of the shards wait for so long at most.",
    ),
    key(
        "migration.retention",
        Kind::TimeOrZero(MINUTE, WEEK, "until it is finalized by hand"),
        "24h",
        "How long the source keeps its copy of shards that have moved; then the move is finalized, as by `TASK FINALIZE`.",
        "The copy takes the source's memory.",
    ),
    key(
        "migration.cooperative",
        Kind::Switch,
        "false",
        "Whether shards are moved from nodes whose ACL preshard cannot change (Redis 5, some managed services, `acl_users = \"off\"`). \
         `TASK STATUS` says of such a move `fence: cooperative`.",
        "Proxies keep themselves from the source, which cannot do it; there is no rollback, and the pause is longer. See \
         MIGRATION.md before it is set.",
    ),
    key(
        "migration.target_latency",
        Kind::Time(MILLISECOND, SECOND),
        "5ms",
        "When the target's `PING` takes longer, the copy writes less at a time, until it is quick again.",
        "Too low, and a slow network makes copies slow; too high, and the target's other clients wait behind them.",
    ),
    key(
        "migration.spool_memory",
        Kind::Bytes(MIB, 16 * GIB),
        "64MiB",
        "Writes to the moving shards that wait in this process's memory while the snapshot is copied; for each move.",
        "Memory of the proxy that leads. What is more goes to files.",
    ),
    key(
        "migration.spool_max",
        Kind::Bytes(MIB, TIB),
        "8GiB",
        "Writes that wait in files; for each move. Beyond, its copy begins again.",
        "Disk below `spool_dir`, in files without a name: nothing is left behind.",
    ),
    unset(
        "migration.spool_dir",
        Kind::File,
        "/var/lib/preshard/spool",
        "Folder of these files. Unset: the system's folder for temporary files.",
        "Where that one is memory (tmpfs), name a folder on a disk.",
    ),
    key(
        "slowlog.slower_than",
        Kind::TimeOrZero(MILLISECOND, HOUR, "off"),
        "10ms",
        "From this time on, from reading a request to its answer, a request is kept; commands that wait for data never are.",
        "A lock and a few hundred bytes for each slow request. Unlike Redis's, the time has the network and queues in it.",
    ),
    key(
        "slowlog.entries_max",
        Kind::Count(1, 10_000),
        "128",
        "Slow requests that are kept; the oldest goes first.",
        "Up to 2 KiB each, with arguments up to 6 KiB.",
    ),
    key(
        "slowlog.show_args",
        Kind::Switch,
        "false",
        "Whether entries have the requests' arguments (32 of 128 bytes at most), or only the command and the request's size.",
        "Whoever may send `SLOWLOG` sees keys and values of others, and every request is copied: a tenth of the throughput.",
    ),
    unset(
        "tls.certificate_file",
        Kind::File,
        "preshard.crt",
        "PEM file with the certificate that listeners show, its own first, then what stands between it and its authority.",
        "Must be renewed before it ends; a reload is enough, and clients that are connected stay.",
    ),
    unset(
        "tls.key_file",
        Kind::File,
        "preshard.key",
        "PEM file with the key of that certificate, without a passphrase.",
        "Keep it readable for preshard's user only. A key of RSA makes handshakes ten times as dear as one of ECDSA.",
    ),
    unset(
        "tls.client_ca_file",
        Kind::File,
        "clients-ca.crt",
        "PEM file with the authorities that clients' certificates must come from. Unset: clients are not asked for one.",
        "Revocation lists are not looked at: to shut a client out, end its certificate or exchange the authority.",
    ),
    key(
        "tls.client_certificates",
        Kind::Choice(&["required", "optional"]),
        "required",
        "Whether a client without a certificate is refused, where `client_ca_file` is set.",
        "`optional` proves nothing about a client; it lets certificates be rolled out.",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        "auto",
        "How log lines look; `auto` is text on a terminal and JSON elsewhere.",
        "None.",
    ),
    key(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "The least important events that are logged.",
        "`debug` logs every connection, `trace` every request: not for production.",
    ),
];
