//! The subjects: how each is configured and started, so that all serve the same two nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::args::Pin;
use crate::machine::{cpu_ns, rss_kib};
use crate::process::{Process, free_port};
use crate::{Result, client};

/// Shards of preshard, as many as the gates ask for.
pub(crate) const SHARDS: u32 = 1024;
/// Databases with a shard of their own.
const PINNED: u32 = 15;
/// All of them on either node, and preshard's own metadata database.
pub(crate) const DATABASES: u32 = SHARDS + PINNED + 1;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// No proxy: the first node alone.
    Direct,
    /// Our release binary, 1,024 shards over both nodes.
    Preshard,
    /// Debian's `nutcracker`, keys over both nodes.
    Twemproxy,
    /// TCP forwarding to the first node, one thread: what moving bytes costs without reading them.
    Haproxy,
}

/// A real node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) process: Process,
}

/// A subject that serves.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// None for direct Redis.
    pub(crate) process: Option<Process>,
    recipe: Recipe,
}

/// How to start it, and start it again.
#[derive(Debug, Default)]
struct Recipe {
    program: PathBuf,
    args: Vec<String>,
    core: Option<usize>,
    folder: PathBuf,
}

/// What every subject is started with.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) core: Option<usize>,
    pub(crate) pin: Pin,
    pub(crate) preshard: &'a Path,
    pub(crate) nodes: &'a [Node],
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Preshard => "preshard",
            Self::Twemproxy => "twemproxy",
            Self::Haproxy => "haproxy",
        }
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn start(number: usize, folder: &Path, core: Option<usize>) -> Result<Self> {
        let name = format!("node-{number}");
        let home = folder.join(&name);
        fs::create_dir_all(&home)?;
        let port = free_port()?;
        let text = format!(
            "--bind 127.0.0.1 --port {port} --databases {DATABASES} --appendonly no --tcp-backlog 4096"
        );
        let mut args: Vec<String> = text.split(' ').map(str::to_owned).collect();
        args.extend(["--save".to_owned(), String::new()]);
        let mut process = Process::start(&name, Path::new("redis-server"), &args, core, &home)?;
        process.wait_until("answered PING", START_LIMIT, || client::answers_ping(port))?;
        Ok(Self { port, process })
    }
}

// === impl Subject ===

impl Subject {
    pub(crate) fn start(kind: Kind, stage: &Stage<'_>) -> Result<Self> {
        let folder = stage.folder.join(kind.name());
        fs::create_dir_all(&folder)?;
        let mut subject = Self {
            kind,
            port: free_port()?,
            process: None,
            recipe: Recipe::default(),
        };
        let (program, args) = match kind {
            Kind::Direct => {
                subject.port = stage.nodes[0].port;
                return Ok(subject);
            }
            Kind::Preshard => (stage.preshard.to_owned(), preshard(subject.port, &folder, stage)?),
            Kind::Twemproxy => (
                PathBuf::from("nutcracker"),
                twemproxy(subject.port, &folder, stage)?,
            ),
            Kind::Haproxy => (PathBuf::from("haproxy"), haproxy(subject.port, &folder, stage)?),
        };
        subject.recipe = Recipe {
            program,
            args,
            core: stage.core,
            folder,
        };
        subject.restart()?;
        Ok(subject)
    }

    /// Stops the process, if it runs, and starts a fresh one on the same port.
    pub(crate) fn restart(&mut self) -> Result<()> {
        drop(self.process.take());
        let recipe = &self.recipe;
        let name = self.kind.name();
        let mut process = Process::start(name, &recipe.program, &recipe.args, recipe.core, &recipe.folder)?;
        process.wait_until("answered PING", START_LIMIT, || client::answers_ping(self.port))?;
        self.process = Some(process);
        Ok(())
    }

    /// CPU time of the proxy so far; none for direct Redis.
    pub(crate) fn cpu_ns(&self) -> Result<Option<u64>> {
        self.process
            .as_ref()
            .map(|process| cpu_ns(process.pid()))
            .transpose()
    }

    /// Memory of the proxy; 0 for direct Redis.
    pub(crate) fn rss_kib(&self) -> Result<u64> {
        self.process
            .as_ref()
            .map_or(Ok(0), |process| rss_kib(process.pid()))
    }
}

// === configurations ===

/// The minimal file; limits and intervals stay at their defaults, as an operator would start it.
fn preshard(port: u16, folder: &Path, stage: &Stage<'_>) -> Result<Vec<String>> {
    let workers = if stage.pin == Pin::None { 0 } else { 1 };
    let store = folder.join("topology.json");
    let mut text = format!(
        "[proxy]\nlisten = \"127.0.0.1:{port}\"\nworkers = {workers}\n\n\
         [admin]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\n\
         [topology]\nstore = \"file:{}\"\nshards = {SHARDS}\npinned = {PINNED}\n",
        store.display()
    );
    for (number, node) in (1..).zip(stage.nodes) {
        text += &format!(
            "\n[[topology.nodes]]\nname = \"node-{number}\"\naddress = \"127.0.0.1:{}\"\n",
            node.port
        );
    }
    let file = folder.join("preshard.toml");
    fs::write(&file, text)?;
    Ok(vec![
        "serve".to_owned(),
        "--config".to_owned(),
        file.display().to_string(),
    ])
}

fn twemproxy(port: u16, folder: &Path, stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut text = format!(
        "bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  \
         auto_eject_hosts: false\n  preconnect: true\n  backlog: 4096\n  servers:\n"
    );
    for (number, node) in (1..).zip(stage.nodes) {
        text += &format!("   - 127.0.0.1:{}:1 node-{number}\n", node.port);
    }
    let file = folder.join("nutcracker.yml");
    fs::write(&file, text)?;
    let [file, log] = [file, folder.join("nutcracker.log")].map(|path| path.display().to_string());
    let statistics = free_port()?.to_string();
    // One level less talkative than its default, which asks for the peer's name at every request for the log.
    let args = [
        "-c",
        &file,
        "-o",
        &log,
        "-v",
        "4",
        "-a",
        "127.0.0.1",
        "-s",
        &statistics,
    ];
    Ok(args.map(str::to_owned).to_vec())
}

fn haproxy(port: u16, folder: &Path, stage: &Stage<'_>) -> Result<Vec<String>> {
    let text = format!(
        "global\n  nbthread 1\n  maxconn 5500\n\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\n\
         listen bench\n  bind 127.0.0.1:{port} backlog 4096\n  server node-1 127.0.0.1:{}\n",
        stage.nodes[0].port
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    Ok(vec![
        "-db".to_owned(),
        "-f".to_owned(),
        file.display().to_string(),
    ])
}
