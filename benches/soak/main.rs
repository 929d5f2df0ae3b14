//! Many moves there and back under load: how long clients wait, and whether each of them gets exactly what it must.
//!
//! ```text
//!  load::Load, 50,000 writes/s ─▶ 1 or 3 × preshard ─▶ 2 × redis-server      shards 0-63 of 1,024 ─▶ node-2 ─▶ node-1 ─▶ …
//!      every reply is foretold          │
//!                                  file, or 3 × etcd       [--kill-every: proxies and members of etcd die and come back]
//! ```
//!
//! The pause is told twice: by the task (`pause_ms`), and by the clients: the longest wait of any of them during the move, and the
//! longest time in which nobody got any reply. The same is taken between moves, where it is the machine's doing.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool reports on its terminal"
)]

mod admin;
mod load;
#[path = "../compare/process.rs"]
#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod process;
mod report;
mod rig;
mod slow;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use load::{Kind, Load, Spec};
use report::{Cutover, Run, Window};
use rig::Rig;

/// Whatever stops the run, with its explanation.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The longest that one move may take.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a task.
const LOOK: Duration = Duration::from_millis(20);
/// Clients that write in pipelines, and writes in one.
const WRITERS: u32 = 12;
const BATCH: u32 = 20;
/// Clients with one write at a time, on the shards that move, and as many on others of the same node.
const SINGLES: u32 = 4;

/// Moves 64 shards there and back under load, and counts what clients notice.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// Moves for each store
    #[arg(long, default_value_t = 200)]
    moves: usize,
    /// Writes a second
    #[arg(long, default_value_t = 50_000)]
    writes: u32,
    /// Keys of 100 bytes that move along
    #[arg(long, default_value_t = 20_000)]
    keys: u32,
    /// Where the topology is kept
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["file", "etcd"])]
    store: Vec<Store>,
    /// Proxies; 0: one with a file, three with etcd
    #[arg(long, default_value_t = 0)]
    proxies: usize,
    /// Workers of a proxy; 0: two for one proxy, one for several
    #[arg(long, default_value_t = 0)]
    workers: u32,
    /// Rounds of a throttled copy beside rounds without one; 0: none
    #[arg(long, default_value_t = 10)]
    copies: usize,
    /// Keys of a throttled copy
    #[arg(long, default_value_t = 200_000)]
    copy_keys: u32,
    /// Bytes a second of a throttled copy
    #[arg(long, default_value_t = 8_000_000)]
    rate: u64,
    /// Kill a proxy or a member of etcd every so many seconds; 0: never
    #[arg(long, default_value_t = 0)]
    kill_every: u64,
    /// A seed for what is killed; 0: any
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also write everything as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The preshard binary
    #[arg(long, env = "PRESHARD_BIN", default_value = env!("CARGO_BIN_EXE_preshard"))]
    preshard: PathBuf,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where the topology is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// One file, one proxy.
    File,
    /// Three members on this machine, three proxies.
    Etcd,
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` starts benches too: minutes of load are not a test.
        eprintln!("soak: nothing to test here; run `make soak`");
        return ExitCode::SUCCESS;
    }
    let mut args = Args::parse();
    if args.seed == 0 {
        args.seed = fastrand::u64(1..);
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let mut runs = Vec::new();
    for &store in &args.store {
        runs.push(moves(args, store)?);
    }
    let copies = (args.copies > 0).then(|| slow::copies(args)).transpose()?;
    report::print(args, &runs, copies.as_ref());
    if let Some(path) = &args.json {
        std::fs::write(path, report::json(args, &runs, copies.as_ref()).to_string())?;
    }
    Ok(runs.iter().all(|run| run.is_exact(args.kill_every > 0)))
}

fn specs(writes: u32) -> Vec<Spec> {
    let single = Spec {
        kind: Kind::Single,
        pace: Duration::from_millis(4),
    };
    let bystander = Spec {
        kind: Kind::Bystander,
        pace: Duration::from_millis(4),
    };
    let batch = Spec {
        kind: Kind::Batch(BATCH),
        pace: Duration::from_secs(1) * (WRITERS * BATCH) / writes.max(1),
    };
    let mut all = vec![batch; WRITERS as usize];
    all.extend(vec![single; SINGLES as usize]);
    all.extend(vec![bystander; SINGLES as usize]);
    all
}

/// The moves over one store.
fn moves(args: &Args, store: Store) -> Result<Run> {
    let proxies = match (args.proxies, store) {
        (0, Store::File) => 1,
        (0, Store::Etcd) => 3,
        (named, _) => named,
    };
    let workers = match args.workers {
        0 if proxies == 1 => 2,
        0 => 1,
        named => named,
    };
    let mut rig = Rig::start(&args.preshard, store, proxies, workers)?;
    let ballast = load::Ballast::fill(rig.proxy_ports()[0], args.keys)?;
    let load = Load::start(rig.proxy_ports(), &specs(args.writes))?;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut run = Run::new(store, proxies, workers);
    let mut due = Instant::now() + Duration::from_secs(args.kill_every.max(1));
    let mut turn = |rig: &mut Rig| -> Result<Option<String>> {
        if args.kill_every == 0 || Instant::now() < due {
            return Ok(None);
        }
        due = Instant::now() + Duration::from_secs(args.kill_every);
        rig.kill_one(&mut random).map(Some)
    };
    load.quiet(Duration::from_secs(1));
    let begun = Instant::now();
    load.take();
    for number in 0..args.moves {
        run.between
            .push(Window::of(&load.quiet(Duration::from_millis(500))));
        let target = if number % 2 == 0 { "node-2" } else { "node-1" };
        let ended = one_move(&mut rig, &load, target, &mut turn, &mut run.killed)?;
        if number % 20 == 19 || ended.state != "moved" {
            eprintln!(
                "{store:?}: move {} of {}: {} after {:.1} s, pause {:.1} ms, longest silence {:.1} ms, {} writes, {} errors",
                number + 1,
                args.moves,
                ended.state,
                ended.seconds,
                ended.pause_ms,
                ended.seen.silence_ms,
                load.writes(),
                load.errors()
            );
        }
        run.cutovers.push(ended);
    }
    run.seconds = begun.elapsed().as_secs_f64();
    let port = rig.settle()?;
    run.end(load.stop(port)?);
    run.ballast_wrong = ballast.wrong(port)?;
    Ok(run)
}

/// One move to its end. In a run that kills, it may have to be looked for on another proxy.
fn one_move(
    rig: &mut Rig,
    load: &Load,
    target: &str,
    turn: &mut impl FnMut(&mut Rig) -> Result<Option<String>>,
    killed: &mut Vec<String>,
) -> Result<Cutover> {
    let begun = Instant::now();
    let order = format!("PRESHARD SHARD MOVE {} TO {target}", rig::MOVING);
    let mut words = None;
    let mut task = None;
    let (mut state, mut row);
    loop {
        if let Some(what) = turn(rig)? {
            killed.push(what);
        }
        if task.is_none() {
            match rig.ask(&order) {
                Ok(id) if id.starts_with('m') => task = Some(id),
                // It was ordered before the proxy died, and has ended since.
                Ok(refused) if refused.contains("live on node") => {
                    return Ok(Cutover::without_record(begun, Window::of(&load.take())));
                }
                Ok(refused) => task = rig::task_in(&refused),
                Err(_) => {}
            }
        }
        if let Some(id) = &task
            && let Ok(found) = rig.fields(&format!("PRESHARD TASK STATUS {id}"))
        {
            row = found;
            state = row.get("state").cloned().unwrap_or_default();
            if matches!(state.as_str(), "moved" | "failed" | "cancelled") {
                break;
            }
            words = row.get("error").cloned();
        }
        if begun.elapsed() > MOVE_MAX {
            return Err(format!("a move has not ended within {MOVE_MAX:?}; its error: {words:?}").into());
        }
        std::thread::park_timeout(LOOK);
    }
    let seen = Window::of(&load.take());
    let number = |name: &str| row.get(name).and_then(|text| text.parse().ok());
    let cutover = Cutover {
        state,
        seconds: begun.elapsed().as_secs_f64(),
        pause_ms: number("pause_ms").unwrap_or(0.0),
        attempts: number("attempts").unwrap_or(0.0),
        error: row.get("error").cloned().unwrap_or_default(),
        seen,
    };
    if let Some(id) = task.filter(|_| cutover.state == "moved") {
        let until = Instant::now() + MOVE_MAX;
        while !rig
            .ask(&format!("PRESHARD TASK FINALIZE {id}"))
            .is_ok_and(|said| said == "OK")
        {
            if Instant::now() > until {
                return Err("a move cannot be finalized".into());
            }
            std::thread::park_timeout(LOOK);
        }
    }
    Ok(cutover)
}
