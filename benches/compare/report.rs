//! What the run leaves: tables on the terminal, every round in a JSON file, and the recorded run of the page.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::args::Args;
use crate::case::{CASES, Case};
use crate::gates::{self, Judged, Metric};
use crate::machine::Machine;
use crate::sample::Sample;
use crate::subject::Kind;
use crate::syscalls::Counted;

/// The recorded run of a page stands between these two lines.
const BEGIN: &str = "<!-- recorded run: begin (written by `make bench`, never by hand) -->";
const END: &str = "<!-- recorded run: end -->";

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    machine: Machine,
    pin: &'static str,
    rounds: usize,
    seconds: f64,
    samples: Vec<Series>,
    pub(crate) syscalls: Vec<Counted>,
    pub(crate) idle: Vec<Idle>,
    gates: Vec<Judged>,
}

/// The samples of one subject in one case, and their median figure by figure.
#[derive(Debug, Serialize)]
struct Series {
    case: &'static str,
    subject: Kind,
    median: Sample,
    rounds: Vec<Sample>,
}

/// Memory of a fresh proxy before and with idle connections.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    subject: Kind,
    connections: u32,
    before_kib: u64,
    after_kib: u64,
    kib_per_connection: f64,
}

// === impl Results ===

impl Results {
    pub(crate) fn new(args: &Args, machine: Machine) -> Self {
        Self {
            machine,
            pin: args.pin.about(),
            rounds: args.rounds(),
            seconds: args.seconds(),
            samples: Vec::new(),
            syscalls: Vec::new(),
            idle: Vec::new(),
            gates: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, case: &Case, subject: Kind, sample: Sample) {
        let known = self
            .samples
            .iter_mut()
            .find(|series| series.case == case.name && series.subject == subject);
        if let Some(series) = known {
            series.rounds.push(sample);
            series.median = Sample::median(&series.rounds);
        } else {
            self.samples.push(Series {
                case: case.name,
                subject,
                median: sample,
                rounds: vec![sample],
            });
        }
    }

    pub(crate) fn median(&self, case: &str, subject: Kind, metric: Metric) -> Option<f64> {
        let median = &self.series(case, subject)?.median;
        match metric {
            Metric::ProxyCpu => median.proxy_cpu,
            Metric::NodeCpu => Some(median.node_cpu),
            Metric::P99 => Some(median.p99),
        }
    }

    pub(crate) fn syscalls_of(&self, subject: Kind, depth: u32) -> Option<f64> {
        let counted = self
            .syscalls
            .iter()
            .find(|counted| counted.subject == subject && counted.depth == depth);
        counted.map(|counted| counted.per_request)
    }

    pub(crate) fn idle_of(&self, subject: Kind) -> Option<f64> {
        self.idle
            .iter()
            .find(|idle| idle.subject == subject)
            .map(|idle| idle.kib_per_connection)
    }

    fn series(&self, case: &str, subject: Kind) -> Option<&Series> {
        self.samples
            .iter()
            .find(|series| series.case == case && series.subject == subject)
    }

    /// Judges, prints, writes; returns the number of missed gates.
    pub(crate) fn publish(mut self, args: &Args) -> Result<usize> {
        self.gates = gates::judge(&self);
        let text = self.markdown()?;
        println!("{text}");
        if let Some(folder) = args.json.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&args.json, serde_json::to_string_pretty(&self)? + "\n")?;
        eprintln!("every round: {}", args.json.display());
        if let Some(page) = &args.record {
            record(page, &text)?;
            eprintln!("recorded in {}", page.display());
        }
        Ok(self
            .gates
            .iter()
            .filter(|gate| gate.reached == Some(false))
            .count())
    }

    fn markdown(&self) -> Result<String> {
        let mut out = String::new();
        let Machine {
            date,
            cpu,
            cores,
            kernel,
            load_before,
            versions,
            commit,
        } = &self.machine;
        writeln!(
            out,
            "{date}, commit {commit}, load average before the run {load_before}."
        )?;
        writeln!(out, "{cpu}, {cores} cores, {kernel}; {}.", versions.join("; "))?;
        writeln!(
            out,
            "Pinning: {}. Medians of {} rounds of {} s.\n",
            self.pin, self.rounds, self.seconds
        )?;
        self.write_gates(&mut out)?;
        self.write_samples(&mut out)?;
        self.write_syscalls(&mut out)?;
        self.write_idle(&mut out)?;
        Ok(out.trim_end().to_owned())
    }

    /// Nothing to judge without preshard: then no table of "not measured" either.
    fn write_gates(&self, out: &mut String) -> fmt::Result {
        if self.gates.iter().all(|gate| gate.value.is_none()) {
            return Ok(());
        }
        writeln!(
            out,
            "### Gates\n\n| gate | at most | this run | |\n|---|---|---|---|"
        )?;
        for gate in &self.gates {
            let value = gate
                .value
                .map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
            writeln!(
                out,
                "| {} | {} | {value} | {} |",
                gate.what,
                gate.limit,
                gate.verdict()
            )?;
        }
        writeln!(out)
    }

    fn write_samples(&self, out: &mut String) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        writeln!(out, "### Loads\n")?;
        writeln!(
            out,
            "| case | subject | thousand/s | p50 µs | p99 µs | p99.9 µs | proxy CPU µs/req | (min–max) | node CPU µs/req | proxy MiB |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
        let order = CASES
            .iter()
            .flat_map(|case| self.samples.iter().filter(|series| series.case == case.name));
        for series in order {
            let Sample {
                per_second,
                p50,
                p99,
                p999,
                proxy_cpu,
                node_cpu,
                rss_mib,
                ..
            } = series.median;
            let cpu = proxy_cpu.map_or_else(|| "–".to_owned(), |cpu| format!("{cpu:.2}"));
            let rss = proxy_cpu.map_or_else(|| "–".to_owned(), |_| format!("{rss_mib:.1}"));
            let (name, thousands) = (series.subject.name(), per_second / 1000.0);
            write!(
                out,
                "| {} | {name} | {thousands:.1} | {p50:.0} | {p99:.0} | {p999:.0} ",
                series.case
            )?;
            writeln!(out, "| {cpu} | {} | {node_cpu:.2} | {rss} |", series.spread())?;
        }
        writeln!(out)
    }

    fn write_syscalls(&self, out: &mut String) -> fmt::Result {
        if self.syscalls.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "### System calls per request (GET of 64 B)\n\n| subject | depth | all | of which |\n|---|---|---|---|"
        )?;
        for Counted {
            subject,
            depth,
            per_request,
            by_name,
        } in &self.syscalls
        {
            let mut largest: Vec<_> = by_name.iter().collect();
            largest.sort_by(|one, other| other.1.total_cmp(one.1));
            let parts: Vec<String> = largest
                .iter()
                .map(|(name, each)| format!("{name} {each:.2}"))
                .collect();
            writeln!(
                out,
                "| {} | {depth} | {per_request:.3} | {} |",
                subject.name(),
                parts.join(", ")
            )?;
        }
        writeln!(out)
    }

    fn write_idle(&self, out: &mut String) -> fmt::Result {
        if self.idle.is_empty() {
            return Ok(());
        }
        writeln!(out, "### Memory of idle connections, after one GET on each\n")?;
        writeln!(
            out,
            "| subject | connections | before MiB | with them MiB | KiB per connection |\n|---|---|---|---|---|"
        )?;
        for Idle {
            subject,
            connections,
            before_kib,
            after_kib,
            kib_per_connection,
        } in &self.idle
        {
            let [before, after] = [before_kib, after_kib].map(|kib| *kib as f64 / 1024.0);
            let name = subject.name();
            writeln!(
                out,
                "| {name} | {connections} | {before:.1} | {after:.1} | {kib_per_connection:.2} |"
            )?;
        }
        writeln!(out)
    }
}

// === impl Series ===

impl Series {
    /// The cheapest and the dearest round: how far the median is to be trusted.
    fn spread(&self) -> String {
        let costs = || self.rounds.iter().filter_map(|sample| sample.proxy_cpu);
        match (costs().reduce(f64::min), costs().reduce(f64::max)) {
            (Some(least), Some(most)) => format!("{least:.2}–{most:.2}"),
            _ => "–".to_owned(),
        }
    }
}

// === impl Sample ===

impl Sample {
    fn median(samples: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(samples.iter().map(figure).collect());
        let costs: Vec<f64> = samples.iter().filter_map(|sample| sample.proxy_cpu).collect();
        Self {
            requests: samples.iter().map(|sample| sample.requests).sum(),
            per_second: of(|sample| sample.per_second),
            p50: of(|sample| sample.p50),
            p99: of(|sample| sample.p99),
            p999: of(|sample| sample.p999),
            proxy_cpu: (!costs.is_empty()).then(|| median(costs)),
            node_cpu: of(|sample| sample.node_cpu),
            rss_mib: of(|sample| sample.rss_mib),
        }
    }
}

/// The middle of the figures, or the mean of the two middle ones; 0 of none.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

// === impl Idle ===

impl Idle {
    pub(crate) fn new(subject: Kind, connections: u32, before_kib: u64, after_kib: u64) -> Self {
        let kib_per_connection = (after_kib as f64 - before_kib as f64) / f64::from(connections);
        Self {
            subject,
            connections,
            before_kib,
            after_kib,
            kib_per_connection,
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            before_kib,
            after_kib,
            kib_per_connection,
            ..
        } = self;
        write!(
            out,
            "{} {before_kib} KiB, then {after_kib} KiB: {kib_per_connection:.2} KiB each",
            subject.name()
        )
    }
}

/// Replaces what stands between the two markers of the page.
fn record(page: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
    let parts = old
        .split_once(BEGIN)
        .and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) =
        parts.ok_or_else(|| format!("{} lacks the lines `{BEGIN}` and `{END}`", page.display()))?;
    fs::write(page, format!("{head}{BEGIN}\n{text}\n{END}{tail}"))?;
    Ok(())
}
