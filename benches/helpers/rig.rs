//! Two nodes and the proxy, with as many shards as a measurement wants.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::process::{Folder, Process, free_port, raise_own_file_limit};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Dropped in this order: the proxy ends before its nodes, the folder goes last.
#[derive(Debug)]
pub(crate) struct Rig {
    port: u16,
    proxy: Process,
    nodes: Vec<Process>,
    _folder: Folder,
}

impl Rig {
    pub(crate) fn start(preshard: &Path, workers: u32, shards: u16) -> Result<Self> {
        raise_own_file_limit()?;
        let folder = Folder::create()?;
        let (mut ports, mut nodes) = (Vec::new(), Vec::new());
        for number in 1..=2 {
            let port = free_port()?;
            let databases = u32::from(shards) + 2;
            let args = format!("--bind 127.0.0.1 --port {port} --appendonly no --databases {databases}");
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
             http = \"127.0.0.1:0\"\n[topology]\nstore = \"file:{}\"\nshards = {shards}\npinned = 1\n",
            folder.path().join("topology.json").display()
        );
        for (number, port) in (1..).zip(&ports) {
            text +=
                &format!("[[topology.nodes]]\nname = \"node-{number}\"\naddress = \"127.0.0.1:{port}\"\n");
        }
        let file = folder.path().join("preshard.toml");
        fs::write(&file, text)?;
        let args = ["serve", "--config", &file.display().to_string()].map(str::to_owned);
        let proxy = start("preshard", preshard, &args, port, folder.path())?;
        Ok(Self {
            port,
            proxy,
            nodes,
            _folder: folder,
        })
    }

    pub(crate) fn client(&self) -> Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            read: Vec::new(),
        })
    }

    /// CPU time of the proxy and of both nodes, user and system.
    pub(crate) fn cpu_ns(&self) -> Result<(u64, u64)> {
        let mut nodes = 0;
        for node in &self.nodes {
            nodes += cpu_ns(node.pid())?;
        }
        Ok((cpu_ns(self.proxy.pid())?, nodes))
    }
}

fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(total)
}

fn start(name: &str, program: &Path, args: &[String], port: u16, folder: &Path) -> Result<Process> {
    let mut process = Process::start(name, program, args, None, folder)?;
    process.wait_until("listened", START_LIMIT, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })?;
    Ok(process)
}

/// A client that sends what it is given and counts replies by scanning them.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads so many one-line replies; an error among them ends the run.
    pub(crate) fn lines(&mut self, count: usize) -> Result<()> {
        let mut seen = 0;
        let mut chunk = [0; 64 * 1024];
        let mut starts = true;
        while seen < count {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err("the proxy closed the connection".into());
            }
            for &byte in &chunk[..read] {
                if starts && byte == b'-' {
                    return Err(String::from_utf8_lossy(&chunk[..read]).into());
                }
                starts = byte == b'\n';
                seen += usize::from(starts);
            }
        }
        Ok(())
    }

    /// Sends one request and gives its whole reply.
    pub(crate) fn call(&mut self, line: &str) -> Result<Vec<u8>> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = Vec::new();
        preshard::resp::write_request(&mut frame, &words);
        self.send(&frame)?;
        let mut scanner = preshard::resp::ReplyScanner::default();
        let mut chunk = vec![0; 64 * 1024];
        self.read.clear();
        loop {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err("the proxy closed the connection".into());
            }
            self.read.extend_from_slice(&chunk[..read]);
            let ended = scanner
                .feed(&chunk[..read])
                .map_err(|error| format!("{error:?}"))?;
            if ended.is_some() {
                break;
            }
        }
        if self.read.starts_with(b"-") {
            return Err(String::from_utf8_lossy(&self.read).into());
        }
        Ok(std::mem::take(&mut self.read))
    }
}
