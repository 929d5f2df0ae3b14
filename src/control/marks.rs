//! The nodes' marks, written and read by the control side.
//!
//! A mark is raised only, and only by a transaction of the node that compares it: two proxies of different epochs may do this at
//! the same time, and the higher one stays.

use std::time::Duration;

use super::client::{AskError, NodeClient};
use super::preflight::check_nodes;
use super::room::Room;
use crate::ids::{Epoch, NodeIndex};
use crate::resp::Value;
use crate::topology::Topology;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::worker::shared::NodeCredentials;

/// Attempts at a mark that changes all the time.
const RACES_MAX: usize = 5;

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

/// Raises the mark of one node, if it carries a lower one of ours.
///
/// # Errors
/// The node cannot be asked, or its mark changes all the time.
pub async fn raise_mark(
    topology: &Topology,
    node: NodeIndex,
    credentials: &NodeCredentials,
    deadline: Duration,
) -> Result<(), AskError> {
    raise(topology, node, credentials, deadline, Unmarked::Stays).await
}

async fn raise(
    topology: &Topology,
    node: NodeIndex,
    credentials: &NodeCredentials,
    deadline: Duration,
    unmarked: Unmarked,
) -> Result<(), AskError> {
    let mut client = NodeClient::connect(&topology.node(node).address, credentials, deadline).await?;
    let metadata = topology.metadata_db().to_string();
    let expected = Mark::expected(topology, node);
    let mark = expected.encode();
    let mut room = Room::default();
    for _ in 0..RACES_MAX {
        let look: [&[&str]; 3] = [&["SELECT", &metadata], &["WATCH", MARK_KEY], &["GET", MARK_KEY]];
        let found = last_of(&mut client, &look, &Room::default()).await?;
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
        let set: [&[&str]; 3] = [&["MULTI"], &["SET", MARK_KEY, &mark], &["EXEC"]];
        match last_of(&mut client, &set, &room).await {
            Ok(Value::Null | Value::NullArray) => {}
            Ok(_) => return Ok(()),
            Err(error) if room.is_made(&mut client, &error).await? => {}
            Err(error) => return Err(error),
        }
    }
    Err(AskError::NotRedis)
}

/// Asks all in one piece; the answer to the last question. None may be an error.
async fn last_of(client: &mut NodeClient, questions: &[&[&str]], room: &Room) -> Result<Value, AskError> {
    let questions: Vec<Vec<&[u8]>> = questions
        .iter()
        .map(|question| question.iter().map(|word| word.as_bytes()).collect())
        .collect();
    let mut last = Err(AskError::NotRedis);
    for answer in room.ask_all(client, &questions).await? {
        last = match answer {
            Value::Error(error) => return Err(AskError::Refused(error)),
            answer => Ok(answer),
        };
    }
    last
}

/// The highest epoch that the nodes of a saved topology carry, if all of them may serve it. `force`: although some give no answer.
///
/// # Errors
/// What is wrong with the nodes, as sentences.
pub async fn highest_epoch(
    saved: &Topology,
    credentials: &NodeCredentials,
    deadline: Duration,
    force: bool,
) -> Result<Epoch, String> {
    let mut highest = Epoch(0);
    for (node, _) in saved.nodes_by_index() {
        // What is not well with a node is told below.
        let mark = read(saved, node, credentials, deadline).await;
        highest = highest.max(mark.ok().flatten().map_or(Epoch(0), |mark| mark.epoch));
    }
    // Its own epoch means nothing: it gets another one, whatever is raised meanwhile.
    let looked_at = Topology {
        epoch: Epoch(u64::MAX),
        ..saved.clone()
    };
    let found = Box::pin(check_nodes(&looked_at, credentials, deadline, false)).await;
    let problems = found.problems.iter();
    let fatal: Vec<String> = problems
        .filter(|problem| !(force && problem.unreachable))
        .map(ToString::to_string)
        .collect();
    if fatal.is_empty() {
        return Ok(highest);
    }
    Err(fatal.join("; "))
}

async fn read(
    topology: &Topology,
    node: NodeIndex,
    credentials: &NodeCredentials,
    deadline: Duration,
) -> Result<Option<Mark>, AskError> {
    let mut client = NodeClient::connect(&topology.node(node).address, credentials, deadline).await?;
    client
        .ask(&["SELECT", &topology.metadata_db().to_string()])
        .await?;
    let found = client.ask(&["GET", MARK_KEY]).await?;
    Ok(found.as_bytes().and_then(|text| Mark::decode(text).ok()))
}
