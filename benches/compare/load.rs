//! The load: `redis-benchmark`, and what it prints.
//!
//! It measures a pipeline's latency up to the first byte of its first reply, and gives every request of the pipeline
//! that latency. preshard answers a pipeline with one write, so its figure is for all of it; a proxy that answers in
//! pieces is timed at its first piece. Ratios of pipelined tails are therefore unkind to preshard, never the opposite.
//!
//! It ends with status 1 at the first error reply, which fails the run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::case::{Case, Protocol};
use crate::process::Process;
use crate::rig::Rig;
use crate::subject::Subject;

/// Time that a load may take beyond its plan: opening 5,000 connections takes it 4 s, a noisy neighbour more.
const LIMIT: Duration = Duration::from_secs(120);

/// What one load achieved. Latencies in µs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Sends `requests` of that case to the subject and waits for the end.
///
/// # Errors
/// Any error reply, a subject that stops answering, output that is not understood.
pub(crate) fn run(rig: &Rig, subject: &Subject, case: &Case, requests: u64) -> Result<Outcome> {
    let explain = |error| format!("{} on {}: {error}", case.name, subject.kind.name());
    drive(rig, subject, case, requests).map_err(|error| explain(error).into())
}

fn drive(rig: &Rig, subject: &Subject, case: &Case, requests: u64) -> Result<Outcome> {
    let generators = u32::try_from(case.protocols.len())?;
    let mut running = Vec::new();
    for (number, protocol) in case.protocols.iter().enumerate() {
        let share = requests / u64::from(generators);
        let args = arguments(
            subject.port,
            case,
            case.connections / generators,
            share,
            *protocol,
        );
        let name = format!("generator-{number}");
        let tool = Path::new("redis-benchmark");
        running.push(Process::start(
            &name,
            tool,
            &args,
            rig.cores.generator,
            rig.folder.path(),
        )?);
    }
    let mut outcomes = Vec::new();
    for generator in &mut running {
        let status = generator.wait_end(LIMIT)?;
        if !status.success() {
            return Err(format!("redis-benchmark ended with {status}:\n{}", generator.log_end()).into());
        }
        outcomes.push(parse(&fs::read_to_string(&generator.output)?)?);
    }
    let total = outcomes.iter().map(|outcome| outcome.requests).sum::<u64>();
    if total < requests - requests % u64::from(generators) {
        return Err(format!("only {total} of {requests} requests were answered").into());
    }
    outcomes
        .into_iter()
        .reduce(Outcome::beside)
        .ok_or_else(|| "a case without a load generator".into())
}

fn arguments(port: u16, case: &Case, connections: u32, requests: u64, protocol: Protocol) -> Vec<String> {
    let mut args: Vec<String> = ["-h", "127.0.0.1", "--precision", "3"]
        .map(str::to_owned)
        .to_vec();
    let numbers = [
        ("-p", u64::from(port)),
        ("-c", u64::from(connections)),
        ("-n", requests),
        ("-P", u64::from(case.depth)),
        ("-r", u64::from(case.values.keys)),
    ];
    args.extend(
        numbers
            .iter()
            .flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]),
    );
    if protocol == Protocol::Resp3 {
        args.push("-3".to_owned());
    }
    args.extend(case.command());
    args
}

impl Outcome {
    /// Both as one load: what they did together, the worse tail of the two.
    fn beside(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            per_second: self.per_second + other.per_second,
            p50: self.p50.max(other.p50),
            p99: self.p99.max(other.p99),
            p999: self.p999.max(other.p999),
        }
    }
}

/// Reads redis-benchmark's report.
///
/// ```text
///   20000 requests completed in 0.13 seconds
/// 99.902% <= 19.327 milliseconds (cumulative count 19984)
///   throughput summary: 156250.00 requests per second
///   latency summary (msec):
///           avg       min       p50       p95       p99       max
///         4.990     2.232     3.935     8.455    19.039    19.343
/// ```
fn parse(text: &str) -> Result<Outcome> {
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).collect();
    let missing = |what: &str| format!("redis-benchmark printed no {what}:\n{}", lines.join("\n"));
    let word = |line: &str, index: usize| line.split_whitespace().nth(index).map(str::to_owned);

    let completed = lines.iter().find(|line| line.contains(" requests completed in "));
    let requests = completed
        .and_then(|line| word(line, 0))
        .ok_or_else(|| missing("number of requests"))?;
    let speed = lines
        .iter()
        .find_map(|line| line.strip_prefix("throughput summary: "));
    let speed = speed
        .and_then(|rest| word(rest, 0))
        .ok_or_else(|| missing("throughput"))?;

    let header = lines
        .iter()
        .position(|line| line.starts_with("avg "))
        .ok_or_else(|| missing("latency summary"))?;
    let column = |name: &str| -> Option<f64> {
        let index = lines[header].split_whitespace().position(|word| word == name)?;
        word(lines.get(header + 1)?, index)?.parse().ok()
    };
    let tail = lines
        .iter()
        .find_map(|line| percentile_row(line).filter(|(percent, _)| *percent >= 99.9));
    Ok(Outcome {
        requests: requests.parse()?,
        per_second: speed.parse()?,
        p50: column("p50").ok_or_else(|| missing("p50"))? * 1000.0,
        p99: column("p99").ok_or_else(|| missing("p99"))? * 1000.0,
        p999: tail.ok_or_else(|| missing("99.9th percentile"))?.1 * 1000.0,
    })
}

/// `99.902% <= 19.327 milliseconds …` as percent and milliseconds.
fn percentile_row(line: &str) -> Option<(f64, f64)> {
    let (percent, rest) = line.split_once("% <= ")?;
    Some((
        percent.parse().ok()?,
        rest.split_whitespace().next()?.parse().ok()?,
    ))
}
