//! `COUNTER.INCR` beside `INCR`, and `COUNTER.TAKE` with and without something to take.

use std::time::Instant;

use crate::rig::{Client, Rig};
use crate::{Args, Result, median};

const SHARDS: u16 = 1024;
const PIPELINE: usize = 100;
const CLIENTS: usize = 4;
const KEYS: usize = 20_000;

/// One round: requests a second, and what each cost the proxy and the nodes.
#[derive(Debug)]
struct Round {
    rate: f64,
    proxy_us: f64,
    nodes_us: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rig = Rig::start(&args.preshard, args.workers, SHARDS)?;
    let frames = |words: fn(usize) -> Vec<String>| -> Vec<Vec<u8>> {
        let pipeline = |first: usize| {
            let mut bytes = Vec::new();
            for number in first..first + PIPELINE {
                let words = words(number * 7919 % KEYS);
                let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
                preshard::resp::write_request(&mut bytes, &words);
            }
            bytes
        };
        (0..KEYS).step_by(PIPELINE).map(pipeline).collect()
    };
    let plain = frames(|key| vec!["INCR".to_owned(), format!("events:{key}")]);
    let counter = frames(|key| vec!["COUNTER.INCR".to_owned(), "events".to_owned(), key.to_string()]);
    let (mut plains, mut counters) = (Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        let (one, other) = (load(&rig, args, &plain)?, load(&rig, args, &counter)?);
        // The first opens what is opened once.
        if round > 0 {
            plains.push(one);
            counters.push(other);
        }
    }
    let of = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let ratios = plains
        .iter()
        .zip(&counters)
        .map(|(one, other)| other.rate / one.rate);
    println!(
        "| {SHARDS} shards, pipelines of {PIPELINE}, {CLIENTS} clients | INCR | COUNTER.INCR | ratio |\n|---|---|---|---|"
    );
    let row = |name: &str, figure: fn(&Round) -> f64| {
        let (one, other) = (of(&plains, figure), of(&counters, figure));
        println!("| {name} | {one:.2} | {other:.2} | {:.2} |", other / one);
    };
    row("requests a second", |round| round.rate);
    row("CPU of the proxy for each, µs", |round| round.proxy_us);
    row("CPU of the nodes for each, µs", |round| round.nodes_us);
    println!(
        "median of the rounds' ratios: {:.2} (bar: at least 0.90)",
        median(ratios.collect())
    );
    takes(&rig, args)
}

fn load(rig: &Rig, args: &Args, frames: &[Vec<u8>]) -> Result<Round> {
    let before = rig.cpu_ns()?;
    let start = Instant::now();
    let pipelines = args.requests / PIPELINE / CLIENTS;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || -> Result<()> {
                    let mut client = rig.client()?;
                    for pipeline in 0..pipelines {
                        client.send(&frames[(pipeline * CLIENTS + number) % frames.len()])?;
                        client.lines(PIPELINE)?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| Err("a client panicked".into())))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let after = rig.cpu_ns()?;
    let requests = (pipelines * CLIENTS * PIPELINE) as f64;
    Ok(Round {
        rate: requests / seconds,
        proxy_us: (after.0 - before.0) as f64 / requests / 1e3,
        nodes_us: (after.1 - before.1) as f64 / requests / 1e3,
    })
}

fn timed(client: &mut Client, line: &str) -> Result<(f64, Vec<u8>)> {
    let start = Instant::now();
    let reply = client.call(line)?;
    Ok((start.elapsed().as_secs_f64() * 1e3, reply))
}

fn takes(rig: &Rig, args: &Args) -> Result<()> {
    let mut client = rig.client()?;
    let mut idle = Vec::new();
    for _ in 0..args.rounds * 5 {
        idle.push(timed(&mut client, "COUNTER.TAKE nothing")?.0);
    }
    println!(
        "COUNTER.TAKE, nothing in {SHARDS} shards: {:.1} ms (bar: at most 25)",
        median(idle)
    );
    let mut spread = Vec::new();
    for _ in 0..args.rounds {
        spread.push(timed(&mut client, "COUNTER.TAKE events COUNT 1000 NOACK")?.0);
    }
    println!(
        "COUNTER.TAKE of 1,000 entries out of some 50 shards: {:.1} ms",
        median(spread)
    );
    let mut one = Vec::new();
    for _ in 0..args.rounds {
        let mut bytes = Vec::new();
        for member in 0..1000 {
            let member = member.to_string();
            preshard::resp::write_request(&mut bytes, &[b"COUNTER.INCR", b"{one}", member.as_bytes()]);
        }
        client.send(&bytes)?;
        client.lines(1000)?;
        one.push(timed(&mut client, "COUNTER.TAKE {one} NOACK")?.0);
    }
    println!(
        "COUNTER.TAKE of 1,000 entries out of one of {SHARDS} shards: {:.1} ms",
        median(one)
    );
    Ok(())
}
