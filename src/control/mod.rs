//! The control side: what is done beside the traffic, on a runtime of its own.
//!
//! ```text
//!  preflight   before the first client: may these nodes be served at all?  (errors that say what to change)
//!  admit       may this server become a node, or take a node's place?
//!  marks       what nodes carry of the topology, read and raised
//!  prepare     a node that came back empty: the others' functions, then the mark
//!  sample      what keys take, by looking at some of each shard
//!  fence       what a leader does on a node, so that a leader of the past cannot do it too
//!  room        the same on a node that is at its maxmemory
//!  provision   preshard's own users on the nodes, made and kept by the leader
//!  probe       every second: is the node there, which version, how many keys in which database?
//!  fleet       what this proxy and the others of its cluster tell each other through the store
//!   live        the config: reloaded, or one value set
//! ```

mod admit;
pub mod client;
pub mod fence;
mod fleet;
mod live;
mod marks;
mod preflight;
mod prepare;
mod probe;
mod provision;
mod room;
mod sample;
mod seeded;
mod settings;
#[cfg(test)]
pub(crate) mod testing;

pub use admit::{Force, admit_new, admit_successor, release_node};
pub use client::{AskError, NodeClient, Questions, Replies};
pub use fleet::{Changed, Fleet, FleetView, PATIENCE};
pub use live::{Change, Live, Parts, SetLevel, Waiting};
pub use marks::{highest_epoch, mark_nodes, raise_mark, raise_marks};
pub use preflight::{NodeProblem, Preflight, check_nodes};
pub use prepare::{Libraries, bring_functions, libraries_on, prepare_nodes};
pub use probe::{PROBE_INTERVAL, probe_nodes};
pub use provision::{is_default_open, make_users, provision_nodes};
pub use room::ask_with_room;
pub use sample::{SampleError, Sampled, ShardKeys, sample_memory};
pub(crate) use seeded::{Mistake, makes};
pub use settings::{admin_credentials_of, settings_of, worker_count};

/// A field of an INFO text.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
