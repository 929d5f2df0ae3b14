//! The gates as data: what preshard has to reach, against whom, in which case.
//!
//! They are judged on medians over the rounds of one run, as ratios to a rival of the same run wherever a rival has
//! the same duty; absolute where the figure does not depend on the machine.

use serde::Serialize;

use crate::report::Results;
use crate::subject::Kind;

/// One line of the verdict.
#[derive(Debug)]
struct Gate {
    what: &'static str,
    measure: Measure,
    limit: f64,
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    /// preshard's figure in a case, divided by that of a subject in a case.
    Ratio(Metric, &'static str, Kind, &'static str),
    /// System calls per request at a depth.
    Syscalls(u32),
    /// KiB per idle connection.
    Idle,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Metric {
    ProxyCpu,
    NodeCpu,
    P99,
}

/// A gate and how this run stands to it.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) what: &'static str,
    pub(crate) limit: f64,
    /// None if the run did not measure it.
    pub(crate) value: Option<f64>,
    pub(crate) reached: Option<bool>,
}

const GATES: &[Gate] = &[
    cpu(
        "CPU per request, depth 1, to twemproxy",
        "get",
        Kind::Twemproxy,
        0.85,
    ),
    cpu("CPU per request, depth 1, to HAProxy", "get", Kind::Haproxy, 0.65),
    cpu(
        "CPU per request, depth 16, to twemproxy",
        "get-p16",
        Kind::Twemproxy,
        0.35,
    ),
    cpu(
        "CPU per request, depth 16, to HAProxy",
        "get-p16",
        Kind::Haproxy,
        0.80,
    ),
    cpu(
        "CPU per request, depth 100, to twemproxy",
        "get-p100",
        Kind::Twemproxy,
        0.12,
    ),
    cpu(
        "CPU per request, depth 100, to HAProxy",
        "get-p100",
        Kind::Haproxy,
        1.5,
    ),
    cpu(
        "CPU per request, GET of 16 KiB, to twemproxy",
        "get-16k",
        Kind::Twemproxy,
        0.70,
    ),
    cpu(
        "CPU per request, MGET of 10, depth 1, to twemproxy",
        "mget10",
        Kind::Twemproxy,
        1.0,
    ),
    cpu(
        "CPU per request, MGET of 10, depth 16, to twemproxy",
        "mget10-p16",
        Kind::Twemproxy,
        0.35,
    ),
    ratio(
        "p99, depth 1, to twemproxy",
        Metric::P99,
        "get",
        Kind::Twemproxy,
        0.9,
    ),
    ratio(
        "p99, depth 16, to twemproxy",
        Metric::P99,
        "get-p16",
        Kind::Twemproxy,
        0.4,
    ),
    ratio(
        "node CPU per GET, depth 1, to twemproxy",
        Metric::NodeCpu,
        "get",
        Kind::Twemproxy,
        1.15,
    ),
    ratio(
        "node CPU per SET, depth 1, to twemproxy",
        Metric::NodeCpu,
        "set",
        Kind::Twemproxy,
        1.15,
    ),
    mixed("CPU per request, RESP2 and RESP3 mixed, to RESP2 alone", "resp2"),
    mixed("CPU per request, RESP2 and RESP3 mixed, to RESP3 alone", "resp3"),
    Gate {
        what: "system calls per request, depth 1",
        measure: Measure::Syscalls(1),
        limit: 2.6,
    },
    Gate {
        what: "system calls per request, depth 16",
        measure: Measure::Syscalls(16),
        limit: 0.17,
    },
    Gate {
        what: "KiB per idle connection, 5,000 open",
        measure: Measure::Idle,
        limit: 3.0,
    },
];

const fn ratio(what: &'static str, metric: Metric, case: &'static str, to: Kind, limit: f64) -> Gate {
    Gate {
        what,
        measure: Measure::Ratio(metric, case, to, case),
        limit,
    }
}

const fn cpu(what: &'static str, case: &'static str, to: Kind, limit: f64) -> Gate {
    ratio(what, Metric::ProxyCpu, case, to, limit)
}

const fn mixed(what: &'static str, alone: &'static str) -> Gate {
    Gate {
        what,
        measure: Measure::Ratio(Metric::ProxyCpu, "mixed", Kind::Preshard, alone),
        limit: 1.15,
    }
}

/// Holds the results against every gate.
pub(crate) fn judge(results: &Results) -> Vec<Judged> {
    let judge = |gate: &Gate| {
        let value = match gate.measure {
            Measure::Ratio(metric, ours, kind, theirs) => {
                let ours = results.median(ours, Kind::Preshard, metric);
                ours.zip(results.median(theirs, kind, metric))
                    .map(|(ours, theirs)| ours / theirs)
            }
            Measure::Syscalls(depth) => results.syscalls_of(Kind::Preshard, depth),
            Measure::Idle => results.idle_of(Kind::Preshard),
        };
        Judged {
            what: gate.what,
            limit: gate.limit,
            value,
            reached: value.map(|value| value <= gate.limit),
        }
    };
    GATES.iter().map(judge).collect()
}

impl Judged {
    pub(crate) fn verdict(&self) -> &'static str {
        match self.reached {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not measured",
        }
    }
}
