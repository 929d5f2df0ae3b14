//! The figures of a run: a table for people, JSON for machines.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Sample, Verdict};
use crate::slow::Copies;
use crate::{Args, Store, rig};

/// What clients saw in some time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// The longest wait of a client for one reply.
    pub(crate) wait_ms: f64,
    /// The longest time in which nobody got a reply.
    pub(crate) silence_ms: f64,
    /// The longest wait of a client of other shards.
    pub(crate) beside_ms: f64,
}

/// One move.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cutover {
    pub(crate) state: String,
    pub(crate) seconds: f64,
    pub(crate) pause_ms: f64,
    pub(crate) attempts: f64,
    pub(crate) error: String,
    pub(crate) seen: Window,
}

/// The moves over one store.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) store: Store,
    pub(crate) proxies: usize,
    pub(crate) workers: u32,
    pub(crate) seconds: f64,
    pub(crate) cutovers: Vec<Cutover>,
    /// Times without a move, for comparison.
    pub(crate) between: Vec<Window>,
    pub(crate) killed: Vec<String>,
    pub(crate) verdict: Verdict,
    pub(crate) ballast_wrong: u64,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Window {
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let longest = |bystander: bool| {
            samples
                .iter()
                .filter(|sample| sample.bystander == bystander)
                .map(|sample| ms(sample.answered.saturating_sub(sample.due)))
                .fold(0.0, f64::max)
        };
        let mut answers: Vec<Duration> = samples
            .iter()
            .filter(|sample| !sample.bystander)
            .map(|sample| sample.answered)
            .collect();
        answers.sort_unstable();
        let silence = answers.windows(2).map(|pair| pair[1] - pair[0]).max();
        Self {
            wait_ms: longest(false),
            silence_ms: ms(silence.unwrap_or_default()),
            beside_ms: longest(true),
        }
    }
}

impl Cutover {
    /// A move that has ended while nobody could be asked.
    pub(crate) fn without_record(begun: Instant, seen: Window) -> Self {
        Self {
            state: "moved".to_owned(),
            seconds: begun.elapsed().as_secs_f64(),
            seen,
            ..Self::default()
        }
    }
}

impl Run {
    pub(crate) fn new(store: Store, proxies: usize, workers: u32) -> Self {
        Self {
            store,
            proxies,
            workers,
            seconds: 0.0,
            cutovers: Vec::new(),
            between: Vec::new(),
            killed: Vec::new(),
            verdict: Verdict::default(),
            ballast_wrong: 0,
        }
    }

    pub(crate) fn end(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Nothing is wrong, and where nothing was killed nobody got an error either.
    pub(crate) fn is_exact(&self, kills: bool) -> bool {
        let all_moved = self.cutovers.iter().all(|cutover| cutover.state == "moved");
        let no_errors = self.verdict.errors == 0 && all_moved;
        self.verdict.wrong == 0 && self.ballast_wrong == 0 && (kills || no_errors)
    }

    fn figures(&self, of: impl Fn(&Cutover) -> f64) -> Figures {
        let moved = self
            .cutovers
            .iter()
            .filter(|cutover| cutover.state == "moved" && cutover.pause_ms > 0.0);
        Figures::of(moved.map(of).collect())
    }

    fn quiet(&self, of: impl Fn(&Window) -> f64) -> Figures {
        Figures::of(self.between.iter().map(of).collect())
    }

    fn json(&self) -> Value {
        let moves: Vec<Value> = self
            .cutovers
            .iter()
            .map(|cutover| {
                json!({
                    "state": cutover.state, "seconds": cutover.seconds, "pause_ms": cutover.pause_ms,
                    "attempts": cutover.attempts, "error": cutover.error, "wait_ms": cutover.seen.wait_ms,
                    "silence_ms": cutover.seen.silence_ms, "beside_ms": cutover.seen.beside_ms,
                })
            })
            .collect();
        json!({
            "store": format!("{:?}", self.store).to_lowercase(),
            "proxies": self.proxies,
            "workers": self.workers,
            "seconds": self.seconds,
            "writes": self.verdict.writes,
            "writes_per_s": self.verdict.writes as f64 / self.seconds,
            "errors": self.verdict.errors,
            "wrong": self.verdict.wrong,
            "ballast_wrong": self.ballast_wrong,
            "killed": self.killed,
            "words": self.verdict.words,
            "pause_ms": self.figures(|cutover| cutover.pause_ms).json(),
            "silence_ms": self.figures(|cutover| cutover.seen.silence_ms).json(),
            "wait_ms": self.figures(|cutover| cutover.seen.wait_ms).json(),
            "beside_ms": self.figures(|cutover| cutover.seen.beside_ms).json(),
            "without_a_move": {
                "silence_ms": self.quiet(|window| window.silence_ms).json(),
                "wait_ms": self.quiet(|window| window.wait_ms).json(),
            },
            "moves": moves,
        })
    }
}

/// Of many numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Figures {
    pub(crate) fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |share: usize| {
            let place = (all.len() * share).div_ceil(100).max(1) - 1;
            all.get(place).copied().unwrap_or(0.0)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }

    fn json(self) -> Value {
        json!({"p50": self.p50, "p99": self.p99, "max": self.max})
    }

    fn row(self, what: &str) {
        println!("| {what} | {:.1} | {:.1} | {:.1} |", self.p50, self.p99, self.max);
    }
}

pub(crate) fn print(args: &Args, runs: &[Run], copies: Option<&Copies>) {
    for run in runs {
        print_run(args, run);
    }
    if let Some(copies) = copies {
        println!(
            "\nA copy of {} keys, at most {} bytes a second, {} times, beside as long times without one; ms of a client's wait\n",
            args.copy_keys, args.rate, args.copies
        );
        println!("| | p50 | p99 | longest |\n|---|---|---|---|");
        copies.copying.row("while it is copied");
        copies.without.row("without");
        println!(
            "\np99: {:.2} times that without (at most 2 is wanted); {} requests, {} errors, {} wrong",
            copies.ratio(),
            copies.verdict.writes,
            copies.verdict.errors,
            copies.verdict.wrong
        );
    }
}

fn print_run(args: &Args, run: &Run) {
    let count = |state: &str| {
        run.cutovers
            .iter()
            .filter(|cutover| cutover.state == state)
            .count()
    };
    println!(
        "\n{:?}, {} proxies with {} workers each: {} moves of shards {} of {} in {:.0} s, {:.0} writes/s (ms)\n",
        run.store,
        run.proxies,
        run.workers,
        run.cutovers.len(),
        rig::MOVING,
        rig::SHARDS,
        run.seconds,
        run.verdict.writes as f64 / run.seconds
    );
    println!("| | p50 | p99 | longest |\n|---|---|---|---|");
    run.figures(|cutover| cutover.pause_ms)
        .row("pause_ms of the task");
    run.figures(|cutover| cutover.seen.silence_ms)
        .row("nobody gets a reply, in a move");
    run.quiet(|window| window.silence_ms)
        .row("nobody gets a reply, 0.5 s without a move");
    run.figures(|cutover| cutover.seen.wait_ms)
        .row("longest wait of a client, in a move");
    run.quiet(|window| window.wait_ms)
        .row("longest wait of a client, 0.5 s without a move");
    run.figures(|cutover| cutover.seen.beside_ms)
        .row("longest wait of a client of other shards, in a move");
    run.figures(|cutover| cutover.seconds * 1000.0)
        .row("the whole move");
    let attempts: f64 = run.cutovers.iter().map(|cutover| cutover.attempts).sum();
    println!(
        "\n{} moved, {} failed, {attempts} cutovers given up; {} writes, {} errors, {} wrong replies, {} wrong keys of {} that only moved",
        count("moved"),
        count("failed"),
        run.verdict.writes,
        run.verdict.errors,
        run.verdict.wrong,
        run.ballast_wrong,
        args.keys
    );
    if !run.killed.is_empty() {
        println!("killed: {} (seed {})", run.killed.join(" "), args.seed);
    }
    for words in &run.verdict.words {
        println!("  {words}");
    }
    for cutover in run.cutovers.iter().filter(|cutover| !cutover.error.is_empty()) {
        println!("  {}: {}", cutover.state, cutover.error);
    }
    let verdict = if run.is_exact(args.kill_every > 0) {
        "exact: nothing lost, doubled or out of order"
    } else {
        "NOT EXACT"
    };
    println!("{verdict}");
}

pub(crate) fn json(args: &Args, runs: &[Run], copies: Option<&Copies>) -> Value {
    let copies = copies.map(|copies| {
        json!({
            "copying_ms": copies.copying.json(), "without_ms": copies.without.json(), "ratio_p99": copies.ratio(),
            "errors": copies.verdict.errors, "wrong": copies.verdict.wrong, "requests": copies.verdict.writes,
        })
    });
    json!({
        "moves": args.moves,
        "writes": args.writes,
        "keys": args.keys,
        "rate": args.rate,
        "copy_keys": args.copy_keys,
        "kill_every": args.kill_every,
        "seed": args.seed,
        "runs": runs.iter().map(Run::json).collect::<Vec<_>>(),
        "copies": copies,
    })
}
