//! preshard's own users on the nodes: made by the leader, made again when a node has lost them.
//!
//! ```text
//!  one task for each node:
//!  each second, or when a link rings ─▶ the same run of the node, and are its users there? ─▶ nothing to do
//!                                          │ no
//!                                          ▼
//!                  its mark? ─▶ take it over ─▶ ACL SETUSER ps-g…, ps-feed (fenced) ─▶ delete users of the past
//!                                          │
//!                                          ▼ user and run of all nodes that were looked at together
//!  one task for all:                one change of the topology ─▶ proxies log in anew
//! ```
//!
//! A node whose ACL preshard may not change (Redis 5, managed services) is served with the configured login, and said to be so.
//! The `default` user, and every user that preshard did not make, is left alone. What is no node of this cluster is not
//! touched.

mod look;

pub use look::make_users;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::look::{Done, Look};
use super::fleet::Fleet;
use crate::ids::NodeIndex;
use crate::topology::NodeAccess;
use crate::worker::shared::Shared;

pub use self::look::is_default_open;

/// Between two looks at a node.
const PACE: Duration = Duration::from_secs(1);
/// Until it is known who leads; grows up to [`PACE`].
const FIRST_PACE: Duration = Duration::from_millis(5);
/// Between two looks at a node that links ring for; doubles up to [`PACE`] as long as they go on.
const BELL_PACE: Duration = Duration::from_millis(20);
/// At the start, how long nodes that were looked at wait for the others to be named in one change.
const TOGETHER: Duration = Duration::from_millis(200);
/// Nodes that wait to be named in a change.
const WAITING_MAX: usize = 64;

/// A node was looked at, by this proxy or whoever leads.
#[derive(Debug)]
struct Looked {
    node: NodeIndex,
    /// What the topology is to say of it from now on, if that is something else.
    login: Option<Option<NodeAccess>>,
    /// What it said when the node was looked at.
    named: Option<NodeAccess>,
}

/// A node, its login as it was, and as it is to be.
type Login = (NodeIndex, Option<NodeAccess>, Option<NodeAccess>);

/// Keeps the users of all nodes as the topology names them, while this proxy leads; also of nodes that come later. Runs as long
/// as it is polled. `looked` becomes true when every node was looked at once, here or by whoever leads.
pub async fn provision_nodes(shared: Arc<Shared>, fleet: Arc<Fleet>, looked: watch::Sender<bool>) {
    let mut changes = shared.succession.subscribe();
    let mut tasks = JoinSet::new();
    let (tell, told) = mpsc::channel(WAITING_MAX);
    tasks.spawn(name_logins(Arc::clone(&shared), Arc::clone(&fleet), told, looked));
    let mut known = 0;
    loop {
        let positions = shared.topology.load().nodes.len();
        for node in (0..).map(NodeIndex).take(positions).skip(known) {
            tasks.spawn(keep_users(
                Arc::clone(&shared),
                Arc::clone(&fleet),
                node,
                tell.clone(),
            ));
        }
        known = positions;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // A node has left.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Puts the logins of nodes that were looked at into the topology.
async fn name_logins(
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    mut told: mpsc::Receiver<Looked>,
    looked: watch::Sender<bool>,
) {
    let mut seen = BTreeSet::new();
    let mut logins: Vec<Login> = Vec::new();
    let mut told_of: Option<String> = None;
    while let Some(first) = told.recv().await {
        let until = Instant::now() + TOGETHER;
        let mut next = Some(first);
        while let Some(Looked { node, login, named }) = next.take() {
            seen.insert(node);
            logins.extend(login.map(|login| (node, named, login)));
            let all_seen = shared
                .topology
                .load()
                .nodes_by_index()
                .all(|(node, _)| seen.contains(&node));
            next = match told.try_recv() {
                Ok(more) => Some(more),
                Err(_) if logins.is_empty() || all_seen => None,
                Err(_) => timeout_at(until, told.recv()).await.ok().flatten(),
            };
        }
        if !logins.is_empty() {
            let changed = change_topology(&shared, &fleet, &std::mem::take(&mut logins)).await;
            match changed {
                Ok(()) => told_of = None,
                Err(error) => {
                    // Each node is looked at again, and this is told once.
                    if told_of.as_ref() != Some(&error) {
                        tracing::warn!(event = "nodes_not_provisioned", error);
                    }
                    told_of = Some(error);
                }
            }
        }
        if shared
            .topology
            .load()
            .nodes_by_index()
            .all(|(node, _)| seen.contains(&node))
        {
            looked.send_replace(true);
        }
    }
}

async fn change_topology(shared: &Shared, fleet: &Fleet, logins: &[Login]) -> Result<(), String> {
    let served = shared.topology.load_full();
    let differ = logins
        .iter()
        .filter(|(node, _, login)| served.access.get(node) != login.as_ref());
    let named: Vec<_> = differ
        .map(|(node, was, login)| (served.node(*node).name.clone(), was.clone(), login.clone()))
        .collect();
    // Who leads no more has nothing to say.
    if named.is_empty() || fleet.leads().is_none() {
        return Ok(());
    }
    let changed = fleet.change(|topology| {
        // Who has another login since it was looked at was given it on purpose.
        let is_as_it_was = |name: &str, was: &Option<NodeAccess>| {
            let node = topology.node_named(name);
            node.is_some_and(|node| topology.access.get(&node) == was.as_ref())
        };
        let there = named.iter().filter(|(name, was, _)| is_as_it_was(name, was));
        let there: Vec<_> = there
            .map(|(name, _, login)| (name.clone(), login.clone()))
            .collect();
        topology.with_access(&there).map_err(|error| error.to_string())
    });
    let epoch = changed.await?.epoch.0;
    tracing::info!(event = "nodes_provisioned", nodes = named.len(), epoch);
    Ok(())
}

/// Looks at one node again and again.
async fn keep_users(shared: Arc<Shared>, fleet: Arc<Fleet>, node: NodeIndex, tell: mpsc::Sender<Looked>) {
    let mut changes = shared.succession.subscribe();
    let of_node = shared.node(node);
    let mut kept: Option<Done> = None;
    let mut told = None;
    let mut pace = FIRST_PACE;
    let (mut bell_pace, mut rung) = (BELL_PACE, Instant::now());
    loop {
        let topology = shared.topology.load_full();
        if topology.retired.contains(&node) {
            return;
        }
        let begun = Instant::now();
        let named = topology.access.get(&node).cloned();
        let looked = match fleet.leads() {
            Some(term) => {
                pace = PACE;
                let looked = Look {
                    shared: &shared,
                    fleet: &fleet,
                    topology: &topology,
                    node,
                    of_node: &of_node,
                    term,
                };
                kept = match looked.look(kept.take()).await {
                    Ok(done) => {
                        told = None;
                        Some(done)
                    }
                    Err(error) => {
                        looked.tell(&error, &mut told);
                        None
                    }
                };
                let access = kept.as_ref().map(|done| done.access.clone());
                Some(access.filter(|access| topology.access.get(&node) != access.as_ref()))
            }
            None => {
                kept = None;
                // Not itself, since a moment ago: then there is something to do.
                let leader = fleet.view().leader.map(|(id, _)| id);
                let other_leads = leader.is_some_and(|id| id != shared.run_id);
                pace = if other_leads { PACE } else { PACE.min(pace * 2) };
                other_leads.then_some(None)
            }
        };
        if let Some(login) = looked
            && tell.send(Looked { node, login, named }).await.is_err()
        {
            return;
        }
        tokio::select! {
            // Whichever comes first, it is looked at.
            _ = timeout(pace, changes.changed()) => {}
            () = of_node.users.notified() => {
                // What was made is not there any more, or is not as it was made.
                kept = None;
                bell_pace = if rung.elapsed() > bell_pace * 2 {
                    BELL_PACE
                } else {
                    PACE.min(bell_pace * 2)
                };
                sleep_until(begun + bell_pace).await;
                rung = Instant::now();
            }
        }
    }
}
