//! What a node must have before it is served: the functions that the other nodes have, and then preshard's mark.
//!
//! ```text
//!  a link finds no mark ─▶ rings this node's bell, looks for the mark again and again until its time is over
//!  the node's task here ─▶ still no mark? ─▶ FUNCTION LIST of the others ─▶ FUNCTION LOAD ─▶ SET mark NX
//! ```
//!
//! A node that carries the mark is left alone: what was loaded and deleted there is its users' business. So the mark comes
//! last, and a proxy that dies in between does it all again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::client::{AskError, NodeClient};
use crate::ids::NodeIndex;
use crate::resp::Value;
use crate::topology::Topology;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::worker::shared::{NodeCredentials, Shared};

/// Libraries by name, each with its code.
pub type Libraries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Prepares nodes each time that a link finds one of them empty, also those that come later. Runs as long as it is polled.
pub async fn prepare_nodes(shared: Arc<Shared>) {
    let mut changes = shared.succession.subscribe();
    let mut tasks = JoinSet::new();
    let mut known = 0;
    loop {
        let positions = shared.topology.load().nodes.len();
        for node in (0..).map(NodeIndex).take(positions).skip(known) {
            tasks.spawn(prepare_node(Arc::clone(&shared), node));
        }
        known = positions;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // A node has left.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Prepares one node each time that a link finds it empty.
async fn prepare_node(shared: Arc<Shared>, node: NodeIndex) {
    let of_node = shared.node(node);
    loop {
        of_node.empty.notified().await;
        let topology = shared.topology.load_full();
        if topology.retired.contains(&node) {
            return;
        }
        let name = &topology.node(node).name;
        match prepare(&shared, &topology, node).await {
            Ok(true) => {
                shared.metrics.node_came_back_empty(name);
                tracing::warn!(
                    event = "node_empty",
                    node = name,
                    "the node lost its mark: it came back empty and is served"
                );
            }
            Ok(false) => {}
            // The link that rang says that the node cannot be served, and rings again.
            Err(error) => tracing::debug!(event = "node_not_prepared", node = name, %error),
        }
    }
}

/// Whether the node was empty, and is ready now.
async fn prepare(shared: &Shared, topology: &Topology, node: NodeIndex) -> Result<bool, AskError> {
    let (credentials, deadline) = shared.admin_login();
    let credentials = &credentials;
    let mut client = NodeClient::connect(&topology.node(node).address, credentials, deadline).await?;
    if standing(topology, node, &mut client).await? != Standing::Unmarked {
        return Ok(false);
    }
    let view = shared.nodes.load();
    let others: Vec<NodeIndex> = topology
        .nodes_by_index()
        .map(|(other, _)| other)
        .filter(|&other| other != node && view.nodes.get(other.index()).is_none_or(|seen| seen.up))
        .collect();
    let libraries = libraries_of(topology, &others, credentials, deadline, false).await;
    load(topology, node, &mut client, &libraries).await;
    let mark = Mark::expected(topology, node).encode();
    client.ask(&["SET", MARK_KEY, &mark, "NX"]).await?;
    Ok(true)
}

/// Gives nodes that are about to be marked the functions that other nodes have. `seeding` says that no node carries a mark
/// yet, so that all are asked.
pub async fn bring_functions(
    topology: &Topology,
    credentials: &NodeCredentials,
    deadline: Duration,
    to: &[NodeIndex],
    seeding: bool,
) {
    if to.is_empty() {
        return;
    }
    let all: Vec<NodeIndex> = topology.nodes_by_index().map(|(node, _)| node).collect();
    let libraries = libraries_of(topology, &all, credentials, deadline, seeding).await;
    for &node in to {
        let address = &topology.node(node).address;
        if let Ok(mut client) = NodeClient::connect(address, credentials, deadline).await {
            load(topology, node, &mut client, &libraries).await;
        }
    }
}

/// All libraries of these nodes. Where two have one of the same name, the first node's counts.
async fn libraries_of(
    topology: &Topology,
    nodes: &[NodeIndex],
    credentials: &NodeCredentials,
    deadline: Duration,
    seeding: bool,
) -> Libraries {
    let mut all = Libraries::new();
    for &node in nodes {
        let found = async {
            let address = &topology.node(node).address;
            let mut client = NodeClient::connect(address, credentials, deadline).await?;
            let theirs = match standing(topology, node, &mut client).await? {
                Standing::Ours | Standing::OlderEpoch(_) | Standing::NewerEpoch(_) => true,
                Standing::Unmarked => seeding,
                Standing::OtherCluster(_) | Standing::OtherNode(_) | Standing::Unreadable(_) => false,
            };
            match theirs {
                true => libraries_on(&mut client).await,
                false => Ok(Libraries::new()),
            }
        };
        // A node that does not answer has nothing to give now.
        for (name, code) in found.await.unwrap_or_default() {
            let kept = all.entry(name).or_insert_with(|| code.clone());
            if *kept != code {
                tracing::warn!(
                    event = "functions_differ",
                    node = topology.node(node).name,
                    "a library of this node has other code than the one of the same name on another node"
                );
            }
        }
    }
    all
}

pub(super) async fn standing(
    topology: &Topology,
    node: NodeIndex,
    client: &mut NodeClient,
) -> Result<Standing, AskError> {
    client
        .ask(&["SELECT", &topology.metadata_db().to_string()])
        .await?;
    let found = client.ask(&["GET", MARK_KEY]).await?;
    Ok(Mark::expected(topology, node).standing(found.as_bytes()))
}

/// A node's libraries. A server that has no functions has no libraries.
///
/// # Errors
/// It cannot be asked.
pub async fn libraries_on(client: &mut NodeClient) -> Result<Libraries, AskError> {
    let rows = match client.ask(&["FUNCTION", "LIST", "WITHCODE"]).await {
        Ok(Value::Array(rows)) => rows,
        Ok(_) | Err(AskError::Refused(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(rows.into_iter().filter_map(library).collect())
}

/// `[library_name, n, engine, LUA, functions, […], library_code, …]`
fn library(row: Value) -> Option<(Vec<u8>, Vec<u8>)> {
    let Value::Array(fields) = row else {
        return None;
    };
    let field = |name: &[u8]| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| (pair[0].as_bytes() == Some(name)).then(|| pair[1].as_bytes())?)
    };
    Some((field(b"library_name")?.to_vec(), field(b"library_code")?.to_vec()))
}

/// Loads what a node lacks.
async fn load(topology: &Topology, node: NodeIndex, client: &mut NodeClient, libraries: &Libraries) {
    if libraries.is_empty() {
        return;
    }
    let has = libraries_on(client).await.unwrap_or_default();
    let name = &topology.node(node).name;
    let lacking = libraries
        .iter()
        .filter(|(library, _)| !has.contains_key(*library));
    let mut loaded = 0;
    for (_, code) in lacking {
        match client.ask_bytes(&[b"FUNCTION", b"LOAD", code]).await {
            Ok(_) => loaded += 1,
            Err(error) => tracing::warn!(event = "function_not_loaded", node = name, %error),
        }
    }
    if loaded > 0 {
        tracing::info!(event = "functions_loaded", node = name, libraries = loaded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_its_name_and_its_code() {
        let row = |words: &[&str]| Value::Array(words.iter().map(|word| Value::bulk(*word)).collect());
        assert_eq!(
            library(row(&[
                "library_name",
                "l",
                "engine",
                "LUA",
                "library_code",
                "#!lua"
            ])),
            Some((b"l".to_vec(), b"#!lua".to_vec()))
        );
        assert_eq!(library(row(&["library_name", "l"])), None);
        assert_eq!(library(row(&["library_name"])), None);
        assert_eq!(library(Value::Null), None);
    }
}
