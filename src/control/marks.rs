//! The nodes' marks, written and read by the control side.
//!
//! A mark is raised only, and only by a transaction of the node that compares it: two proxies of different epochs may do this at
//! the same time, and the higher one stays.

use std::time::Duration;

use super::client::{AskError, NodeClient};
use crate::ids::NodeIndex;
use crate::resp::Value;
use crate::topology::Topology;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::worker::shared::NodeCredentials;

/// Attempts at a mark that changes all the time.
const RACES_MAX: usize = 5;

/// What a node says to be.
#[derive(Debug)]
pub enum MarkOf {
    /// Its mark; none if it carries none.
    Found(Option<Mark>),
    /// Something else stands in its place.
    Unreadable(String),
    /// It gave no answer.
    Unreachable(String),
}

/// What becomes of a node without a mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unmarked {
    IsMarked,
    Stays,
}

/// Writes the mark of each node that is not spared, so that no other cluster takes it for empty.
///
/// # Errors
/// The first node that did not take its mark.
pub async fn mark_nodes(
    topology: &Topology,
    credentials: &NodeCredentials,
    deadline: Duration,
    spared: &[String],
) -> Result<(), String> {
    for (node, described) in topology.nodes_by_index() {
        if spared.contains(&described.name) {
            continue;
        }
        let marked = raise(topology, node, credentials, deadline, Unmarked::IsMarked).await;
        marked.map_err(|error| {
            format!(
                "node {} ({}): cannot be marked: {error}",
                described.name, described.address
            )
        })?;
    }
    Ok(())
}

/// Raises the mark of every node that carries a lower one. Whether no node is left that does.
pub async fn raise_marks(topology: &Topology, credentials: &NodeCredentials, deadline: Duration) -> bool {
    let mut all = true;
    for (node, described) in topology.nodes_by_index() {
        let raised = raise(topology, node, credentials, deadline, Unmarked::Stays).await;
        if let Err(error) = &raised {
            tracing::debug!(event = "mark_not_raised", node = described.name, %error);
        }
        all &= raised.is_ok();
    }
    all
}

async fn raise(
    topology: &Topology,
    node: NodeIndex,
    credentials: &NodeCredentials,
    deadline: Duration,
    unmarked: Unmarked,
) -> Result<(), AskError> {
    let mut client = NodeClient::connect(&topology.node(node).address, credentials, deadline).await?;
    client
        .ask(&["SELECT", &topology.metadata_db().to_string()])
        .await?;
    let expected = Mark::expected(topology, node);
    for _ in 0..RACES_MAX {
        client.ask(&["WATCH", MARK_KEY]).await?;
        let found = client.ask(&["GET", MARK_KEY]).await?;
        match expected.standing(found.as_bytes()) {
            Standing::OlderEpoch(_) => {}
            Standing::Unmarked if unmarked == Unmarked::IsMarked => {}
            // A node that came back empty is prepared by whoever serves it; a foreign mark is nobody's to change.
            Standing::Ours
            | Standing::NewerEpoch(_)
            | Standing::Unmarked
            | Standing::OtherCluster(_)
            | Standing::OtherNode(_)
            | Standing::Unreadable(_) => return Ok(()),
        }
        client.ask(&["MULTI"]).await?;
        client.ask(&["SET", MARK_KEY, &expected.encode()]).await?;
        let done = client.ask(&["EXEC"]).await?;
        if !matches!(done, Value::Null | Value::NullArray) {
            return Ok(());
        }
    }
    Err(AskError::NotRedis)
}

/// The mark of every node, in the order of the topology.
pub async fn read_marks(
    topology: &Topology,
    credentials: &NodeCredentials,
    deadline: Duration,
) -> Vec<MarkOf> {
    let metadata = topology.metadata_db().to_string();
    let mut marks = Vec::with_capacity(topology.nodes.len());
    for (_, described) in topology.nodes_by_index() {
        let asked = async {
            let mut client = NodeClient::connect(&described.address, credentials, deadline).await?;
            client.ask(&["SELECT", &metadata]).await?;
            client.ask(&["GET", MARK_KEY]).await
        };
        let answer: Result<Value, AskError> = asked.await;
        marks.push(match answer.as_ref().map(Value::as_bytes) {
            Err(error) => MarkOf::Unreachable(error.to_string()),
            Ok(None) => MarkOf::Found(None),
            Ok(Some(text)) => match Mark::decode(text) {
                Ok(mark) => MarkOf::Found(Some(mark)),
                Err(why) => MarkOf::Unreadable(why),
            },
        });
    }
    marks
}
