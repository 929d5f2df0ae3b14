//! From texts to a `Config`: the limits of each value. How they agree is in `relations.rs`.
//!
//! Every reading function tells the mistake and goes on with the default, so that all mistakes
//! come out of one run; the made-up values never leave this file, because any mistake refuses the whole.

use super::keys::{Key, Kind};
use super::mistake::Origin;
use super::raw::{Given, Raw};
use super::relations;
use super::secret::{PasswordHash, Secret};
use super::units::{SIZE_HINT, TIME_HINT, parse_bytes, parse_duration};
use super::users;
use super::{
    AclUsers, Admin, Batches, Config, Log, LogFormat, LogLevel, Nodes, OnEmpty, OnGap, Proxy, SlowLog,
    StorePlace, TopologySeed,
};
use crate::topology::{Address, Node, validate};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest password file that is read.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

/// Reads values out of `raw` and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) raw: &'a mut Raw,
    folder: &'a Path,
}

/// Makes a config out of what was given. Its mistakes are in `raw` afterwards.
pub(super) fn build(raw: &mut Raw, file: &Path) -> Config {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let mut reader = Reader { raw, folder };
    let mut config = Config {
        file: file.to_owned(),
        source: super::Source::default(),
        proxy: reader.proxy(),
        admin: reader.admin(),
        nodes: reader.nodes(),
        topology: reader.topology(),
        migration: reader.migration(),
        slowlog: reader.slowlog(),
        tls: reader.tls(),
        log: reader.log(),
        users: reader.users(),
        warnings: Vec::new(),
    };
    relations::check(raw, &config);
    config.warnings = relations::warnings(&config);
    config
}

// === impl Reader: the sections ===

impl Reader<'_> {
    fn proxy(&mut self) -> Proxy {
        Proxy {
            listen: self.addresses("proxy.listen"),
            listen_tls: self.addresses("proxy.listen_tls"),
            workers: self.count("proxy.workers"),
            password: self.password("proxy.password_file", "proxy.password_sha256"),
            max_clients: self.count("proxy.max_clients"),
            idle_timeout: self.time_or_zero("proxy.idle_timeout"),
            tcp_keepalive: self.time_or_zero("proxy.tcp_keepalive"),
            handshake_timeout: self.time("proxy.handshake_timeout"),
            hold_max: self.time("proxy.hold_max"),
            request_bytes_max: self.bytes("proxy.request_bytes_max"),
            request_memory_max: self.bytes("proxy.request_memory_max"),
            in_flight_max: self.count("proxy.in_flight_max"),
            in_flight_bytes_max: self.bytes("proxy.in_flight_bytes_max"),
            output_bytes_soft: self.bytes("proxy.output_bytes_soft"),
            output_bytes_hard: self.bytes("proxy.output_bytes_hard"),
            output_stall_timeout: self.time_or_zero("proxy.output_stall_timeout"),
            request_timeout: self.time_or_zero("proxy.request_timeout"),
            drain_timeout: self.time("proxy.drain_timeout"),
            keys_max: self.count("proxy.keys_max"),
            tracking_keys_max: self.count("proxy.tracking_keys_max"),
            redis_version: self.version("proxy.redis_version"),
            cluster_emulation: self.switch("proxy.cluster_emulation"),
            advertise: self.advertised("proxy.advertise"),
        }
    }

    fn admin(&mut self) -> Admin {
        Admin {
            listen: self.address_or_off("admin.listen"),
            http: self.address_or_off("admin.http"),
            listen_tls: self.address_or_off("admin.listen_tls"),
            http_tls: self.address_or_off("admin.http_tls"),
            password: self.password("admin.password_file", "admin.password_sha256"),
        }
    }

    fn nodes(&mut self) -> Nodes {
        Nodes {
            username: self.given("nodes.username").map(|given| given.text),
            password: self
                .file("nodes.password_file")
                .and_then(|(path, origin)| self.secret(&path, origin)),
            admin: self.login(
                ("nodes.admin_username", "nodes.admin_password_file"),
                "set both, or neither",
            ),
            tls: self.outbound(super::tls::NODES),
            connect_timeout: self.time("nodes.connect_timeout"),
            shared_connections: self.count("nodes.shared_connections"),
            in_flight_max: self.count("nodes.in_flight_max"),
            in_flight_bytes_max: self.bytes("nodes.in_flight_bytes_max"),
            queue_max: self.count("nodes.queue_max"),
            queue_bytes_max: self.bytes("nodes.queue_bytes_max"),
            dedicated_max: self.count("nodes.dedicated_max"),
            batches_in_flight: self.batches("nodes.batches_in_flight"),
            acl_users: self.choice(
                "nodes.acl_users",
                &[("auto", AclUsers::Auto), ("off", AclUsers::Off)],
            ),
            on_empty: self.choice(
                "nodes.on_empty",
                &[("serve", OnEmpty::Serve), ("refuse", OnEmpty::Refuse)],
            ),
            on_gap: self.choice(
                "nodes.on_gap",
                &[("resubscribe", OnGap::Resubscribe), ("close", OnGap::Close)],
            ),
            reconnect_backoff_max: self.time("nodes.reconnect_backoff_max"),
        }
    }

    fn topology(&mut self) -> TopologySeed {
        let store = self.store("topology.store");
        TopologySeed {
            store_login: self.store_login(&store),
            store_tls: self.outbound(super::tls::STORE),
            store,
            store_timeout: self.time("topology.store_timeout"),
            cluster: self.cluster("topology.cluster"),
            shards: self.shards("topology.shards"),
            pinned: self.count("topology.pinned"),
            nodes: self.first_nodes(),
        }
    }

    fn slowlog(&mut self) -> SlowLog {
        SlowLog {
            slower_than: self.time_or_zero("slowlog.slower_than"),
            entries_max: self.count("slowlog.entries_max"),
            show_args: self.switch("slowlog.show_args"),
        }
    }

    fn log(&mut self) -> Log {
        Log {
            format: self.choice(
                "log.format",
                &[
                    ("auto", LogFormat::Auto),
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                ],
            ),
            level: self.choice(
                "log.level",
                &[
                    ("error", LogLevel::Error),
                    ("warn", LogLevel::Warn),
                    ("info", LogLevel::Info),
                    ("debug", LogLevel::Debug),
                    ("trace", LogLevel::Trace),
                ],
            ),
        }
    }
}

// === impl Reader: users ===

impl Reader<'_> {
    fn users(&mut self) -> Vec<users::UserSettings> {
        let folder = self.folder;
        users::build(self.raw, |raw, file, origin| {
            let secret = Reader { raw, folder }.secret(&folder.join(file), origin)?;
            Some(PasswordHash::of(secret.reveal().as_bytes()))
        })
    }
}

// === impl Reader: single values ===

impl Reader<'_> {
    /// What was given, or the default; for keys with one value.
    pub(super) fn given(&self, path: &str) -> Option<Given> {
        self.all_given(path).into_iter().next()
    }

    fn all_given(&self, path: &str) -> Vec<Given> {
        if let Some(given) = self.raw.values.get(path) {
            return given.clone();
        }
        let default = Key::find(path).and_then(|key| key.default);
        default
            .map(|text| Given {
                text: text.to_owned(),
                origin: Origin::Whole,
            })
            .into_iter()
            .collect()
    }

    /// A value that `parse` understands; else its mistake is told and the default taken.
    fn one<T: Default>(&mut self, path: &str, hint: &str, parse: impl Fn(&str, Kind) -> Option<T>) -> T {
        let Some(key) = Key::find(path) else {
            return T::default();
        };
        let given = self.given(path);
        if let Some(given) = given {
            if let Some(value) = parse(&given.text, key.kind) {
                return value;
            }
            let what = format!("{path} must be {}", key.kind.describe());
            self.raw.tell(given.origin, what, hint);
        }
        key.default
            .and_then(|text| parse(text, key.kind))
            .unwrap_or_default()
    }

    /// A count, in the type that its bounds in the table fit.
    fn count<T: TryFrom<u64> + Default>(&mut self, path: &str) -> T {
        self.one(path, "", |text, kind| {
            let Kind::Count(min, max) = kind else { return None };
            number(text, min, max).and_then(|number| T::try_from(number).ok())
        })
    }

    pub(super) fn switch(&mut self, path: &str) -> bool {
        self.one(path, "", |text, _| text.parse().ok())
    }

    /// An address to tell others: it must lead somewhere.
    fn advertised(&mut self, path: &str) -> Option<Address> {
        let given = self.given(path).filter(|given| !given.text.is_empty())?;
        let address = self.address(path, &given)?;
        let wrong = if address.unix_path().is_some() {
            "is a path, and clients in cluster mode connect over TCP only"
        } else if address.is_wildcard() {
            "stands for every address of this machine, and no client can connect to that"
        } else if address.port() == Some(0) {
            "has no port"
        } else {
            return Some(address);
        };
        let what = format!("{path} {address} {wrong}");
        self.raw.tell(
            given.origin,
            what,
            "write the host and port by which clients reach this proxy",
        );
        None
    }

    fn batches(&mut self, path: &str) -> Batches {
        self.one(path, "", |text, kind| match kind {
            Kind::CountOrAuto(_, _) if text == "auto" => Some(Batches::Auto),
            Kind::CountOrAuto(min, max) => number(text, min, max)
                .and_then(|number| u8::try_from(number).ok())
                .map(Batches::Fixed),
            _ => None,
        })
    }

    pub(super) fn bytes(&mut self, path: &str) -> usize {
        self.one(path, SIZE_HINT, |text, kind| {
            let Kind::Bytes(min, max) = kind else { return None };
            parse_bytes(text)
                .filter(|bytes| (min..=max).contains(bytes))
                .and_then(|bytes| usize::try_from(bytes).ok())
        })
    }

    pub(super) fn bytes_or_zero(&mut self, path: &str) -> Option<u64> {
        self.one(path, SIZE_HINT, |text, kind| {
            let Kind::BytesOrZero(min, max, _) = kind else {
                return None;
            };
            match parse_bytes(text)? {
                0 => Some(None),
                bytes => (min..=max).contains(&bytes).then_some(Some(bytes)),
            }
        })
    }

    pub(super) fn time(&mut self, path: &str) -> Duration {
        self.one(path, TIME_HINT, |text, kind| {
            let Kind::Time(min, max) = kind else { return None };
            parse_duration(text).filter(|time| (min..=max).contains(time))
        })
    }

    pub(super) fn time_or_zero(&mut self, path: &str) -> Option<Duration> {
        self.one(path, TIME_HINT, |text, kind| {
            let Kind::TimeOrZero(min, max, _) = kind else {
                return None;
            };
            match parse_duration(text)? {
                Duration::ZERO => Some(None),
                time => (min..=max).contains(&time).then_some(Some(time)),
            }
        })
    }

    pub(super) fn choice<T: Copy + Default>(&mut self, path: &str, words: &[(&str, T)]) -> T {
        self.one(path, "", |text, _| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
        })
    }

    fn address(&mut self, path: &str, given: &Given) -> Option<Address> {
        match given.text.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                let hint = "write host:port, [v6]:port or unix:/path";
                self.raw
                    .tell(given.origin.clone(), format!("{path}: {error}"), hint);
                None
            }
        }
    }

    fn addresses(&mut self, path: &str) -> Vec<Address> {
        let given = self.all_given(path);
        given
            .iter()
            .filter(|given| given.text != "off")
            .filter_map(|given| self.address(path, given))
            .collect()
    }

    fn address_or_off(&mut self, path: &str) -> Option<Address> {
        let given = self.given(path)?;
        if given.text == "off" {
            None
        } else {
            self.address(path, &given)
        }
    }

    fn version(&mut self, path: &str) -> Option<String> {
        self.one(path, "", |text, _| {
            let parts: Vec<&str> = text.split('.').collect();
            let good =
                |part: &&str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|c| c.is_ascii_digit());
            (parts.len() == 3 && parts.iter().all(good)).then(|| Some(text.to_owned()))
        })
    }

    fn cluster(&mut self, path: &str) -> Option<String> {
        self.one(path, "", |text, _| {
            validate::is_name(text).then(|| Some(text.to_owned()))
        })
    }

    fn shards(&mut self, path: &str) -> u16 {
        let shards: u16 = self.count(path);
        if !shards.is_power_of_two() {
            let hint = format!("take {}", shards.next_power_of_two());
            self.raw.tell(
                self.raw.origin(path),
                format!("{path} must be a power of two"),
                hint,
            );
        }
        shards
    }

    fn store(&mut self, path: &str) -> StorePlace {
        let Some(given) = self.given(path) else {
            return StorePlace::default();
        };
        if let Some(rest) = given.text.strip_prefix("etcd://") {
            return etcd_place(rest).unwrap_or_else(|what| {
                let hint = "such as etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/preshard";
                self.raw.tell(given.origin, format!("{path}: {what}"), hint);
                StorePlace::default()
            });
        }
        match given
            .text
            .strip_prefix("file:")
            .map(|file| file.strip_prefix("//").unwrap_or(file))
        {
            Some(file) if !file.is_empty() && !file.ends_with('/') => {
                StorePlace::File(self.folder.join(file))
            }
            Some(_) | None => {
                self.raw.tell(
                    given.origin,
                    format!("{path} must be file:PATH or etcd://HOST:PORT/NAME"),
                    "such as file:preshard-topology.json",
                );
                StorePlace::default()
            }
        }
    }

    fn store_login(&mut self, store: &StorePlace) -> Option<(String, Secret)> {
        let (name, file) = ("topology.store_username", "topology.store_password_file");
        match store {
            StorePlace::Etcd { .. } => self.login((name, file), "etcd wants both, or neither"),
            StorePlace::File(_) => {
                for path in [name, file] {
                    if self.raw.values.contains_key(path) {
                        let origin = self.raw.origin(path);
                        let what = format!("{path} is set, and the store is a file");
                        self.raw
                            .tell(origin, what, "remove the key, or use an etcd:// store");
                    }
                }
                None
            }
        }
    }

    /// A name and the file of its password: both, or neither.
    fn login(&mut self, (name, file): (&str, &str), hint: &str) -> Option<(String, Secret)> {
        let username = self.given(name);
        let password = self
            .file(file)
            .and_then(|(path, origin)| self.secret(&path, origin));
        if username.is_some() != self.raw.values.contains_key(file) {
            let (there, lacking) = if username.is_some() {
                (name, file)
            } else {
                (file, name)
            };
            let origin = self.raw.origin(there);
            self.raw
                .tell(origin, format!("{there} is set without {lacking}"), hint);
        }
        Some((username?.text, password?))
    }

    pub(super) fn file(&mut self, path: &str) -> Option<(PathBuf, Origin)> {
        let given = self.given(path)?;
        if given.text.is_empty() {
            self.raw.tell(
                given.origin,
                format!("{path} must be a path"),
                "remove the key if there is no file",
            );
            return None;
        }
        Some((self.folder.join(given.text), given.origin))
    }

    /// The first line of a password file.
    fn secret(&mut self, path: &Path, origin: Origin) -> Option<Secret> {
        let (what, hint) = match read_password(path) {
            Ok(password) => return Some(Secret::new(password)),
            Err(told) => told,
        };
        self.raw
            .tell(origin, format!("password file {}: {what}", path.display()), hint);
        None
    }

    fn password(&mut self, file: &str, hash: &str) -> Option<PasswordHash> {
        let from_file = self
            .file(file)
            .and_then(|(path, origin)| self.secret(&path, origin));
        let given = self.given(hash);
        if given.is_some() && self.raw.values.contains_key(file) {
            let origin = self.raw.origin(hash);
            self.raw.tell(
                origin,
                format!("both {file} and {hash} are set"),
                "keep one of them",
            );
        }
        let from_hash = given.and_then(|given| {
            let parsed = PasswordHash::from_hex(&given.text);
            if parsed.is_none() {
                let hint = "make them with: printf %s \"$PASSWORD\" | sha256sum";
                self.raw.tell(
                    given.origin,
                    format!("{hash} must be 64 hexadecimal digits"),
                    hint,
                );
            }
            parsed
        });
        from_hash.or_else(|| from_file.map(|secret| PasswordHash::of(secret.reveal().as_bytes())))
    }

    fn first_nodes(&mut self) -> Vec<Node> {
        let rows = std::mem::take(&mut self.raw.nodes);
        let mut names: HashMap<String, ()> = HashMap::new();
        let mut addresses: HashMap<Address, String> = HashMap::new();
        let mut nodes = Vec::new();
        for row in rows {
            let name = row.name.text;
            if !validate::is_name(&name) {
                let what =
                    format!("'{name}' is no name for a node: letters, digits, '.', '_', '-', at most 64");
                self.raw.tell(row.name.origin.clone(), what, "");
            }
            if names.insert(name.clone(), ()).is_some() {
                self.raw
                    .tell(row.name.origin, format!("node name '{name}' is used twice"), "");
            }
            let Some(address) = self.address("topology.nodes.address", &row.address) else {
                continue;
            };
            if address.port() == Some(0) {
                self.raw
                    .tell(row.address.origin.clone(), "a node needs a real port, not 0", "");
            }
            if let Some(first) = addresses.insert(address.clone(), name.clone()) {
                let what = format!("nodes '{first}' and '{name}' have the same address {address}");
                self.raw.tell(
                    row.address.origin,
                    what,
                    "one server cannot hold a shard under two names",
                );
            }
            nodes.push(Node { name, address });
        }
        nodes
    }
}

fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

/// `HOST:PORT[,HOST:PORT…]/NAME`, or what is wrong with it.
fn etcd_place(text: &str) -> Result<StorePlace, String> {
    let (hosts, name) = text
        .split_once('/')
        .ok_or("a NAME must stand behind the members")?;
    let name = name.trim_matches('/');
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_word) {
        return Err(format!(
            "'{name}' is no NAME: letters, digits, '.', '_', '-' and '/'"
        ));
    }
    let endpoints: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    for endpoint in &endpoints {
        let parts = endpoint.rsplit_once(':');
        if parts.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return Err(format!("'{endpoint}' is no HOST:PORT"));
        }
    }
    Ok(StorePlace::Etcd {
        endpoints,
        prefix: name.to_owned(),
    })
}

/// The password, or what is wrong with the file and what to do.
pub(crate) fn read_password(path: &Path) -> Result<String, (String, &'static str)> {
    let told = |error: std::io::Error| {
        (
            error.to_string(),
            "check that the file exists and preshard's user may read it",
        )
    };
    let file = std::fs::File::open(path).map_err(told)?;
    let mut text = String::new();
    file.take(PASSWORD_FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(told)?;
    if text.len() as u64 > PASSWORD_FILE_MAX {
        return Err((
            "it is larger than any password".into(),
            "name a file with the password as its first line",
        ));
    }
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err((
            "its first line is empty".into(),
            "write the password as its first line",
        ));
    }
    Ok(line.to_owned())
}
