//! `preshard demo`: two real Redis nodes, the proxy in front, a guided load, and a proof that every key is where it
//! belongs; then it keeps serving. With `--once` it ends by itself.
//!
//! ```text
//!  demo ── starts ──▶ redis-1, redis-2 (processes, temporary folder)
//!    │  ── starts ──▶ preshard serve (the real command, a config of its own)
//!    ├─ load.rs ────▶ proxy ──▶ nodes        what an application sends; every reply is looked at
//!    ├─ moving.rs ──▶ proxy ──▶ nodes        shards change their node under writes; nothing may be lost
//!    └─ proof.rs ───────────────▶ nodes      asked directly: each key in the database that the topology names
//! ```
//!
//! Exit status: 0 proved (and stopped as asked), 1 something is not as it should be, 130 stopped before the proof.

mod link;
mod load;
mod moving;
mod process;
mod proof;
mod rig;

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::Duration;

use clap::Args;

use self::link::{Link, http_get};
use self::load::{CONNECTIONS, Done, PINNED_DATABASE, PIPELINE, Pace};
use self::moving::Moved;
use self::process::Stop;
use self::proof::Found;
use self::rig::{DATABASES, PINNED, Rig, SHARDS};

/// What a shell expects of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End after the proof instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
}

/// Why the demo does not reach its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("stopped")]
    Stopped,
    #[error("{0}")]
    Broken(String),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Runs the demo and gives the exit status.
pub(super) fn demo(demo: &Demo) -> u8 {
    match run(demo) {
        Ok(()) => 0,
        Err(Failure::Stopped) => {
            println!("\nStopped before the proof.");
            INTERRUPTED
        }
        Err(failure) => {
            eprintln!("\nThe demo failed: {failure}");
            1
        }
    }
}

fn run(demo: &Demo) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    println!("preshard: two Redis nodes that look like one\n");
    let mut rig = Rig::start(&stop)?;
    picture(&rig);
    let done = load::run(&rig.proxy.data, &stop)?;
    tell_load(&done);
    stop.check()?;
    let found = proof::prove(&rig, &BTreeSet::new())?;
    tell_proof(&rig, &found);
    stop.check()?;
    tell_begin(&rig);
    let moved = moving::run(&rig, &stop)?;
    tell_move(&moved);
    let found = proof::prove(&rig, &moving::keys())?;
    tell_nodes(&rig, &found);
    println!(
        "  asked of the nodes again: every key where the topology (epoch {}) names it, once",
        found.epoch
    );
    honest(&rig)?;
    http_get(&rig.proxy.http, "/readyz")?;
    try_it(&rig);
    if !demo.once {
        serve(&mut rig, &stop)?;
    }
    rig.stop()?;
    println!("The proxy and the nodes have ended; the temporary folder is gone.");
    Ok(())
}

fn picture(rig: &Rig) {
    let (first, second) = (&rig.nodes[0], &rig.nodes[1]);
    let half = SHARDS / 2;
    println!(
        "                                   ┌─▶ {} {}   shards 0-{}",
        first.name,
        first.address,
        half - 1
    );
    println!(
        "  any Redis client ─▶ preshard ────┤   ({} databases each, Redis {})",
        number(DATABASES.into()),
        first.version
    );
    println!(
        "              {}      └─▶ {} {}   shards {half}-{}",
        rig.proxy.data,
        second.name,
        second.address,
        SHARDS - 1
    );
    println!(
        "\n  {} shards and {PINNED} pinned databases; each is one database of one node.\n",
        number(SHARDS.into())
    );
}

fn tell_load(done: &Done) {
    println!(
        "Load, {CONNECTIONS} connections, pipelines of {PIPELINE} to {}, RESP2; every reply was compared:",
        2 * PIPELINE
    );
    tell_pace("SET user:N, RPUSH cart:{user:N}", done.write);
    tell_pace("GET user:N", done.read);
    tell_pace("MSET, MGET of 10 keys in ~10 shards (1 connection)", done.many);
    tell_pace("SET, RENAME in pinned database 3 (1 connection)", done.pinned);
}

fn tell_pace(what: &str, pace: Pace) {
    let (requests, rate) = (number(pace.requests as u64), number(pace.per_second()));
    println!("  {what:<52} {requests:>7} requests  {rate:>9} /s");
}

fn tell_proof(rig: &Rig, found: &Found) {
    println!(
        "\nProof, asked of the nodes directly (topology epoch {}):",
        found.epoch
    );
    tell_nodes(rig, found);
    println!("  every key is in exactly the database that the topology names, once, and nowhere else");
    println!("  {}", found.example);
}

fn tell_begin(rig: &Rig) {
    println!(
        "\nMove of half of {}'s shards to {}, while {CONNECTIONS} connections append to lists:",
        rig.nodes[0].name, rig.nodes[1].name
    );
}

fn tell_move(moved: &Moved) {
    println!(
        "  PRESHARD SHARD MOVE {} TO {} → task {}: {} keys copied",
        moved.shards, moved.target, moved.task, moved.keys
    );
    println!(
        "  the shards were held for {:.1} ms; the slowest pipeline of all took {} ms",
        moved.pause_ms,
        moved.longest.as_millis()
    );
    println!(
        "  {} writes to {} lists: no error, and every list is what was acknowledged, in order: nothing lost, nothing twice",
        number(moved.writes as u64),
        moved.lists
    );
}

fn tell_nodes(rig: &Rig, found: &Found) {
    for (node, (keys, databases)) in rig.nodes.iter().zip(&found.nodes) {
        println!(
            "  {}: {} keys in {} databases",
            node.name,
            number(*keys as u64),
            number(*databases as u64)
        );
    }
}

/// What the proxy cannot do it refuses, with the reason. A demo that hides it helps nobody.
fn honest(rig: &Rig) -> Result<(), Failure> {
    let mut link = Link::connect(&rig.proxy.data)?;
    println!("\nRefused, never imitated:");
    let asked: [(&[&str], &str); 2] = [
        (&["RENAME", "user:1", "user:2"], "-CROSSSLOT "),
        (&["SELECT", "16"], "-ERR DB index is out of range"),
    ];
    for (words, start) in asked {
        let answer = link.ask_text(words)?;
        if !answer.starts_with(start) {
            return Err(Failure::Broken(format!(
                "{} answered '{answer}' instead of '{start}…'",
                words.join(" ")
            )));
        }
        println!("  {} → {answer}", words.join(" "));
    }
    Ok(())
}

fn try_it(rig: &Rig) {
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let data = port(&rig.proxy.data);
    println!("\nTry it:");
    println!("  redis-cli -p {data} GET user:42");
    println!("  redis-cli -p {data} MGET user:1 user:2 user:3");
    println!("  redis-cli -p {data} -n {PINNED_DATABASE} DBSIZE");
    println!("  redis-cli -p {} INFO keyspace", rig.nodes[0].port);
    if let Some(admin) = &rig.proxy.admin {
        let admin = port(admin);
        println!("  redis-cli -p {admin} PRESHARD SHARD OF user:42");
        println!(
            "  redis-cli -p {admin} PRESHARD SHARD MOVE 512-767 TO redis-1      # answers its task; then:"
        );
        println!("  redis-cli -p {admin} PRESHARD TASK LIST                          # until it is moved");
        println!("  redis-cli -p {admin} PRESHARD NODE DRAIN redis-1                 # all its shards");
    }
    println!(
        "  curl http://{0}/topology    http://{0}/metrics\n",
        rig.proxy.http
    );
}

/// Until somebody asks for the end. A node that ends is worth a word: that is what people try.
fn serve(rig: &mut Rig, stop: &Stop) -> Result<(), Failure> {
    println!("Serving. Ctrl-C ends it.");
    let mut told = vec![false; rig.nodes.len()];
    while !stop.asked() {
        if let Some(status) = rig.proxy.process.ended() {
            return Err(Failure::Broken(format!("the proxy ended: {status}")));
        }
        for (node, told) in rig.nodes.iter_mut().zip(&mut told) {
            if let Some(status) = node.process.ended().filter(|_| !*told) {
                println!(
                    "{} ended ({status}); requests for its shards are answered -CLUSTERDOWN",
                    node.name
                );
                *told = true;
            }
        }
        thread::park_timeout(LOOK_EVERY);
    }
    println!();
    Ok(())
}

/// With thousands separated.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1_024), "1,024");
        assert_eq!(number(1_234_567), "1,234,567");
    }
}
