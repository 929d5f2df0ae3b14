//! The admin listener: `PRESHARD <noun> <verb>` over RESP, from redis-cli or any client.
//!
//! ```text
//!  listener.rs ─▶ connection.rs ─▶ session.rs ──PRESHARD …──▶ words.rs ─▶ one file for each noun ─▶ Value
//!  64 at most     bytes, limits    AUTH HELLO PING …          the table    help info check show shard
//!                                                             of words     plan explain fleet tasks
//!
//!  data port ─▶ data_port.rs ──with the rights of its client──▶ the same words
//!  rights.rs      which words the right monitor is enough for
//!  rates.rs       once a second: a sample of the counters, ten seconds of them
//! ```
//!
//! Words read what the workers and the control side publish (the topology, counters, the registry of clients,
//! what nodes last said) and never ask a worker. Only `CHECK`, `PLAN REBALANCE BY memory` and `TOPOLOGY LOAD` ask the nodes;
//! what changes something goes through [`Fleet`].
//!
//! A list is an array of rows; a row is a map, which [`Value::encode`](crate::resp::Value::encode) writes as a
//! flat array of names and values in RESP2.

mod apply;
mod check;
mod commands;
mod config;
mod connection;
mod data_port;
mod explain;
mod fleet;
mod help;
mod info;
mod listener;
mod moves;
mod node;
mod plan;
mod plans;
mod rates;
mod rights;
mod session;
mod shard;
mod show;
mod tasks;
mod value;
mod words;

use std::sync::Arc;

pub use data_port::answer_workers;
pub use listener::serve;
pub use plans::Plans;
pub use rates::{RATE_WINDOW, Rates, sample_rates};
pub use words::{WORDS, Word};

use crate::acl::Rights;
use crate::control::{Fleet, Live};
use crate::metrics::Refused;
use crate::migration::{Mover, Wish};
use crate::resp::{Args, Value};
use crate::worker::shared::Shared;
use words::Action;

/// What the words read.
#[derive(Debug)]
pub struct AdminContext {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The config in force.
    pub live: Arc<Live>,
    /// Rates over the last seconds; [`sample_rates`] fills them.
    pub rates: Arc<Rates>,
    /// Plans that were made.
    pub plans: Plans,
    /// The other proxies, and the way to change something.
    pub fleet: Arc<Fleet>,
    /// Moves of shards.
    pub mover: Arc<Mover>,
}

impl AdminContext {
    /// As [`Self::answer`], for somebody who may not have every right.
    pub async fn answer_for(&self, rights: Rights, args: &Args<'_>) -> Value {
        if let Some(line) = rights::refusal(rights, args) {
            self.shared.metrics.control().refused[Refused::Right].add_shared(1);
            return Value::error(line);
        }
        self.answer(args).await
    }

    /// Answers one `PRESHARD …` request; `args` begins with `PRESHARD`. What is wrong with it comes back as an
    /// error value.
    pub async fn answer(&self, args: &Args<'_>) -> Value {
        let (word, rest) = match words::find(args) {
            Ok(found) => found,
            Err(line) => return Value::error(line),
        };
        let answer = match word.action {
            Action::Help => help::help(args, rest),
            Action::HelpOfNoun => Ok(help::of_noun(word.noun)),
            Action::Version => Ok(Value::bulk(env!("CARGO_PKG_VERSION"))),
            Action::Info => info::section(self, args, rest),
            Action::Check => Ok(check::check(self).await),
            Action::ShowShards => Ok(show::shards(self)),
            Action::ShowNodes => Ok(show::nodes(self)),
            Action::ShowProxies => Ok(fleet::proxies(self)),
            Action::ShowClients => Ok(show::clients(self)),
            Action::ShowConfig => Ok(config::show(self)),
            Action::ShowStats => Ok(show::stats(self)),
            Action::ShowSlowlog => show::slowlog(self, args.try_get(rest)),
            Action::ShowCommands => commands::commands(self, args, rest),
            Action::ShardInfo => shard::info(self, args.get(rest)),
            Action::ShardOf => Ok(shard::of(self, args.get(rest))),
            Action::Explain => Ok(explain::explain(self, args, rest)),
            Action::ConfigGet => Ok(config::select(self, args, rest)),
            Action::ConfigSet => config::set(self, args.get(rest), args.get(rest + 1)).await,
            Action::ConfigReload => config::reload(self).await,
            Action::PlanRebalance => Box::pin(plan::rebalance(self, args, rest)).await,
            Action::PlanShow => plan::show(self, args.get(rest)),
            Action::ShardPause => Box::pin(shard::pause(self, args.get(rest), true)).await,
            Action::ShardResume => Box::pin(shard::pause(self, args.get(rest), false)).await,
            Action::NodeAdd => Box::pin(node::add(self, args, rest)).await,
            Action::NodeRemove => Box::pin(node::remove(self, args.get(rest))).await,
            Action::NodeDrain => Box::pin(apply::drain(self, args, rest)).await,
            Action::PlanApply => Box::pin(apply::apply(self, args.get(rest))).await,
            Action::NodeSet => Box::pin(node::set(self, args, rest)).await,
            Action::TopologyDump => Ok(Value::bulk(self.shared.topology.load().encode())),
            Action::TopologyEpoch => Ok(value::int(self.shared.topology.load().epoch.0)),
            Action::TopologyLoad => fleet::load(self, args, rest).await,
            Action::TaskList => tasks::list(self).await,
            Action::TaskStatus => tasks::status(self, args.get(rest)).await,
            Action::TaskCancel => moves::wish(self, args.get(rest), Wish::Cancel).await,
            Action::TaskCutover => moves::wish(self, args.get(rest), Wish::Cutover).await,
            Action::TaskFinalize => moves::wish(self, args.get(rest), Wish::Finalize).await,
            Action::TaskRollback => moves::wish(self, args.get(rest), Wish::Rollback).await,
            Action::ShardMove => Box::pin(moves::shard_move(self, args, rest)).await,
            Action::ShardVerify => Box::pin(moves::shard_verify(self, args, rest)).await,
            Action::NotYet => Err(format!(
                "ERR PRESHARD {} is not in this version of preshard yet",
                word.path()
            )),
        };
        answer.unwrap_or_else(Value::error)
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
