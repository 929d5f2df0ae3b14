//! One look at one node: is it ours, does this run of it have our users, and if not, they are made.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::command::{APPLIER_PREFIX, FEED_USER, UNIT_PREFIX, USER_PREFIX, feed_rules, traffic_rules};
use crate::config::{AclUsers, OnEmpty, PasswordHash, Secret};
use crate::control::client::{AskError, NodeClient};
use crate::control::fence::{self, FenceError, Words, words};
use crate::control::fleet::Fleet;
use crate::control::info_field;
use crate::control::prepare::standing;
use crate::ids::{DbIndex, NodeIndex};
use crate::resp::Value;
use crate::store::{StoreError, Term};
use crate::topology::mark::{MARK_KEY, Standing};
use crate::topology::{Address, NodeAccess, Topology};
use crate::worker::shared::{NodeCredentials, NodeShared, Shared, user_password};

/// Between two looks whether an empty node has been marked.
const MARK_PACE: Duration = Duration::from_millis(5);
/// A node whose ACL cannot be changed is tried again after this long: somebody may have given the right.
const FIXED_FOR: Duration = Duration::from_secs(30);
/// The first user for the traffic.
const FIRST_USER: &str = "ps-g1";
/// Commands that a server may not know out of the rules before something else must be wrong.
const UNKNOWN_MAX: usize = 64;
/// What a server says that refuses for now.
const PASSING: [&str; 7] = [
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
];

/// What is true of a node since the leader looked.
#[derive(Debug)]
pub(super) struct Done {
    client: NodeClient,
    address: Address,
    term: Term,
    /// The user that was made. None: its ACL cannot be changed, or is not to be.
    pub(super) access: Option<NodeAccess>,
    run_id: String,
    at: Instant,
}

/// Why a node has no users of ours, for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProvisionError {
    #[error(transparent)]
    Fence(#[from] FenceError),
    #[error("{0}")]
    NotOurs(String),
    #[error("the term on the node is higher than this leader's, and the store does not answer: {0}")]
    Store(#[from] StoreError),
}

impl From<AskError> for ProvisionError {
    fn from(error: AskError) -> Self {
        Self::Fence(error.into())
    }
}

/// One look at one node.
pub(super) struct Look<'a> {
    pub(super) shared: &'a Shared,
    pub(super) fleet: &'a Fleet,
    pub(super) topology: &'a Topology,
    pub(super) node: NodeIndex,
    pub(super) of_node: &'a NodeShared,
    pub(super) term: Term,
}

impl Look<'_> {
    fn name(&self) -> &str {
        &self.topology.node(self.node).name
    }

    /// Makes the node's users if this run of it does not have them from us.
    pub(super) async fn look(&self, kept: Option<Done>) -> Result<Done, ProvisionError> {
        if let Some(mut done) = kept
            && self.is_as_named(&done)
            && has_users(&mut done).await
        {
            return Ok(done);
        }
        let address = &self.topology.node(self.node).address;
        let (credentials, deadline) = self.shared.admin_login();
        let mut client = NodeClient::connect(address, &credentials, deadline).await?;
        let run_id = run_id_of(&mut client).await?;
        let user = match self.shared.acl_users {
            AclUsers::Off => None,
            AclUsers::Auto => {
                self.until_marked(&mut client).await?;
                self.provision(&mut client).await?
            }
        };
        if let (Some(named), Some(user)) = (self.topology.access.get(&self.node), &user)
            && (&named.user, &named.run_id) == (user, &run_id)
        {
            // The topology stays as it is, so nothing else tells links that they can log in.
            self.of_node.again.notify_waiters();
        }
        Ok(Done {
            client,
            address: address.clone(),
            term: self.term,
            access: user.map(|user| NodeAccess {
                user,
                run_id: run_id.clone(),
            }),
            run_id,
            at: Instant::now(),
        })
    }

    /// Whether what was done is what is wanted now.
    fn is_as_named(&self, done: &Done) -> bool {
        let is_user = match (self.topology.access.get(&self.node), &done.access) {
            (Some(named), Some(made)) => named.user == made.user,
            (None, Some(_)) => true,
            (_, None) => self.shared.acl_users == AclUsers::Off || done.at.elapsed() < FIXED_FOR,
        };
        is_user && done.address == self.topology.node(self.node).address && done.term == self.term
    }

    /// Touches nothing that is not a node of this cluster. One that came back empty is marked first, if it is to be served.
    async fn until_marked(&self, client: &mut NodeClient) -> Result<(), ProvisionError> {
        let until = Instant::now() + self.shared.settings.load().limits.connect;
        loop {
            match standing(self.topology, self.node, client).await? {
                Standing::Ours | Standing::OlderEpoch(_) | Standing::NewerEpoch(_) => return Ok(()),
                Standing::Unmarked if self.shared.settings.load().on_empty == OnEmpty::Refuse => {
                    return Err(ProvisionError::NotOurs(
                        "it carries no mark: it came back without its data, and [nodes] on_empty is \"refuse\"".to_owned(),
                    ));
                }
                Standing::Unmarked if Instant::now() < until => {
                    self.of_node.empty.notify_one();
                    sleep(MARK_PACE).await;
                }
                other @ (Standing::Unmarked
                | Standing::OtherCluster(_)
                | Standing::OtherNode(_)
                | Standing::Unreadable(_)) => {
                    return Err(ProvisionError::NotOurs(format!("whose node it is: {other:?}")));
                }
            }
        }
    }

    /// Makes the users. None: this node's ACL is not ours to change.
    async fn provision(&self, client: &mut NodeClient) -> Result<Option<String>, ProvisionError> {
        let named = self.topology.access.get(&self.node);
        let user = named.map_or(FIRST_USER, |access| &access.user).to_owned();
        match self.make_all(client, &user).await {
            Ok(()) => {
                self.shared.metrics.node_users(self.name(), true);
                tracing::info!(
                    event = "node_users_made",
                    node = self.name(),
                    user,
                    term = self.term.0
                );
                Ok(Some(user))
            }
            Err(ProvisionError::Fence(
                FenceError::Ask(AskError::Refused(reply)) | FenceError::Refused { reply, .. },
            )) if !passes(&reply) => {
                tracing::info!(
                    event = "node_acl_fixed",
                    node = self.name(),
                    reply,
                    "preshard makes no users on this node; it is served with the configured login"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn make_all(&self, client: &mut NodeClient, user: &str) -> Result<(), ProvisionError> {
        let Some(secret) = self.shared.node_secret.get() else {
            return Err(ProvisionError::NotOurs("there is no secret".to_owned()));
        };
        self.take_over(client).await?;
        let mut users = vec![
            (user.to_owned(), traffic_rules()),
            (FEED_USER.to_owned(), feed_rules(MARK_KEY)),
        ];
        // A unit that may be frozen never gets its rights back.
        let units = self.topology.units.iter().filter(|unit| !unit.quiesced);
        let names = units.filter_map(|unit| unit.user.clone());
        let of_node = |user: &String| self.topology.has_user(self.node, Some(user));
        users.extend(names.filter(of_node).map(|user| (user, traffic_rules())));
        // A unit that is frozen meanwhile must not get its rights back.
        let holds = || self.shared.topology.load().epoch == self.topology.epoch;
        let metadata = self.topology.metadata_db();
        make_users_while(client, metadata, self.term, secret, &users, &holds).await?;
        Ok(self.delete_strays(client, &[user, FEED_USER]).await?)
    }

    /// Takes the node over from leaders of the past; and from one of the future, if no such leader was ever elected in this
    /// store: it is another store than it was, or an old copy.
    async fn take_over(&self, client: &mut NodeClient) -> Result<(), ProvisionError> {
        let metadata = self.topology.metadata_db();
        let Err(refused) = fence::take_over(client, metadata, self.term).await else {
            return Ok(());
        };
        if let FenceError::Deposed { found, ours } = &refused
            && self.fleet.confirm(*ours).await?
        {
            tracing::warn!(
                event = "node_term_replaced",
                node = self.name(),
                found,
                term = ours.0,
                "the node knows a later leader than the store has ever had: the store was restored or replaced"
            );
            return Ok(fence::replace(client, metadata, *ours, found).await?);
        }
        Err(refused.into())
    }

    /// Deletes users that a leader of the past has made and nobody needs.
    async fn delete_strays(&self, client: &mut NodeClient, keep: &[&str]) -> Result<(), FenceError> {
        let users = users_of(client).await?;
        let all_follow = self
            .fleet
            .view()
            .proxies
            .iter()
            .all(|proxy| proxy.epoch >= self.topology.epoch.0);
        let strays: Vec<&str> = users
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with(USER_PREFIX) && !keep.contains(name))
            // Those belong to moves, which take them away themselves.
            .filter(|name| !name.starts_with(UNIT_PREFIX) && !name.starts_with(APPLIER_PREFIX))
            // A proxy that has not heard of the new user yet still goes by the one before.
            .filter(|_| all_follow)
            .collect();
        if strays.is_empty() {
            return Ok(());
        }
        let command = words(["ACL", "DELUSER"].into_iter().chain(strays));
        fence::act(client, self.topology.metadata_db(), self.term, &[command]).await?;
        Ok(())
    }

    /// Tells why there are no users, once for each reason. A node that is away is told by its links and probes.
    pub(super) fn tell(&self, error: &ProvisionError, told: &mut Option<String>) {
        let name = self.name();
        let away = match error {
            ProvisionError::Fence(
                FenceError::Ask(AskError::Refused(reply)) | FenceError::Refused { reply, .. },
            ) => passes(reply),
            ProvisionError::Fence(FenceError::Ask(_)) => true,
            // Another proxy leads, as it will notice.
            ProvisionError::Fence(FenceError::Deposed { .. }) | ProvisionError::Store(_) => true,
            ProvisionError::NotOurs(_) => false,
        };
        let what = error.to_string();
        if !matches!(
            error,
            ProvisionError::Fence(FenceError::Ask(AskError::Io(_) | AskError::Timeout(_)))
        ) {
            self.shared.metrics.node_users(name, false);
        }
        if away {
            tracing::debug!(event = "node_not_provisioned", node = name, error = what);
        } else if told.as_ref() != Some(&what) {
            tracing::warn!(event = "node_not_provisioned", node = name, error = what);
            *told = Some(what);
        }
    }
}

/// Whether a refusal is one for now.
fn passes(reply: &str) -> bool {
    let word = reply.split(' ').next().unwrap_or_default();
    PASSING.contains(&word)
}

async fn run_id_of(client: &mut NodeClient) -> Result<String, AskError> {
    let info = client.ask_text(&["INFO", "server"]).await?;
    Ok(info_field(&info, "run_id").unwrap_or_default().to_owned())
}

/// Whether it is the same run of the node, and the users that were made are still there: an operator may have loaded an ACL
/// file.
async fn has_users(done: &mut Done) -> bool {
    if !matches!(run_id_of(&mut done.client).await, Ok(run_id) if run_id == done.run_id) {
        return false;
    }
    let Some(access) = &done.access else {
        return true;
    };
    let users = users_of(&mut done.client).await.unwrap_or_default();
    let has = |name: &str| users.iter().any(|user| user == name);
    has(&access.user) && has(FEED_USER)
}

/// Whether anybody who reaches a node may do anything there: its `default` user is on and wants no password.
///
/// # Errors
/// The node does not answer, or does not let itself be asked.
pub async fn is_default_open(
    address: &Address,
    credentials: &NodeCredentials,
    deadline: Duration,
) -> Result<bool, AskError> {
    let mut client = NodeClient::connect(address, credentials, deadline).await?;
    let Value::Array(user) = client.ask(&["ACL", "GETUSER", "default"]).await? else {
        return Err(AskError::NotRedis);
    };
    let mut pairs = user.chunks_exact(2);
    let flags = pairs.find(|pair| pair[0].as_bytes() == Some(b"flags"));
    let Some(Value::Array(flags)) = flags.map(|pair| &pair[1]) else {
        return Err(AskError::NotRedis);
    };
    let has = |name: &str| flags.iter().any(|flag| flag.as_bytes() == Some(name.as_bytes()));
    Ok(has("on") && has("nopass"))
}

async fn users_of(client: &mut NodeClient) -> Result<Vec<String>, AskError> {
    let Value::Array(users) = client.ask(&["ACL", "USERS"]).await? else {
        return Err(AskError::NotRedis);
    };
    let names = users.iter().filter_map(Value::as_bytes);
    Ok(names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

/// Makes users, all or none, each with the rules that this server understands.
///
/// # Errors
/// As [`fence::act`].
pub async fn make_users(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    secret: &Secret,
    users: &[(String, Vec<String>)],
) -> Result<(), FenceError> {
    make_users_while(client, metadata, term, secret, users, &|| true).await
}

async fn make_users_while(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    secret: &Secret,
    users: &[(String, Vec<String>)],
    holds: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), FenceError> {
    let mut unknown: Vec<String> = Vec::new();
    loop {
        let commands: Vec<Words> = users
            .iter()
            .map(|(user, rules)| set_user(user, secret, rules.clone(), &unknown))
            .collect();
        match fence::act_while(client, metadata, term, &commands, holds).await {
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
fn set_user(user: &str, secret: &Secret, rules: Vec<String>, without: &[String]) -> Words {
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
