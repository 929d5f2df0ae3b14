//! What a crowd costs the others: ordinary clients alone, then beside a thousand clients that wait, a thousand that
//! listen and a publisher at several rates, in turns within one run.
//!
//! ```text
//!  ordinary load, fixed rate ─▶ preshard ─▶ 2 × redis-server     phases of a round:
//!  1,000 × BLPOP key 0 ───────▶    │                               alone · standing · 5/s · 20/s · … · full speed
//!  1,000 × SUBSCRIBE news ◀────────┘                             medians over the rounds
//!  publisher ─────────────────▶ (each message is 1,000 deliveries)
//! ```
//!
//! Latencies count from the moment at which a request was due, so a stall is seen by all that it delays. A few clients
//! do the same on a node directly at the same time: what they suffer is the machine's doing, not the proxy's.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool reports on its terminal"
)]

mod crowd;
mod ordinary;
#[path = "../compare/process.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod process;
mod report;
mod rig;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crowd::Crowd;
use report::{Figures, Report};
use rig::Rig;

/// Clients of each kind in the crowd.
pub(crate) const CROWD: usize = 1_000;

/// Whatever stops the run, with its explanation.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measure ordinary clients beside a crowd that waits, listens and publishes.
#[derive(Debug, Parser)]
#[command(name = "crowd")]
struct Args {
    /// Rounds over all phases
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one phase in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Ordinary requests a second, over 20 connections
    #[arg(long, default_value_t = 4_000)]
    load: u32,
    /// Messages a second, phase by phase
    #[arg(long, value_delimiter = ',', default_values_t = [5, 20, 50, 100])]
    rates: Vec<u32>,
    /// Workers of the proxy; 0: one for each core
    #[arg(long, default_value_t = 0)]
    workers: u32,
    /// The preshard binary
    #[arg(long, env = "PRESHARD_BIN", default_value = env!("CARGO_BIN_EXE_preshard"))]
    preshard: std::path::PathBuf,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What goes on beside the ordinary load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing.
    Alone,
    /// The crowd is there; nothing is published.
    Standing,
    /// So many messages a second.
    Rate(u32),
    /// As many messages as the proxy takes.
    FullSpeed,
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` starts benches too: minutes of load are not a test.
        eprintln!("crowd: nothing to test here; run `cargo bench --bench crowd`");
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let rig = Rig::start(&args.preshard, args.workers)?;
    ordinary::fill(&rig)?;
    let mut phases = vec![Phase::Alone, Phase::Standing];
    phases.extend(args.rates.iter().map(|&rate| Phase::Rate(rate)));
    phases.push(Phase::FullSpeed);
    let mut report = Report::new(&phases);
    let length = Duration::from_secs_f64(args.seconds);
    // Opens what is opened once.
    ordinary::run(&rig, args.load, Duration::from_millis(300))?;
    for round in 0..args.rounds {
        let mut crowd = None;
        for &phase in &phases {
            if phase == Phase::Standing {
                crowd = Some(Crowd::gather(&rig)?);
            }
            report.add(phase, measure(&rig, crowd.as_ref(), phase, args.load, length)?);
        }
        drop(crowd);
        rig.settle()?;
        eprintln!("round {} of {} done", round + 1, args.rounds);
    }
    report.print(args.load);
    Ok(())
}

fn measure(rig: &Rig, crowd: Option<&Crowd>, phase: Phase, load: u32, length: Duration) -> Result<Figures> {
    let heard = || crowd.map_or(0, Crowd::heard);
    let (cpu, before) = (rig.proxy_cpu_ns()?, heard());
    let publisher = crowd.map(|crowd| crowd.publish(phase, length)).transpose()?;
    let latencies = ordinary::run(rig, load, length)?;
    let published = publisher.map_or(Ok(0), crowd::Publisher::end)?;
    if let Some(crowd) = crowd {
        crowd.await_heard(before + published * CROWD as u64)?;
    }
    Ok(Figures {
        seconds: length.as_secs_f64(),
        published,
        deliveries: heard() - before,
        proxy_cpu_ns: rig.proxy_cpu_ns()? - cpu,
        latencies,
    })
}
