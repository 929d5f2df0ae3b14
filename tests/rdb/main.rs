//! Snapshots and streams of real servers, read by the library and applied to other real servers.
//!
//! ```text
//!  source (each server at hand) ─SAVE─▶ RdbReader ─Frames─▶ target (each server at hand) ─▶ the same keys and values
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, loudly, where it is"
)]

mod data;
#[allow(dead_code, reason = "the tests of the copy need more of it")]
mod server;
mod snapshot;
mod stream;
