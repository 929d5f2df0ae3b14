//! A proxy without sockets: what words read, made by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{AdminContext, Plans, Rates};
use crate::command;
use crate::config::{AclUsers, Batches, Config, Migration, OnEmpty, OnGap};
use crate::control::{Fleet, Live, Parts};
use crate::metrics::{Metrics, MetricsOptions};
use crate::migration::Mover;
use crate::resp::{ArgRange, Args, RequestLimits, RequestScanner, Value, write_request};
use crate::store::{FileStore, FleetStore, TopologyStore};
use crate::topology::{Node, Topology};
use crate::worker::registry::Registry;
use crate::worker::shared::{Limits, NodeCredentials, NodesView, Settings, Shared, Succession};
use crate::worker::slowlog::{SlowLog, SlowLogSettings};
use crate::worker::users::{Attempts, Users};
use crate::worker::{ClientPause, Directory};

/// Eight shards and four pinned databases on two nodes that do not exist; `extra` goes into the config.
pub(super) fn context(extra: &str) -> AdminContext {
    let text = format!("[topology]\nshards = 8\npinned = 4\n{extra}");
    let config = Config::parse(Path::new("/etc/preshard/p.toml"), &text, std::iter::empty()).unwrap();
    let node = |name: &str, address: &str| Node {
        name: name.to_owned(),
        address: address.parse().unwrap(),
    };
    let nodes = vec![node("a", "unix:/nonexistent/a"), node("b", "unix:/nonexistent/b")];
    let topology = Topology::seed("test".to_owned(), 8, 4, nodes).unwrap();
    let metrics = Metrics::new(MetricsOptions {
        workers: 1,
        command_names: command::all().iter().map(|spec| spec.name).collect(),
        shards: usize::from(topology.total_shards()),
        max_clients: 100,
    });
    let metrics = Arc::new(metrics.unwrap());
    metrics.set_assignment((&topology).into());
    let shared = Shared {
        settings: ArcSwap::from_pointee(Settings {
            limits: limits(),
            credentials: NodeCredentials::default(),
            admin_credentials: NodeCredentials::default(),
            on_empty: OnEmpty::Serve,
            on_gap: OnGap::Resubscribe,
            redis_version: Some("7.0.15".to_owned()),
            max_clients: 100,
            slowlog: SlowLogSettings {
                slower_than_us: Some(10_000),
                entries_max: 128,
                show_args: false,
            },
            migration: Migration::default(),
        }),
        users: ArcSwap::from_pointee(Users::of(&config)),
        users_generation: AtomicU64::new(0),
        registrations: AtomicU64::new(0),
        attempts: Attempts::default(),
        admin_requests: mpsc::channel(1).0,
        node_secret: OnceLock::new(),
        acl_users: AclUsers::Auto,
        cluster: None,
        data_address: RwLock::new("127.0.0.1:6380".to_owned()),
        config_file: config.file.clone(),
        succession: Succession::new(&topology, 1),
        topology: ArcSwap::from_pointee(topology),
        metrics,
        registry: Registry::default(),
        scripts: Arc::default(),
        behind: tokio::sync::Notify::new(),
        pause: ClientPause::default(),
        slowlog: SlowLog::default(),
        channels: Arc::new(Directory::new(1)),
        nodes: ArcSwap::from_pointee(NodesView::default()),
        draining: AtomicBool::new(false),
        started: Instant::now(),
        started_unix: 1_700_000_000,
        run_id: "f00".to_owned(),
    };
    let shared = Arc::new(shared);
    let fleet = Fleet::new(Arc::clone(&shared), store(&shared.topology.load()));
    AdminContext {
        live: Arc::new(Live::new(config, Arc::clone(&shared), Parts::default())),
        mover: Mover::new(Arc::clone(&shared), Arc::clone(&fleet)),
        fleet,
        shared,
        rates: Arc::new(Rates::default()),
        plans: Plans::default(),
    }
}

/// A file in a folder of its own, which is deleted at once: what is open stays.
fn store(topology: &Topology) -> Arc<dyn FleetStore> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "preshard-admin-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut store = FileStore::open(&folder.join("topology.json")).unwrap();
    store.save(topology).unwrap();
    let store: Box<dyn TopologyStore> = Box::new(store);
    let store = store.into_fleet().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    store
}

fn limits() -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        request: RequestLimits::default(),
        in_flight: 1,
        in_flight_bytes: 1,
        request_memory: 1,
        output_soft: 1,
        output_hard: 1,
        output_stall: second,
        idle: second,
        handshake: second,
        request_timeout_us: 0,
        silence_max_us: 1,
        link_in_flight: 1,
        link_in_flight_bytes: 1,
        node_queue: 1,
        node_queue_bytes: 1,
        keys: 1,
        tracking_keys: 1,
        batches: Batches::Auto,
        hold: second,
        dedicated: 4,
        shared_connections: 1,
        keepalive: second,
        connect: second,
        backoff_max: second,
    }
}

/// Asks `PRESHARD …` with words parted by spaces.
pub(super) async fn ask(context: &AdminContext, words: &str) -> Value {
    let words: Vec<&[u8]> = std::iter::once("PRESHARD")
        .chain(words.split_whitespace())
        .map(str::as_bytes)
        .collect();
    ask_words(context, &words).await
}

pub(super) async fn ask_words(context: &AdminContext, words: &[&[u8]]) -> Value {
    let mut frame = Vec::new();
    write_request(&mut frame, words);
    let mut ranges: Vec<ArgRange> = Vec::new();
    RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
    context.answer(&Args::new(&frame, &ranges)).await
}

/// The error line of a reply that must be one.
pub(super) fn error(value: &Value) -> &str {
    match value {
        Value::Error(line) => line,
        other => panic!("no error: {other:?}"),
    }
}

/// The rows of a table, each as text by column.
pub(super) fn rows(value: &Value) -> Vec<BTreeMap<String, String>> {
    match value {
        Value::Array(rows) => rows.iter().map(fields).collect(),
        other => panic!("no table: {other:?}"),
    }
}

/// The fields of a row as text.
pub(super) fn fields(value: &Value) -> BTreeMap<String, String> {
    match value {
        Value::Map(pairs) => pairs
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        other => panic!("no row: {other:?}"),
    }
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Map(_) => "row".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => String::from_utf8_lossy(other.as_bytes().unwrap()).into_owned(),
    }
}

/// The names of a row's columns, in order.
pub(super) fn columns(value: &Value) -> Vec<String> {
    match value {
        Value::Map(pairs) => pairs.iter().map(|(name, _)| text(name)).collect(),
        other => panic!("no row: {other:?}"),
    }
}
