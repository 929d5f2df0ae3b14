//! From the settings to what all workers share: the topology that may be served, over nodes that were looked at.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::ServeError;
use crate::command;
use crate::config::{Config, OnEmpty, Secret, StorePlace};
use crate::control::{self, Fleet, Preflight, admin_credentials_of, settings_of, worker_count};
use crate::ids::{Epoch, NodeIndex};
use crate::metrics::{Metrics, MetricsOptions};
use crate::store::{EtcdAccess, EtcdStore, FileStore, FleetStore, StoreError, TopologyStore};
use crate::tls::Connector;
use crate::topology::{Node, Topology};
use crate::worker::registry::Registry;
use crate::worker::shared::{
    AdminRequest, ClusterNode, NodeCredentials, NodeView, NodesView, Shared, Succession,
};
use crate::worker::slowlog::SlowLog;
use crate::worker::users::{Attempts, Users};
use crate::worker::{ClientPause, Directory};

/// Between two attempts to reach the store at the start.
const STORE_PACE: Duration = Duration::from_millis(500);
/// What a proxy gets to mark the nodes of a topology that it has just stored.
const SEEDER_TIME: Duration = Duration::from_millis(500);
/// So many attempts are told of once.
const STORE_TOLD_EACH: u32 = 20;

/// Loads or seeds the topology, looks at the nodes, and puts together what workers share.
pub(super) async fn prepare(
    config: &Config,
    store_tls: Option<&Connector>,
    admin_requests: mpsc::Sender<AdminRequest>,
) -> Result<(Arc<Shared>, Arc<Fleet>), ServeError> {
    let Looked {
        topology,
        store,
        empty,
        versions,
    } = topology_of(config, store_tls, &admin_credentials_of(config)).await?;
    let nodes = first_view(&topology, &versions);
    let metrics = Metrics::new(MetricsOptions {
        workers: worker_count(config),
        command_names: command::all().iter().map(|spec| spec.name).collect(),
        shards: usize::from(topology.total_shards()),
        max_clients: config.proxy.max_clients as u64,
    });
    let metrics =
        metrics.map_err(|error| ServeError::Refused(format!("the metrics table is not valid: {error}")))?;
    metrics.set_assignment((&topology).into());
    empty.iter().for_each(|node| metrics.node_came_back_empty(node));
    let cluster = config
        .proxy
        .cluster_emulation
        .then(|| ClusterNode::new(&topology.cluster_id, config.proxy.advertise.clone()));
    let shared = Shared {
        settings: ArcSwap::from_pointee(settings_of(config)),
        users: ArcSwap::from_pointee(Users::of(config)),
        users_generation: AtomicU64::new(0),
        registrations: AtomicU64::new(0),
        attempts: Attempts::default(),
        admin_requests,
        node_secret: OnceLock::new(),
        acl_users: config.nodes.acl_users,
        cluster,
        data_address: RwLock::default(),
        config_file: config.file.clone(),
        succession: Succession::new(&topology, worker_count(config)),
        topology: ArcSwap::from_pointee(topology),
        metrics: Arc::new(metrics),
        registry: Registry::default(),
        scripts: Arc::default(),
        behind: tokio::sync::Notify::new(),
        pause: ClientPause::default(),
        slowlog: SlowLog::default(),
        channels: Arc::new(Directory::new(worker_count(config))),
        nodes: ArcSwap::from_pointee(nodes),
        draining: AtomicBool::new(false),
        started: Instant::now(),
        started_unix: unix_time(),
        run_id: random_id(),
    };
    let shared = Arc::new(shared);
    let fleet = join(&shared, store).await?;
    Ok((shared, fleet))
}

/// From here on the store is what the proxies of the cluster share.
async fn join(shared: &Arc<Shared>, store: Box<dyn TopologyStore>) -> Result<Arc<Fleet>, ServeError> {
    let store = store
        .into_fleet()
        .map_err(|error| ServeError::Refused(error.to_string()))?;
    let secret = secret_of(store.as_ref()).await?;
    drop(shared.node_secret.set(secret));
    Ok(Fleet::new(Arc::clone(shared), store))
}

/// The secret that the passwords of preshard's users on nodes are made of. The store has answered just now.
async fn secret_of(store: &dyn FleetStore) -> Result<Secret, ServeError> {
    loop {
        match store.secret().await {
            Err(error) if error.is_unanswered() => sleep(STORE_PACE).await,
            found => return found.map_err(|error| ServeError::Refused(error.to_string())),
        }
    }
}

/// What was found before anything is served.
struct Looked {
    topology: Topology,
    store: Box<dyn TopologyStore>,
    /// Nodes that came back empty.
    empty: Vec<String>,
    /// Of the nodes that answered, by name.
    versions: Vec<(String, String)>,
}

async fn topology_of(
    config: &Config,
    store_tls: Option<&Connector>,
    credentials: &NodeCredentials,
) -> Result<Looked, ServeError> {
    let refuse = |error: StoreError| ServeError::Refused(error.to_string());
    let mut store = open_store(config, store_tls.cloned()).map_err(refuse)?;
    let stored = load_patiently(store.as_mut()).await.map_err(refuse)?;
    let seeding = stored.is_none();
    let topology = match stored {
        Some(topology) => topology,
        None => seed(config)?,
    };
    let deadline = config.nodes.connect_timeout;
    let mut found = control::check_nodes(&topology, credentials, deadline, seeding).await;
    let shared_store = !matches!(config.topology.store, StorePlace::File(_));
    if shared_store && !seeding && !found.unmarked.is_empty() {
        // The proxy that has filled the store may be about to mark the nodes.
        sleep(SEEDER_TIME).await;
        found = control::check_nodes(&topology, credentials, deadline, seeding).await;
    }
    let mut spared = match judge(&found, seeding) {
        Ok(spared) => spared,
        Err(refused) => {
            // Another proxy may have filled the store, or changed the topology, meanwhile, and the nodes carry its mark.
            if shared_store {
                let now = load_patiently(store.as_mut()).await.map_err(refuse)?;
                let before = if seeding { Epoch(0) } else { topology.epoch };
                if now.is_some_and(|now| now.epoch > before) {
                    return Box::pin(topology_of(config, store_tls, credentials)).await;
                }
            }
            return Err(refused);
        }
    };
    let empty = if seeding {
        Vec::new()
    } else {
        std::mem::take(&mut found.unmarked)
    };
    if config.nodes.on_empty == OnEmpty::Refuse {
        // Left without a mark, such a node is refused by every link that looks at it.
        spared.extend(empty.iter().cloned());
    }
    for node in &empty {
        let what = "the node carries no mark: it came back without its data, or is another server";
        tracing::warn!(event = "node_empty", node, on_empty = ?config.nodes.on_empty, "{what}");
    }
    if seeding {
        match store.save(&topology).await {
            Ok(()) => {}
            // Another proxy was first: its topology is the one.
            Err(StoreError::Changed { .. }) => {
                return Box::pin(topology_of(config, store_tls, credentials)).await;
            }
            Err(error) => return Err(refuse(error)),
        }
        tracing::info!(
            event = "seeded",
            store = store.place(),
            cluster = topology.cluster_id,
            shards = topology.shards
        );
    }
    let new = topology
        .nodes_by_index()
        .filter(|(_, node)| (seeding || empty.contains(&node.name)) && !spared.contains(&node.name));
    let new: Vec<NodeIndex> = new.map(|(node, _)| node).collect();
    control::bring_functions(&topology, credentials, deadline, &new, seeding).await;
    let marked = control::mark_nodes(&topology, credentials, deadline, &spared).await;
    marked.map_err(ServeError::Refused)?;
    Ok(Looked {
        topology,
        store,
        empty,
        versions: found.versions,
    })
}

/// What is known of the nodes before the first probe: clients ask for the version when they connect, and only then.
fn first_view(topology: &Topology, versions: &[(String, String)]) -> NodesView {
    let of = |name: &str| versions.iter().find(|(node, _)| node == name);
    let view = |node: &Node| {
        of(&node.name).map_or_else(NodeView::default, |(_, version)| NodeView {
            up: true,
            version: version.clone(),
            ..NodeView::default()
        })
    };
    NodesView {
        nodes: topology.nodes.iter().map(view).collect(),
    }
}

/// How a store on the network is connected to over TLS, if it is.
#[must_use]
pub fn store_connector(config: &Config) -> Option<Connector> {
    config.topology.store_tls.side.clone().map(Connector::new)
}

/// The store that the settings name. A file is locked by it.
///
/// # Errors
/// The file cannot be locked.
pub fn open_store(config: &Config, tls: Option<Connector>) -> Result<Box<dyn TopologyStore>, StoreError> {
    Ok(match &config.topology.store {
        StorePlace::File(path) => Box::new(FileStore::open(path)?),
        StorePlace::Etcd { endpoints, prefix } => {
            let access = EtcdAccess {
                endpoints: endpoints.clone(),
                login: config.topology.store_login.clone(),
                deadline: config.topology.store_timeout,
                tls,
            };
            Box::new(EtcdStore::new(access, prefix))
        }
    })
}

/// Waits for a store on the network: whoever starts proxies and etcd together need not care which is up first.
async fn load_patiently(store: &mut dyn TopologyStore) -> Result<Option<Topology>, StoreError> {
    let mut attempt = 0_u32;
    loop {
        match store.load().await {
            Err(error) if error.is_unanswered() => {
                if attempt.is_multiple_of(STORE_TOLD_EACH) {
                    tracing::warn!(event = "store_unreachable", %error, "waiting for it");
                }
                attempt = attempt.wrapping_add(1);
                sleep(STORE_PACE).await;
            }
            loaded => return loaded,
        }
    }
}

fn seed(config: &Config) -> Result<Topology, ServeError> {
    let cluster = config.topology.cluster.clone().unwrap_or_else(random_id);
    let settings = &config.topology;
    let seeded = Topology::seed(cluster, settings.shards, settings.pinned, settings.nodes.clone());
    seeded.map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        ServeError::Refused(lines.join("\n"))
    })
}

/// Whether what was found lets the proxy start. Returns the nodes that did not answer and may come later.
fn judge(found: &Preflight, seeding: bool) -> Result<Vec<String>, ServeError> {
    for warning in &found.warnings {
        tracing::warn!(event = "node_warning", node = warning.node, "{}", warning.what);
    }
    let (unreachable, wrong): (Vec<_>, Vec<_>) =
        found.problems.iter().partition(|problem| problem.unreachable);
    let fatal: Vec<String> = if seeding {
        found.problems.iter().map(ToString::to_string).collect()
    } else {
        wrong.iter().map(ToString::to_string).collect()
    };
    if !fatal.is_empty() {
        return Err(ServeError::Refused(fatal.join("\n")));
    }
    for problem in &unreachable {
        tracing::warn!(
            event = "node_unreachable",
            node = problem.node,
            "{}",
            problem.what
        );
    }
    Ok(unreachable.iter().map(|problem| problem.node.clone()).collect())
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// 160 random bits as hex, as Redis makes its `run_id`.
fn random_id() -> String {
    (0..5).map(|_| format!("{:08x}", fastrand::u32(..))).collect()
}
