//! A simulation of moves: the control side as it is, among nodes, a store, proxies, clients and a clock that are models.
//!
//! ```text
//!              orders, wishes                              ┌─ store: revisions, leases, watches, answers that are lost
//!  play ───────────────┐       Fleet, Mover, Driven,       │
//!   │ a seed:          ▼       Cutover, Ledger, fence,     │         ┌─ node: users, rights, transactions, history
//!   ├─ chance     Process ───▶ provision: the real ones ───┴── wire ─┤
//!   ├─ faults          └─────▶ Worker: a model ─── lines ────────────┤        judge: what clients were told
//!   └─ clients ──────────────────▲                  Copy: a model ───┘
//! ```
//!
//! One thread, and a clock that jumps to whatever comes next, so that minutes take milliseconds. The seed draws how long messages
//! take, what operators want and what goes wrong: proxies die or stand still at any step of the leader, nothing passes between two, nodes
//! restart with their users, older ones or none, answers of the store are lost. A proxy that stands still is one whose messages arrive
//! late, so that a leader of the past acts after its time. Then all is well again, everything must come to rest, and be as clients were
//! told ([`judge`]). Every fourth seed has no faults, and nobody may get an error.
//!
//! A worker is a model, and so is the copy: they have tests of their own. What is shown here is that the machine of a move holds if they
//! keep their promises, and that the mistakes of [`tests`] would be found.

mod client;
mod copy;
mod data;
mod faults;
mod judge;
mod node;
mod play;
mod process;
mod proxy;
mod setup;
mod store;
mod stream;
mod tests;
mod users;
mod wire;
mod world;

pub(super) use copy::Copy;

/// What the simulated clocks say, in a thread that simulates.
pub(super) fn unix_now() -> Option<u64> {
    world::World::unix_now()
}
