//! Keeping databases of one node the same as those of another, until somebody says that they are: the copy of a move.
//!
//! ```text
//!            ┌─ stream link ───▶ receive ─▶ Spool ─────────┐ from the snapshot's offset on
//!  source ───┤                                             ▼
//!            └─ snapshot link ─▶ RdbReader ─────────────▶ Applier ─▶ Pipe (window, replies judged) ─▶ target
//!                                                                                                      ▲
//!  Copy::unpark, drain_to, thaw ─▶ Keeper ─▶ Walker (expiries parked, or real) ────────────────────────┘
//! ```
//!
//! The source takes us for a replica, and is only read. It alone decides: what the target holds is worth nothing until a
//! cutover. So whatever is not as it should be (an error, a gap, another history) clears the target's databases and begins
//! again. Expiries are parked on the target as long as it may be behind (`keeper`). Nothing but the named databases is ever
//! written there, over one connection, in the source's order, each write once.
//!
//! What a copy needs on the source: `PSYNC`, `REPLCONF`, `INFO`, `TIME`, `PING`; without a snapshot also `SELECT`, and `SET` and
//! `DEL` in the metadata database, and what reads keys (`scan`). On the target: all writes and transactions, `EVAL`, `SCAN`, `PEXPIRETIME` (`PTTL` before
//! 7.0; with fields that expire `TYPE`, `HSCAN`, `HPEXPIRETIME`), `SELECT`, `FLUSHDB`, `RESTORE`, `INFO`, `TIME`, `PING`,
//! `CLIENT ID` and `CLIENT KILL`.
//!
//! ```text
//!  SHARD MOVE ─▶ Mover::order ─▶ record ─▶ the leader's Mover ─▶ drive ─▶ Copy … ─▶ [verify] ─▶ cutover ─▶ the topology says it
//! ```
//!
//! A plan, or a node that is emptied, is a task of many moves ([`Group`]), which are made one after the other for each node.
//!
//! The leader drives a move ([`Mover`]): the copy, then the cutover, whose commit is a change of the topology. What has happened
//! is what the topology says; everything else can be done again or taken back.

mod apply;
mod arrow;
mod chores;
mod chunk;
mod claims;
mod clear;
mod commit;
mod cooperative;
mod copy;
mod cutover;
mod drive;
mod driving;
mod error;
mod freeze;
mod functions;
mod group;
mod group_back;
mod group_summary;
mod holder;
mod journal;
mod judge;
mod keeper;
mod lag;
mod ledger;
mod link;
mod lost;
mod mover;
mod orders;
mod outcome;
mod passes;
mod pipe;
mod plan;
mod preflight;
mod probe;
mod reading;
mod receive;
mod release;
mod removal;
mod reverse;
mod run;
mod running;
mod scan;
#[cfg(test)]
mod sim;
mod spool;
mod state;
mod steps;
mod task;
mod tidy;
mod verify;
mod window;

pub use copy::{Copy, DbCounts};
pub use error::CopyError;
pub use group::{Group, Way};
pub use group_summary::Summary;
pub use journal::{Journal, Noted};
pub use keeper::{Drained, Unparked};
pub use mover::{MoveOrder, Mover, Ordered};
pub use plan::{CopyLimits, CopyPlan, Endpoint, Offset, Signature};
pub use preflight::Survey;
pub use run::{Start, clear};
pub use state::{Phase, Progress};
pub use task::{Fence, Move, State, Wish};
pub use verify::{Checked, Compare, Mismatch, Sample, Verification, Verified, VerifyState};
