//! What one node says of itself: asked once, judged elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::super::clear::COPIES_KEY;
use super::super::probe::{Keyspace, ahead_ms, field, identify, read_keyspace};
use super::super::scan::DELAYED;
use crate::control::{AskError, NodeClient, libraries_on};
use crate::ids::DbIndex;
use crate::rdb::Target;
use crate::resp::Value;
use crate::topology::Address;
use crate::worker::shared::NodeCredentials;

/// Settings that matter, by their names of before and of now.
const SETTINGS: [&str; 6] = [
    "databases",
    "min-replicas-to-write",
    "min-slaves-to-write",
    "lua-replicate-commands",
    DELAYED[0],
    DELAYED[1],
];

/// A node, before a move.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) name: String,
    /// All of `INFO`.
    pub(super) info: String,
    pub(super) settings: BTreeMap<String, String>,
    /// Names of modules that are not part of the server itself.
    pub(super) modules: Vec<String>,
    /// Libraries of functions with their code; none: it knows no functions.
    pub(super) libraries: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Lines of `ACL LIST`.
    pub(super) users: Vec<String>,
    /// Its clock less this machine's.
    pub(super) ahead_ms: i64,
    /// By how much that may be wrong: half of what the answer took.
    pub(super) unsure_ms: u64,
    /// Databases that hold a copy of ours.
    pub(super) copies: BTreeSet<DbIndex>,
    /// As whom proxies log in; empty: as their config says.
    pub(super) user: String,
    /// As whom preshard administers it.
    pub(super) login: String,
}

/// How often a node is asked what time it is.
const CLOCK_LOOKS: usize = 3;
/// Modules that are part of the server itself: of Redis 8, where a value of theirs ends a copy, and nobody need have one; of Valkey 9.1, whose
/// scripts run in one, which has no values.
const BUILT_IN: [&[u8]; 2] = [b"vectorset", b"lua"];

impl Look {
    pub(super) async fn at(
        name: &str,
        address: &Address,
        credentials: &NodeCredentials,
        deadline: Duration,
        metadata: DbIndex,
    ) -> Result<Self, AskError> {
        let mut client = NodeClient::connect(address, credentials, deadline).await?;
        let info = client.ask_text(&["INFO"]).await?;
        let (ahead_ms, unsure_ms) = clock(&mut client).await?;
        let libraries = match client.ask(&["FUNCTION", "STATS"]).await {
            Ok(_) => Some(libraries_on(&mut client).await?),
            Err(AskError::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        let settings: Vec<Vec<&[u8]>> = SETTINGS
            .iter()
            .map(|setting| vec![&b"CONFIG"[..], b"GET", setting.as_bytes()])
            .collect();
        let settings = client.ask_all(&settings).await?;
        let metadata = metadata.to_string();
        let others = client
            .ask_all(&[
                vec![b"MODULE", b"LIST"],
                vec![b"ACL", b"LIST"],
                vec![b"SELECT", metadata.as_bytes()],
                vec![b"HKEYS", COPIES_KEY.as_bytes()],
            ])
            .await?;
        let [modules, users, _, copies] = &others[..] else {
            return Err(AskError::NotRedis);
        };
        Ok(Self {
            name: name.to_owned(),
            info,
            settings: settings.iter().filter_map(setting).collect(),
            modules: list(modules).iter().filter_map(module).collect(),
            libraries,
            users: list(users).iter().filter_map(text).collect(),
            ahead_ms,
            unsure_ms,
            copies: list(copies)
                .iter()
                .filter_map(|db| Some(DbIndex(text(db)?.parse().ok()?)))
                .collect(),
            user: String::new(),
            login: String::new(),
        })
    }

    /// A field of `INFO`.
    pub(super) fn field(&self, name: &str) -> &str {
        field(&self.info, name)
    }

    /// A number of `INFO`; 0 if it is not there.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or(0)
    }

    pub(super) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    pub(super) fn version(&self) -> Option<Target> {
        identify(&self.info)
    }

    pub(super) fn keyspace(&self) -> impl Iterator<Item = Keyspace> {
        self.info.lines().filter_map(read_keyspace)
    }

    pub(super) fn keys_in(&self, dbs: &[DbIndex]) -> u64 {
        let found = self.keyspace().filter(|found| dbs.contains(&found.db));
        found.map(|found| found.keys).sum()
    }

    /// What all its data takes. A server that is nearly empty says that it is less than nothing.
    pub(super) fn dataset(&self) -> u64 {
        let used = self.number("used_memory");
        match self.number("used_memory_dataset") {
            0 => used,
            dataset if dataset <= used => dataset,
            _ => 0,
        }
    }

    /// Its limit of memory, less what should stay free; none: it has no limit.
    pub(super) fn memory_max(&self) -> Option<u64> {
        let max = self.number("maxmemory");
        (max > 0).then_some(max / 100 * 85)
    }

    /// Whether it takes no more writes: it has reached its limit of memory, and evicts nothing.
    pub(super) fn is_full(&self) -> bool {
        let max = self.number("maxmemory");
        max > 0 && self.number("used_memory") >= max && self.field("maxmemory_policy") == "noeviction"
    }

    /// Whether twice as much as is thought to come would not fit.
    pub(super) fn is_close_to_full(&self, bytes: u64) -> bool {
        let used = self.number("used_memory");
        self.memory_max()
            .is_some_and(|max| used.saturating_add(bytes.saturating_mul(2)) >= max)
    }
}

/// The clock of a node less ours, by the quickest of a few answers, and by how much it may be wrong.
async fn clock(client: &mut NodeClient) -> Result<(i64, u64), AskError> {
    let mut best = (0, u64::MAX);
    for _ in 0..CLOCK_LOOKS {
        let begun = Instant::now();
        let ahead = ahead_ms(client).await?;
        let unsure = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) / 2;
        if unsure < best.1 {
            best = (ahead, unsure);
        }
    }
    Ok(best)
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}

fn text(value: &Value) -> Option<String> {
    Some(String::from_utf8_lossy(value.as_bytes()?).into_owned())
}

fn setting(answer: &Value) -> Option<(String, String)> {
    match list(answer) {
        [name, value] => Some((text(name)?, text(value)?)),
        _ => None,
    }
}

/// The name of a module that is none of the server's own.
fn module(row: &Value) -> Option<String> {
    let mut pairs = list(row).chunks_exact(2);
    let name = pairs.find_map(|pair| (pair[0].as_bytes() == Some(b"name")).then(|| pair[1].as_bytes())?)?;
    (!BUILT_IN.contains(&name)).then(|| String::from_utf8_lossy(name).into_owned())
}
