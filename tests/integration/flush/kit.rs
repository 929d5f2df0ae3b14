//! What the tests of the flusher stand on: a flusher as a process, a table to count in, and who counts.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use super::postgres::Postgres;
use crate::harness::{Client, Log, Reply, Scratch, end_of, spawn, sys, wait_until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a flusher is started with.
#[derive(Debug, Clone)]
pub(crate) struct Flush {
    pub(crate) redis: String,
    pub(crate) postgres: String,
    pub(crate) source: &'static str,
    pub(crate) lease: &'static str,
    pub(crate) every: &'static str,
    pub(crate) count: u32,
    pub(crate) workers: u32,
    /// Lines of the file's head.
    pub(crate) more: String,
    /// The `[[counter]]` tables.
    pub(crate) counters: String,
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Flusher {
    child: Child,
    log: Log,
    _dir: Arc<Scratch>,
}

/// The whole request, as Postgres's protocol ends it.
pub(crate) const COMMIT: &str = "COMMIT\0";

pub(crate) const EVENTS: &str = "[[counter]]\nname = \"events\"\nmember = \"text\"\nsql = \"\"\"INSERT INTO event AS e (id, n) \
    SELECT member, delta FROM delta ON CONFLICT (id) DO UPDATE SET n = e.n + EXCLUDED.n\"\"\"\n";

// === impl Flush ===

impl Flush {
    /// Of the counter `events` into the table of [`prepare`]; leases are short, so that what died comes back soon.
    pub(crate) fn new(redis: SocketAddr, postgres: &Postgres) -> Self {
        Self {
            redis: format!("redis://{redis}"),
            postgres: postgres.address(),
            source: "main",
            lease: "600ms",
            every: "0",
            count: 1000,
            workers: 1,
            more: String::new(),
            counters: EVENTS.to_owned(),
        }
    }

    pub(crate) fn toml(&self) -> String {
        let mut text = format!(
            "redis = \"{}\"\npostgres = \"{}\"\nsource = \"{}\"\nlease = \"{}\"\nevery = \"{}\"\ncount = {}\nworkers = {}\n",
            self.redis, self.postgres, self.source, self.lease, self.every, self.count, self.workers
        );
        write!(
            text,
            "metrics = \"127.0.0.1:0\"\n{}\n{}",
            self.more, self.counters
        )
        .unwrap();
        text
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(&self, arguments: &[&str]) -> Flusher {
        let dir = Arc::new(Scratch::new("flush"));
        let config = dir.file("flush.toml");
        std::fs::write(&config, self.toml()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_preshard"));
        command.arg("flush").arg("--config").arg(&config).args(arguments);
        let (child, log) = spawn(&mut command);
        Flusher {
            child,
            log,
            _dir: dir,
        }
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn start(&self) -> Flusher {
        let mut flusher = self.launch(&[]);
        wait_until("the flusher is ready", PATIENCE, || {
            if let Some(status) = flusher.child.try_wait().unwrap() {
                panic!("the flusher ended with {status}:\n{}", flusher.log.text());
            }
            flusher.log.text().lines().any(|line| line == "ready")
        });
        flusher
    }

    /// Runs it to its end: exit status and all it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut flusher = self.launch(arguments);
        let status = end_of(&mut flusher.child, PATIENCE, &flusher.log);
        (status.code(), flusher.log.text())
    }
}

// === impl Flusher ===

impl Flusher {
    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn freeze(&self) {
        sys::send_signal(self.child.id(), libc::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        sys::send_signal(self.child.id(), libc::SIGCONT);
    }

    pub(crate) fn terminate(&self) {
        sys::send_signal(self.child.id(), libc::SIGTERM);
    }

    /// SIGTERM and wait.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        end_of(&mut self.child, PATIENCE, &self.log)
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// The sum of a metric over all its labels; a name that goes on behind `{` chooses among them.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let address = self.log.line_after("listening http=").expect("an HTTP port");
        let mut client = Client::connect(address.parse().unwrap());
        client.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let page = String::from_utf8_lossy(&client.until_closed()).into_owned();
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| name.contains('{') || rest.starts_with([' ', '{']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- a flusher printed:\n{}---", self.log.tail());
        }
    }
}

/// Makes the two tables of the flusher, as it says itself, and the table to count in.
pub(crate) fn prepare(postgres: &Postgres) {
    let output = Command::new(env!("CARGO_BIN_EXE_preshard"))
        .args(["flush", "--init-sql"])
        .output()
        .unwrap();
    assert!(output.status.success());
    postgres.sql(&String::from_utf8(output.stdout).unwrap());
    postgres.sql("CREATE TABLE event (id text PRIMARY KEY, n bigint NOT NULL)");
}

/// Counts: so many members, each by `delta`. All of it is acknowledged, or the test ends.
pub(crate) fn count(client: &mut Client, members: std::ops::Range<u32>, delta: i64) -> i64 {
    assert!(members.end <= MEMBERS_MAX);
    let mut sum = 0;
    for member in members {
        client
            .call(&[
                "COUNTER.INCR",
                "events",
                &format!("m{member}"),
                &delta.to_string(),
            ])
            .int();
        sum += delta;
    }
    sum
}

/// What Postgres has.
pub(crate) fn sum(postgres: &Postgres) -> i64 {
    postgres.number("SELECT coalesce(sum(n), 0) FROM event")
}

/// The members that [`count`] may use.
const MEMBERS_MAX: u32 = 100;

/// What has been counted and not been acknowledged by a flusher.
pub(crate) fn pending(client: &mut Client) -> i64 {
    let members: Vec<String> = (0..MEMBERS_MAX).map(|member| format!("m{member}")).collect();
    let words = ["COUNTER.MGET", "events"]
        .into_iter()
        .chain(members.iter().map(String::as_str));
    let counts = client.call(&words.collect::<Vec<_>>());
    let number = |reply: &Reply| match reply {
        Reply::Int(number) => Some(*number),
        _ => None,
    };
    // What cannot be asked is not known to be drained.
    let counts: Option<Vec<i64>> = counts.items().iter().map(number).collect();
    counts.map_or(i64::MAX, |counts| counts.iter().sum())
}

/// Waits until nothing is left in preshard, and compares what Postgres has with what was counted.
pub(crate) fn assert_drained(client: &mut Client, postgres: &Postgres, counted: i64, after: &str) {
    wait_until(&format!("all is flushed after: {after}"), PATIENCE, || {
        pending(client) == 0
    });
    assert_eq!(sum(postgres), counted, "after: {after}");
}
