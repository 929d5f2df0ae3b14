//! Two nodes, the proxies and, if it is so, three members of etcd. Proxies and members can be killed and come back.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::admin::Asker;
use crate::process::{Folder, Process, free_port, pause, raise_own_file_limit};
use crate::{Result, Store};

/// What moves.
pub(crate) const MOVING: &str = "0-63";
/// All shards.
pub(crate) const SHARDS: u32 = 1024;
/// Shards of the same node that never move.
pub(crate) const BYSTANDERS: std::ops::Range<u32> = 100..164;

const START_LIMIT: Duration = Duration::from_secs(30);
/// How long something that was killed stays away.
const AWAY: Duration = Duration::from_millis(500);
const MEMBERS: usize = 3;

/// Dropped in this order: the proxies end before what they need, the folder goes last.
#[derive(Debug)]
pub(crate) struct Rig {
    proxies: Vec<Part>,
    members: Vec<Part>,
    nodes: Vec<Part>,
    folder: Folder,
}

/// One process that can be started again on its port.
#[derive(Debug)]
struct Part {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    /// It is up when this port is open.
    port: u16,
    admin: u16,
    process: Option<Process>,
    /// Killed, and to come back then.
    back: Option<Instant>,
}

impl Part {
    fn launch(&mut self, folder: &Path) -> Result<()> {
        self.back = None;
        let process = Process::start(&self.name, &self.program, &self.args, None, folder)?;
        self.process = Some(process);
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let port = self.port;
        let process = self.process.as_mut().ok_or("not started")?;
        process.wait_until("listened", START_LIMIT, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }
}

impl Rig {
    pub(crate) fn start(preshard: &Path, store: Store, proxies: usize, workers: u32) -> Result<Self> {
        raise_own_file_limit()?;
        let folder = Folder::create()?;
        let mut nodes = Vec::new();
        for number in 1..=2 {
            let port = free_port()?;
            let args = format!("--bind 127.0.0.1 --port {port} --appendonly no --databases 1040 --dir");
            let mut args: Vec<String> = args.split(' ').map(str::to_owned).collect();
            let data = folder.path().join(format!("data-{number}"));
            std::fs::create_dir_all(&data)?;
            args.extend([data.display().to_string(), "--save".to_owned(), String::new()]);
            nodes.push(part(
                &format!("node-{number}"),
                Path::new("redis-server"),
                args,
                port,
            ));
        }
        let members = match store {
            Store::File => Vec::new(),
            Store::Etcd => members(&folder)?,
        };
        let store = match store {
            Store::File => format!("file:{}", folder.path().join("topology.json").display()),
            Store::Etcd => {
                let addresses: Vec<String> = members
                    .iter()
                    .map(|part| format!("127.0.0.1:{}", part.port))
                    .collect();
                format!("etcd://{}/soak", addresses.join(","))
            }
        };
        let mut rig = Self {
            proxies: Vec::new(),
            members,
            nodes,
            folder,
        };
        for number in 0..proxies {
            let proxy = proxy(preshard, number, workers, &store, &rig)?;
            rig.proxies.push(proxy);
        }
        let folder = rig.folder.path();
        for group in [&mut rig.nodes, &mut rig.members, &mut rig.proxies] {
            for part in group.iter_mut() {
                part.launch(folder)?;
            }
            for part in group.iter_mut() {
                part.wait()?;
            }
        }
        let until = Instant::now() + START_LIMIT;
        while !rig.ask("PRESHARD SHOW NODES").is_ok_and(|_| rig.has_users()) {
            if Instant::now() > until {
                return Err("preshard has made no users on the nodes".into());
            }
            pause();
        }
        Ok(rig)
    }

    /// Without users of preshard's own on the nodes nothing can be moved; the leader makes them.
    fn has_users(&self) -> bool {
        self.nodes.iter().all(|node| {
            Asker::connect(node.port)
                .and_then(|mut asker| asker.ask("ACL USERS"))
                .is_ok_and(|users| users.contains("ps-g"))
        })
    }

    pub(crate) fn proxy_ports(&self) -> Vec<u16> {
        self.proxies.iter().map(|proxy| proxy.port).collect()
    }

    /// Asks any proxy that is there.
    pub(crate) fn ask(&self, line: &str) -> Result<String> {
        self.any(|asker| asker.ask(line))
    }

    pub(crate) fn fields(&self, line: &str) -> Result<BTreeMap<String, String>> {
        self.any(|asker| asker.fields(line))
    }

    fn any<T>(&self, ask: impl Fn(&mut Asker) -> Result<T>) -> Result<T> {
        let mut last = "no proxy is there".into();
        for proxy in self.proxies.iter().filter(|proxy| proxy.process.is_some()) {
            match Asker::connect(proxy.admin).and_then(|mut asker| ask(&mut asker)) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Kills a proxy or a member, and starts what was killed the last time. Never so many that nobody is left, unless there is
    /// only one.
    pub(crate) fn kill_one(&mut self, random: &mut fastrand::Rng) -> Result<String> {
        self.bring_back(Duration::ZERO)?;
        let folder = self.folder.path();
        let chosen = random.usize(..self.proxies.len() + self.members.len());
        let part = match chosen.checked_sub(self.proxies.len()) {
            None => &mut self.proxies[chosen],
            Some(member) => &mut self.members[member],
        };
        part.process = None;
        part.back = Some(Instant::now() + AWAY);
        let name = part.name.clone();
        while part.back.is_some_and(|back| Instant::now() < back) {
            pause();
        }
        part.launch(folder)?;
        Ok(name)
    }

    fn bring_back(&mut self, after: Duration) -> Result<()> {
        let folder = self.folder.path();
        for part in self.members.iter_mut().chain(&mut self.proxies) {
            if part.process.is_none() {
                part.launch(folder)?;
            }
            if after > Duration::ZERO {
                part.wait()?;
            }
        }
        Ok(())
    }

    /// All is up, and the port of a proxy.
    pub(crate) fn settle(&mut self) -> Result<u16> {
        self.bring_back(START_LIMIT)?;
        Ok(self.proxies[0].port)
    }
}

fn part(name: &str, program: &Path, args: Vec<String>, port: u16) -> Part {
    Part {
        name: name.to_owned(),
        program: program.to_owned(),
        args,
        port,
        admin: 0,
        process: None,
        back: None,
    }
}

fn proxy(preshard: &Path, number: usize, workers: u32, store: &str, rig: &Rig) -> Result<Part> {
    let (port, admin) = (free_port()?, free_port()?);
    let mut text = format!(
        "[proxy]\nlisten = \"127.0.0.1:{port}\"\nworkers = {workers}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         http = \"127.0.0.1:0\"\n[topology]\nstore = \"{store}\"\nshards = {SHARDS}\npinned = 4\n"
    );
    for node in &rig.nodes {
        let (name, port) = (&node.name, node.port);
        text += &format!("[[topology.nodes]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n");
    }
    let file = rig.folder.path().join(format!("preshard-{number}.toml"));
    std::fs::write(&file, text)?;
    let args = ["serve", "--config", &file.display().to_string()].map(str::to_owned);
    let mut part = part(&format!("preshard-{number}"), preshard, args.to_vec(), port);
    part.admin = admin;
    Ok(part)
}

fn members(folder: &Folder) -> Result<Vec<Part>> {
    let mut ports = Vec::new();
    for _ in 0..MEMBERS {
        ports.push((free_port()?, free_port()?));
    }
    let cluster: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("m{number}=http://127.0.0.1:{peer}"))
        .collect();
    let member = |(number, (client, peer)): (usize, &(u16, u16))| {
        let name = format!("m{number}");
        let data = folder.path().join(format!("etcd-{number}"));
        let args = format!(
            "--name {name} --data-dir {} --listen-client-urls http://127.0.0.1:{client} --advertise-client-urls \
             http://127.0.0.1:{client} --listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls \
             http://127.0.0.1:{peer} --initial-cluster {} --logger zap",
            data.display(),
            cluster.join(",")
        );
        let args = args.split(' ').map(str::to_owned).collect();
        part(&format!("etcd-{number}"), Path::new("etcd"), args, *client)
    };
    Ok(ports.iter().enumerate().map(member).collect())
}

/// The task that a refusal names: the shards are on their way already.
pub(crate) fn task_in(refusal: &str) -> Option<String> {
    let (_, rest) = refusal.split_once("is moved by task ")?;
    rest.split_whitespace().next().map(str::to_owned)
}
