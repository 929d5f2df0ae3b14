//! What helper commands cost beside what applications would send without them, in turns within one run.
//!
//! ```text
//!  pipelines of INCR and of COUNTER.INCR, in turns ─▶ preshard ─▶ 2 × redis-server
//!  COUNTER.TAKE, nothing due in 1,024 shards · of 1,000 entries
//! ```
//!
//! Medians over the rounds. Ratios are what counts; the machine's doing is in both of their sides.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool reports on its terminal"
)]

mod counters;
#[path = "../compare/process.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod process;
mod rig;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

/// Whatever stops the run, with its explanation.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measure helper commands.
#[derive(Debug, Parser)]
#[command(name = "helpers")]
struct Args {
    /// Rounds of each measurement
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Requests of one round
    #[arg(long, default_value_t = 200_000)]
    requests: usize,
    /// Workers of the proxy; 0: one for each core
    #[arg(long, default_value_t = 1)]
    workers: u32,
    /// The preshard binary
    #[arg(long, env = "PRESHARD_BIN", default_value = env!("CARGO_BIN_EXE_preshard"))]
    preshard: std::path::PathBuf,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` starts benches too: minutes of load are not a test.
        eprintln!("helpers: nothing to test here; run `cargo bench --bench helpers`");
        return ExitCode::SUCCESS;
    }
    match counters::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helpers: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The middle one of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
