//! Half of the first node's shards go to the second one while clients write; afterwards every list is what was acknowledged.
//!
//! ```text
//!  writers ── RPUSH log:N 0, 1, 2 … ──▶ proxy ──▶ nodes        each reply must be the list's next length
//!  admin ──── SHARD MOVE 0-255 TO redis-2 … TASK STATUS … TASK FINALIZE
//!  then ───── LRANGE log:N ──────────▶ 0, 1, 2 … up to what was acknowledged, and nothing else
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use super::link::{Link, text};
use super::load::CONNECTIONS;
use super::process::Stop;
use super::rig::{Rig, SHARDS};
use crate::resp::Value;

/// Lists that one connection writes to, in one pipeline.
const LISTS: usize = 64;
/// The move takes seconds; without a bound a hang would have no end.
const MOVE_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the move did.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) shards: String,
    pub(super) target: String,
    pub(super) task: String,
    /// Keys that the copy had when the target began to follow.
    pub(super) keys: String,
    /// How long the shards were held, in milliseconds, as the task says.
    pub(super) pause_ms: f64,
    /// The longest that a pipeline of a writer took.
    pub(super) longest: Duration,
    /// Writes that were acknowledged.
    pub(super) writes: usize,
    pub(super) lists: usize,
}

/// The keys of all lists.
pub(super) fn keys() -> BTreeSet<String> {
    (0..CONNECTIONS * LISTS).map(list).collect()
}

fn list(number: usize) -> String {
    format!("log:{number}")
}

/// Moves and looks.
///
/// # Errors
/// What is not as it should be.
pub(super) fn run(rig: &Rig, stop: &Stop) -> Result<Moved, Failure> {
    let address = rig.proxy.admin.as_deref();
    let address = address.ok_or_else(|| Failure::Broken("the proxy has no admin listener".to_owned()))?;
    let mut admin = Link::connect(address)?;
    let shards = format!("0-{}", SHARDS / 4 - 1);
    let target = &rig.nodes[1].name;
    let ended = AtomicBool::new(false);
    let (moved, written) = thread::scope(|scope| {
        let ended = &ended;
        let writers: Vec<_> = (0..CONNECTIONS)
            .map(|writer| scope.spawn(move || write(&rig.proxy.data, writer, ended)))
            .collect();
        let moved = order(&mut admin, &shards, target, stop);
        ended.store(true, Relaxed);
        let written: Vec<Result<Written, Failure>> = writers
            .into_iter()
            .map(|writer| {
                let panicked = || Failure::Broken("a writer panicked".to_owned());
                writer.join().map_err(|_| panicked())?
            })
            .collect();
        (moved, written)
    });
    let (task, status) = moved?;
    let written = written.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (writer, written) in written.iter().enumerate() {
        check(&rig.proxy.data, writer, written.rounds)?;
    }
    let answer = admin.ask_text(&["PRESHARD", "TASK", "FINALIZE", &task])?;
    if answer != "OK" {
        return Err(Failure::Broken(format!("TASK FINALIZE answered '{answer}'")));
    }
    Ok(Moved {
        shards,
        target: target.clone(),
        keys: field(&status, "keys"),
        pause_ms: field(&status, "pause_ms").parse().unwrap_or_default(),
        task,
        longest: written
            .iter()
            .map(|written| written.longest)
            .max()
            .unwrap_or_default(),
        writes: written.iter().map(|written| written.rounds * LISTS).sum(),
        lists: CONNECTIONS * LISTS,
    })
}

/// Orders the move and waits for its end: its task, and the last status.
fn order(admin: &mut Link, shards: &str, target: &str, stop: &Stop) -> Result<(String, Value), Failure> {
    let answer = admin.ask(&["PRESHARD", "SHARD", "MOVE", shards, "TO", target])?;
    // Behind the task's name there may be what to know about it.
    let task = match &answer {
        Value::Array(lines) => lines.first().map_or_else(String::new, text),
        one => text(one),
    };
    if task.starts_with('-') {
        return Err(Failure::Broken(format!("SHARD MOVE answered '{task}'")));
    }
    let begin = Instant::now();
    loop {
        stop.check()?;
        let status = admin.ask(&["PRESHARD", "TASK", "STATUS", &task])?;
        match field(&status, "state").as_str() {
            "moved" => return Ok((task, status)),
            state @ ("failed" | "cancelled") => {
                let why = field(&status, "error");
                return Err(Failure::Broken(format!("the move has {state}: {why}")));
            }
            state if begin.elapsed() > MOVE_MAX => {
                return Err(Failure::Broken(format!(
                    "the move is still {state} after {MOVE_MAX:?}"
                )));
            }
            _ => thread::park_timeout(LOOK_EVERY),
        }
    }
}

/// A field of a flat list of names and values.
fn field(row: &Value, name: &str) -> String {
    let Value::Array(items) = row else {
        return String::new();
    };
    let mut pairs = items.chunks_exact(2);
    pairs
        .find(|pair| text(&pair[0]) == name)
        .map_or_else(String::new, |pair| text(&pair[1]))
}

/// What one writer was acknowledged.
#[derive(Debug)]
struct Written {
    /// Each of its lists has so many elements.
    rounds: usize,
    longest: Duration,
}

/// One number more for each of its lists, again and again. Any reply but the next length is a write lost, doubled or refused.
fn write(address: &str, writer: usize, ended: &AtomicBool) -> Result<Written, Failure> {
    let mut link = Link::connect(address)?;
    let lists: Vec<String> = (0..LISTS).map(|at| list(writer * LISTS + at)).collect();
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while !ended.load(Relaxed) {
        let begin = Instant::now();
        let number = rounds.to_string();
        for list in &lists {
            link.push(&["RPUSH", list, &number]);
        }
        link.send()?;
        rounds += 1;
        for list in &lists {
            let reply = link.reply_text()?;
            if reply != rounds.to_string() {
                return Err(Failure::Broken(format!(
                    "RPUSH {list} answered '{reply}' instead of {rounds}"
                )));
            }
        }
        longest = longest.max(begin.elapsed());
    }
    Ok(Written { rounds, longest })
}

/// Every list has exactly what was acknowledged, in order.
fn check(address: &str, writer: usize, rounds: usize) -> Result<(), Failure> {
    let mut link = Link::connect(address)?;
    let wanted: Vec<Value> = (0..rounds).map(|round| Value::bulk(round.to_string())).collect();
    for at in 0..LISTS {
        let list = list(writer * LISTS + at);
        if link.ask(&["LRANGE", &list, "0", "-1"])? != Value::Array(wanted.clone()) {
            return Err(Failure::Broken(format!(
                "{list} is not what was acknowledged: {rounds} elements in order"
            )));
        }
    }
    Ok(())
}
