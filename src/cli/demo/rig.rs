//! What the demo runs: two real Redis nodes and the proxy, each a process of its own, on free ports.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::link::Link;
use super::process::{Folder, Process, Starter, Stop, free_port};

pub(super) const SHARDS: u16 = 1024;
pub(super) const PINNED: u16 = 15;
/// The shards, the pinned databases, and one for preshard's own records.
pub(super) const DATABASES: u16 = SHARDS + PINNED + 1;

const NODES: usize = 2;
/// A free port may be taken by somebody else before the node listens on it.
const PORTS_TRIED: usize = 5;
const START_MAX: Duration = Duration::from_secs(20);
/// Idle clients never delay the exit, and the demo's are idle.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) process: Process,
    pub(super) version: String,
}

/// The proxy and its addresses.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) process: Process,
    pub(super) data: String,
    pub(super) admin: Option<String>,
    pub(super) http: String,
}

/// All of it. The proxy goes first, then the nodes, then the folder.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) proxy: Proxy,
    pub(super) nodes: Vec<Node>,
    _folder: Folder,
}

impl Rig {
    pub(super) fn start(stop: &Stop) -> Result<Self, Failure> {
        let folder = Folder::create()?;
        let starter = Starter::new();
        let nodes = (1..=NODES)
            .map(|number| start_node(number, starter, folder.path(), stop))
            .collect::<Result<Vec<_>, _>>()?;
        let proxy = start_proxy(&nodes, starter, folder.path(), stop)?;
        Ok(Self {
            proxy,
            nodes,
            _folder: folder,
        })
    }

    /// Stops the proxy as a supervisor would.
    ///
    /// # Errors
    /// When it does not end as it should.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        match self.proxy.process.stop(STOP_MAX) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failure::Broken(format!(
                "the proxy was told to stop and ended with {status}"
            ))),
            None => Err(Failure::Broken(format!(
                "the proxy was told to stop and did not end within {STOP_MAX:?}"
            ))),
        }
    }
}

fn start_node(number: usize, starter: Starter, folder: &Path, stop: &Stop) -> Result<Node, Failure> {
    let mut last = None;
    for _ in 0..PORTS_TRIED {
        match try_start_node(number, starter, folder, stop) {
            Err(Failure::Broken(what)) => last = Some(what),
            outcome => return outcome,
        }
    }
    let what = last.unwrap_or_default();
    Err(Failure::Broken(format!(
        "{what}\nThe demo needs a real redis-server 7.0 or later: run ./setup.sh demo, or set PRESHARD_REDIS_SERVER to one"
    )))
}

fn try_start_node(number: usize, starter: Starter, folder: &Path, stop: &Stop) -> Result<Node, Failure> {
    let program = std::env::var_os("PRESHARD_REDIS_SERVER").unwrap_or_else(|| OsString::from("redis-server"));
    let (name, port) = (format!("redis-{number}"), free_port()?);
    let (port_word, databases) = (port.to_string(), DATABASES.to_string());
    let args = [
        "--port",
        &port_word,
        "--bind",
        "127.0.0.1",
        "--databases",
        &databases,
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
    ];
    let mut process = starter.start(&name, &program, &args.map(OsString::from), folder)?;
    let address = format!("127.0.0.1:{port}");
    let version = process.wait_for("answered", START_MAX, stop, || {
        let info = Link::connect(&address).ok()?.ask_text(&["INFO", "server"]).ok()?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))?;
        Some(line.to_owned())
    })?;
    Ok(Node {
        name,
        address,
        port,
        process,
        version,
    })
}

fn start_proxy(nodes: &[Node], starter: Starter, folder: &Path, stop: &Stop) -> Result<Proxy, Failure> {
    let config = folder.join("preshard.toml");
    fs::write(&config, config_of(nodes))?;
    let program = std::env::current_exe()?;
    let args = [
        OsString::from("serve"),
        OsString::from("--config"),
        config.into_os_string(),
    ];
    let mut process = starter.start("preshard", program.as_os_str(), &args, folder)?;
    let output = process.output.clone();
    let printed = process.wait_for("said 'ready'", START_MAX, stop, || {
        let text = fs::read_to_string(&output).ok()?;
        text.lines().any(|line| line == "ready").then_some(text)
    })?;
    let address = |what: &str| {
        let start = format!("listening {what}=");
        printed
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .map(str::to_owned)
    };
    let missing = || Failure::Broken(format!("the proxy does not say where it listens:\n{printed}"));
    Ok(Proxy {
        data: address("data").ok_or_else(missing)?,
        admin: address("admin"),
        http: address("http").ok_or_else(missing)?,
        process,
    })
}

/// A config as a first user would write it, with free ports.
fn config_of(nodes: &[Node]) -> String {
    let mut text = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\n\
         [topology]\nstore = \"file:topology.json\"\nshards = {SHARDS}\npinned = {PINNED}\n"
    );
    for Node { name, address, .. } in nodes {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[topology.nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_config_of_the_demo_has_no_mistakes() {
        let folder = Folder::create().unwrap();
        let file = folder.path().join("preshard.toml");
        let nodes = "[[topology.nodes]]\nname = \"redis-1\"\naddress = \"127.0.0.1:7001\"\n";
        fs::write(&file, config_of(&[]) + nodes).unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!((config.topology.shards, config.topology.pinned), (SHARDS, PINNED));
    }
}
