//! What `TIMELINE.*` costs beside the standard commands that an application would send instead, both through preshard, in
//! turns within one run.
//!
//! ```text
//!  ADD      100 in a pipeline            │ 100 × (ZADD, ZREMRANGEBYRANK)        operations a second
//!  FANOUT   one item to 5,000 timelines  │ 10,000 commands in one pipeline      time; and what others suffer meanwhile
//!  RANGE    pages of 20 by cursor        │ ZREVRANGE of 20                      time of one
//!  MERGE    20 out of 50 timelines       │ 50 × ZREVRANGE of 20, not merged     time of one
//! ```
//!
//! Requests are made beforehand, and the client does nothing but send them and find the replies' ends: what is compared is
//! the proxy's and the nodes' work. Figures are medians over the rounds; the ratios count.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool reports on its terminal"
)]

mod client;
mod others;
#[path = "../compare/process.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod process;
mod rig;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use client::{Client, Request};
use others::Others;
use rig::Rig;

/// Timelines that there are.
const TIMELINES: u32 = 5_000;
/// Items of each, when it is full.
const LENGTH: u32 = 200;
/// Timelines that one page is merged out of.
const MERGED: u32 = 50;

/// Whatever stops the run, with its explanation.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measure TIMELINE.* beside the commands that they stand for.
#[derive(Debug, Parser)]
#[command(name = "timelines")]
struct Args {
    /// Rounds over all cases
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Requests of a client that does something else during FANOUT, a second
    #[arg(long, default_value_t = 1_000)]
    load: u32,
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

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` starts benches too: minutes of load are not a test.
        eprintln!("timelines: nothing to test here; run `cargo bench --bench timelines`");
        return ExitCode::SUCCESS;
    }
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("timelines: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A case: what is compared, and the most that the helper's time may be of the other's.
#[derive(Debug)]
struct Case {
    name: &'static str,
    bar: f64,
    helper: Vec<Duration>,
    other: Vec<Duration>,
}

impl Case {
    const fn new(name: &'static str, bar: f64) -> Self {
        Self {
            name,
            bar,
            helper: Vec::new(),
            other: Vec::new(),
        }
    }

    fn print(&mut self) {
        let (helper, other) = (median(&mut self.helper), median(&mut self.other));
        let ratio = helper.as_secs_f64() / other.as_secs_f64();
        println!(
            "| {} | {helper:.2?} | {other:.2?} | {ratio:.2} | {:.2} | {} |",
            self.name,
            self.bar,
            if ratio <= self.bar { "held" } else { "missed" }
        );
    }
}

fn run(args: &Args) -> Result<()> {
    let rig = Rig::start(&args.preshard, args.workers)?;
    let mut client = Client::connect(rig.port)?;
    fill(&mut client)?;
    let mut cases = [
        Case::new("`ADD` × 5,000, 100 in a pipeline", 1.0),
        Case::new("`FANOUT`, 5,000 timelines", 0.6),
        Case::new("`RANGE` of 20 × 2,000", 1.3),
        Case::new("`RANGE` of 20 × 2,000, 100 in a pipeline", 1.3),
        Case::new("`MERGE`, 20 of 50 timelines × 200", 1.0),
    ];
    let mut others = Others::new(args.load);
    for round in 0..args.rounds {
        let item = (LENGTH + 1) * TIMELINES + u32::try_from(round)? * 8;
        measure_writes(&mut client, &mut cases[..2], item)?;
        measure_reads(&mut client, &mut cases[2..])?;
        others.measure(&rig, item + 4)?;
        eprintln!("round {} of {} done", round + 1, args.rounds);
    }
    println!("| case | helper | standard commands | ratio | at most | |\n|---|---|---|---|---|---|");
    cases.iter_mut().for_each(Case::print);
    others.print();
    Ok(())
}

/// Fills every timeline.
fn fill(client: &mut Client) -> Result<()> {
    for from in (0..TIMELINES).step_by(100) {
        let mut request = Request::default();
        for timeline in from..from + 100 {
            let mut words = vec!["TIMELINE.ADD".to_owned(), key(timeline)];
            // No two timelines have an item of the same score, as if each followed somebody else.
            for item in (1..=LENGTH).map(|item| item * TIMELINES + timeline) {
                words.extend([item.to_string(), member(item)]);
            }
            request.push(&words);
        }
        client.run(&request)?;
    }
    Ok(())
}

fn measure_writes(client: &mut Client, cases: &mut [Case], item: u32) -> Result<()> {
    let (length, rank) = (LENGTH.to_string(), format!("-{}", LENGTH + 1));
    let add = |request: &mut Request, timeline: u32, item: u32| {
        let words = [
            "TIMELINE.ADD",
            &key(timeline),
            "MAXLEN",
            &length,
            &item.to_string(),
            &member(item),
        ];
        request.push(&words);
    };
    let plain = |request: &mut Request, timeline: u32, item: u32| {
        request.push(&["ZADD", &key(timeline), &item.to_string(), &member(item)]);
        request.push(&["ZREMRANGEBYRANK", &key(timeline), "0", &rank]);
    };
    let batches = |item: u32, write: &dyn Fn(&mut Request, u32, u32)| -> Vec<Request> {
        let batch = |from: u32| {
            let mut request = Request::default();
            // Neighbours in the pipeline lie in other shards.
            (from..from + 100).for_each(|timeline| write(&mut request, timeline * 37 % TIMELINES, item));
            request
        };
        (0..TIMELINES).step_by(100).map(batch).collect()
    };
    let (helper, other) = (batches(item, &add), batches(item + 1, &plain));
    cases[0].helper.push(timed(|| {
        helper.iter().try_for_each(|request| client.run(request))
    })?);
    cases[0].other.push(timed(|| {
        other.iter().try_for_each(|request| client.run(request))
    })?);
    let mut all = Request::default();
    (0..TIMELINES).for_each(|timeline| plain(&mut all, timeline * 37 % TIMELINES, item + 3));
    let fanout = fanout(item + 2);
    cases[1].helper.push(timed(|| client.run(&fanout))?);
    cases[1].other.push(timed(|| client.run(&all))?);
    Ok(())
}

fn measure_reads(client: &mut Client, cases: &mut [Case]) -> Result<()> {
    let range = |request: &mut Request, timeline: u32| {
        let item = 150 * TIMELINES + timeline;
        let cursor = format!("{item}:{}", member(item));
        request.push(&["TIMELINE.RANGE", &key(timeline), "BEFORE", &cursor, "COUNT", "20"]);
    };
    let plain = |request: &mut Request, timeline: u32| {
        request.push(&["ZREVRANGE", &key(timeline), "0", "19"]);
    };
    let each = |size: u32, write: &dyn Fn(&mut Request, u32)| -> Vec<Request> {
        let batch = |from: u32| {
            let mut request = Request::default();
            (from..from + size).for_each(|timeline| write(&mut request, timeline * 37 % TIMELINES));
            request
        };
        (0..2_000).step_by(size as usize).map(batch).collect()
    };
    for (case, size) in cases.iter_mut().zip([1, 100]) {
        let (helper, other) = (each(size, &range), each(size, &plain));
        case.helper.push(timed(|| {
            helper.iter().try_for_each(|request| client.run(request))
        })?);
        case.other.push(timed(|| {
            other.iter().try_for_each(|request| client.run(request))
        })?);
    }
    let (mut merge, mut naive) = (Vec::new(), Vec::new());
    for from in 0..200 {
        let keys: Vec<String> = (0..MERGED)
            .map(|at| key((from * MERGED + at) * 37 % TIMELINES))
            .collect();
        let mut words = vec!["TIMELINE.MERGE".to_owned(), MERGED.to_string()];
        words.extend(keys.iter().cloned());
        let mut request = Request::default();
        request.push(&words);
        merge.push(request);
        let mut request = Request::default();
        keys.iter()
            .for_each(|key| request.push(&["ZREVRANGE", key, "0", "19", "WITHSCORES"]));
        naive.push(request);
    }
    cases[2].helper.push(timed(|| {
        merge.iter().try_for_each(|request| client.run(request))
    })?);
    cases[2].other.push(timed(|| {
        naive.iter().try_for_each(|request| client.run(request))
    })?);
    Ok(())
}

/// One item into all timelines.
fn fanout(item: u32) -> Request {
    let mut words = vec!["TIMELINE.FANOUT".to_owned(), TIMELINES.to_string()];
    words.extend((0..TIMELINES).map(|timeline| key(timeline * 37 % TIMELINES)));
    words.extend([
        "MAXLEN".to_owned(),
        LENGTH.to_string(),
        item.to_string(),
        member(item),
    ]);
    let mut request = Request::default();
    request.push(&words);
    request
}

fn key(timeline: u32) -> String {
    format!("feed:{timeline}")
}

fn member(item: u32) -> String {
    format!("item:{item:08}")
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

fn median(of: &mut [Duration]) -> Duration {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or_default()
}
