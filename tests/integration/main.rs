//! The data plane as a black box: the built `preshard` in front of real `redis-server`s, looked at through its sockets.
//!
//! ```text
//!                     ┌────────── harness::relay (cuts, delays, doubles, eats) ──┐
//!  harness::wire ─▶ preshard serve ─▶ redis-server (temporary folder, free port) ┘
//!       │                │  stdout: addresses, ready · /proc: memory
//!       └── one plain redis-server beside it, for what the answer should have been
//! ```
//!
//! One binary, one module a theme. Nothing here names the library: what is tested is what a client and an operator can see.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test that cannot go on should stop, loudly, where it is"
)]

mod access;
mod admin;
mod audit;
mod blocking;
mod broken;
mod client_state;
mod clients;
mod cluster;
mod commands;
mod cooperative;
mod counters;
mod crowd;
mod demo;
mod desync;
mod differential;
mod disk;
mod drain;
mod etcd;
mod faults;
mod fleet;
#[cfg(feature = "flush")]
mod flush;
mod handshakes;
mod harness;
mod hostile;
mod limits;
mod moves;
mod moves_faults;
mod moves_full;
mod moves_functions;
mod moves_iterate;
mod moves_pause;
mod moves_release;
mod moves_replaced;
mod moves_scan;
mod moves_secured;
mod moves_work;
mod moving;
mod nodes;
mod pause;
mod pipelines;
mod plan;
mod pubsub;
mod reload;
mod replicas;
mod rollback;
mod scripts;
mod scripts_found;
mod silence;
mod slowlog;
mod startup;
mod timelines;
mod tls;
mod tracking;
mod transactions;
mod users;
mod verify;
mod verify_back;
