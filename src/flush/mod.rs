//! `preshard flush`: what `COUNTER.INCR` gathered is added up in Postgres, each increment exactly once.
//!
//! ```text
//!  preshard ──COUNTER.TAKE──▶ batch.rs ──▶ rows.rs ──▶ apply.rs: one transaction ──────────▶ Postgres
//!     ▲                       (ids, prev)  (typed,      ├ marker row of (source, counter, shard): seen before?  chain.rs
//!     │                                    summed)      ├ the user's statement over delta(member, delta)
//!     └──COUNTER.ACK───── after COMMIT ◀───────────────┘ dead letters: what Postgres takes never
//! ```
//!
//! A batch keeps its id and its content until it is acknowledged, and its sequence number stands in the marker row that the same
//! transaction writes. So whoever dies, and wherever: the batch comes back, and the marker says whether it has been applied.
//! Nothing else is kept by anybody: any number of flushers run side by side, and one that stops costs a lease.
//!
//! A transaction whose end is unknown (the connection was lost in COMMIT) is left alone: neither acknowledged nor repeated. The
//! batch comes back after its lease, and by then the marker knows.

mod address;
mod apply;
mod batch;
mod chain;
mod cycle;
mod database;
mod fault;
mod figures;
mod reader;
mod rehearsal;
mod rows;
mod run;
mod secured;
mod settings;
mod source;
mod statement;
mod worker;

pub use chain::Link;
pub use database::{INIT_SQL, PostgresSide};
pub use rows::MemberType;
pub use run::{FlushError, Mode, run};
pub use settings::{Counter, OnBad, OnRollback, Settings};
pub use source::RedisSide;
pub use statement::Statement;
