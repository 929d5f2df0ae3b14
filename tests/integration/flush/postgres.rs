//! A real Postgres in its own temporary folder, on a free port, gone with its `Postgres`.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{PATIENCE, Scratch, free_port, sys, wait_until};

/// A server; `kill` and `restart` keep its port and folder.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) port: u16,
    /// Certificate and key, if it speaks TLS.
    tls: Option<[PathBuf; 2]>,
    programs: PathBuf,
    owner: Option<Owner>,
    dir: Scratch,
    child: Option<Child>,
}

/// Whom it runs as where the tests are root, as whom it refuses to run.
#[derive(Debug, Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let mut postgres = Self::planned();
        postgres.restart();
        postgres
    }

    /// Its folder is made and its port chosen; nobody listens yet.
    pub(crate) fn planned() -> Self {
        let postgres = Self {
            port: free_port(),
            tls: None,
            programs: programs(),
            owner: owner(),
            dir: Scratch::new("postgres"),
            child: None,
        };
        if let Some(owner) = postgres.owner {
            let (user, group) = (Some(owner.user), Some(owner.group));
            std::os::unix::fs::chown(postgres.dir.path(), user, group).unwrap();
        }
        let mut initdb = postgres.command("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=app",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        initdb.arg("--pgdata").arg(postgres.data());
        let output = initdb.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "initdb: {output:?}");
        postgres
    }

    /// One that speaks TLS too, and asks for the password `secret` there. PEM of certificate and key.
    pub(crate) fn start_tls(certificate: &str, key: &str) -> Self {
        let mut postgres = Self::planned();
        let files = [("server.pem", certificate), ("server-key.pem", key)].map(|(name, pem)| {
            let path = postgres.dir.file(name);
            fs::write(&path, pem).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&path, mode).unwrap();
            if let Some(owner) = postgres.owner {
                std::os::unix::fs::chown(&path, Some(owner.user), Some(owner.group)).unwrap();
            }
            path
        });
        postgres.tls = Some(files);
        postgres.restart();
        postgres.sql("ALTER USER app PASSWORD 'secret'");
        let rules = "hostssl all all all scram-sha-256\nhostnossl all all all trust\n";
        fs::write(postgres.data().join("pg_hba.conf"), rules).unwrap();
        postgres.sql("SELECT pg_reload_conf()");
        postgres
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) fn restart(&mut self) {
        // What is left of a server that was killed may still hold its memory: the next one says so and ends.
        let mut child = self.spawn();
        wait_until("Postgres takes connections", Duration::from_secs(60), || {
            if child.try_wait().unwrap().is_some() {
                child = self.spawn();
            }
            self.try_sql("SELECT 1").is_ok()
        });
        self.child = Some(child);
    }

    fn spawn(&self) -> Child {
        let log = fs::File::create(self.dir.file("postgres.log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        let port = self.port.to_string();
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("fsync", "off"),
            ("shared_buffers", "32MB"),
            ("max_connections", "40"),
        ];
        let files = self
            .tls
            .as_ref()
            .map(|files| files.each_ref().map(|file| file.display().to_string()));
        if let Some([certificate, key]) = &files {
            settings.extend([
                ("ssl", "on"),
                ("ssl_cert_file", certificate),
                ("ssl_key_file", key),
            ]);
        }
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        sys::die_with_parent(&mut command);
        command.spawn().unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.file("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some(owner) = self.owner {
            command
                .uid(owner.user)
                .gid(owner.group)
                .current_dir(self.dir.path());
        }
        command
    }

    /// As `postgres = …` wants it.
    pub(crate) fn address(&self) -> String {
        format!("postgres://app@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL: what it answers, fields parted by `|`, rows by line breaks.
    pub(crate) fn sql(&self, text: &str) -> String {
        self.try_sql(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    pub(crate) fn try_sql(&self, text: &str) -> Result<String, String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", text]);
        psql.arg(format!("{}?sslmode=disable&connect_timeout=5", self.address()));
        let output = psql.stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A session that does this in a transaction and stays in it.
    pub(crate) fn hold(&self, text: &str) -> Child {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-c", &format!("BEGIN; {text}; SELECT pg_sleep(600)")]);
        psql.arg(format!("{}?sslmode=disable", self.address()));
        psql.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::die_with_parent(&mut psql);
        let holder = psql.spawn().unwrap();
        wait_until("it stays in its transaction", PATIENCE, || {
            self.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 1
        });
        holder
    }

    /// Ends it.
    pub(crate) fn release(&self, holder: &mut Child) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
        holder.wait().unwrap();
    }

    /// A number.
    pub(crate) fn number(&self, text: &str) -> i64 {
        let found = self.sql(text);
        found
            .parse()
            .unwrap_or_else(|_| panic!("{text}: no number: {found:?}"))
    }

    /// SIGKILL of the server; what it started ends by itself.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("Postgres runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The fast shutdown: what is open is rolled back.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("Postgres runs");
        sys::send_signal(child.id(), libc::SIGINT);
        wait_until("Postgres ends", PATIENCE, || child.try_wait().unwrap().is_some());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The immediate shutdown, so that no process of it outlives the test.
            sys::send_signal(child.id(), libc::SIGQUIT);
            let _ = child.wait();
        }
    }
}

/// The folder of `initdb`, `postgres` and `psql`: where `PATH` has them, or where Debian puts its newest.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    folders.splice(0..0, versions.into_iter().rev().map(|(_, folder)| folder));
    let all = |folder: &Path| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| folder.join(name).exists())
    };
    folders
        .into_iter()
        .find(|folder| all(folder))
        .expect("no Postgres here. Run ./setup.sh, which installs what is missing")
}

/// `postgres`, or else `nobody`; none if the tests are not root.
fn owner() -> Option<Owner> {
    // Its own folder tells whose process this is.
    let own = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").ok()?);
    if own != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let fields = users.lines().map(fields).find(|fields| fields[0] == name)?;
        Some(Owner {
            user: fields[2].parse().ok()?,
            group: fields[3].parse().ok()?,
        })
    };
    find("postgres").or_else(|| find("nobody"))
}
