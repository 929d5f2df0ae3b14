//! The config file: read once at start, checked as a whole, every mistake told at once with its line.
//!
//! ```text
//!  file ─▶ raw.rs ──────▶ validate.rs ──────▶ Config            keys.rs  the table of all keys ─▶ docs.rs
//!  env  ─▶ known keys,    limits, relations,    │                mistake.rs  file:line:col, caret, hint
//!          right types    password files        └▶ or ConfigErrors, all of them
//! ```
//!
//! The value of a key is, in this order: the environment variable `PRESHARD__SECTION__KEY`, the file, the default.
//! Lists in the environment are separated by commas; `PRESHARD__TOPOLOGY__NODES` is `name=address,…`. Relative
//! paths start at the folder of the config file, whoever starts the proxy from wherever.
//!
//! The config names nodes and seeds the first map; where shards are afterwards is the topology's business alone.

pub mod docs;
mod key;
pub mod keys;
mod keys_more;
mod live;
mod migration;
mod mistake;
mod raw;
mod relations;
mod secret;
mod settings;
mod tls;
pub mod units;
pub mod users;
mod validate;

#[cfg(test)]
mod tests;

pub use live::{Overrides, Source};
pub use migration::{CopyMethod, Migration};
pub use mistake::{ConfigError, ConfigErrors, EXIT_STATUS};
#[cfg(feature = "flush")]
pub(crate) use mistake::{Mistake, Origin};
#[cfg(feature = "flush")]
pub(crate) use raw::suggestion;
pub use secret::{PasswordHash, Secret};
pub use users::UserSettings;
#[cfg(feature = "flush")]
pub(crate) use validate::read_password;

use crate::tls::{ClientCertificates, ClientSide, ServerSide};
use crate::topology::{Address, Node};
#[cfg(not(feature = "flush"))]
use mistake::{Mistake, Origin};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest config file that is read.
const FILE_MAX: u64 = 1 << 20;

/// All settings, checked. The keys are explained in [`keys::KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// What stood in it.
    pub source: Source,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[admin]`
    pub admin: Admin,
    /// `[nodes]`
    pub nodes: Nodes,
    /// `[topology]`
    pub topology: TopologySeed,
    /// `[migration]`
    pub migration: Migration,
    /// `[slowlog]`
    pub slowlog: SlowLog,
    /// `[tls]`
    pub tls: Tls,
    /// `[log]`
    pub log: Log,
    /// `[[user]]`
    pub users: Vec<UserSettings>,
    /// What is allowed but should be logged at start.
    pub warnings: Vec<String>,
}

/// `[proxy]`: the data port and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where clients connect.
    pub listen: Vec<Address>,
    /// Where clients connect that speak TLS; at least one of both together.
    pub listen_tls: Vec<Address>,
    /// Worker threads; 0 is one per core.
    pub workers: u16,
    /// What clients must authenticate with.
    pub password: Option<PasswordHash>,
    /// Clients at the same time.
    pub max_clients: usize,
    /// Closes silent clients; none: never.
    pub idle_timeout: Option<Duration>,
    /// TCP keepalive of clients; none: off.
    pub tcp_keepalive: Option<Duration>,
    /// Time to the first complete request while not authenticated.
    pub handshake_timeout: Duration,
    /// Time that a request of a held shard may wait.
    pub hold_max: Duration,
    /// Bytes of one argument.
    pub request_bytes_max: usize,
    /// Request bytes held for all clients together.
    pub request_memory_max: usize,
    /// Commands in flight of one client.
    pub in_flight_max: usize,
    /// Request bytes in flight of one client.
    pub in_flight_bytes_max: usize,
    /// Unsent reply bytes at which a client's requests are no longer taken.
    pub output_bytes_soft: usize,
    /// Unsent reply bytes at which a client is closed.
    pub output_bytes_hard: usize,
    /// Closes a client that takes no replies; none: never.
    pub output_stall_timeout: Option<Duration>,
    /// Time for a node to reply; none: unlimited.
    pub request_timeout: Option<Duration>,
    /// Time that a stopping proxy waits for what it has read.
    pub drain_timeout: Duration,
    /// Elements of a reply of KEYS.
    pub keys_max: usize,
    /// Keys that one worker tracks.
    pub tracking_keys_max: usize,
    /// The version to tell clients; none: the lowest among the nodes.
    pub redis_version: Option<String>,
    /// Answer as a Redis Cluster of one node.
    pub cluster_emulation: bool,
    /// The address of that node; none: the first TCP address of `listen`.
    pub advertise: Option<Address>,
}

/// `[admin]`: the admin and HTTP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where admin commands are taken; none: nowhere.
    pub listen: Option<Address>,
    /// Where HTTP is served; none: nowhere.
    pub http: Option<Address>,
    /// Where admin commands are taken over TLS; none: nowhere.
    pub listen_tls: Option<Address>,
    /// Where HTTPS is served; none: nowhere.
    pub http_tls: Option<Address>,
    /// What administrators must authenticate with.
    pub password: Option<PasswordHash>,
}

/// `[nodes]`: the connections to the servers behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// ACL user on the nodes; none: `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// `tls` and the keys that begin with it.
    pub tls: Outbound,
    /// Name and password for what administers the nodes, if it is not the same.
    pub admin: Option<(String, Secret)>,
    /// Time to connect, handshake included.
    pub connect_timeout: Duration,
    /// Connections from each worker to each node, 1 to 4.
    pub shared_connections: u8,
    /// Commands in flight on one connection.
    pub in_flight_max: usize,
    /// Request bytes in flight on one connection.
    pub in_flight_bytes_max: usize,
    /// Commands waiting for a connection.
    pub queue_max: usize,
    /// Request bytes waiting for a connection.
    pub queue_bytes_max: usize,
    /// Connections to each node that one client has for itself.
    pub dedicated_max: usize,
    /// Batches under way on one connection.
    pub batches_in_flight: Batches,
    /// What to do with a known node that lost its data.
    pub on_empty: OnEmpty,
    /// Users of preshard's own on nodes.
    pub acl_users: AclUsers,
    /// What to do with subscribers that may have missed messages.
    pub on_gap: OnGap,
    /// Longest pause between attempts to connect.
    pub reconnect_backoff_max: Duration,
}

/// How many batches one backend connection keeps under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batches {
    /// Decided by the load.
    #[default]
    Auto,
    /// Always this many, 1 to 8.
    Fixed(u8),
}

/// What to do with subscribers when what a node publishes was not heard for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// They stay, and are not told.
    #[default]
    Resubscribe,
    /// They are closed, as one Redis would have closed them.
    Close,
}

/// Whether preshard makes ACL users of its own on nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AclUsers {
    /// Where the node lets it.
    #[default]
    Auto,
    /// Nowhere.
    Off,
}

/// What to do with a known node that comes back without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// Mark it again and serve.
    #[default]
    Serve,
    /// Refuse its shards until an operator has looked.
    Refuse,
}

/// `[topology]`: where the map is kept and how the first one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologySeed {
    /// Where the map is kept.
    pub store: StorePlace,
    /// Who preshard is to a store on the network.
    pub store_login: Option<(String, Secret)>,
    /// `store_tls` and its files.
    pub store_tls: Outbound,
    /// How long one member of a store on the network may take for an answer.
    pub store_timeout: Duration,
    /// Name of the cluster; none: one is made up when the store is first filled.
    pub cluster: Option<String>,
    /// Shards of the first map, a power of two.
    pub shards: u16,
    /// Pinned databases of the first map.
    pub pinned: u16,
    /// Nodes of the first map, in order; may be empty if the store is not.
    pub nodes: Vec<Node>,
}

/// Where the topology is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// In a file, for one proxy.
    File(PathBuf),
    /// In etcd, for several.
    Etcd {
        /// `host:port` of its members.
        endpoints: Vec<String>,
        /// What its keys begin with, without slashes around it.
        prefix: String,
    },
}

/// `[slowlog]`: requests that took long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowLog {
    /// From this time on a request is kept; none: none is.
    pub slower_than: Option<Duration>,
    /// Requests that are kept.
    pub entries_max: usize,
    /// Whether their arguments are kept too.
    pub show_args: bool,
}

/// `[tls]`: what listeners show and want to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate's file.
    pub certificate_file: Option<PathBuf>,
    /// Its key's file.
    pub key_file: Option<PathBuf>,
    /// The file of clients' authorities.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_certificates: ClientCertificates,
    /// What those files hold; none: no listener speaks TLS.
    pub side: Option<ServerSide>,
}

/// How connections are made that speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Whether TLS is spoken at all.
    pub on: bool,
    /// The file of the other side's authorities.
    pub ca_file: Option<PathBuf>,
    /// The file of the own certificate.
    pub certificate_file: Option<PathBuf>,
    /// Its key's file.
    pub key_file: Option<PathBuf>,
    /// The name of the other side's certificate.
    pub server_name: Option<String>,
    /// What those files hold; none: TLS is not spoken.
    pub side: Option<ClientSide>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// The least important events.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important events that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What should be looked at.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Every connection.
    Debug,
    /// Every request.
    Trace,
}

// === impl Config ===

impl Config {
    /// Reads the file, the environment and the password files that they name.
    ///
    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::parse(path, &read_file(path)?, std::env::vars_os())
    }

    /// Whether the admin port asks for a password.
    #[must_use]
    pub fn admin_is_guarded(&self) -> bool {
        let administers = |user: &&UserSettings| user.enabled && user.rules.rights().may_administer();
        let mut administrators = self.users.iter().filter(administers).peekable();
        let some = self.admin.password.is_some() || administrators.peek().is_some();
        some && !administrators.any(|user| user.nopass)
    }

    /// Whether the data port asks for a password.
    #[must_use]
    pub fn data_is_guarded(&self) -> bool {
        let open = |user: &UserSettings| user.enabled && user.nopass;
        self.proxy.password.is_some() || !self.users.is_empty() && !self.users.iter().any(open)
    }

    /// Like [`Config::load`], with the text and the environment given. Relative paths start at the folder of `path`.
    ///
    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn parse(
        path: &Path,
        text: &str,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigErrors> {
        Self::parse_with(path, text, env, &Overrides::new())
    }
}

impl LogLevel {
    /// The word of the config, which is also the directive of a log filter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Default for StorePlace {
    fn default() -> Self {
        Self::File("preshard-topology.json".into())
    }
}

/// The text of a config file.
pub(crate) fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    read(path).map_err(|(what, hint)| {
        let mistake = Mistake {
            origin: Origin::Whole,
            what,
            hint: hint.into(),
        };
        ConfigErrors::of(&path.display().to_string(), "", vec![mistake])
    })
}

/// The text of the config file, or what is wrong and what to do.
fn read(path: &Path) -> Result<String, (String, &'static str)> {
    let told = |error: std::io::Error| {
        (
            format!("cannot read the config: {error}"),
            "name a readable TOML file with --config",
        )
    };
    let size = std::fs::metadata(path).map_err(told)?.len();
    if size > FILE_MAX {
        return Err((
            format!("the config has {size} bytes, more than {FILE_MAX}"),
            "name the config file",
        ));
    }
    std::fs::read_to_string(path).map_err(told)
}
