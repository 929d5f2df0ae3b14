//! The built `preshard serve` in front of nodes: configured, started, its addresses read from what it prints.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use super::process::{PATIENCE, Scratch, wait_for};
use super::sys;
use super::wire::{Client, Reply};

/// What a proxy is started with; every part can be changed before `start`.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    pub(crate) pinned: u16,
    addresses: Vec<String>,
    proxy: Vec<String>,
    nodes: Vec<String>,
    topology: Vec<String>,
    slowlog: Vec<String>,
    migration: Vec<String>,
    admin: Vec<String>,
    tls: Vec<String>,
    users: Vec<String>,
    store: Option<String>,
    listen: String,
    open_files: Option<u32>,
    announced: Vec<&'static str>,
    any_warning: bool,
    arrows: Option<PathBuf>,
}

/// What a machine that is busy, or stands still for a moment, makes a proxy tell: it is slower than its writers; somebody has not said in
/// time that he serves a topology; a cutover would hold requests for too long, and is tried again. Tests wait for what comes of it.
const BUSY_EVENTS: [&str; 5] = [
    "config_adoption_slow",
    "cutover_given_up",
    "move_lags",
    "proxies_behind",
    "rollback_given_up",
];

/// A proxy that says that one of its workers stood still for so long was on a machine on which whatever it warned of may be true.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) setup: Setup,
    pub(crate) data: SocketAddr,
    admin: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    child: Child,
    log: Log,
    /// The store's path, for a second proxy or a look.
    pub(crate) store: String,
    dir: Arc<Scratch>,
}

/// A proxy that was started and may be coming up or failing.
#[derive(Debug)]
pub(crate) struct Launch {
    child: Child,
    log: Log,
    store: String,
    dir: Arc<Scratch>,
}

impl Launch {
    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// SIGKILL.
    pub(crate) fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

// === impl Setup ===

impl Setup {
    /// Eight shards and four pinned databases (they fit a node of 16 databases), two workers.
    pub(crate) fn of(addresses: &[String]) -> Self {
        Self {
            shards: 8,
            pinned: 4,
            addresses: addresses.to_vec(),
            proxy: Vec::new(),
            nodes: Vec::new(),
            topology: Vec::new(),
            slowlog: Vec::new(),
            migration: Vec::new(),
            admin: Vec::new(),
            tls: Vec::new(),
            users: Vec::new(),
            store: None,
            listen: "\"127.0.0.1:0\"".to_owned(),
            open_files: None,
            announced: Vec::new(),
            any_warning: false,
            arrows: None,
        }
    }

    pub(crate) fn layout(mut self, shards: u16, pinned: u16) -> Self {
        (self.shards, self.pinned) = (shards, pinned);
        self
    }

    /// A line of `[proxy]`.
    pub(crate) fn proxy(mut self, line: &str) -> Self {
        self.proxy.push(line.to_owned());
        self
    }

    /// A line of `[nodes]`.
    pub(crate) fn nodes(mut self, line: &str) -> Self {
        self.nodes.push(line.to_owned());
        self
    }

    /// A line of `[slowlog]`.
    pub(crate) fn slowlog(mut self, line: &str) -> Self {
        self.slowlog.push(line.to_owned());
        self
    }

    /// A line of `[migration]`.
    pub(crate) fn migration(mut self, line: &str) -> Self {
        self.migration.push(line.to_owned());
        self
    }

    /// A line of `[admin]`.
    pub(crate) fn admin(mut self, line: &str) -> Self {
        self.admin.push(line.to_owned());
        self
    }

    /// A line of `[tls]`.
    pub(crate) fn tls(mut self, line: &str) -> Self {
        self.tls.push(line.to_owned());
        self
    }

    /// A `[[user]]`: its name, its password, and further lines.
    pub(crate) fn user(mut self, name: &str, password: &str, lines: &str) -> Self {
        let hash = sha256(password);
        self.users.push(format!(
            "[[user]]\nname = \"{name}\"\npassword_sha256 = \"{hash}\"\n{lines}\n"
        ));
        self
    }

    /// The tables of all its users.
    pub(crate) fn users(&self) -> String {
        self.users.concat()
    }

    /// Other addresses than one free port, as TOML; the first must be TCP.
    pub(crate) fn listen(mut self, addresses: &str) -> Self {
        addresses.clone_into(&mut self.listen);
        self
    }

    /// Events that may be logged as warnings or errors; any other one fails the test.
    pub(crate) fn announce(mut self, events: &'static [&'static str]) -> Self {
        self.announced = events.to_vec();
        self
    }

    /// The same, and those that were announced before.
    pub(crate) fn announce_also(mut self, events: &[&'static str]) -> Self {
        self.announced.extend(events);
        self
    }

    /// Every warning is expected, as long as nothing panics: too much is broken for a list.
    pub(crate) fn any_warning(mut self) -> Self {
        self.any_warning = true;
        self
    }

    /// The folder in which points are named at which moves stand still (`src/migration/arrow.rs`).
    pub(crate) fn arrows(mut self, folder: &Path) -> Self {
        self.arrows = Some(folder.to_owned());
        self
    }

    /// A limit of open files for the process.
    pub(crate) fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// A line of `[topology]`.
    pub(crate) fn topology(mut self, line: &str) -> Self {
        self.topology.push(line.to_owned());
        self
    }

    /// A store file somewhere else than in the proxy's own folder, or `etcd://…`.
    pub(crate) fn store(mut self, path: &str) -> Self {
        self.store = Some(path.to_owned());
        self
    }

    /// The metadata database: the one after the shards and the pinned ones.
    pub(crate) fn metadata_database(&self) -> u32 {
        u32::from(self.shards) + u32::from(self.pinned)
    }

    fn toml(&self, store: &str) -> String {
        let store = if store.starts_with("etcd:") {
            store.to_owned()
        } else {
            format!("file:{store}")
        };
        let mut text = format!("[proxy]\nlisten = {}\n", self.listen);
        // Two workers; and patience, since the machine may be busy with other things: who tests a deadline sets one.
        for default in ["workers = 2", "request_timeout = \"20s\""] {
            let (key, _) = default.split_once(' ').unwrap();
            if !self.proxy.iter().any(|line| line.starts_with(key)) {
                writeln!(text, "{default}").unwrap();
            }
        }
        let lines = |text: &mut String, lines: &[String]| {
            lines.iter().for_each(|line| writeln!(text, "{line}").unwrap())
        };
        lines(&mut text, &self.proxy);
        text.push_str("[admin]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n");
        lines(&mut text, &self.admin);
        text.push_str("[tls]\n");
        lines(&mut text, &self.tls);
        text.push_str("[nodes]\n");
        // The same for nodes of which none is expected to go away: one that is slow to answer is not down.
        let all_stay = !self.any_warning && !self.announced.contains(&"node_down");
        if all_stay && !self.nodes.iter().any(|line| line.starts_with("connect_timeout")) {
            text.push_str("connect_timeout = \"10s\"\n");
        }
        lines(&mut text, &self.nodes);
        text.push_str("[slowlog]\n");
        lines(&mut text, &self.slowlog);
        text.push_str("[migration]\n");
        if !self.any_warning {
            text.push_str("max_pause = \"3s\"\n");
        }
        lines(&mut text, &self.migration);
        write!(
            text,
            "[topology]\nstore = \"{store}\"\nshards = {}\npinned = {}\n",
            self.shards, self.pinned
        )
        .unwrap();
        lines(&mut text, &self.topology);
        for (number, address) in self.addresses.iter().enumerate() {
            write!(
                text,
                "[[topology.nodes]]\nname = \"node-{}\"\naddress = \"{address}\"\n",
                number + 1
            )
            .unwrap();
        }
        lines(&mut text, &self.users);
        text
    }

    /// Starts the proxy and does not wait.
    pub(crate) fn launch(&self) -> Launch {
        let dir = Arc::new(Scratch::new("proxy"));
        let store = self
            .store
            .clone()
            .unwrap_or_else(|| dir.file("topology.json").display().to_string());
        let config = dir.file("preshard.toml");
        std::fs::write(&config, self.toml(&store)).unwrap();
        let mut command = self.program();
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .current_dir(dir.path());
        if let Some(folder) = &self.arrows {
            command.env("PRESHARD_ARROWS", folder);
        }
        let (child, log) = spawn(&mut command);
        Launch {
            child,
            log,
            store,
            dir,
        }
    }

    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_preshard");
        let Some(limit) = self.open_files else {
            return Command::new(program);
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), program]);
        command
    }

    /// Starts the proxy and waits until it says `ready`.
    pub(crate) fn start(&self) -> Proxy {
        self.until_ready(self.launch())
    }

    /// Waits until a proxy that was launched says `ready`.
    pub(crate) fn until_ready(&self, launch: Launch) -> Proxy {
        let Launch {
            mut child,
            log,
            store,
            dir,
        } = launch;
        let address = |what: &str| {
            log.line_after(&format!("listening {what}="))
                .and_then(|text| text.parse().ok())
        };
        let (data, admin, http) = wait_for("the proxy says 'ready'", PATIENCE, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the proxy ended with {status}:\n{}", log.text());
            }
            log.text()
                .lines()
                .any(|line| line.trim() == "ready")
                .then_some(())?;
            Some((address("data")?, address("admin"), address("http")?))
        });
        Proxy {
            setup: self.clone(),
            data,
            admin,
            http,
            child,
            log,
            store,
            dir,
        }
    }

    /// Starts the proxy, which must end by itself: its exit status and all it printed.
    pub(crate) fn start_refused(&self) -> (ExitStatus, String) {
        let Launch {
            mut child,
            log,
            dir: _dir,
            ..
        } = self.launch();
        let status = end_of(&mut child, PATIENCE, &log);
        (status, log.text())
    }
}

/// Runs `preshard` with arguments to its end: exit status and all it printed.
pub(crate) fn run_to_end(arguments: &[&str]) -> (ExitStatus, String) {
    let (mut child, log) = spawn(Command::new(env!("CARGO_BIN_EXE_preshard")).args(arguments));
    // The demo alone takes ten seconds where there is nothing else to do.
    (end_of(&mut child, PATIENCE * 3, &log), log.text())
}

/// As an operator makes it.
fn sha256(password: &str) -> String {
    let script = "printf %s \"$0\" | sha256sum";
    let output = Command::new("sh")
        .args(["-c", script, password])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

pub(crate) fn spawn(command: &mut Command) -> (Child, Log) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::die_with_parent(command);
    let mut child = command.spawn().unwrap();
    let log = Log::default();
    log.follow(child.stdout.take().unwrap());
    log.follow(child.stderr.take().unwrap());
    (child, log)
}

pub(crate) fn end_of(child: &mut Child, limit: Duration, log: &Log) -> ExitStatus {
    let start = Instant::now();
    let status = wait_for("the proxy ends", limit + PATIENCE, || {
        match child.try_wait().unwrap() {
            None if start.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "the proxy should have ended within {limit:?}; it printed:\n{}",
                    log.text()
                )
            }
            outcome => outcome,
        }
    });
    log.settle();
    status
}

/// The longest time that a worker stood still, as its proxy has noticed.
fn stood_still(log: &str) -> Duration {
    let told = log
        .lines()
        .filter(|line| line.contains("\"event\":\"worker_stood_still\""));
    let millis = told.filter_map(|line| {
        let (_, rest) = line.split_once("\"ms\":")?;
        let digits = rest.trim_start_matches('"');
        let end = digits.find(|digit: char| !digit.is_ascii_digit())?;
        digits[..end].parse().ok()
    });
    Duration::from_millis(millis.max().unwrap_or(0))
}

// === impl Proxy ===

impl Proxy {
    /// A client of the data port.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.data)
    }

    /// A client that speaks RESP3.
    pub(crate) fn client3(&self) -> Client {
        let mut client = self.client();
        assert_eq!(
            client
                .ask("HELLO 3")
                .field("proto")
                .map(|proto| proto.text())
                .as_deref(),
            Some("3")
        );
        client
    }

    /// The address of a listener, by the name that it is announced with.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let line = self.log.line_after(&format!("listening {listener}="));
        line.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no listener {listener}"))
    }

    /// The config file that it was started with.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.file("preshard.toml")
    }

    /// A client of the admin port.
    pub(crate) fn admin_client(&self) -> Client {
        Client::connect(self.admin.expect("an admin listener"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        sys::resident_bytes(self.pid())
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// A fresh connection is served.
    pub(crate) fn assert_alive(&self, after: &str) {
        let reply = self.client().ask("PING");
        assert_eq!(reply, Reply::Simple("PONG".to_owned()), "after {after}");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) {
        sys::send_signal(self.pid(), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        sys::send_signal(self.pid(), libc::SIGCONT);
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        sys::send_signal(self.pid(), libc::SIGTERM);
    }

    /// SIGTERM and wait: its exit status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait(PATIENCE)
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        end_of(&mut self.child, limit, &self.log)
    }

    /// The sum of a metric over all its labels. A name that goes on behind `{` chooses among them.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, page) = self.http_get("/metrics");
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| name.contains('{') || rest.starts_with([' ', '{']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    /// Waits until a metric has this value: it is shown a moment after what it counts.
    pub(crate) fn await_metric(&self, name: &str, value: u64) {
        wait_for(&format!("{name} is {value}"), PATIENCE, || {
            (self.metric(name) == value).then_some(())
        });
    }

    /// A GET on the HTTP port: status and body.
    pub(crate) fn http_get(&self, path: &str) -> (u16, String) {
        let mut client = Client::connect(self.http);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes());
        let text = String::from_utf8_lossy(&client.until_closed()).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (
            status.unwrap_or_else(|| panic!("no HTTP status: {head:?}")),
            body.to_owned(),
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy printed:\n{}---", self.log.tail());
            return;
        }
        self.log.settle();
        let text = self.log.text();
        let told = |line: &&str| {
            line.contains("\"level\":\"WARN\"")
                || line.contains("\"level\":\"ERROR\"")
                || line.contains("panicked")
        };
        let announced = |line: &&str| {
            let events = &self.setup.announced;
            let busy = BUSY_EVENTS
                .iter()
                .any(|event| line.contains(&format!("\"event\":\"{event}\"")));
            // Who stood still blames nodes, and loses its lead.
            let any_warning = self.setup.any_warning || stood_still(&text) >= STOOD_STILL;
            let harmless = busy || any_warning && !line.contains("panicked") && !line.contains("move_died");
            harmless
                || events
                    .iter()
                    .any(|event| line.contains(&format!("\"event\":\"{event}\"")))
        };
        let surprise = text.lines().filter(told).find(|line| !announced(line));
        assert!(
            surprise.is_none(),
            "a warning that the test did not announce: {}",
            surprise.unwrap_or_default()
        );
    }
}
