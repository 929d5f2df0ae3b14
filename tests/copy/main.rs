//! The copy of a move between real servers: all that a source has and does, while it does it, on a target.
//!
//! ```text
//!  writers ─▶ source ──Cutter──▶ Copy ──Cutter──▶ target         freeze, drain, compare: the same keys, values, expiries
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, loudly, where it is"
)]

#[path = "../rdb/data.rs"]
#[allow(dead_code, reason = "the tests of snapshots need more of it")]
mod data;
mod faults;
mod freeze;
mod kit;
mod moves;
mod scan;
#[path = "../rdb/server.rs"]
#[allow(dead_code, reason = "the tests of snapshots need more of it")]
mod server;
mod verify;
