//! Looking at both nodes: before an attempt, and all the time while it runs.
//!
//! The source is asked every second who it is and where its history stands: another process, another history or another
//! role ends the attempt. The target is pinged all the time: what its PING takes says how many unanswered bytes it is
//! trusted with (halved when it is slow, a little more when it is not). Either is named when it falls silent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::error::CopyError;
use super::plan::{CopyPlan, Endpoint, Signature};
use super::state::{Shared, now_ms};
use crate::control::fence::TERM_KEY;
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::rdb::{Family, Target};
use crate::resp::Value;

/// Between two looks at the source.
const SOURCE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two PINGs of the target.
const TARGET_INTERVAL: Duration = Duration::from_millis(10);
/// The window never gets smaller.
const WINDOW_MIN: usize = 4 * 1024;
/// What it grows by.
const WINDOW_STEP: usize = 4 * 1024;
/// A difference of clocks below this is not worth a change of every expiry.
const SKEW_MIN_MS: i64 = 20;

/// What an attempt knows of both nodes.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) source_run_id: String,
    pub(super) target_run_id: String,
    pub(super) target: Target,
    /// The source can send the snapshot apart from the stream.
    pub(super) two_links: bool,
    /// The target's clock less the source's.
    pub(super) skew_ms: i64,
    /// The source's clock less this machine's.
    pub(super) source_ahead_ms: i64,
    /// The target's clock less this machine's.
    pub(super) target_ahead_ms: i64,
}

/// What a source says of its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) replid: String,
    pub(super) offset: u64,
    pub(super) has_backlog: bool,
}

pub(super) async fn connect(node: &Endpoint, silence: Duration) -> Result<NodeClient, AskError> {
    let mut client = NodeClient::connect(&node.address, &node.credentials, silence).await?;
    if let Some(signature) = &node.signature {
        sign(&mut client, signature).await?;
    }
    Ok(client)
}

/// Gives a connection its name, and looks then whether the leader whose name that is still is the newest one.
async fn sign(client: &mut NodeClient, signature: &Signature) -> Result<(), AskError> {
    let metadata = signature.metadata_db.to_string();
    let answers = client
        .ask_all(&[
            vec![b"CLIENT", b"SETNAME", signature.name.as_bytes()],
            vec![b"SELECT", metadata.as_bytes()],
            vec![b"GET", TERM_KEY.as_bytes()],
            vec![b"SELECT", b"0"],
        ])
        .await?;
    for answer in &answers {
        if let Value::Error(error) = answer {
            return Err(AskError::Refused(error.clone()));
        }
    }
    let found = answers.get(2).and_then(Value::as_bytes);
    if found == Some(signature.term.to_string().as_bytes()) {
        return Ok(());
    }
    Err(AskError::Refused("another leader has taken over".to_owned()))
}

/// Asks both nodes what an attempt must know. `empty`: the target's databases must be.
pub(super) async fn look(plan: &CopyPlan, empty: bool) -> Result<Facts, CopyError> {
    let silence = plan.limits.silence;
    let (source, target) = tokio::join!(connect(&plan.source, silence), connect(&plan.target, silence));
    let mut source = source.map_err(CopyError::of_source)?;
    let mut target = target.map_err(CopyError::of_target)?;
    let server = source.ask_text(&["INFO", "server"]).await;
    let server = server.map_err(CopyError::of_source)?;
    let about = target.ask_text(&["INFO", "server"]).await;
    let about = about.map_err(CopyError::of_target)?;
    let unread = || "its INFO lacks what a Redis server says".to_owned();
    let of_source = identify(&server).ok_or_else(|| CopyError::Source(unread()))?;
    let of_target = identify(&about).ok_or_else(|| CopyError::Target(unread()))?;
    if empty {
        let used = keyspace(&mut target).await.map_err(CopyError::of_target)?;
        let occupied = plan
            .dbs
            .iter()
            .find(|(_, db)| used.iter().any(|found| found.db == *db && found.keys > 0));
        if let Some((_, db)) = occupied {
            return Err(CopyError::TargetNotEmpty(*db));
        }
    }
    let source_ahead_ms = ahead_ms(&mut source).await.map_err(CopyError::of_source)?;
    let target_ahead_ms = ahead_ms(&mut target).await.map_err(CopyError::of_target)?;
    let skew_ms = target_ahead_ms - source_ahead_ms;
    Ok(Facts {
        source_run_id: field(&server, "run_id").to_owned(),
        target_run_id: field(&about, "run_id").to_owned(),
        target: of_target,
        two_links: !plan.limits.one_link
            && (of_source.family == Family::Valkey || (of_source.major, of_source.minor) >= (6, 2)),
        skew_ms: if skew_ms.abs() < SKEW_MIN_MS { 0 } else { skew_ms },
        source_ahead_ms,
        target_ahead_ms,
    })
}

/// The node's clock less ours.
pub(super) async fn ahead_ms(client: &mut NodeClient) -> Result<i64, AskError> {
    let asked = now_ms();
    let Value::Array(time) = client.ask(&["TIME"]).await? else {
        return Err(AskError::NotRedis);
    };
    let between = (asked + now_ms()) / 2;
    let numbers: Vec<i64> = time
        .iter()
        .filter_map(|part| std::str::from_utf8(part.as_bytes()?).ok()?.parse().ok())
        .collect();
    match numbers[..] {
        [seconds, micros] => Ok(seconds * 1000 + micros / 1000 - between),
        _ => Err(AskError::NotRedis),
    }
}

/// Family and version out of INFO.
pub(super) fn identify(server: &str) -> Option<Target> {
    let (family, version) = match field(server, "valkey_version") {
        "" => (Family::Redis, field(server, "redis_version")),
        version => (Family::Valkey, version),
    };
    let mut numbers = version.split('.').map(str::parse);
    Some(Target {
        family,
        major: numbers.next()?.ok()?,
        minor: numbers.next()?.ok()?,
    })
}

/// A field of an INFO text; empty if it is not there.
pub(super) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .unwrap_or_default()
}

/// Asks a source where its history stands.
pub(super) async fn history(client: &mut NodeClient) -> Result<History, CopyError> {
    let info = client.ask_text(&["INFO", "replication"]).await;
    let info = info.map_err(CopyError::of_source)?;
    // Redis's own word for a primary.
    if field(&info, "role") != "master" {
        return Err(CopyError::SourceChanged("it is a replica"));
    }
    let offset = field(&info, "master_repl_offset").parse();
    Ok(History {
        replid: field(&info, "master_replid").to_owned(),
        offset: offset.map_err(|_| CopyError::Source("its INFO lacks an offset".to_owned()))?,
        has_backlog: field(&info, "repl_backlog_active") == "1",
    })
}

/// Keys of one database, as INFO says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keyspace {
    pub(super) db: DbIndex,
    pub(super) keys: u64,
    pub(super) expires: u64,
    /// Hashes with fields that expire.
    pub(super) field_expires: u64,
}

/// All databases that have keys.
pub(super) async fn keyspace(client: &mut NodeClient) -> Result<Vec<Keyspace>, AskError> {
    let info = client.ask_text(&["INFO", "keyspace"]).await?;
    Ok(info.lines().filter_map(read_keyspace).collect())
}

pub(super) fn read_keyspace(line: &str) -> Option<Keyspace> {
    let (db, counts) = line.trim().strip_prefix("db")?.split_once(':')?;
    let count = |name: &str| -> u64 {
        let found = counts
            .split(',')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    Some(Keyspace {
        db: DbIndex(db.parse().ok()?),
        keys: count("keys"),
        expires: count("expires"),
        // Redis's word, and Valkey's.
        field_expires: count("subexpiry") + count("keys_with_volatile_items"),
    })
}

/// Looks at the source until it is not what it was. `replid` is empty if it does not matter yet.
pub(super) async fn watch_source(plan: Arc<CopyPlan>, shared: Arc<Shared>, run_id: String) -> CopyError {
    let mut client: Option<NodeClient> = None;
    let mut ticks = interval(SOURCE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match seen(&mut client, &plan, &run_id).await {
            Ok(history) => {
                let known = shared.progress().replid;
                if !known.is_empty() && known != history.replid {
                    return CopyError::SourceChanged("its history has another name");
                }
                shared.note(|progress| progress.source_offset = history.offset);
            }
            // The links have their own say about connections that fail.
            Err(CopyError::Source(_)) => client = None,
            Err(error) => return error,
        }
    }
}

async fn seen(client: &mut Option<NodeClient>, plan: &CopyPlan, run_id: &str) -> Result<History, CopyError> {
    let client = match client {
        Some(client) => client,
        None => {
            let connected = connect(&plan.source, plan.limits.silence).await;
            let mut connected = connected.map_err(CopyError::of_source)?;
            let server = connected.ask_text(&["INFO", "server"]).await;
            if field(&server.map_err(CopyError::of_source)?, "run_id") != run_id {
                return Err(CopyError::SourceChanged("it is another process"));
            }
            client.insert(connected)
        }
    };
    history(client).await
}

/// Pings the target, and sets the window by what it takes.
pub(super) async fn watch_target(plan: Arc<CopyPlan>, shared: Arc<Shared>) -> CopyError {
    let connected = connect(&plan.target, plan.limits.silence).await;
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => return CopyError::of_target(error),
    };
    let mut ticks = interval(TARGET_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        if let Err(error) = client.ask(&["PING"]).await {
            return CopyError::of_target(error);
        }
        let took = asked.elapsed();
        let window = shared.window.load(Ordering::Relaxed);
        let next = if took > plan.limits.target_latency {
            (window / 2).max(WINDOW_MIN)
        } else {
            (window + WINDOW_STEP).min(plan.limits.window)
        };
        shared.window.store(next, Ordering::Relaxed);
        shared.note(|progress| {
            progress.target_ping = took;
            progress.window = next;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_says_what_a_database_holds() {
        let of = |line| read_keyspace(line).unwrap();
        let redis = of("db3:keys=12,expires=4,avg_ttl=0,subexpiry=2\r");
        assert_eq!(
            redis,
            Keyspace {
                db: DbIndex(3),
                keys: 12,
                expires: 4,
                field_expires: 2
            }
        );
        assert_eq!(
            of("db0:keys=1,expires=0,avg_ttl=0,keys_with_volatile_items=7").field_expires,
            7
        );
        assert_eq!(read_keyspace("# Keyspace"), None);
    }

    #[test]
    fn a_server_is_known_by_its_own_version() {
        let of = |info| identify(info).map(|found| (found.family, found.major, found.minor));
        assert_eq!(of("redis_version:7.0.15\r\n"), Some((Family::Redis, 7, 0)));
        let valkey = "redis_version:7.2.4\r\nvalkey_version:8.1.3\r\n";
        assert_eq!(of(valkey), Some((Family::Valkey, 8, 1)));
        assert_eq!(of("nothing"), None);
    }
}
