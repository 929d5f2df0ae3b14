//! What the tests of moves stand on: an operator, writers who know what they were told, moves that stand still where a test wants it,
//! and two proxies of which one leads.
//!
//! ```text
//!  operator   order ─▶ until_ready ─▶ until_moved ─▶ until_reversible ─▶ roll_back, tell "FINALIZE", …    each waits until it is so
//!  writers    under_writes: one list each through a proxy that lives, and no error; under_writers: they bear that proxies and nodes die
//!  arrows     arm ─▶ until_reached ─▶ let_go: the points of `src/migration/arrow.rs`
//!  pair       two proxies on an etcd, the one that leads and the other one
//! ```
//!
//! Nothing here is asked once where it becomes true a moment later: a machine with much to do delays the store's answers, copies,
//! leases and the leader's look at its records.

mod arrows;
mod operator;
mod pair;
mod writer;
mod writers;

pub(crate) use arrows::{Arrows, can_stop};
pub(crate) use operator::{
    BEARS, PATIENCE, ask, field, move_shards, move_there, number, order, roll_back, state, tell, until_moved,
    until_ready, until_reversible, until_users, users_of_moves,
};
pub(crate) use pair::Pair;
pub(crate) use writer::Writer;
pub(crate) use writers::{lists, under_writers, under_writes};
