//! What the kernel tells about processes, and what the report says about the machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::Result;
use crate::args::Pin;
use crate::subject::Kind;

/// The cores of the run, chosen among those this process may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) generator: Option<usize>,
    pub(crate) servers: Option<usize>,
}

/// Where and with what a run was made.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Runnable processes, averaged over the minute before the run: what others did here.
    pub(crate) load_before: String,
    pub(crate) versions: Vec<String>,
    pub(crate) commit: String,
}

/// CPU time of all threads of a process, user and system, in nanoseconds.
///
/// `schedstat` counts nanoseconds where `stat` counts ticks of 10 ms; both hold the same time.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in
        fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| format!("process {pid}: {error}"))?
    {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = text
            .split_whitespace()
            .next()
            .ok_or("schedstat is empty: the kernel lacks CONFIG_SCHED_INFO")?;
        total += ran.parse::<u64>()?;
    }
    Ok(total)
}

/// Memory of a process in KiB, what was swapped out included.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name))?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    Ok(
        field("VmRSS:").ok_or_else(|| format!("process {pid} has no VmRSS: it ended"))?
            + field("VmSwap:").unwrap_or(0),
    )
}

impl Cores {
    /// The last allowed core for the servers, as the first one usually serves the interrupts.
    pub(crate) fn choose(pin: Pin) -> Result<Self> {
        let allowed = allowed()?;
        let first = *allowed.first().ok_or("no core is allowed")?;
        let last = *allowed.last().ok_or("no core is allowed")?;
        match pin {
            Pin::One => Ok(Self {
                generator: Some(last),
                servers: Some(last),
            }),
            Pin::Lg if first == last => Err("--pin lg needs two cores".into()),
            Pin::Lg => Ok(Self {
                generator: Some(first),
                servers: Some(last),
            }),
            Pin::None => Ok(Self {
                generator: None,
                servers: None,
            }),
        }
    }
}

/// The cores this process may run on, from a list such as `0-3,6`.
fn allowed() -> Result<Vec<usize>> {
    let text = fs::read_to_string("/proc/self/status")?;
    let list = text
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .ok_or("no list of allowed cores")?;
    let mut cores = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<usize>()?..=last.parse::<usize>()?);
    }
    Ok(cores)
}

/// Describes machine and versions; what cannot be found out is left out, the figures do not depend on it.
pub(crate) fn describe(preshard: &Path, subjects: &[Kind]) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut versions = vec![first_line(Path::new("redis-server"), "--version")];
    if subjects.contains(&Kind::Preshard) {
        versions.push(first_line(preshard, "--version"));
    }
    if subjects.contains(&Kind::Twemproxy) {
        versions.push(first_line(Path::new("nutcracker"), "--version"));
    }
    if subjects.contains(&Kind::Haproxy) {
        versions.push(first_line(Path::new("haproxy"), "-v"));
    }
    versions.retain(|version| !version.is_empty());
    Machine {
        date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        cpu: cpu.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        load_before: load.split_whitespace().next().unwrap_or("unknown").to_owned(),
        kernel: output("uname", &["-sr"]),
        versions,
        commit: output("git", &["describe", "--always", "--dirty"]),
    }
}

/// The first line a program prints about its version, without the part that only a builder wants to know.
fn first_line(program: &Path, flag: &str) -> String {
    let Ok(done) = Command::new(program).arg(flag).output() else {
        return String::new();
    };
    if !done.status.success() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("This is ").unwrap_or(line);
    line.split(" sha=")
        .next()
        .unwrap_or_default()
        .split(" - http")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output();
    done.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
        .unwrap_or_default()
}
