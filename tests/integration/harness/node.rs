//! A real `redis-server` in its own temporary folder, on a free port, gone with its `Node`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::ports::free_port;
use super::process::{PATIENCE, Scratch, wait_for};
use super::sys;
use super::wire::Client;

/// How a node is started.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    pub(crate) databases: u32,
    /// Every write is in the system's hands before it is answered: what was acknowledged survives SIGKILL, though not the machine's end.
    pub(crate) durable: bool,
    pub(crate) more: Vec<String>,
}

/// The server under test. Never a resolved path: Debian's redis-server is a link whose name decides what the program is.
fn program() -> String {
    std::env::var("PRESHARD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// What the server under test says to be: `redis 7.0.15`, `valkey 9.1.2`.
fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        let output = Command::new(program()).arg("--version").output();
        let said = String::from_utf8_lossy(&output.unwrap().stdout).to_lowercase();
        let (name, rest) = said.split_once(" server v=").unwrap_or_default();
        let version = rest.split_whitespace().next();
        let version = version.unwrap_or_else(|| panic!("no version in {said:?}"));
        format!("{name} {version}")
    })
}

/// Whether the server under test is older than Redis 7.0, and so lacks `what`: then it says so, and the test leaves it out.
pub(crate) fn lacks(what: &str) -> bool {
    left_out(&["redis 5", "redis 6"], &format!("has no {what}"))
}

/// Whether the server under test is one of these (beginnings of what it says to be), which differs from Redis 7.0 in what a
/// test compares: then it says so, and the test leaves it out.
pub(crate) fn left_out(servers: &[&str], why: &str) -> bool {
    let is_one = servers.iter().any(|one| server().starts_with(one));
    if is_one {
        println!("left out: {} {why}", server());
    }
    is_one
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            databases: 16,
            durable: false,
            more: Vec::new(),
        }
    }
}

/// A node; `kill` and `restart` keep its port and folder.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) options: NodeOptions,
    dir: Scratch,
    child: Option<Child>,
}

impl Node {
    /// A node with the 16 databases that Redis has by default.
    pub(crate) fn start() -> Self {
        Self::with(NodeOptions::default())
    }

    pub(crate) fn with(options: NodeOptions) -> Self {
        for _ in 0..5 {
            let dir = Scratch::new("node");
            let mut node = Self {
                port: free_port(),
                options: options.clone(),
                dir,
                child: None,
            };
            if node.try_start() {
                return node;
            }
        }
        panic!("redis-server did not start on five free ports");
    }

    fn try_start(&mut self) -> bool {
        let program = program();
        let mut command = Command::new(&program);
        command
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--daemonize",
                "no",
            ])
            .args(["--databases", &self.options.databases.to_string(), "--save", ""])
            .args([
                "--appendonly",
                if self.options.durable { "yes" } else { "no" },
                "--appendfsync",
                "no",
            ])
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--logfile")
            .arg(self.dir.file("redis.log"))
            // What is written while a stream is interrupted must not be more than its history holds.
            .args(["--repl-backlog-size", "64mb"])
            .args(&self.options.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::die_with_parent(&mut command);
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start '{program}': {error}. These tests need a real redis-server: run ./setup.sh, or set PRESHARD_REDIS_SERVER")
        });
        let address = self.socket();
        let up = wait_for("redis-server answers PING", PATIENCE, || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut client = Client::try_connect(address).ok()?;
            client.try_send(b"PING\r\n").ok()?;
            (client.try_reply_bytes().ok()? == b"+PONG\r\n").then_some(true)
        });
        self.child = up.then_some(child);
        up
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A connection of the test's own to the node, in database 0.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.socket())
    }

    /// The same in another database.
    pub(crate) fn client_in(&self, database: u32) -> Client {
        let mut client = self.client();
        client.call(&["SELECT", &database.to_string()]).expect_ok();
        client
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// SIGKILL, and the process is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        sys::send_signal(self.pid(), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        sys::send_signal(self.pid(), libc::SIGCONT);
    }

    /// Starts again on the same port, in the same folder.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "kill it first");
        let what = format!(
            "redis-server comes back on port {}: see {}",
            self.port,
            self.dir.path().display()
        );
        // A child that the one before has just forked may hold the port for a moment longer.
        wait_for(&what, PATIENCE, || self.try_start().then_some(()));
    }

    /// Identities of the connections of proxies' workers: a link that was closed is missing later. The control side's, which give
    /// themselves no name, come and go.
    pub(crate) fn links(&self) -> BTreeSet<u64> {
        let list = self.client().ask("CLIENT LIST").text();
        let id = |line: &str| {
            line.strip_prefix("id=")
                .and_then(|rest| rest.split(' ').next())
                .and_then(|id| id.parse().ok())
        };
        let of_workers = list.lines().filter(|line| line.contains(" name=preshard-"));
        of_workers.filter_map(id).collect()
    }

    /// A number of INFO.
    pub(crate) fn info(&self, field: &str) -> u64 {
        let text = self.client().ask("INFO everything").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{field}:")))
            .unwrap_or("0");
        line.parse()
            .unwrap_or_else(|_| panic!("{field} is no number: {line}"))
    }

    /// The version that clients are told (Valkey's is the Redis that it stands for).
    pub(crate) fn version(&self) -> String {
        let text = self.client().ask("INFO server").text();
        let line = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        line.expect("INFO has redis_version").to_owned()
    }

    /// How often the node ran a command, as its own statistics say (`config|get` for subcommands).
    pub(crate) fn calls_of(&self, command: &str) -> u64 {
        let text = self.client().ask("INFO commandstats").text();
        let prefix = format!("cmdstat_{command}:calls=");
        let calls = text.lines().find_map(|line| line.strip_prefix(&prefix));
        calls
            .and_then(|rest| rest.split(',').next())
            .map_or(0, |calls| calls.parse().unwrap())
    }

    /// Every key of every database, as `(database, key)`, the metadata database left out.
    pub(crate) fn all_keys(&self, without: u32) -> BTreeSet<(u32, String)> {
        let mut found = BTreeSet::new();
        for database in (0..self.options.databases).filter(|database| *database != without) {
            let keys = self.client_in(database).ask("KEYS *").items();
            found.extend(keys.iter().map(|key| (database, key.text())));
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
