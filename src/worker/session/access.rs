//! Which user a client is, and what that allows: passwords, refusals, and users that change while it is connected.
//!
//! ```text
//!  AUTH, HELLO … AUTH ─▶ wrong ones came lately? wait, then look ─▶ become_user ─▶ Special::LIMITED, if it is
//!  each request of a limited client ─▶ refused_by_rules
//!  other users in force ─▶ adopt_users, at the beginning of the next turn: who is gone is closed
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use super::client::{Client, Pause, Special};
use super::input::Taken;
use super::local::HelloOptions;
use crate::acl::Denied;
use crate::command::{Class, Local, Spec, Transaction};
use crate::config::users::DEFAULT;
use crate::metrics::{Disconnect, Refused};
use crate::resp::Args;
use crate::worker::engine::Engine;
use crate::worker::users::User;

/// What a worker keeps for the users.
#[derive(Debug, Default)]
pub(in crate::worker) struct Access {
    /// Which users are known here.
    generation: u64,
    /// Room for the places of a request's keys.
    pub(super) places: Vec<u32>,
}

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl Client {
    /// The client is this user from its next request on.
    pub(in crate::worker) fn become_user(&mut self, user: &Arc<User>) {
        self.authenticated = true;
        if self.counted.is_none() || self.user.name != user.name {
            self.counted = Some(user.count());
        }
        self.set_user(user);
        if user.rules.is_unlimited() {
            self.special.unset(Special::LIMITED);
        } else {
            self.special.set(Special::LIMITED);
        }
    }

    /// The client is nobody: `user` is shown, and nothing is allowed.
    pub(super) fn become_nobody(&mut self, user: &Arc<User>) {
        self.authenticated = false;
        self.counted = None;
        self.set_user(user);
        self.special.unset(Special::LIMITED);
    }

    fn set_user(&mut self, user: &Arc<User>) {
        self.info.names().user = Arc::clone(&user.name);
        self.user = Arc::clone(user);
    }
}

impl Engine {
    /// Who a client is before it has given a password, or after `RESET`.
    pub(in crate::worker) fn forget_user(&mut self, index: usize) {
        let users = self.shared.users.load();
        let client = &mut self.clients[index];
        if users.are_open() {
            client.become_user(users.default_user());
        } else {
            client.become_nobody(users.default_user());
        }
    }

    /// Whether a password has to wait before it is looked at, since wrong ones came lately. Nobody else waits.
    pub(super) fn password_waits(&mut self, index: usize, user: &[u8]) -> bool {
        let now = self.shared.now_ms();
        let client = &mut self.clients[index];
        let address = &client.info.address;
        let due = match client.password_due_ms {
            Some(due) => Some(due),
            None => self.shared.attempts.due_ms(address, user, now),
        };
        let waits = due.is_some_and(|due| now < due);
        client.password_due_ms = due.filter(|_| waits);
        if waits {
            client.pause = Pause::Password;
        }
        waits
    }

    /// Makes the client the user whose password this is.
    ///
    /// # Errors
    /// It is none's.
    pub(super) fn log_in(
        &mut self,
        index: usize,
        name: Option<&[u8]>,
        password: &[u8],
    ) -> Result<(), String> {
        let name = name.unwrap_or(DEFAULT.as_bytes());
        let found = self.shared.users.load().log_in(name, password);
        let Some(user) = found else {
            let info = &self.clients[index].info;
            self.shared
                .attempts
                .note_wrong(&info.address, name, self.shared.now_ms());
            self.metrics.auth_failures.inc();
            tracing::debug!(event = "auth_failed", client_id = info.id, address = info.address);
            return Err(WRONGPASS.to_owned());
        };
        self.clients[index].become_user(&user);
        Ok(())
    }

    /// Refuses a request that the rules of its client's user do not allow.
    pub(super) fn refused_by_rules(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Option<Taken> {
        let rules = &self.clients[index].user.rules;
        let denied = rules.check(spec, args, &mut self.access.places).err()?;
        let kind = match denied {
            Denied::Command(_) => Refused::Command,
            Denied::Key(_) | Denied::SortOption(_) => Refused::Key,
            Denied::Channel(_) => Refused::Channel,
        };
        let is_exec = matches!(spec.class, Class::Transaction(Transaction::Exec));
        if is_exec && !self.watch_is_answered(index) {
            return Some(self.wait_for_answers(index));
        }
        self.metrics.refused[kind].inc();
        let mut line = denied.line();
        if is_exec {
            self.drop_transaction(index);
            self.release_watch(index);
            line.insert_str(0, "EXECABORT Transaction discarded because of: ");
        }
        self.transaction_failed(index);
        // As for any other refusal: `CLIENT CACHING` was about this request.
        let client = &self.clients[index];
        if client.special.has(Special::TRACKING) && client.transaction.is_none() {
            self.caching_used(index);
        }
        self.answer_error(index, &line);
        Some(Taken::Yes)
    }

    /// Takes up the users in force, if they are others than those that are known.
    #[inline]
    pub(in crate::worker) fn look_at_users(&mut self) {
        let generation = self.shared.users_generation.load(Acquire);
        if generation != self.access.generation {
            self.access.generation = generation;
            self.adopt_users();
        }
    }

    #[cold]
    fn adopt_users(&mut self) {
        let users = self.shared.users.load_full();
        let mut gone = Vec::new();
        for (index, client) in &mut self.clients {
            if !client.authenticated {
                client.become_nobody(users.default_user());
                continue;
            }
            let old = Arc::clone(&client.user);
            let new = users.find(old.name.as_bytes()).filter(|user| user.enabled);
            let Some(new) = new else {
                gone.push((index, client.generation));
                continue;
            };
            if new.rules != old.rules {
                // What was queued was judged by the old rules.
                if let Some(queued) = &mut client.transaction {
                    queued.fail();
                }
                if client.listens && !new.rules.covers_channels_of(&old.rules) {
                    gone.push((index, client.generation));
                }
            }
            client.become_user(new);
        }
        for (index, generation) in gone {
            self.close_client(index, generation, Disconnect::Auth);
        }
    }
}

/// The user that a request brings a password for.
pub(super) fn named_user<'a>(local: Local, args: &Args<'a>) -> Option<&'a [u8]> {
    match (local, args.len()) {
        (Local::Auth, 2) => Some(DEFAULT.as_bytes()),
        (Local::Auth, 3) => Some(args.get(1)),
        (Local::Hello, _) => {
            let credentials = HelloOptions::parse(args).ok()?.credentials;
            credentials.map(|(user, _)| user)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
