//! Processes that never outlive the run: killed on drop, and by the kernel if this process dies without dropping.
//!
//! Affinity, file limit and death signal are set by util-linux's small wrappers, each of which replaces itself by the
//! next (`setpriv` → `prlimit` → `taskset` → program), so the process id stays the one that was started.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// Open files that every process may have: 5,000 clients, as many connections to a node, and room.
const OPEN_FILES: u32 = 12_000;

/// Folders of runs are called this and the process id.
const FOLDER: &str = "preshard-bench-";

/// A folder of this run, removed at its end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// A running process, killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// Standard output and standard error. Files, since an unread pipe would block the process.
    pub(crate) output: PathBuf,
    pub(crate) errors: PathBuf,
}

// === impl Folder ===

impl Folder {
    pub(crate) fn create() -> Result<Self> {
        remove_left_folders();
        let path = std::env::temp_dir().join(format!("{FOLDER}{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it; the system cleans its temporary folder anyway.
        let _ignored = fs::remove_dir_all(&self.0);
    }
}

// === impl Process ===

impl Process {
    /// Starts `program args` on `core` (any, for none), its output in `<folder>/<name>.{out,err}`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        args: &[String],
        core: Option<usize>,
        folder: &Path,
    ) -> Result<Self> {
        let output = folder.join(format!("{name}.out"));
        let errors = folder.join(format!("{name}.err"));
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "prlimit",
            &format!("--nofile={OPEN_FILES}:"),
            "--",
        ]);
        if let Some(core) = core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command.arg(program).args(args).current_dir(folder);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?);
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start {name} through setpriv: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
            errors,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`, and fails with the end of the log if the process ends or the time runs out first.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!(
                    "{} ended ({status}) before it {what}:\n{}",
                    self.name,
                    self.log_end()
                )
                .into());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{} has not {what} within {limit:?}:\n{}",
                    self.name,
                    self.log_end()
                )
                .into());
            }
            pause();
        }
        Ok(())
    }

    /// Waits for the end, which has to come within `limit`.
    pub(crate) fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(
                    format!("{} did not end within {limit:?}:\n{}", self.name, self.log_end()).into(),
                );
            }
            pause();
        }
    }

    /// The last lines of what the process wrote.
    pub(crate) fn log_end(&self) -> String {
        let read =
            |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "\n");
        let text = read(&self.output) + &read(&self.errors);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended and been waited for.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Raises this process's own limit of open files: it holds the idle connections of the memory case itself.
pub(crate) fn raise_own_file_limit() -> Result<()> {
    let status = Command::new("prlimit")
        .args([
            &format!("--pid={}", std::process::id()),
            &format!("--nofile={OPEN_FILES}:"),
        ])
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("open files cannot be raised to {OPEN_FILES}; raise the hard limit (`ulimit -Hn`)").into())
}

/// Removes the folders of runs that were interrupted before they could.
fn remove_left_folders() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(FOLDER).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another user's folder cannot be removed; it harms nobody.
            let _ignored = fs::remove_dir_all(entry.path());
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The pause between two looks at a condition that no event announces.
#[allow(
    clippy::disallowed_methods,
    reason = "single-threaded tool that polls another process; no worker is blocked"
)]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
