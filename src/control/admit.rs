//! A server that is to become a node, or to take a node's place: looked at before the topology names it.
//!
//! ```text
//!  ADD          fits (preflight)? another process than every node? nothing in the databases of shards? ─▶ functions, mark
//!  SET address  fits? another process than every other node? carries this node's mark, so its data? (or FORCE)
//!  REMOVE       afterwards: the mark and preshard's users are taken away, so that it can go elsewhere
//! ```

use std::collections::BTreeSet;

use super::client::{AskError, NodeClient};
use super::fence::TERM_KEY;
use super::preflight::{Problem, check_node};
use super::{bring_functions, info_field, mark_nodes};
use crate::command::USER_PREFIX;
use crate::ids::NodeIndex;
use crate::resp::Value;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::topology::{Address, Topology};
use crate::worker::shared::Shared;

/// What may be wrong with a server that takes a node's place and can be accepted all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Nothing.
    No,
    /// It has no data of the node: its shards become empty.
    Empty,
}

/// Looks at a server that is to be a new node, and makes it ready: it has the functions of the others and the mark.
///
/// # Errors
/// Why it cannot be one, in a sentence. Nothing was changed on it.
pub async fn admit_new(shared: &Shared, name: &str, address: &Address) -> Result<(), String> {
    let served = shared.topology.load_full();
    let mut next = served
        .with_node(name, address.clone())
        .map_err(|error| error.to_string())?;
    // Not stored yet: should it come to nothing, the mark must not be ahead of the store.
    next.epoch = served.epoch;
    let node = next.node_named(name).ok_or("the node is not there")?;
    let seen = look(shared, &next, node).await?;
    if let Some(other) = same_process(shared, &next, node, &seen.run_id).await {
        return Err(format!(
            "{address} is the same server as node '{other}': it would hold shards under two names"
        ));
    }
    if let Some((db, keys)) = seen.keys.iter().find(|(db, _)| *db < next.metadata_db().0) {
        return Err(format!(
            "{address} has {keys} keys in database {db}, which belongs to a shard: a new node must be empty; take another server, \
             or empty it with FLUSHALL"
        ));
    }
    let (credentials, deadline) = shared.admin_login();
    bring_functions(&next, &credentials, deadline, &[node], false).await;
    let others: Vec<String> = next
        .nodes_by_index()
        .filter(|(other, _)| *other != node)
        .map(|(_, other)| other.name.clone())
        .collect();
    mark_nodes(&next, &credentials, deadline, &others).await
}

/// Looks at a server that is to take a node's place.
///
/// # Errors
/// Why it cannot, in a sentence.
pub async fn admit_successor(
    shared: &Shared,
    name: &str,
    address: &Address,
    force: Force,
) -> Result<(), String> {
    let served = shared.topology.load_full();
    let mut next = served
        .with_address(name, address.clone())
        .map_err(|error| error.to_string())?;
    next.epoch = served.epoch;
    let node = next.node_named(name).ok_or("the node is not there")?;
    let seen = look(shared, &next, node).await?;
    if let Some(other) = same_process(shared, &next, node, &seen.run_id).await {
        return Err(format!("{address} is the server of node '{other}'"));
    }
    let shards = next.shards_on(node).count();
    if seen.unmarked && shards > 0 && force == Force::No {
        return Err(format!(
            "{address} does not carry the mark of node '{name}', so it does not have its data: the {shards} shards of the node would \
             be empty. Give the address of a promoted replica, or add FORCE if the data may go"
        ));
    }
    Ok(())
}

/// Takes away from a server that was a node what preshard has left there. Best effort: it may be gone.
pub async fn release_node(shared: &Shared, before: &Topology, node: NodeIndex) {
    let described = before.node(node);
    let released = async {
        let (credentials, deadline) = shared.admin_login();
        let mut client = NodeClient::connect(&described.address, &credentials, deadline).await?;
        client.ask(&["SELECT", &before.metadata_db().to_string()]).await?;
        let found = client.ask(&["GET", MARK_KEY]).await?;
        match Mark::expected(before, node).standing(found.as_bytes()) {
            Standing::Ours | Standing::OlderEpoch(_) | Standing::NewerEpoch(_) => {}
            // It belongs to somebody else, or to nobody already.
            Standing::Unmarked
            | Standing::OtherCluster(_)
            | Standing::OtherNode(_)
            | Standing::Unreadable(_) => {
                return Ok(());
            }
        }
        client.ask(&["DEL", MARK_KEY, TERM_KEY]).await?;
        let users = match client.ask(&["ACL", "USERS"]).await {
            Ok(Value::Array(users)) => users,
            Ok(_) | Err(AskError::Refused(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let names = users
            .iter()
            .filter_map(Value::as_bytes)
            .filter_map(|name| std::str::from_utf8(name).ok());
        let ours: Vec<&str> = names.filter(|name| name.starts_with(USER_PREFIX)).collect();
        if !ours.is_empty() {
            let command: Vec<&str> = ["ACL", "DELUSER"].into_iter().chain(ours).collect();
            client.ask(&command).await?;
        }
        Ok::<(), AskError>(())
    };
    if let Err(error) = released.await {
        tracing::info!(event = "node_not_released", node = described.name, %error);
    }
}

/// What a look at a server found.
struct Seen {
    run_id: String,
    unmarked: bool,
    /// Keys by database, those without any left out.
    keys: Vec<(u16, u64)>,
}

async fn look(shared: &Shared, next: &Topology, node: NodeIndex) -> Result<Seen, String> {
    let address = &next.node(node).address;
    let (credentials, deadline) = shared.admin_login();
    let facts = check_node(next, node, &credentials, deadline, false).await;
    let facts = facts.map_err(|problem| match problem {
        Problem::Unreachable(what) | Problem::Wrong(what) => format!("{address} {what}"),
    })?;
    let asked = async {
        let mut client = NodeClient::connect(address, &credentials, deadline).await?;
        client.ask_text(&["INFO"]).await
    };
    let info = asked.await.map_err(|error| format!("{address}: {error}"))?;
    Ok(Seen {
        run_id: info_field(&info, "run_id").unwrap_or_default().to_owned(),
        unmarked: facts.unmarked,
        keys: info
            .lines()
            .filter_map(super::probe::keyspace_row)
            .map(|(db, keys, _)| (db, keys))
            .collect(),
    })
}

/// The node that is the same process, by another name.
async fn same_process(shared: &Shared, next: &Topology, node: NodeIndex, run_id: &str) -> Option<String> {
    let mut asked = BTreeSet::new();
    for (other, described) in next.nodes_by_index().filter(|(other, _)| *other != node) {
        if !asked.insert(described.name.clone()) {
            continue;
        }
        let found = match next.access.get(&other) {
            Some(access) => access.run_id.clone(),
            None => {
                let (credentials, deadline) = shared.admin_login();
                let Ok(mut client) = NodeClient::connect(&described.address, &credentials, deadline).await
                else {
                    continue;
                };
                let info = client.ask_text(&["INFO", "server"]).await.unwrap_or_default();
                info_field(&info, "run_id").unwrap_or_default().to_owned()
            }
        };
        if found == run_id && !run_id.is_empty() {
            return Some(described.name.clone());
        }
    }
    None
}
