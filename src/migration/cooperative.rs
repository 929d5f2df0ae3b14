//! The cutover from a node whose users are not preshard's: nothing can tell it to refuse a unit, so proxies keep themselves from it.
//!
//! ```text
//!  close    topology: all requests of the unit are held ─▶ every proxy says that none is under way              ┐
//!  freeze   the source's mark says that topology's epoch ─▶ connections of proxies that have not said so are     │ the pause
//!           closed there ─▶ the source's offset F, behind the EXEC that sees that none is left                   │
//!  drain, counts, seal, COMMIT   as in `cutover`                                                                ┘
//! ```
//!
//! Who has said so sends nothing until another topology lets it. Who has not may be stopped, or cut off from the store, with requests
//! under way: what the source has run of them before its connections were closed stands before F, and the target has it, however
//! late the replies are read; the rest is never run. It connects anew only to find a mark that is ahead of it, and waits until it
//! has heard of that topology (`Engine::must_hear`). So this rests on no clock, but on all who write there being proxies of
//! this cluster, of a version that gives its connections names and looks at the mark, and on the source keeping its mark.

use std::collections::BTreeSet;

use super::arrow::reached;
use super::cutover::{Cutover, Failure};
use super::drive::Driven;
use super::freeze::freeze_words;
use super::plan::Signature;
use super::task::Fence;
use crate::command::{APPLIER_PREFIX, USER_PREFIX, applier_rules};
use crate::control::fence::{TERM_KEY, Words, words};
use crate::control::{AskError, Mistake, NodeClient, make_users, makes, raise_mark};
use crate::ids::Epoch;
use crate::resp::Value;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::topology::{Address, Topology, Unit};
use crate::worker::shared::{NodeCredentials, run_of_connection, user_password};

/// How often connections are closed before it is given up.
const ROUNDS_MAX: usize = 5;
/// A list of all connections to a node may be so long.
pub(super) const CLIENTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// No connection of a node has this number.
const NOBODY: &str = "9223372036854775807";

/// How the source is kept from running what comes late.
pub(super) enum Freeze<'a> {
    /// This user of the unit loses all rights, on this run of the source.
    User(&'a str, &'a str),
    /// All proxies hold the unit since this epoch.
    Closed(Epoch),
}

impl<'a> Freeze<'a> {
    /// The run of the source that refuses what comes late.
    pub(super) const fn run_id(&self) -> Option<&'a str> {
        match self {
            Self::User(_, run_id) => Some(run_id),
            Self::Closed(_) => None,
        }
    }
}

impl Cutover<'_> {
    /// Whether proxies keep themselves from the source: it has no users of preshard's, and the move was ordered as one of that kind.
    pub(super) fn is_cooperative(&self) -> bool {
        let driven = self.driven;
        driven.fence == Fence::Cooperative
            && !driven.has_users(&driven.shared.topology.load(), &driven.source)
    }

    /// Nothing of the unit is run by the source from here on. The last reply is its `INFO replication` from then.
    pub(super) async fn freeze(
        &self,
        freeze: Freeze<'_>,
        source: &mut NodeClient,
    ) -> Result<Vec<Value>, Failure> {
        match freeze {
            Freeze::User(user, _) => {
                // What was decided before, and would give its rights back, is not done any more.
                let touch = words(["SET", TERM_KEY, &self.driven.term.to_string()]);
                let freeze = [freeze_words(user), touch];
                self.driven.act_and_ask_offset(source, &freeze).await
            }
            Freeze::Closed(closed) => self.freeze_closed(source, closed).await,
        }
    }

    /// Has every proxy hold all requests of the unit. Returns the epoch by which they do.
    pub(super) async fn close(&self) -> Result<Epoch, Failure> {
        let driven = self.driven;
        let unit = Unit {
            task: driven.id.clone(),
            shards: driven.shards.clone(),
            user: None,
            quiesced: true,
        };
        let closed = driven
            .fleet
            .change_in(Some(driven.term), self.max_pause, |topology| {
                let next = topology.with_unit(unit.clone());
                next.map_err(|error| error.to_string())
            })
            .await
            .map_err(Failure::Retry)?;
        if let Some(why) = closed.warning() {
            return Err(Failure::Retry(why));
        }
        reached("quiesced").await;
        Ok(closed.epoch)
    }

    /// Makes sure that nobody sends requests of the unit to the source. The last reply is the source's `INFO replication` from then.
    async fn freeze_closed(&self, source: &mut NodeClient, closed: Epoch) -> Result<Vec<Value>, Failure> {
        let driven = self.driven;
        let topology = driven.shared.topology.load_full();
        let node = driven.node(&topology, &driven.source)?;
        let (credentials, deadline) = driven.shared.admin_login();
        raise_mark(&topology, node, &credentials, deadline).await?;
        let mut commands: Vec<Words> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            commands.push(words(["GET", MARK_KEY]));
            commands.push(words(["CLIENT", "LIST"]));
            // Before the source is asked: who says so later may have sent something meanwhile.
            let heard = driven.who_serves(closed);
            let replies = driven.act_and_ask_offset(source, &commands).await?;
            let [.., mark, connections, _] = &replies[..] else {
                return Err(AskError::NotRedis.into());
            };
            if !says(
                &topology,
                Mark::expected(&topology, node).standing(mark.as_bytes()),
                closed,
            ) {
                return Err(Failure::Retry(format!(
                    "node '{}' does not keep its mark ({MARK_KEY}), so proxies that are away could write there",
                    driven.source
                )));
            }
            let list = connections.as_bytes().map(String::from_utf8_lossy);
            let strangers = strangers(&list.unwrap_or_default(), &heard);
            if strangers.is_empty() || makes(Mistake::LeavesStrangers) {
                return Ok(replies);
            }
            tracing::info!(
                event = "strangers_closed",
                task = driven.id,
                node = driven.source,
                connections = strangers.len(),
                "connections of proxies that have not said that they hold the shards"
            );
            let close = |id: &String| words(["CLIENT", "KILL", "ID", id]);
            commands = strangers.iter().map(close).collect();
        }
        Err(Failure::Retry(format!(
            "proxies that do not hold the shards come back to node '{}' again and again",
            driven.source
        )))
    }
}

impl Driven<'_> {
    /// Whether a node has users of preshard's, which it can be told to refuse.
    pub(super) fn has_users(&self, topology: &Topology, name: &str) -> bool {
        let node = topology.node_named(name);
        node.is_some_and(|node| topology.access.contains_key(&node))
    }

    /// A move between nodes that have lost their users since it was ordered is not what was ordered.
    pub(super) fn check_fence(&self) -> Result<(), Failure> {
        let topology = self.shared.topology.load();
        for node in [&self.source, &self.target] {
            if self.fence == Fence::Acl && !self.has_users(&topology, node) {
                return Err(Failure::Final(format!(
                    "node '{node}' has no users of preshard any more (CHECK), so the move cannot be fenced"
                )));
            }
        }
        Ok(())
    }

    /// Names of the users on a node; none: they are not ours to look at.
    async fn users_on(&self, client: &mut NodeClient) -> Result<Vec<String>, Failure> {
        match client.ask(&["ACL", "USERS"]).await {
            Ok(Value::Array(users)) => {
                let names = users.iter().filter_map(Value::as_bytes);
                let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
                Ok(names.collect())
            }
            Ok(_) => Err(AskError::NotRedis.into()),
            Err(AskError::Refused(reply)) if is_without_acl(&reply) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Names of preshard's own users on a node, whatever they are for.
    pub(super) async fn own_users_on(&self, client: &mut NodeClient) -> Result<Vec<String>, Failure> {
        let mut users = self.users_on(client).await?;
        users.retain(|name| name.starts_with(USER_PREFIX));
        Ok(users)
    }

    /// What takes the user away that writes the copy, which is stopped. On a node where it has none, its connections have ended by now.
    pub(super) async fn applier_gone(
        &self,
        client: &mut NodeClient,
        name: &str,
    ) -> Result<Vec<Words>, Failure> {
        let applier = self.applier();
        let topology = self.shared.topology.load_full();
        let is_there = self.has_users(&topology, name) || self.users_on(client).await?.contains(&applier);
        Ok(if is_there {
            vec![words(["ACL", "DELUSER", &applier])]
        } else {
            Vec::new()
        })
    }

    /// What ends all who write on a node for these tasks: their users, or their connections where they have none. Whoever led before
    /// makes no new ones, since the node knows our term.
    pub(super) async fn appliers_gone(
        &self,
        client: &mut NodeClient,
        tasks: &BTreeSet<String>,
    ) -> Result<Vec<Words>, Failure> {
        let users = self.own_users_on(client).await?;
        let theirs = users.iter().filter(|user| is_applier_of(user, tasks));
        let mut commands: Vec<Words> = theirs.map(|user| words(["ACL", "DELUSER", user])).collect();
        // It may have got its users since then.
        if self.fence == Fence::Cooperative {
            let list = client.ask_text(&["CLIENT", "LIST"]).await?;
            let theirs = named(&list, |name| is_applier_of(name, tasks));
            commands.extend(theirs.iter().map(|id| words(["CLIENT", "KILL", "ID", id])));
        }
        Ok(commands)
    }

    /// As whom the copy is written.
    pub(super) fn applier_login(
        &self,
        topology: &Topology,
    ) -> Result<(NodeCredentials, Option<Signature>), Failure> {
        let (credentials, _) = self.shared.admin_login();
        if !self.has_users(topology, &self.target) {
            let signature = Signature {
                name: self.applier(),
                term: self.term,
                metadata_db: topology.metadata_db(),
            };
            return Ok((credentials, Some(signature)));
        }
        let login = NodeCredentials {
            username: Some(self.applier()),
            password: Some(user_password(self.secret()?, &self.applier())),
            tls: credentials.tls,
        };
        Ok((login, None))
    }

    /// Makes the user that writes the copy, where the node lets it.
    pub(super) async fn make_applier(&self, client: &mut NodeClient) -> Result<(), Failure> {
        if self.has_users(&self.shared.topology.load_full(), &self.target) {
            let users = [(self.applier(), applier_rules())];
            make_users(client, self.metadata(), self.term, self.secret()?, &users).await?;
        }
        Ok(())
    }

    /// Runs of the proxies that serve at least this epoch.
    fn who_serves(&self, epoch: Epoch) -> BTreeSet<String> {
        let proxies = self.fleet.view().proxies.into_iter();
        let heard = proxies.filter(|proxy| proxy.epoch() >= epoch);
        heard.map(|proxy| proxy.id).collect()
    }
}

/// Whether a mark keeps those away who have not heard of an epoch.
fn says(topology: &Topology, standing: Standing, closed: Epoch) -> bool {
    match standing {
        Standing::Ours => topology.epoch >= closed,
        Standing::OlderEpoch(epoch) | Standing::NewerEpoch(epoch) => epoch >= closed,
        Standing::Unmarked | Standing::OtherCluster(_) | Standing::OtherNode(_) | Standing::Unreadable(_) => {
            false
        }
    }
}

/// The numbers of connections that proxies have which are not among these.
fn strangers(list: &str, heard: &BTreeSet<String>) -> Vec<String> {
    named(list, |name| {
        run_of_connection(name).is_some_and(|run| !heard.contains(run))
    })
}

/// The numbers of connections whose names are such, out of `CLIENT LIST`.
fn named(list: &str, is: impl Fn(&str) -> bool) -> Vec<String> {
    let value = |line: &str, name: &str| {
        let mut fields = line.split(' ');
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let lines = list
        .lines()
        .filter(|line| value(line, "name").is_some_and(|name| is(&name)));
    lines.filter_map(|line| value(line, "id")).collect()
}

/// Whether who is called so writes for one of these tasks, in any term.
fn is_applier_of(name: &str, tasks: &BTreeSet<String>) -> bool {
    let is_number = |rest: &str| rest.split('-').all(|part| part.parse::<u64>().is_ok());
    let of_task = |task: &String| {
        let rest = name.strip_prefix(APPLIER_PREFIX)?.strip_prefix(task.as_str())?;
        rest.strip_prefix('-')
    };
    tasks.iter().filter_map(of_task).any(is_number)
}

/// Whether a node has refused because users are nothing that it knows, or lets us see.
fn is_without_acl(reply: &str) -> bool {
    reply.starts_with("NOPERM") || reply.starts_with("ERR unknown")
}

/// Whether a node lets proxies do what a cooperative move needs of it.
///
/// # Errors
/// What it refuses, as the rest of a sentence that begins with the node; or it cannot be asked.
pub(super) async fn can_cooperate(
    address: &Address,
    (traffic, admin): (&NodeCredentials, &NodeCredentials),
    deadline: std::time::Duration,
) -> Result<(), String> {
    let told = |error: AskError| error.to_string();
    let needs =
        |what: &str, by: &str| format!("does not let {by} say {what}, which a cooperative move needs");
    let mut client = NodeClient::connect(address, traffic, deadline)
        .await
        .map_err(told)?;
    // As a proxy's connection is called, of a run that there is not.
    match client.ask(&["CLIENT", "SETNAME", "preshard-check"]).await {
        Ok(_) => {}
        Err(AskError::Refused(_)) => return Err(needs("CLIENT SETNAME", "proxies")),
        Err(error) => return Err(told(error)),
    }
    let client = NodeClient::connect(address, admin, deadline)
        .await
        .map_err(told)?;
    let mut client = client.with_reply_max(CLIENTS_BYTES_MAX);
    let list = match client.ask_text(&["CLIENT", "LIST"]).await {
        Ok(list) => list,
        Err(AskError::Refused(_)) => return Err(needs("CLIENT LIST", "preshard")),
        Err(error) => return Err(told(error)),
    };
    if !list
        .split([' ', '\n'])
        .any(|field| field == "name=preshard-check")
    {
        return Err(
            "does not show the names of its connections (CLIENT LIST), which a cooperative move needs"
                .to_owned(),
        );
    }
    match client.ask(&["CLIENT", "KILL", "ID", NOBODY]).await {
        Ok(_) => Ok(()),
        Err(AskError::Refused(_)) => Err(needs("CLIENT KILL ID", "preshard")),
        Err(error) => Err(told(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_proxies_that_have_not_heard_are_strangers_and_nobody_elses() {
        let list = "id=3 addr=127.0.0.1:1 fd=8 name=preshard-aa-0 age=1\n\
                    id=4 addr=127.0.0.1:2 fd=9 name=preshard-bb-1 age=1\n\
                    id=5 addr=127.0.0.1:3 fd=9 name= age=1\n\
                    id=6 addr=127.0.0.1:4 fd=9 name=preshard-check age=1\n\
                    id=7 addr=127.0.0.1:5 fd=9 name=mine age=1\n";
        let heard = BTreeSet::from(["aa".to_owned()]);
        assert_eq!(strangers(list, &heard), ["4"]);
        assert!(strangers(list, &["aa".to_owned(), "bb".to_owned()].into()).is_empty());
        assert_eq!(strangers("", &heard), Vec::<String>::new());
    }

    #[test]
    fn who_writes_for_a_task_is_known_by_its_name_also_if_the_task_is_a_part_of_another() {
        let tasks = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let (one, part) = (tasks(&["m1"]), tasks(&["p7-1"]));
        for (name, of_one, of_part) in [
            ("ps-a-m1-5", true, false),
            ("ps-a-m1-5-2", true, false),
            ("ps-a-m12-5", false, false),
            ("ps-a-p7-1-5", false, true),
            ("ps-a-p7-1-5-3", false, true),
            ("ps-a-p7-11-5", false, false),
            ("ps-a-m1", false, false),
            ("ps-g1", false, false),
        ] {
            assert_eq!(
                (is_applier_of(name, &one), is_applier_of(name, &part)),
                (of_one, of_part),
                "{name}"
            );
        }
    }

    #[test]
    fn a_refusal_for_now_does_not_say_that_there_are_no_users() {
        assert!(is_without_acl(
            "ERR unknown command `ACL`, with args beginning with: `USERS`, "
        ));
        assert!(is_without_acl(
            "NOPERM this user has no permissions to run the 'acl' command"
        ));
        for other in [
            "LOADING Redis is loading",
            "BUSY Redis is busy",
            "ERR wrong number",
        ] {
            assert!(!is_without_acl(other));
        }
    }
}
