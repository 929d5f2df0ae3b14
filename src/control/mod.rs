//! The control side: what is done beside the traffic, on a runtime of its own.
//!
//! ```text
//!  preflight   before the first client: may these nodes be served at all?  (errors that say what to change)
//!  prepare     a node that came back empty: the others' functions, then the mark
//!  probe       every second: is the node there, which version, how many keys in which database?
//!   live        the config: reloaded, or one value set
//! ```

pub mod client;
mod live;
mod preflight;
mod prepare;
mod probe;
mod settings;

pub use client::{AskError, NodeClient};
pub use live::{Change, Live, Parts, SetLevel, Waiting};
pub use preflight::{NodeProblem, Preflight, check_nodes, mark_nodes};
pub use prepare::{bring_functions, prepare_node};
pub use probe::{PROBE_INTERVAL, probe_nodes};
pub use settings::{credentials_of, settings_of, worker_count};

/// A field of an INFO text.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
