//! Every key of the config file, in one table: its type, its default, what it does and what it costs.
//!
//! The reader takes defaults and limits from here, and `docs/CONFIGURATION.md` and `config/preshard.toml` are made out
//! of it, so none of them can disagree. A key is added by adding a row and reading it in `validate.rs`. The rows of the last
//! sections are in `keys_more.rs`.

use super::key::joined;
pub use super::key::{Key, Kind};
use super::keys_more;
use super::units::{GIB, KIB, MIB};
use std::time::Duration;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    what: &'static str,
    cost: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default: Some(default),
        example: "",
        what,
        cost,
    }
}

pub(super) const fn unset(
    path: &'static str,
    kind: Kind,
    example: &'static str,
    what: &'static str,
    cost: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default: None,
        example,
        what,
        cost,
    }
}

/// The sections in the order of the pages, each with a sentence.
pub const SECTIONS: &[(&str, &str)] = &[
    (
        "proxy",
        "The data port: who may connect and how much one client may ask for.",
    ),
    (
        "admin",
        "The admin port (`PRESHARD …`) and the HTTP port (`/metrics`, `/healthz`, `/readyz`, `/topology`).",
    ),
    ("nodes", "The connections to the Redis or Valkey servers behind."),
    (
        "topology",
        "Where the shard map is kept, and how the first one is made when the store is empty.",
    ),
    (
        "migration",
        "Moves of shards: how much the copy may take, how long shards are held. In force for moves that are ordered, or begin their \
         copy, afterwards.",
    ),
    (
        "slowlog",
        "Requests that took long: `SLOWLOG GET` on the data port, `PRESHARD SHOW SLOWLOG` on the admin port.",
    ),
    (
        "tls",
        "The certificate of the listeners that speak TLS: `proxy.listen_tls`, `admin.listen_tls`, `admin.http_tls`.",
    ),
    ("log", "Structured logs on the standard error stream."),
];

/// Keys and whole sections that later versions have. Their neutral values are accepted; anything else
/// is refused, never silently ignored.
pub const LATER: &[&str] = &["proxy.proxy_protocol", "commands"];

/// The table of nodes is a list of tables, not a plain key; see [`NODES_WHAT`].
pub const NODES_PATH: &str = "topology.nodes";
/// What the table of nodes does.
pub const NODES_WHAT: &str = "The nodes to spread the first map over, in this order. Used once, when the store is empty; \
     later changes belong to the topology, not to this file.";
/// What the table of nodes costs.
pub const NODES_COST: &str =
    "Every node needs `databases` of at least shards + pinned + 1 in its own configuration (stock: 16).";

/// All keys, in the order of the pages.
pub const KEYS: &[Key] = &joined::<{ ROWS.len() + keys_more::ROWS.len() }>(ROWS, keys_more::ROWS);

const ROWS: &[Key] = &[
    key(
        "proxy.listen",
        Kind::Addresses,
        "127.0.0.1:6380",
        "Where clients connect: one address or a list. `host:port`, `[v6]:port` or `unix:/path`; port 0 takes a free one. \
         `off` where all clients speak TLS.",
        "Every worker listens on each of them.",
    ),
    unset(
        "proxy.listen_tls",
        Kind::Addresses,
        "0.0.0.0:6379",
        "Where clients connect that speak TLS: one address or a list. Needs `[tls]`.",
        "A handshake takes 0.3 ms of CPU, off the workers; an idle client 8 KiB instead of 2; a request half as much CPU again.",
    ),
    key(
        "proxy.workers",
        Kind::Count(0, 256),
        "0",
        "Threads that serve clients; 0 means one per core.",
        "Each has its own connections to every node. More than there are cores only adds switching.",
    ),
    unset(
        "proxy.password_file",
        Kind::File,
        "data-password",
        "File whose first line is the password that clients must give (`AUTH`).",
        "One hash per AUTH. Without a password everybody who reaches the port may do everything.",
    ),
    unset(
        "proxy.password_sha256",
        Kind::Text("64 hexadecimal digits"),
        "<64 hexadecimal digits>",
        "The password as its SHA-256, as after `#` in Redis's ACL files. Instead of `password_file`.",
        "A weak password can be guessed from its hash: keep this file private too.",
    ),
    key(
        "proxy.max_clients",
        Kind::Count(1, 1_000_000),
        "10000",
        "Clients at the same time; one more gets `-ERR max number of clients reached` and is closed.",
        "Each takes one file descriptor and a few KiB while idle.",
    ),
    key(
        "proxy.idle_timeout",
        Kind::TimeOrZero(SECOND, WEEK, "never"),
        "0",
        "Closes a client that sent nothing for this long.",
        "Pools of many client libraries keep idle connections on purpose; a short time makes them reconnect.",
    ),
    key(
        "proxy.tcp_keepalive",
        Kind::TimeOrZero(SECOND, HOUR, "off"),
        "60s",
        "How long a client's connection may be silent before the system asks whether the other end lives.",
        "One small packet per interval; without it the connections of vanished machines stay for ever.",
    ),
    key(
        "proxy.handshake_timeout",
        Kind::Time(Duration::from_millis(100), HOUR),
        "10s",
        "Time for a client that has not authenticated to send its first complete request.",
        "Too short cuts off clients behind slow links; too long lets strangers hold connections.",
    ),
    key(
        "proxy.hold_max",
        Kind::Time(Duration::from_millis(100), HOUR),
        "10s",
        "How long a request waits whose shard is paused or on its way to another node; then `TRYAGAIN`, it has not run.",
        "Shorter than a change of the leader takes (5 s), clients see errors of moves that are interrupted; longer than \
         the clients' own timeouts, they give up first.",
    ),
    key(
        "proxy.request_bytes_max",
        Kind::Bytes(KIB, 512 * MIB),
        "64MiB",
        "The largest single argument of a request; a larger one is a protocol error and closes the client.",
        "A client may hold this much memory, plus 64 KiB, before its request is complete.",
    ),
    key(
        "proxy.request_memory_max",
        Kind::Bytes(MIB, 1024 * GIB),
        "1GiB",
        "Request bytes that all clients together may hold, in equal parts by worker; the client that needs more is closed.",
        "Memory of the process, beside the unsent replies.",
    ),
    key(
        "proxy.in_flight_max",
        Kind::Count(1, 1_000_000),
        "1024",
        "Commands of one client that may await their replies; at the limit its input is not read.",
        "Each takes about 100 bytes. Low values throttle deep pipelines, they never fail them.",
    ),
    key(
        "proxy.in_flight_bytes_max",
        Kind::Bytes(64 * KIB, 16 * GIB),
        "16MiB",
        "Request bytes of one client that may await their replies; at the limit its input is not read.",
        "Memory per busy client. A single larger request still passes, alone.",
    ),
    key(
        "proxy.output_bytes_soft",
        Kind::Bytes(64 * KIB, 16 * GIB),
        "8MiB",
        "Unsent reply bytes of one client from which on no more of its requests are taken.",
        "Memory per slow reader. Low values slow down clients that fetch large values in pipelines.",
    ),
    key(
        "proxy.output_bytes_hard",
        Kind::Bytes(64 * KIB, GIB),
        "64MiB",
        "Unsent reply bytes of one client at which it is closed.",
        "Must be at least the soft limit, and above the largest replies you expect.",
    ),
    key(
        "proxy.output_stall_timeout",
        Kind::TimeOrZero(SECOND, WEEK, "never"),
        "60s",
        "Closes a client that has taken none of its waiting replies for this long.",
        "0 lets a stuck client hold up to `output_bytes_hard` for ever.",
    ),
    key(
        "proxy.request_timeout",
        Kind::TimeOrZero(MILLISECOND, HOUR, "none"),
        "2s",
        "Time for a node to reply, from the moment bytes reached it; then the client gets an error.",
        "The command may still have run: the error says so. Must exceed your slowest command.",
    ),
    key(
        "proxy.drain_timeout",
        Kind::Time(MILLISECOND, HOUR),
        "25s",
        "How long a stopping proxy waits for requests that it has read; idle clients never delay it.",
        "Keep it below your supervisor's own limit (30 s in Kubernetes), or that one kills the process.",
    ),
    key(
        "proxy.keys_max",
        Kind::Count(1, 100_000_000),
        "1000000",
        "The most elements that a reply of `KEYS` may have; beyond it the client gets an error that names `SCAN`.",
        "The reply is collected from all nodes before it is sent: about 100 bytes each.",
    ),
    key(
        "proxy.tracking_keys_max",
        Kind::Count(1, 100_000_000),
        "1000000",
        "Keys that one worker tracks for clients with `CLIENT TRACKING`; beyond it one is invalidated to make room.",
        "Each takes about 130 bytes and its name, in all at most a quarter of `request_memory_max` beside it.",
    ),
    unset(
        "proxy.redis_version",
        Kind::Text("a version such as 7.2.4"),
        "7.2.4",
        "The version that `INFO` and `HELLO` tell. Unset: the lowest version among the nodes.",
        "Client libraries switch features by it; a higher one than the nodes have makes them send unknown commands.",
    ),
    key(
        "proxy.cluster_emulation",
        Kind::Switch,
        "false",
        "Answers clients that speak to a Redis Cluster (`CLUSTER SLOTS`, `READONLY`, …) as a cluster of one node, which is \
         this proxy and has every slot.",
        "None by itself. Clients in cluster mode use database 0 only, and refuse commands over several slots that preshard \
         would split.",
    ),
    unset(
        "proxy.advertise",
        Kind::Text("an address that clients can reach, `host:port` or `[v6]:port`"),
        "redis.example:6380",
        "The address that `cluster_emulation` tells clients. Unset: the first TCP address of `listen`, as it was bound.",
        "Clients in cluster mode leave the address that they were given and connect to this one: where they cannot reach it, \
         they fail.",
    ),
    key(
        "admin.listen",
        Kind::AddressOrOff,
        "127.0.0.1:6381",
        "Where `PRESHARD …` commands are taken, or `off`.",
        "Beyond loopback it is refused without a password: who reaches it can move data.",
    ),
    key(
        "admin.http",
        Kind::AddressOrOff,
        "127.0.0.1:6382",
        "Where metrics, health and the topology can be read over HTTP, or `off`.",
        "Read-only and without a password: node names and addresses are visible to who reaches it.",
    ),
    key(
        "admin.listen_tls",
        Kind::AddressOrOff,
        "off",
        "Where `PRESHARD …` commands are taken over TLS, beside or instead of `listen`. Needs `[tls]`.",
        "Beyond loopback it is refused without a password or required client certificates.",
    ),
    key(
        "admin.http_tls",
        Kind::AddressOrOff,
        "off",
        "Where HTTPS is served, beside or instead of `http`. Needs `[tls]`.",
        "Where client certificates are required, whoever scrapes needs one too.",
    ),
    unset(
        "admin.password_file",
        Kind::File,
        "admin-password",
        "File whose first line is the password of the admin port.",
        "Without one, local users may administer.",
    ),
    unset(
        "admin.password_sha256",
        Kind::Text("64 hexadecimal digits"),
        "<64 hexadecimal digits>",
        "The admin password as its SHA-256. Instead of `password_file`.",
        "A weak password can be guessed from its hash: keep this file private too.",
    ),
    unset(
        "nodes.username",
        Kind::Text("a user name"),
        "preshard",
        "The ACL user that preshard is on the nodes. Unset: the `default` user. Needs `password_file`.",
        "The user needs all commands and keys that clients may use, in all databases.",
    ),
    unset(
        "nodes.password_file",
        Kind::File,
        "node-password",
        "File whose first line is the password of the nodes, one for all.",
        "Kept in memory in the clear: it is sent on every new connection.",
    ),
    unset(
        "nodes.admin_username",
        Kind::Text("a user name"),
        "preshard-admin",
        "The ACL user for what administers the nodes: probes, marks, preshard's own users. Unset: as `username`. Needs \
         `admin_password_file`.",
        "Needs `+@all ~* &*`, ACL included; with it, `username` can have fewer rights.",
    ),
    unset(
        "nodes.admin_password_file",
        Kind::File,
        "node-admin-password",
        "File whose first line is the password of `admin_username`.",
        "Kept in memory in the clear, as the other one.",
    ),
    key(
        "nodes.tls",
        Kind::Switch,
        "false",
        "Speaks TLS with the nodes that are reached over TCP. Needs `tls_ca_file`.",
        "CPU for each byte, here and on the nodes; a node's single thread has less left for commands.",
    ),
    unset(
        "nodes.tls_ca_file",
        Kind::File,
        "nodes-ca.crt",
        "PEM file with the authorities that the nodes' certificates must come from.",
        "Who has one of its keys can pose as a node.",
    ),
    unset(
        "nodes.tls_certificate_file",
        Kind::File,
        "node-client.crt",
        "PEM file with the certificate to show to nodes that ask for one (`tls-auth-clients`). Needs `tls_key_file`.",
        "Must be renewed before it ends; a reload is enough.",
    ),
    unset(
        "nodes.tls_key_file",
        Kind::File,
        "node-client.key",
        "PEM file with the key of that certificate.",
        "Keep it readable for preshard's user only.",
    ),
    unset(
        "nodes.tls_server_name",
        Kind::Text("a host name or an IP address"),
        "redis.internal",
        "The name that every node's certificate must have. Unset: the host of the node's address.",
        "With one name for all, one node can pose as another; the nodes' marks still tell them apart.",
    ),
    key(
        "nodes.connect_timeout",
        Kind::Time(Duration::from_millis(10), MINUTE),
        "1s",
        "Time for a connection to a node to be made, its handshake included.",
        "Too short gives up on a node that is only busy; requests wait at most this long for a dead one.",
    ),
    key(
        "nodes.shared_connections",
        Kind::Count(1, 4),
        "1",
        "Pipelined connections from each worker to each node.",
        "More help only where one connection's bandwidth is the limit; each makes the batches smaller.",
    ),
    key(
        "nodes.in_flight_max",
        Kind::Count(1, 1_000_000),
        "4096",
        "Commands that may await replies on one connection to a node; further ones queue.",
        "Bounds what is of unknown outcome when the connection breaks.",
    ),
    key(
        "nodes.in_flight_bytes_max",
        Kind::Bytes(64 * KIB, 16 * GIB),
        "64MiB",
        "Request bytes that may await replies on one connection to a node; further ones queue.",
        "Keep the nodes' `client-output-buffer-limit normal` off or far above it.",
    ),
    key(
        "nodes.queue_max",
        Kind::Count(1, 1_000_000),
        "8192",
        "Commands that may wait for a connection to a node; beyond it clients get `-TRYAGAIN`, and nothing has run.",
        "A long queue turns overload into latency.",
    ),
    key(
        "nodes.queue_bytes_max",
        Kind::Bytes(64 * KIB, 512 * MIB),
        "64MiB",
        "Request bytes that may wait for a connection to a node; beyond it likewise.",
        "Memory per worker and node while a node is slow or away.",
    ),
    key(
        "nodes.dedicated_max",
        Kind::Count(1, 100_000),
        "256",
        "Connections to each node for clients that wait for data (`BLPOP`, `XREAD BLOCK`, …) or watch keys; beyond it they \
         get `-TRYAGAIN`, and nothing has run.",
        "A file descriptor here and a client of the node for each.",
    ),
    key(
        "nodes.batches_in_flight",
        Kind::CountOrAuto(1, 8),
        "auto",
        "Batches that one connection keeps under way: 1 waits for replies and so gathers larger ones.",
        "Higher values lower the latency of an idle node and raise its cost per command when busy.",
    ),
    key(
        "nodes.acl_users",
        Kind::Choice(&["auto", "off"]),
        "auto",
        "Whether preshard makes ACL users of its own on the nodes for the traffic: `auto` where a node lets it, or not at all.",
        "Without them a moved shard cannot be fenced on its old node; `CHECK` says which nodes have them.",
    ),
    key(
        "nodes.on_empty",
        Kind::Choice(&["serve", "refuse"]),
        "serve",
        "What to do when a known node comes back without any data: serve it anew, or refuse until an operator looks.",
        "`refuse` turns a lost cache into an outage, `serve` turns lost data into an empty shard; both are logged.",
    ),
    key(
        "nodes.on_gap",
        Kind::Choice(&["resubscribe", "close"]),
        "resubscribe",
        "What to do with subscribers when the connection that hears a node breaks: subscribe anew, or close them too.",
        "With `resubscribe` they do not learn that they may have missed messages, with `close` all of them reconnect.",
    ),
    key(
        "nodes.reconnect_backoff_max",
        Kind::Time(Duration::from_millis(10), MINUTE),
        "500ms",
        "The longest pause between attempts to reach a node.",
        "Bounds how much later than the node itself its shards are back.",
    ),
    key(
        "topology.store",
        Kind::Text("file:PATH or etcd://HOST:PORT[,HOST:PORT…]/NAME"),
        "file:preshard-topology.json",
        "Where the shard map is kept. `file:PATH` serves one proxy; a relative path starts at this file's folder. \
         `etcd://…` serves several; name all members, and a NAME of your own for each cluster.",
        "The map is the only record of where keys are: back it up. A file's version before stays beside it as PATH.1.",
    ),
    unset(
        "topology.store_username",
        Kind::Text("a name"),
        "preshard",
        "Who preshard is to etcd. Unset: etcd is asked without a login. Needs `store_password_file`.",
        "A role that may read and write the keys below NAME is enough.",
    ),
    unset(
        "topology.store_password_file",
        Kind::File,
        "etcd-password",
        "File whose first line is that user's password.",
        "Keep it readable for preshard's user only.",
    ),
    key(
        "topology.store_tls",
        Kind::Switch,
        "false",
        "Speaks TLS with etcd (`https`). Needs `store_ca_file`.",
        "A handshake for each call; calls are rare.",
    ),
    unset(
        "topology.store_ca_file",
        Kind::File,
        "etcd-ca.crt",
        "PEM file with the authorities that the certificates of etcd's members must come from.",
        "Who has one of its keys can pose as etcd.",
    ),
    unset(
        "topology.store_certificate_file",
        Kind::File,
        "etcd-client.crt",
        "PEM file with the certificate to show to etcd (`--client-cert-auth`). Needs `store_key_file`.",
        "etcd's gateway takes no certificate's name for a login: with users in etcd, set `store_username` too.",
    ),
    unset(
        "topology.store_key_file",
        Kind::File,
        "etcd-client.key",
        "PEM file with the key of that certificate.",
        "Keep it readable for preshard's user only.",
    ),
    key(
        "topology.store_timeout",
        Kind::Time(Duration::from_millis(50), MINUTE),
        "2s",
        "How long one member of etcd may take for an answer before the next one is asked.",
        "Too short, and a busy etcd looks like a dead one; clients never wait for it.",
    ),
    unset(
        "topology.cluster",
        Kind::Text("a name of letters, digits, '.', '_', '-'"),
        "shop-1",
        "Name of the cluster, which the nodes carry too. Used once, when the store is empty; unset: a made-up one.",
        "A store that already has another name is refused.",
    ),
    key(
        "topology.shards",
        Kind::Count(1, 4096),
        "1024",
        "How many shards the keyspace is cut into, a power of two. Used once, when the store is empty.",
        "Fixed for the life of the cluster. More shards move in smaller pieces and need more databases on the nodes.",
    ),
    key(
        "topology.pinned",
        Kind::Count(0, 12287),
        "15",
        "How many further databases clients may `SELECT`, each one whole shard. Used once, when the store is empty.",
        "Each needs one more database on the nodes and lives on one node as a whole.",
    ),
];
