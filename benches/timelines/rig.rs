//! Two nodes and the proxy with its 1,024 shards, for the whole run.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::process::{Folder, Process, free_port, raise_own_file_limit};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Dropped in this order: the proxy ends before its nodes, the folder goes last.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) port: u16,
    _proxy: Process,
    _nodes: Vec<Process>,
    _folder: Folder,
}

impl Rig {
    pub(crate) fn start(preshard: &Path, workers: u32) -> Result<Self> {
        raise_own_file_limit()?;
        let folder = Folder::create()?;
        let mut topology = String::new();
        let mut nodes = Vec::new();
        for number in 1..=2 {
            let port = free_port()?;
            let args = format!("--bind 127.0.0.1 --port {port} --appendonly no --databases 1040");
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
            topology += &format!("[[topology.nodes]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        let port = free_port()?;
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{port}\"\nworkers = {workers}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             http = \"127.0.0.1:0\"\n[topology]\nstore = \"file:{}\"\n{topology}",
            folder.path().join("topology.json").display()
        );
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
            _proxy: proxy,
            _nodes: nodes,
            _folder: folder,
        })
    }
}

fn start(name: &str, program: &Path, args: &[String], port: u16, folder: &Path) -> Result<Process> {
    let mut process = Process::start(name, program, args, None, folder)?;
    process.wait_until("listened", START_LIMIT, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })?;
    Ok(process)
}
