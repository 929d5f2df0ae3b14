//! Two nodes and the proxy, for the whole run.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::process::{Folder, Process, free_port, pause, raise_own_file_limit};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Dropped in this order: the proxy ends before its nodes, the folder goes last.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) port: u16,
    pub(crate) node_port: u16,
    proxy: Process,
    _nodes: Vec<Process>,
    _folder: Folder,
}

impl Rig {
    pub(crate) fn start(preshard: &Path, workers: u32) -> Result<Self> {
        raise_own_file_limit()?;
        let folder = Folder::create()?;
        let mut ports = Vec::new();
        let mut nodes = Vec::new();
        for number in 1..=2 {
            let port = free_port()?;
            let args = format!("--bind 127.0.0.1 --port {port} --appendonly no --tcp-backlog 4096");
            let mut args: Vec<String> = args.split(' ').map(str::to_owned).collect();
            args.extend(["--save".to_owned(), String::new()]);
            let name = format!("node-{number}");
            nodes.push(start(
                &name,
                Path::new("redis-server"),
                &args,
                port,
                folder.path(),
            )?);
            ports.push(port);
        }
        let port = free_port()?;
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{port}\"\nworkers = {workers}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             http = \"127.0.0.1:0\"\n[nodes]\ndedicated_max = 600\n[topology]\nstore = \"file:{}\"\nshards = 8\n\
             pinned = 4\n",
            folder.path().join("topology.json").display()
        );
        for (number, port) in (1..).zip(&ports) {
            text +=
                &format!("[[topology.nodes]]\nname = \"node-{number}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        let file = folder.path().join("preshard.toml");
        fs::write(&file, text)?;
        let args = [
            "serve".to_owned(),
            "--config".to_owned(),
            file.display().to_string(),
        ];
        let proxy = start("preshard", preshard, &args, port, folder.path())?;
        Ok(Self {
            port,
            node_port: ports[0],
            proxy,
            _nodes: nodes,
            _folder: folder,
        })
    }

    /// CPU time of all threads of the proxy, user and system.
    pub(crate) fn proxy_cpu_ns(&self) -> Result<u64> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.proxy.pid()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            total += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(total)
    }

    /// Waits until the proxy has closed what a crowd has left.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut before = self.proxy_cpu_ns()?;
        loop {
            (0..20).for_each(|_| pause());
            let now = self.proxy_cpu_ns()?;
            if now - before < 5_000_000 {
                return Ok(());
            }
            before = now;
        }
    }
}

fn start(name: &str, program: &Path, args: &[String], port: u16, folder: &Path) -> Result<Process> {
    let mut process = Process::start(name, program, args, None, folder)?;
    process.wait_until("listened", START_LIMIT, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })?;
    Ok(process)
}
