//! System calls of a proxy per request, counted by `strace -c` during a load of known size.
//!
//! The tracer stops the proxy at every call, so it becomes the bottleneck and its batches grow: the count is a lower
//! bound of an unloaded proxy's and comparable between subjects. It hardly varies between runs, unlike any time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::case::{CASES, Case};
use crate::process::Process;
use crate::rig::Rig;
use crate::subject::{Kind, Subject};
use crate::{Result, load};

const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// A thousandth of a call per request is opening connections, not serving.
const SHOWN: f64 = 0.005;

/// System calls of one subject at one pipeline depth.
#[derive(Debug, Serialize)]
pub(crate) struct Counted {
    pub(crate) subject: Kind,
    pub(crate) depth: u32,
    pub(crate) per_request: f64,
    pub(crate) by_name: BTreeMap<String, f64>,
}

/// Counts during a load of small GETs.
pub(crate) fn count(rig: &Rig, subject: &Subject, depth: u32, quick: bool) -> Result<Counted> {
    let find = |case: &&Case| case.name.starts_with("get") && case.depth == depth;
    let case = CASES
        .iter()
        .find(find)
        .ok_or_else(|| format!("no case of GET at depth {depth}"))?;
    let proxy = subject
        .process
        .as_ref()
        .ok_or("direct Redis has no proxy to trace")?;
    let requests = if quick { 10_000 } else { 40_000 } * u64::from(depth.min(8));

    let report = rig.folder.path().join("strace.txt");
    let args = [
        "-c",
        "-f",
        "-o",
        &report.display().to_string(),
        "-p",
        &proxy.pid().to_string(),
    ]
    .map(str::to_owned);
    let mut tracer = Process::start(
        "strace",
        Path::new("strace"),
        &args,
        rig.cores.generator,
        rig.folder.path(),
    )?;
    let log = tracer.errors.clone();
    tracer.wait_until(
        "attached to the proxy (may this user trace?)",
        ATTACH_LIMIT,
        || fs::read_to_string(&log).is_ok_and(|text| text.contains("attached")),
    )?;
    let outcome = load::run(rig, subject, case, requests)?;
    rig.settle(subject)?;
    // Interrupted, it detaches and writes its table; the shell's own `kill` is always there.
    Command::new("sh")
        .args(["-c", &format!("kill -INT {}", tracer.pid())])
        .status()?;
    tracer.wait_end(ATTACH_LIMIT)?;

    let calls = parse(&fs::read_to_string(&report)?)?;
    let each = |count: u64| count as f64 / outcome.requests as f64;
    Ok(Counted {
        subject: subject.kind,
        depth,
        per_request: each(calls.values().sum()),
        by_name: calls
            .into_iter()
            .map(|(name, count)| (name, each(count)))
            .filter(|(_, each)| *each > SHOWN)
            .collect(),
    })
}

/// Reads the table of `strace -c`: calls are the fourth column, the name is the last, `total` closes it.
///
/// ```text
/// % time     seconds  usecs/call     calls    errors syscall
///  57.31    0.201377           4     46002           sendto
///   0.05    0.000161           1       101         1 accept4
/// ------ ----------- ----------- --------- --------- ----------------
/// 100.00    0.351367           3     98205         3 total
/// ```
fn parse(text: &str) -> Result<BTreeMap<String, u64>> {
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(count), Some(name)) = (words.get(3).and_then(|word| word.parse().ok()), words.last())
        else {
            continue;
        };
        if *name != "total" {
            calls.insert((*name).to_owned(), count);
        }
    }
    if calls.is_empty() {
        return Err(format!("strace counted nothing:\n{text}").into());
    }
    Ok(calls)
}

impl fmt::Display for Counted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3} per request", self.per_request)?;
        for (name, each) in &self.by_name {
            write!(out, ", {name} {each:.3}")?;
        }
        Ok(())
    }
}
