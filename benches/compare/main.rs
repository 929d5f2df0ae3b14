//! Side-by-side comparison: the same load on direct Redis, preshard, twemproxy and HAProxy, in one run.
//!
//! ```text
//!                        ┌──────────── direct ────────────┐
//!  redis-benchmark ──────┼── preshard  (1,024 shards) ────┼──▶ redis-server 1   (1,040 databases)
//!  (one at a time)       ├── twemproxy (both nodes) ──────┼──▶ redis-server 2   (1,040 databases)
//!                        └── HAProxy   (TCP, node 1) ─────┘
//!
//!  for each case: for each round: for each subject:
//!      read CPU of proxy and nodes ─▶ load of fixed size ─▶ read CPU again ─▶ one sample
//! ```
//!
//! A noisy machine disturbs all subjects of a round alike, since they take turns within seconds (A B C D A B C D …),
//! and the median over the rounds drops what one disturbance did. What is compared is CPU per request first:
//! it counts work, where throughput and tails on a shared machine count the neighbours too.
//! The gates that preshard has to reach are data in [`gates`]; how to read a run is told in `docs/BENCHMARKS.md`.
//!
//! Any error reply, any early end of a process and any load that does not finish in time fails the whole run:
//! a fast proxy that answers errors must not look good.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool reports on its terminal"
)]

mod args;
mod case;
mod client;
mod gates;
mod load;
mod machine;
mod process;
mod report;
mod rig;
mod sample;
mod subject;
mod syscalls;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use args::Args;
use case::{Case, Special};
use clap::Parser as _;
use report::{Idle, Results};
use rig::Rig;
use subject::Subject;

/// Connections that the memory case holds open.
const IDLE_CONNECTIONS: u32 = 5_000;

/// Whatever stops the run, with its explanation; a benchmark has no caller that would tell kinds apart.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` starts benches too: minutes of load are not a test.
        eprintln!("compare: nothing to test here; run `make bench` or `cargo bench --bench compare`");
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    match run(&args) {
        Ok(missed) if missed > 0 && args.check => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all chosen cases and reports; returns the number of missed gates.
fn run(args: &Args) -> Result<usize> {
    let chosen = case::choose(&args.only)?;
    let mut rig = Rig::start(args)?;
    let mut results = Results::new(args, machine::describe(&args.preshard_bin(), &args.subjects));

    rig.fill(&chosen.cases)?;
    measure_cases(args, &mut rig, &chosen.cases, &mut results)?;
    for special in &chosen.specials {
        rig.restart()?;
        match special {
            Special::Syscalls(depth) => measure_syscalls(args, &rig, *depth, &mut results)?,
            Special::Idle => measure_idle(&rig, &mut results)?,
        }
    }
    rig.check_running()?;
    drop(rig);
    results.publish(args)
}

/// The heart: subjects innermost, so that rivals are measured within seconds of each other.
///
/// Every case begins with fresh proxies: buffers that the deep pipelines of another case left behind would make some
/// dearer, and hide what this case needs.
fn measure_cases(args: &Args, rig: &mut Rig, cases: &[&'static Case], results: &mut Results) -> Result<()> {
    let (rounds, length) = (args.rounds(), Duration::from_secs_f64(args.seconds()));
    for case in cases {
        rig.restart()?;
        let suited: Vec<&Subject> = rig
            .subjects
            .iter()
            .filter(|subject| case.suits(subject.kind))
            .collect();
        let mut sizes = Vec::new();
        for subject in &suited {
            sizes.push(sample::size(rig, subject, case, length)?);
        }
        for round in 1..=rounds {
            for (subject, size) in suited.iter().zip(&sizes) {
                let sample = sample::take(rig, subject, case, *size)?;
                eprintln!(
                    "{:<10} {round}/{rounds} {:<9} {sample}",
                    case.name,
                    subject.kind.name()
                );
                results.add(case, subject.kind, sample);
            }
        }
    }
    Ok(())
}

/// System calls per request, in runs of their own: the tracer slows the proxy down by an order of magnitude.
fn measure_syscalls(args: &Args, rig: &Rig, depth: u32, results: &mut Results) -> Result<()> {
    for subject in rig.subjects.iter().filter(|subject| subject.process.is_some()) {
        let counted = syscalls::count(rig, subject, depth, args.quick)?;
        eprintln!("system calls at depth {depth}: {} {counted}", subject.kind.name());
        results.syscalls.push(counted);
    }
    Ok(())
}

/// Memory per idle connection, each proxy fresh, so that no heap grown by a load hides the growth.
fn measure_idle(rig: &Rig, results: &mut Results) -> Result<()> {
    for subject in rig.subjects.iter().filter(|subject| subject.process.is_some()) {
        let before = subject.rss_kib()?;
        let held = client::hold_idle(subject.port, IDLE_CONNECTIONS)
            .map_err(|error| format!("idle connections of {}: {error}", subject.kind.name()))?;
        rig.settle(subject)?;
        let after = subject.rss_kib()?;
        drop(held);
        rig.settle(subject)?;
        let idle = Idle::new(subject.kind, IDLE_CONNECTIONS, before, after);
        eprintln!("idle connections: {idle}");
        results.idle.push(idle);
    }
    Ok(())
}
