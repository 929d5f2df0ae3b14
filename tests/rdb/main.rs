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
mod server;
mod snapshot;
mod stream;
