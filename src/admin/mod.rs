//! The admin listener: `PRESHARD <noun> <verb>` over RESP, from redis-cli or any client.
//!
//! ```text
//!  listener.rs ─▶ connection.rs ─▶ session.rs ──PRESHARD …──▶ words.rs ─▶ one file for each noun ─▶ Value
//!  64 at most     bytes, limits    AUTH HELLO PING …          the table    help info check show
//!                                                             of words     shard explain topology
//!
//!  rates.rs       once a second: a sample of the counters, ten seconds of them
//! ```
//!
//! Words read what the workers and the control side publish (the topology, counters, the registry of clients,
//! what nodes last said) and never ask a worker. Only `CHECK` asks the nodes.
//!
//! A list is an array of rows; a row is a map, which [`Value::encode`](crate::resp::Value::encode) writes as a
//! flat array of names and values in RESP2.

mod check;
mod commands;
mod config;
mod connection;
mod explain;
mod help;
mod info;
mod listener;
mod rates;
mod session;
mod shard;
mod show;
mod value;
mod words;

use std::sync::Arc;

pub use listener::serve;
pub use rates::{RATE_WINDOW, Rates, sample_rates};
pub use words::{WORDS, Word};

use crate::control::Live;
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
}

impl AdminContext {
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
            Action::TopologyDump => Ok(Value::bulk(self.shared.topology.load().encode())),
            Action::TopologyEpoch => Ok(value::int(self.shared.topology.load().epoch.0)),
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
