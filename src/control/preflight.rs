//! Before the first client: are these the right nodes, and can they hold the topology?
//!
//! | found | start-up |
//! |---|---|
//! | a plain node with databases enough, unmarked or ours | goes on |
//! | cluster mode, a replica, too few databases, a version before 5, a wrong password | refuses, with the line to change |
//! | the mark of another cluster or of another node | refuses: somebody's data lives there |
//! | our mark with a higher epoch than the store's | refuses: the store is old |
//! | not reachable | a first start refuses; a later one goes on and serves the others |

use std::fmt;
use std::time::Duration;

use super::client::{AskError, NodeClient};
use super::info_field;
use crate::ids::NodeIndex;
use crate::topology::Topology;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::worker::shared::{NodeCredentials, version_number};

const VERSION_MIN: [u32; 3] = [5, 0, 0];

/// Something about a node that an operator must look at.
#[derive(Clone, Debug)]
pub struct NodeProblem {
    /// The node's name.
    pub node: String,
    /// Its address.
    pub address: String,
    /// What is wrong and what to do.
    pub what: String,
    /// Whether the node did not answer at all, which may pass.
    pub unreachable: bool,
}

impl fmt::Display for NodeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({}): {}", self.node, self.address, self.what)
    }
}

/// What was found on all nodes.
#[derive(Clone, Debug, Default)]
pub struct Preflight {
    /// Reasons to refuse, or to warn of.
    pub problems: Vec<NodeProblem>,
    /// Things that work and are worth a warning.
    pub warnings: Vec<NodeProblem>,
    /// Nodes that answered, with their versions.
    pub versions: Vec<(String, String)>,
    /// Nodes that carry no mark of any cluster: new ones, or ones that lost their data.
    pub unmarked: Vec<String>,
}

/// Looks at every node. `seeding` says that no topology is stored yet, so that any mark is a foreign one.
pub async fn check_nodes(
    topology: &Topology,
    credentials: &NodeCredentials,
    deadline: Duration,
    seeding: bool,
) -> Preflight {
    let mut found = Preflight::default();
    for (node, described) in topology.nodes_by_index() {
        let problem = |what: String, unreachable: bool| NodeProblem {
            node: described.name.clone(),
            address: described.address.to_string(),
            what,
            unreachable,
        };
        match check_node(topology, node, credentials, deadline, seeding).await {
            Ok(facts) => {
                if facts.unmarked {
                    found.unmarked.push(described.name.clone());
                }
                found.versions.push((described.name.clone(), facts.version));
                found
                    .warnings
                    .extend(facts.warnings.into_iter().map(|what| problem(what, false)));
            }
            Err(Problem::Unreachable(what)) => found.problems.push(problem(what, true)),
            Err(Problem::Wrong(what)) => found.problems.push(problem(what, false)),
        }
    }
    found
}

/// What is worth knowing of a node that fits.
pub(super) struct NodeFacts {
    version: String,
    pub(super) unmarked: bool,
    warnings: Vec<String>,
}

/// Why a node does not fit.
pub(super) enum Problem {
    Unreachable(String),
    Wrong(String),
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match &error {
            AskError::Io(_) | AskError::Timeout(_) => Self::Unreachable(format!(
                "cannot be reached: {error}; start it, or correct its address in [[topology.nodes]]"
            )),
            AskError::NotRedis => Self::Wrong(error.to_string()),
            AskError::Refused(reply) if reply.starts_with("LOADING") => {
                Self::Unreachable("is still loading its data; wait for it".to_owned())
            }
            AskError::Refused(reply) if reply.starts_with("NOAUTH") || reply.starts_with("WRONGPASS") => {
                Self::Wrong(format!(
                    "refuses the login ({reply}); set [nodes] username and password_file"
                ))
            }
            AskError::Refused(reply) => {
                Self::Wrong(format!("refuses a question that preshard must ask: {reply}"))
            }
        }
    }
}

/// Looks at one node.
pub(super) async fn check_node(
    topology: &Topology,
    node: NodeIndex,
    credentials: &NodeCredentials,
    deadline: Duration,
    seeding: bool,
) -> Result<NodeFacts, Problem> {
    let mut client = NodeClient::connect(&topology.node(node).address, credentials, deadline).await?;
    let info = client.ask_text(&["INFO"]).await?;
    if info_field(&info, "loading") == Some("1") {
        return Err(Problem::Unreachable(
            "is still loading its data; wait for it".to_owned(),
        ));
    }
    if info_field(&info, "cluster_enabled") == Some("1") {
        return Err(Problem::Wrong(
            "runs in cluster mode; preshard shards over plain nodes: set `cluster-enabled no` in its redis.conf".to_owned(),
        ));
    }
    if info_field(&info, "role") == Some("slave") {
        return Err(Problem::Wrong(
            "is a replica; give the address of its primary".to_owned(),
        ));
    }
    let version = info_field(&info, "redis_version").unwrap_or("").to_owned();
    if version_number(&version) < VERSION_MIN {
        return Err(Problem::Wrong(format!(
            "runs Redis {version}; preshard needs 5.0 or newer"
        )));
    }
    let mut warnings = Vec::new();
    check_databases(topology, &mut client).await?;
    let unmarked = check_mark(topology, node, &mut client, seeding).await?;
    let policy = info_field(&info, "maxmemory_policy").unwrap_or("noeviction");
    if info_field(&info, "maxmemory").is_some_and(|limit| limit != "0") && policy.starts_with("allkeys") {
        warnings.push(format!(
            "maxmemory-policy is {policy}: it may evict preshard's mark ({MARK_KEY}), and with one key all counts of a \
             shard (COUNTER.*); volatile-* spares them"
        ));
    }
    Ok(NodeFacts {
        version,
        unmarked,
        warnings,
    })
}

/// The node must have every database that the topology may place, and the metadata database behind them.
async fn check_databases(topology: &Topology, client: &mut NodeClient) -> Result<(), Problem> {
    let needed = topology.databases_needed();
    let metadata = topology.metadata_db().to_string();
    match client.ask(&["SELECT", &metadata]).await {
        Ok(_) => Ok(()),
        Err(AskError::Refused(reply)) if reply.contains("out of range") => {
            let has = databases(client).await;
            let has = has.map_or_else(String::new, |count| format!(" It has {count}."));
            Err(Problem::Wrong(format!(
                "has too few databases.{has} Set `databases {needed}` in its redis.conf and restart it \
                 ({} shards + {} pinned + 1 for preshard's own metadata), or choose fewer [topology] shards",
                topology.shards, topology.pinned
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// How many databases a node says to have; some managed servers do not say.
pub(super) async fn databases(client: &mut NodeClient) -> Option<u64> {
    let value = client.ask(&["CONFIG", "GET", "databases"]).await.ok()?;
    match value {
        crate::resp::Value::Array(pair) => std::str::from_utf8(pair.get(1)?.as_bytes()?).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whether the node carries no mark; an error if it carries one that forbids to serve it.
async fn check_mark(
    topology: &Topology,
    node: NodeIndex,
    client: &mut NodeClient,
    seeding: bool,
) -> Result<bool, Problem> {
    let text = client.ask_text(&["GET", MARK_KEY]).await?;
    let found = if text.is_empty() {
        None
    } else {
        Some(text.as_bytes())
    };
    let expected = Mark::expected(topology, node);
    match expected.standing(found) {
        Standing::Unmarked => Ok(true),
        Standing::Ours | Standing::OlderEpoch(_) => Ok(false),
        Standing::NewerEpoch(epoch) => Err(Problem::Wrong(format!(
            "carries epoch {epoch}, but the topology store has epoch {}: the store is old. Restore the newer one: with the \
             store's own backup, or a saved PRESHARD TOPOLOGY DUMP and: preshard restore --config FILE DOCUMENT",
            topology.epoch
        ))),
        Standing::OtherCluster(mark) if seeding => Err(Problem::Wrong(format!(
            "belongs to the preshard cluster {} (node {}, epoch {}), and this proxy's topology store is empty. If it is \
             that cluster, restore its topology store (preshard restore --config FILE DOCUMENT, with a saved PRESHARD TOPOLOGY \
             DUMP); if the node's data may go, empty it with FLUSHALL",
            mark.cluster, mark.node, mark.epoch
        ))),
        Standing::OtherCluster(mark) => Err(Problem::Wrong(format!(
            "belongs to another preshard cluster ({}, as node {}); correct its address, or empty it with FLUSHALL",
            mark.cluster, mark.node
        ))),
        Standing::OtherNode(mark) => Err(Problem::Wrong(format!(
            "is node {} of this cluster, not {}: two addresses were swapped, or two names share one server",
            mark.node,
            topology.node(node).name
        ))),
        Standing::Unreadable(why) => Err(Problem::Wrong(format!(
            "has a value in {MARK_KEY} (database {}) that is no mark of preshard: {why}",
            topology.metadata_db()
        ))),
    }
}
