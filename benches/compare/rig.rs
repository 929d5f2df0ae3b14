//! Everything that stays up during the run: two nodes, the subjects, their folder.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::case::{Case, SMALL, Values};
use crate::machine::{Cores, cpu_ns, rss_kib};
use crate::process::{Folder, pause, raise_own_file_limit};
use crate::subject::{Kind, Node, Stage, Subject};
use crate::{Result, client};

/// Tools that have to be installed, the Debian package of each, and the subject that needs it (none: all do).
const TOOLS: &[(&str, &str, Option<Kind>)] = &[
    ("redis-server", "redis-server", None),
    ("redis-benchmark", "redis-tools", None),
    ("strace", "strace", None),
    ("setpriv", "util-linux", None),
    ("prlimit", "util-linux", None),
    ("taskset", "util-linux", None),
    ("nutcracker", "nutcracker", Some(Kind::Twemproxy)),
    ("haproxy", "haproxy", Some(Kind::Haproxy)),
];

/// Where tools are that an ordinary user's search path leaves out.
const MORE_FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// CPU that two looks apart may have used and still count as quiet, and how long to wait for it at most.
const QUIET_NS: u64 = 300_000;
const QUIET_LIMIT: Duration = Duration::from_secs(3);

/// Dropped in this order: the subjects end before their nodes, the folder goes last.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) cores: Cores,
    pub(crate) folder: Folder,
}

/// CPU time used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) proxy_ns: Option<u64>,
    pub(crate) nodes_ns: u64,
}

impl Rig {
    /// Starts nodes and subjects, and waits until each answers.
    ///
    /// # Errors
    /// A missing tool, a process that does not come up.
    pub(crate) fn start(args: &Args) -> Result<Self> {
        check_tools(args)?;
        raise_own_file_limit()?;
        let cores = Cores::choose(args.pin)?;
        let folder = Folder::create()?;
        let nodes = (1..=2)
            .map(|number| Node::start(number, folder.path(), cores.servers))
            .collect::<Result<Vec<_>>>()?;
        let preshard = args.preshard_bin();
        let stage = Stage {
            folder: folder.path(),
            core: cores.servers,
            pin: args.pin,
            preshard: &preshard,
            nodes: &nodes,
        };
        let subjects = args
            .subjects
            .iter()
            .map(|&kind| Subject::start(kind, &stage))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            subjects,
            nodes,
            cores,
            folder,
        })
    }

    /// Writes all keys that the cases read, through every subject: each places them elsewhere.
    pub(crate) fn fill(&self, cases: &[&'static Case]) -> Result<()> {
        let mut families: Vec<&Values> = vec![&SMALL];
        for case in cases {
            if !families.iter().any(|family| family.prefix == case.values.prefix) {
                families.push(case.values);
            }
        }
        for subject in &self.subjects {
            for family in &families {
                client::fill(subject.port, family)
                    .map_err(|error| format!("filling {}: {error}", subject.kind.name()))?;
            }
        }
        Ok(())
    }

    /// Fresh processes for all proxies.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.check_running()?;
        self.subjects
            .iter_mut()
            .filter(|subject| subject.process.is_some())
            .try_for_each(Subject::restart)
    }

    /// Fails if a node or a subject has ended, even one whose turn was over.
    pub(crate) fn check_running(&self) -> Result<()> {
        for subject in &self.subjects {
            subject
                .rss_kib()
                .map_err(|error| format!("{}: {error}", subject.kind.name()))?;
        }
        for (number, node) in (1..).zip(&self.nodes) {
            rss_kib(node.process.pid()).map_err(|error| format!("node {number}: {error}"))?;
        }
        Ok(())
    }

    /// CPU time of the subject's proxy and of both nodes.
    pub(crate) fn cpu(&self, subject: &Subject) -> Result<Cpu> {
        let mut nodes_ns = 0;
        for node in &self.nodes {
            nodes_ns += cpu_ns(node.process.pid())?;
        }
        Ok(Cpu {
            proxy_ns: subject.cpu_ns()?,
            nodes_ns,
        })
    }

    /// Waits until the proxy has closed what the last load left, so that the next sample does not pay for it.
    pub(crate) fn settle(&self, subject: &Subject) -> Result<Cpu> {
        let deadline = Instant::now() + QUIET_LIMIT;
        let mut before = self.cpu(subject)?;
        loop {
            for _ in 0..4 {
                pause();
            }
            let now = self.cpu(subject)?;
            if now.since(before).total_ns() < QUIET_NS || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        let proxy_ns = self
            .proxy_ns
            .zip(before.proxy_ns)
            .map(|(now, then)| now.saturating_sub(then));
        Self {
            proxy_ns,
            nodes_ns: self.nodes_ns.saturating_sub(before.nodes_ns),
        }
    }

    fn total_ns(self) -> u64 {
        self.proxy_ns.unwrap_or(0) + self.nodes_ns
    }
}

/// Fails with the line that installs what is missing.
fn check_tools(args: &Args) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut missing: Vec<&str> = Vec::new();
    for (tool, package, subject) in TOOLS {
        let needed = subject.is_none_or(|kind| args.subjects.contains(&kind));
        let found = path
            .split(':')
            .chain(MORE_FOLDERS.split(':'))
            .any(|folder| PathBuf::from(folder).join(tool).is_file());
        if needed && !found && !missing.contains(package) {
            missing.push(package);
        }
    }
    if !missing.is_empty() {
        return Err(format!(
            "missing tools; install them with `apt-get install {}`",
            missing.join(" ")
        )
        .into());
    }
    let preshard = args.preshard_bin();
    if args.subjects.contains(&Kind::Preshard) && !preshard.is_file() {
        return Err(format!(
            "{} is not there; build it with `cargo build --release`",
            preshard.display()
        )
        .into());
    }
    Ok(())
}
