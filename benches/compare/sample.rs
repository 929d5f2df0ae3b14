//! One sample: a load of a planned size between two readings of the CPU clocks.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::Result;
use crate::case::Case;
use crate::load::{self, Outcome};
use crate::rig::{Cpu, Rig};
use crate::subject::Subject;

/// From this many connections on, opening and closing them is measured apart and subtracted.
const MANY_CONNECTIONS: u32 = 500;

/// What one load cost and achieved. Times in µs, costs in CPU µs per request.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// None without a proxy.
    pub(crate) proxy_cpu: Option<f64>,
    pub(crate) node_cpu: f64,
    /// Memory of the proxy after the load, MiB.
    pub(crate) rss_mib: f64,
}

/// Warms the subject up and finds how many requests take about `length`; the same number serves all rounds.
pub(crate) fn size(rig: &Rig, subject: &Subject, case: &Case, length: Duration) -> Result<u64> {
    let first = 4_000 + 1_000 * u64::from(case.depth) + 2 * u64::from(case.connections);
    let outcome = load::run(rig, subject, case, first)?;
    // Seconds as a count: the type converts without a cast that could truncate silently.
    let wanted = Duration::try_from_secs_f64(outcome.per_second * length.as_secs_f64())?.as_secs();
    // Whole pipelines for every generator, and at least a few per connection.
    let unit = u64::from(case.depth) * 2;
    let least = 4 * u64::from(case.connections) * u64::from(case.depth);
    Ok(wanted.max(least).div_ceil(unit) * unit)
}

/// Takes one sample.
pub(crate) fn take(rig: &Rig, subject: &Subject, case: &Case, requests: u64) -> Result<Sample> {
    let (outcome, mut cpu) = loaded(rig, subject, case, requests)?;
    let mut counted = outcome.requests;
    if case.connections >= MANY_CONNECTIONS {
        // A load of one request per connection hardly does more than open and close them.
        let (opening, opening_cpu) = loaded(rig, subject, case, u64::from(case.connections))?;
        cpu = cpu.since(opening_cpu);
        counted -= opening.requests;
    }
    Ok(Sample {
        requests: outcome.requests,
        per_second: outcome.per_second,
        p50: outcome.p50,
        p99: outcome.p99,
        p999: outcome.p999,
        proxy_cpu: cpu.proxy_ns.map(|ns| per_request(ns, counted)),
        node_cpu: per_request(cpu.nodes_ns, counted),
        rss_mib: subject.rss_kib()? as f64 / 1024.0,
    })
}

/// A load, and the CPU it cost from quiet to quiet.
fn loaded(rig: &Rig, subject: &Subject, case: &Case, requests: u64) -> Result<(Outcome, Cpu)> {
    let before = rig.settle(subject)?;
    let outcome = load::run(rig, subject, case, requests)?;
    Ok((outcome, rig.settle(subject)?.since(before)))
}

/// Nanoseconds over all as µs for each.
fn per_request(ns: u64, requests: u64) -> f64 {
    ns as f64 / 1000.0 / requests as f64
}

impl fmt::Display for Sample {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            per_second,
            p50,
            p99,
            p999,
            node_cpu,
            ..
        } = self;
        write!(
            out,
            "{per_second:>9.0}/s  p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} µs  "
        )?;
        match self.proxy_cpu {
            Some(cpu) => write!(out, "CPU/request proxy {cpu:.2} nodes {node_cpu:.2} µs"),
            None => write!(out, "CPU/request nodes {node_cpu:.2} µs"),
        }
    }
}
