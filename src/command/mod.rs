//! Commands: what a request means, where its keys are, and whether it may run at all.
//!
//! ```text
//!  live servers ──generate.py──▶ table.tsv (facts)  ┐
//!                                policy.rs (classes) ┴▶ the table ─┐
//!                                                                  │
//!  Args ──▶ lookup ─▶ subcommand ─▶ arity ─▶ arguments that matter ┴─▶ Spec {class, keys, flags, …} ──▶ route
//!                │                                                 └─▶ Refusal, one error line
//!                └─ keys: which arguments are keys
//! ```
//!
//! What servers say of their commands is data, generated from them; what preshard does with a command is decided in
//! `policy.rs` and nowhere else. A command that is in neither is refused: its first argument is never guessed to be a
//! key. Nothing in this room knows shards, sessions or sockets.

mod access;
mod docs;
mod flags;
mod glob;
mod helper;
mod introspect;
mod keys;
mod options;
pub mod page;
mod policy;
#[cfg(test)]
mod property_tests;
mod refusal;
mod resolve;
mod script;
mod service;
mod spec;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod waiting;
mod writing;

pub use access::{
    APPLIER_PREFIX, FEED_USER, UNIT_PREFIX, USER_PREFIX, applier_rules, feed_rules, traffic_rules,
};
pub use flags::{Categories, Flags, KeyFlags};
pub use glob::glob_matches;
pub use helper::{Counter, Helper, RESERVED_PREFIX, Timeline, is_reserved};
pub use introspect::{introspect, key_flags};
pub use keys::{keys, reaches_undeclared_keys, routing_keys, sort_option_with_other_keys};
pub use refusal::{KeyError, Refusal};
pub use resolve::{FlushMode, blocks, copies_to_other_database, flush_mode, identify, may_wait, resolve};
pub use script::{judge_code, touches_nothing};
pub use spec::{
    BeginSearch, Class, Cluster, CommandId, Facts, FanOut, FindKeys, KeyFact, KeySpec, Local, PubSub, Script,
    Spec, Special, Split, Transaction,
};
pub use table::{all, by_id, lookup, subcommand};
pub use waiting::{Wait, Waiting, wait_of};
pub use writing::may_write;
