//! preshard's own users on the nodes: made by the leader, made again when a node has lost them.
//!
//! ```text
//!  each second, or when a link rings ─▶ INFO server: the run that the topology names, its users made by us? ─▶ nothing to do
//!                                          │ no
//!                                          ▼
//!                  take over the node ─▶ ACL SETUSER ps-g…, ps-feed (fenced) ─▶ delete users of the past
//!                                          │ for all nodes that need it
//!                                          ▼
//!                  one change of the topology: user and run of each ─▶ proxies log in anew
//! ```
//!
//! A node whose ACL preshard may not change (Redis 5, managed services) is served with the configured login, and said to be so.
//! The `default` user, and every user that preshard did not make, is left alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{AskError, NodeClient};
use super::fence::{self, FenceError, Words, words};
use super::fleet::Fleet;
use super::info_field;
use crate::command::{FEED_USER, USER_PREFIX, feed_rules, traffic_rules};
use crate::config::{AclUsers, PasswordHash, Secret};
use crate::ids::NodeIndex;
use crate::resp::Value;
use crate::store::Term;
use crate::topology::mark::MARK_KEY;
use crate::topology::{Address, NodeAccess, Topology};
use crate::worker::shared::{Shared, user_password};

/// Between two looks at the nodes.
const PACE: Duration = Duration::from_secs(1);
/// Until the first look is over.
const FIRST_PACE: Duration = Duration::from_millis(5);
/// The first user for the traffic.
const FIRST_USER: &str = "ps-g1";
/// Commands that a server may not know out of the rules before something else must be wrong.
const UNKNOWN_MAX: usize = 64;

/// What the leader has done on a node.
#[derive(Debug)]
struct Done {
    client: NodeClient,
    address: Address,
    term: Term,
    /// The user that was made. None: its ACL cannot be changed, or is not to be.
    access: Option<NodeAccess>,
    run_id: String,
}

/// Keeps the users of all nodes as the topology names them, while this proxy leads. Runs as long as it is polled.
/// `looked` becomes true when the first look is over, here or at whoever leads.
pub async fn provision_nodes(shared: Arc<Shared>, fleet: Arc<Fleet>, looked: watch::Sender<bool>) {
    let mut changes = shared.succession.subscribe();
    let mut done: BTreeMap<NodeIndex, Done> = BTreeMap::new();
    loop {
        match fleet.leads() {
            Some(term) => {
                provision_all(&shared, &fleet, term, &mut done).await;
                looked.send_replace(true);
            }
            None => done.clear(),
        }
        if shared.topology.load().is_provisioned() {
            looked.send_replace(true);
        }
        let pace = if *looked.borrow() { PACE } else { FIRST_PACE };
        let rings = async {
            let mut bells = JoinSet::new();
            for (node, _) in shared.topology.load().nodes_by_index() {
                let of_node = shared.node(node);
                bells.spawn(async move {
                    of_node.users.notified().await;
                    node
                });
            }
            bells.join_next().await
        };
        tokio::select! {
            // Whichever comes first, everything is looked at.
            _ = timeout(pace, changes.changed()) => {}
            Some(Ok(node)) = rings => {
                // Its users are not what we have made.
                done.remove(&node);
            }
        }
    }
}

async fn provision_all(shared: &Shared, fleet: &Fleet, term: Term, done: &mut BTreeMap<NodeIndex, Done>) {
    let topology = shared.topology.load_full();
    let Some(secret) = shared.node_secret.get() else {
        return;
    };
    let mut logins = Vec::new();
    for (node, described) in topology.nodes_by_index() {
        let kept = done.remove(&node);
        let looked = look(shared, &topology, node, (term, secret), kept).await;
        match looked {
            Ok(now) => {
                if topology.access.get(&node) != now.access.as_ref() {
                    logins.push((described.name.clone(), now.access.clone()));
                }
                done.insert(node, now);
            }
            // Tried again at the next look; a node that is away is told by its links and probes.
            Err(error) => tracing::debug!(event = "node_not_provisioned", node = described.name, %error),
        }
    }
    if logins.is_empty() {
        return;
    }
    let changed = fleet.change(|topology| topology.with_access(&logins).map_err(|error| error.to_string()));
    match changed.await {
        Ok(changed) => tracing::info!(
            event = "nodes_provisioned",
            nodes = logins.len(),
            epoch = changed.epoch.0
        ),
        Err(error) => tracing::warn!(event = "nodes_not_provisioned", error),
    }
}

/// Looks at one node, and makes its users if this run of it does not have them from us.
async fn look(
    shared: &Shared,
    topology: &Topology,
    node: NodeIndex,
    (term, secret): (Term, &Secret),
    kept: Option<Done>,
) -> Result<Done, FenceError> {
    let address = &topology.node(node).address;
    let named = topology.access.get(&node);
    let kept = kept.filter(|done| done.address == *address && done.term == term);
    if let Some(mut done) = kept
        && named == done.access.as_ref()
        && run_id_of(&mut done.client).await? == done.run_id
        && has_users(&mut done).await?
    {
        return Ok(done);
    }
    let mut client = NodeClient::connect(address, &shared.admin_credentials, shared.limits.connect).await?;
    let run_id = run_id_of(&mut client).await?;
    let user = named.map_or(FIRST_USER, |access| &access.user).to_owned();
    let made = match shared.acl_users {
        AclUsers::Off => Err(FenceError::Ask(AskError::Refused(
            "[nodes] acl_users is off".to_owned(),
        ))),
        AclUsers::Auto => {
            fence::take_over(&mut client, topology.metadata_db(), term).await?;
            make_users(&mut client, topology, term, secret, &user).await
        }
    };
    let access = match made {
        Ok(()) => Some(NodeAccess {
            user: user.clone(),
            run_id: run_id.clone(),
        }),
        Err(FenceError::Ask(AskError::Refused(reply)) | FenceError::Refused { reply, .. }) => {
            let name = &topology.node(node).name;
            tracing::info!(
                event = "node_acl_fixed",
                node = name,
                reply,
                "preshard makes no users on this node; it is served with the configured login"
            );
            None
        }
        Err(error) => return Err(error),
    };
    if access.is_some() {
        delete_strays(&mut client, topology, term, &[&user, FEED_USER]).await?;
    }
    Ok(Done {
        client,
        address: address.clone(),
        term,
        access,
        run_id,
    })
}

async fn run_id_of(client: &mut NodeClient) -> Result<String, FenceError> {
    let info = client.ask_text(&["INFO", "server"]).await?;
    Ok(info_field(&info, "run_id").unwrap_or_default().to_owned())
}

/// Whether the users that were made are still there: an operator may have loaded an ACL file.
async fn has_users(done: &mut Done) -> Result<bool, FenceError> {
    let Some(access) = &done.access else {
        return Ok(true);
    };
    let Value::Array(users) = done.client.ask(&["ACL", "USERS"]).await? else {
        return Ok(false);
    };
    let has = |name: &str| users.iter().any(|user| user.as_bytes() == Some(name.as_bytes()));
    Ok(has(&access.user) && has(FEED_USER))
}

/// Makes the user for the traffic and the one that hears, with the rules that this server understands.
async fn make_users(
    client: &mut NodeClient,
    topology: &Topology,
    term: Term,
    secret: &Secret,
    user: &str,
) -> Result<(), FenceError> {
    let mut unknown: Vec<String> = Vec::new();
    loop {
        let commands = [
            set_user(user, secret, traffic_rules(), &unknown),
            set_user(FEED_USER, secret, feed_rules(MARK_KEY), &unknown),
        ];
        match fence::act(client, topology.metadata_db(), term, &commands).await {
            Ok(_) => return Ok(()),
            Err(FenceError::Refused { command, reply }) => match unknown_rule(&reply) {
                Some(rule) if unknown.len() < UNKNOWN_MAX && !unknown.contains(&rule) => unknown.push(rule),
                Some(_) | None => return Err(FenceError::Refused { command, reply }),
            },
            Err(error) => return Err(error),
        }
    }
}

/// `ACL SETUSER` that says everything, so that nothing of what was there before remains.
pub(super) fn set_user(user: &str, secret: &Secret, rules: Vec<String>, without: &[String]) -> Words {
    let hash = PasswordHash::of(user_password(secret, user).reveal().as_bytes()).to_acl();
    let rules = rules.into_iter().filter(|rule| !without.contains(rule));
    let mut command = words(["ACL", "SETUSER", user, "reset", &hash]);
    command.extend(rules.map(String::into_bytes));
    command
}

/// The rule that a server does not know: `ERR Error in ACL SETUSER modifier '+x': Unknown command or category name in ACL`.
fn unknown_rule(reply: &str) -> Option<String> {
    let (_, rest) = reply.split_once("modifier '")?;
    let (rule, why) = rest.split_once('\'')?;
    // `&*` is not known before Redis 6.2.
    let known = why.contains("Unknown command") || why.contains("Syntax error");
    known.then(|| rule.to_owned())
}

/// Deletes users that a leader of the past has made and nobody needs.
async fn delete_strays(
    client: &mut NodeClient,
    topology: &Topology,
    term: Term,
    keep: &[&str],
) -> Result<(), FenceError> {
    let Value::Array(users) = client.ask(&["ACL", "USERS"]).await? else {
        return Ok(());
    };
    let names = users
        .iter()
        .filter_map(Value::as_bytes)
        .filter_map(|name| std::str::from_utf8(name).ok());
    let strays: Vec<&str> = names
        .filter(|name| name.starts_with(USER_PREFIX) && !keep.contains(name))
        .collect();
    if strays.is_empty() {
        return Ok(());
    }
    let command = words(["ACL", "DELUSER"].into_iter().chain(strays));
    fence::act(client, topology.metadata_db(), term, &[command]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_a_server_does_not_know_is_left_out() {
        let reply = "ERR Error in ACL SETUSER modifier '+new': Unknown command or category name in ACL";
        assert_eq!(unknown_rule(reply), Some("+new".to_owned()));
        assert_eq!(
            unknown_rule("ERR Error in ACL SETUSER modifier '&*': Syntax error"),
            Some("&*".to_owned())
        );
        assert_eq!(unknown_rule("NOPERM this user has no permissions"), None);
        let secret = Secret::new("s".to_owned());
        let command = set_user(
            "ps-g1",
            &secret,
            vec!["on".to_owned(), "+new".to_owned()],
            &["+new".to_owned()],
        );
        assert_eq!(command.len(), 6);
        assert_eq!(command[3], b"reset");
        assert!(command[4].starts_with(b"#") && command[4].len() == 65);
    }
}
