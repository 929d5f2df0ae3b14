//! Where a request goes: a decision out of the command's table row, the keys and the topology.
//!
//! ```text
//!  (Spec, Args, Topology, selected db) ──▶ Plan
//!        Local    the proxy answers by itself
//!        One      the frame goes to one shard as it is
//!        Iterate  the same, but for its cursor
//!        Split    one part for each shard, merged into one reply   (db 0 only)
//!        FanOut   every shard of the keyspace, or every node, merged
//!        Blocking, Script   the frame goes to one shard, over connections apart
//!        Transaction, PubSub   the session's own state decides
//!        Helper   made into other commands, by the room `helper`
//!        or a refusal: one error line, nothing sent anywhere
//! ```
//!
//! Nothing is guessed: a command without a row was refused before it came here, and keys are taken from the
//! positions that the servers themselves name.

mod split;
#[cfg(test)]
mod tests;
mod transaction;

pub use split::{Part, Splitting};
pub use transaction::{Place, place_in_transaction};

use crate::command::{self, Class, FanOut, Helper, Local, PubSub, Script, Spec, Split, Transaction};
use crate::ids::ShardId;
use crate::resp::Args;
use crate::topology::Topology;

/// What is to be done with one request.
#[derive(Debug)]
pub enum Plan {
    /// Answered by the proxy.
    Local(Local),
    /// The whole frame to one shard.
    One(ShardId),
    /// The frame to one shard, with the cursor of its node, which the reply names.
    Iterate(ShardId),
    /// One part for each shard, merged by the rule of the command.
    Split(Split, Splitting),
    /// Every owned database or every node, merged by the rule of the command.
    FanOut(FanOut),
    /// The whole frame to one shard; the reply may wait for data.
    Blocking(ShardId),
    /// The whole frame to one shard, which runs code.
    Script(Script, ShardId),
    /// What the session has queued and watches.
    Transaction(Transaction),
    /// Channels; they live on no shard.
    PubSub(PubSub),
    /// One or many commands of preshard's own making: see the room `helper`.
    Helper(Helper),
}

const RESERVED: &str = "ERR keys starting with '__preshard__:' are reserved";

/// The room of a session's argument positions, kept between requests so that routing does not allocate.
#[derive(Debug, Default)]
pub struct Scratch {
    keys: Vec<u32>,
}

/// Decides where a request goes.
///
/// `db` is the database that the client has selected: 0 is the sharded keyspace, `1..=pinned` are whole shards.
///
/// # Errors
/// The error line for the client, without its leading `-`: keys that cannot be found in the arguments, or that
/// live on different shards while the command must run whole.
pub fn route(
    spec: &Spec,
    args: &Args<'_>,
    topology: &Topology,
    db: u16,
    scratch: &mut Scratch,
) -> Result<Plan, String> {
    let pinned = topology.pinned_shard(db);
    if db != 0 && pinned.is_none() {
        return Err("ERR DB index is out of range".to_owned());
    }
    match spec.class {
        Class::Local(local) => Ok(Plan::Local(local)),
        Class::FanOut(fan_out) => Ok(Plan::FanOut(fan_out)),
        Class::Single | Class::SameShard | Class::Split(_) => {
            extract(spec, args, &mut scratch.keys)?;
            let plan = match pinned {
                Some(shard) => Plan::One(shard),
                None => on_sharded(spec, args, topology, &scratch.keys)?,
            };
            // `XREAD BLOCK` is `XREAD` until it has to wait.
            match plan {
                Plan::One(shard) if spec.rules && command::may_wait(spec, args) => Ok(Plan::Blocking(shard)),
                plan => Ok(plan),
            }
        }
        Class::Iterate => {
            extract(spec, args, &mut scratch.keys)?;
            one_shard(spec, args, topology, pinned, &scratch.keys).map(Plan::Iterate)
        }
        Class::Blocking => {
            extract(spec, args, &mut scratch.keys)?;
            one_shard(spec, args, topology, pinned, &scratch.keys).map(Plan::Blocking)
        }
        Class::Script(script) => {
            extract(spec, args, &mut scratch.keys)?;
            if pinned.is_none()
                && scratch.keys.is_empty()
                && let Some(shard) = without_keys(script, args, topology)
            {
                return Ok(Plan::Script(script, shard));
            }
            one_shard(spec, args, topology, pinned, &scratch.keys).map(|shard| Plan::Script(script, shard))
        }
        Class::Transaction(transaction) => Ok(Plan::Transaction(transaction)),
        Class::PubSub(pubsub) => Ok(Plan::PubSub(pubsub)),
        Class::Helper(helper) => {
            extract(spec, args, &mut scratch.keys)?;
            Ok(Plan::Helper(helper))
        }
        // `command::resolve` has refused it.
        Class::Refused(reason) => Err(format!("ERR {reason}")),
    }
}

/// Where a script without keys may run in the sharded keyspace: anywhere if it touches nothing, always in the same place. One
/// that is called by its sum is judged where its text is known.
fn without_keys(script: Script, args: &Args<'_>, topology: &Topology) -> Option<ShardId> {
    let may_run = match script {
        Script::Eval => command::touches_nothing(args.get(1)),
        Script::Evalsha => true,
        Script::Fcall => false,
    };
    may_run.then(|| topology.shard_of_key(args.get(1)))
}

/// The one shard of all keys of a request.
///
/// # Errors
/// As [`route`].
pub fn shard_of_keys(
    spec: &Spec,
    args: &Args<'_>,
    topology: &Topology,
    db: u16,
    scratch: &mut Scratch,
) -> Result<ShardId, String> {
    extract(spec, args, &mut scratch.keys)?;
    one_shard(spec, args, topology, topology.pinned_shard(db), &scratch.keys)
}

fn extract(spec: &Spec, args: &Args<'_>, keys: &mut Vec<u32>) -> Result<(), String> {
    keys.clear();
    command::routing_keys(spec, args, keys).map_err(|error| error.line())?;
    if keys
        .iter()
        .any(|&key| command::is_reserved(args.get(key as usize)))
    {
        return Err(RESERVED.to_owned());
    }
    Ok(())
}

/// Where the keys of one request lie.
enum Keys {
    Together(ShardId),
    /// The positions of two that lie apart.
    Apart(u32, u32),
}

/// The shard of a command that is never split.
fn one_shard(
    spec: &Spec,
    args: &Args<'_>,
    topology: &Topology,
    pinned: Option<ShardId>,
    keys: &[u32],
) -> Result<ShardId, String> {
    if let Some(shard) = pinned {
        return Ok(shard);
    }
    match locate(spec, args, topology, keys)? {
        Keys::Together(shard) => Ok(shard),
        Keys::Apart(one, other) => Err(cross_shard(args, topology, one, other)),
    }
}

fn on_sharded(spec: &Spec, args: &Args<'_>, topology: &Topology, keys: &[u32]) -> Result<Plan, String> {
    let (first, foreign) = match locate(spec, args, topology, keys)? {
        Keys::Together(shard) => return Ok(Plan::One(shard)),
        Keys::Apart(first, foreign) => (first, foreign),
    };
    if let Class::Split(split) = spec.class {
        return Splitting::new(split, args, topology, keys).map(|splitting| Plan::Split(split, splitting));
    }
    Err(cross_shard(args, topology, first, foreign))
}

fn locate(spec: &Spec, args: &Args<'_>, topology: &Topology, keys: &[u32]) -> Result<Keys, String> {
    if command::reaches_undeclared_keys(spec, args) {
        return Err(format!(
            "CROSSSLOT '{}' with a pattern reaches keys that it does not name, which may live on other shards; \
             SELECT a pinned database for it",
            spec.name
        ));
    }
    let Some((&first, rest)) = keys.split_first() else {
        return Err(format!(
            "CROSSSLOT '{}' names no key here, so it has no shard; SELECT a pinned database for it",
            spec.name
        ));
    };
    let shard = topology.shard_of_key(args.get(first as usize));
    let foreign = rest
        .iter()
        .copied()
        .find(|&key| topology.shard_of_key(args.get(key as usize)) != shard);
    Ok(foreign.map_or(Keys::Together(shard), |foreign| Keys::Apart(first, foreign)))
}

fn cross_shard(args: &Args<'_>, topology: &Topology, first: u32, other: u32) -> String {
    let name = |key: u32| {
        (
            shown(args.get(key as usize)),
            topology.shard_of_key(args.get(key as usize)),
        )
    };
    let ((a, a_shard), (b, b_shard)) = (name(first), name(other));
    format!(
        "CROSSSLOT keys '{a}' (shard {a_shard}) and '{b}' (shard {b_shard}) live on different shards; \
         use a hash tag such as {{x}}{a} {{x}}{b}, or SELECT a pinned database"
    )
}

/// A key as it may stand in an error: printable, and never longer than an error line bears.
fn shown(key: &[u8]) -> String {
    const SHOWN_MAX: usize = 64;
    let cut = &key[..key.len().min(SHOWN_MAX)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if key.len() > SHOWN_MAX {
        text.push('…');
    }
    text
}
