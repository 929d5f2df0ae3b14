//! How fast `preshard flush` drains what waits: 100,000 members over 256 shards into a Postgres on this machine.
//!
//! ```text
//!  COUNTER.MINCR × 100 ─▶ preshard ─▶ two nodes      then, timed:   preshard flush --once ─▶ Postgres
//! ```
//!
//! The bar is 5 seconds. Rows are inserted in the first run and updated in the others; the process's start is part of the time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "a bench that cannot go on should stop where it is; it stands on a part of the integration tests' harness"
)]

#[path = "../../tests/integration/harness/mod.rs"]
mod harness;
#[path = "../../tests/integration/flush/kit.rs"]
mod kit;
#[path = "../../tests/integration/flush/postgres.rs"]
mod postgres;

use std::fmt::Write as _;
use std::time::Instant;

use harness::{Node, NodeOptions, Setup};
use kit::{Flush, prepare, sum};
use postgres::Postgres;

const MEMBERS: u32 = 100_000;
const SHARDS: u16 = 256;
const BAR_SECONDS: f64 = 5.0;
const RUNS: usize = 5;

fn main() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let options = NodeOptions {
        databases: u32::from(SHARDS) + 8,
        ..NodeOptions::default()
    };
    let nodes = [Node::with(options.clone()), Node::with(options)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(SHARDS, 4)
        .start();
    let mut flush = Flush::new(proxy.data, &postgres);
    flush.lease = "30s";
    flush.workers = 2;
    let mut client = proxy.client();
    let (mut times, mut counted) = (Vec::new(), 0);
    for run in 0..=RUNS {
        for thousand in 0..MEMBERS / 1000 {
            let mut words = "COUNTER.MINCR events".to_owned();
            for member in thousand * 1000..(thousand + 1) * 1000 {
                write!(words, " m{member} 3").unwrap();
            }
            assert_eq!(client.ask(&words).items().len(), 1000);
            counted += 3000;
        }
        let started = Instant::now();
        let (status, told) = flush.run(&["--once"]);
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!((status, sum(&postgres)), (Some(0), counted), "{told}");
        let what = if run == 0 { "inserted" } else { "updated" };
        println!("{MEMBERS} members of {SHARDS} shards {what} in {seconds:.2} s");
        times.push(seconds);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let members = f64::from(MEMBERS);
    println!(
        "median {median:.2} s, {:.0} members a second; the bar is {BAR_SECONDS} s",
        members / median
    );
    assert!(median <= BAR_SECONDS, "above the bar");
}
