//! What somebody else suffers: GETs at a fixed rate, each timed from the moment at which it was due.
//!
//! Beside nothing, beside the 10,000 pipelined commands again and again, and beside FANOUT of the same work.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Request};
use crate::rig::Rig;
use crate::{LENGTH, Result, TIMELINES, fanout, key, member};

/// How long each phase of a round lasts.
const PHASE: Duration = Duration::from_secs(1);

/// Latencies in microseconds, by phase.
#[derive(Debug)]
pub(crate) struct Others {
    load: u32,
    phases: [(&'static str, Vec<u64>); 3],
}

impl Others {
    pub(crate) fn new(load: u32) -> Self {
        Self {
            load,
            phases: ["alone", "beside the pipeline", "beside `FANOUT`"].map(|name| (name, Vec::new())),
        }
    }

    pub(crate) fn measure(&mut self, rig: &Rig, item: u32) -> Result<()> {
        let rank = format!("-{}", LENGTH + 1);
        let mut pipeline = Request::default();
        for timeline in (0..TIMELINES).map(|timeline| timeline * 37 % TIMELINES) {
            pipeline.push(&["ZADD", &key(timeline), &item.to_string(), &member(item)]);
            pipeline.push(&["ZREMRANGEBYRANK", &key(timeline), "0", &rank]);
        }
        let fanout = fanout(item + 1);
        let work = [None, Some(&pipeline), Some(&fanout)];
        for ((_, latencies), work) in self.phases.iter_mut().zip(work) {
            let is_done = AtomicBool::new(false);
            thread::scope(|scope| {
                let beside = scope.spawn(|| {
                    let mut client = Client::connect(rig.port)?;
                    while let Some(work) = work
                        && !is_done.load(Relaxed)
                    {
                        client.run(work)?;
                    }
                    Result::Ok(())
                });
                let measured = gets(rig.port, self.load, latencies);
                is_done.store(true, Relaxed);
                beside.join().map_err(|_| "it panicked")??;
                measured
            })?;
        }
        Ok(())
    }

    pub(crate) fn print(&mut self) {
        println!("\n| one other client | p50 µs | p99 µs |\n|---|---|---|");
        for (name, latencies) in &mut self.phases {
            latencies.sort_unstable();
            let at = |percent: usize| {
                latencies
                    .get(latencies.len() * percent / 100)
                    .copied()
                    .unwrap_or(0)
            };
            println!("| {name} | {} | {} |", at(50), at(99));
        }
    }
}

fn gets(port: u16, load: u32, latencies: &mut Vec<u64>) -> Result<()> {
    let mut client = Client::connect(port)?;
    let pace = Duration::from_secs(1) / load;
    let start = Instant::now();
    for turn in 0.. {
        let due = start + pace * turn;
        if due > start + PHASE {
            return Ok(());
        }
        while let Some(left) = due.checked_duration_since(Instant::now())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
        let mut request = Request::default();
        request.push(&["GET", &format!("other:{}", turn % 1_000)]);
        client.run(&request)?;
        latencies.push(u64::try_from(due.elapsed().as_micros())?);
    }
    Ok(())
}
