//! What the demo starts ends with the demo: on drop, and through the kernel if the demo dies without dropping.
//!
//! ```text
//!  Ctrl-C, SIGTERM ─▶ Stop (a flag that every wait looks at) ─▶ the story returns ─▶ Process::drop kills and reaps
//!  SIGKILL ─────────▶ setpriv --pdeathsig asked the kernel to kill the children (Linux with util-linux)
//! ```
//!
//! Children have process groups of their own, so that Ctrl-C reaches the demo alone and it ends them in order.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

/// The pause between two looks at what no event announces.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of a log that a failure shows.
const LOG_LINES: usize = 15;

/// Whether somebody asked the demo to end.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

/// A folder of this run, removed at its end.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// A child, killed on drop. It writes to files, since an unread pipe would block it.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    pub(super) output: PathBuf,
    errors: PathBuf,
}

/// How children are started: through `setpriv` where it knows how to tie them to us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Starter {
    dies_with_us: bool,
}

// === impl Stop ===

impl Stop {
    /// Listens to SIGINT and SIGTERM from here on.
    pub(super) fn listen() -> io::Result<Self> {
        let stop = Self(Arc::new(AtomicBool::new(false)));
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let (flag, waiting) = (stop.clone(), thread::current());
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            flag.ask(&waiting);
        })?;
        Ok(stop)
    }

    fn ask(&self, waiting: &Thread) {
        self.0.store(true, SeqCst);
        waiting.unpark();
    }

    pub(super) fn asked(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// # Errors
    /// When the demo is asked to end.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.asked() {
            Err(Failure::Stopped)
        } else {
            Ok(())
        }
    }
}

// === impl Folder ===

impl Folder {
    pub(super) fn create() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("preshard-demo-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it; the system cleans its temporary folder anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

// === impl Starter ===

impl Starter {
    pub(super) fn new() -> Self {
        let mut probe = Command::new("setpriv");
        probe
            .args(["--pdeathsig", "KILL", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            dies_with_us: probe.status().is_ok_and(|status| status.success()),
        }
    }

    /// Starts `program` in `folder`. Its path is used as it stands: Debian's redis-server is a link whose name decides
    /// what the program is.
    pub(super) fn start(
        self,
        name: &str,
        program: &OsStr,
        args: &[OsString],
        folder: &Path,
    ) -> Result<Process, Failure> {
        let (output, errors) = (
            folder.join(format!("{name}.out")),
            folder.join(format!("{name}.err")),
        );
        let mut command = if self.dies_with_us {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(args)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::null());
        command
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?);
        // The demo says what it runs; settings of another proxy must not reach this one.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PRESHARD__"))
        {
            command.env_remove(key);
        }
        let child = command.spawn().map_err(|error| {
            Failure::Broken(format!("cannot start {}: {error}", program.to_string_lossy()))
        })?;
        Ok(Process {
            name: name.to_owned(),
            child,
            output,
            errors,
        })
    }
}

// === impl Process ===

impl Process {
    /// Waits until `ready` has a value.
    ///
    /// # Errors
    /// The process ended first, the time ran out (both with the end of its log), or the demo is asked to end.
    pub(super) fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        stop: &Stop,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            stop.check()?;
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure::Broken(format!(
                    "{} ended ({status}) before it {what}:\n{}",
                    self.name,
                    self.log_end()
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::Broken(format!(
                    "{} has not {what} within {limit:?}:\n{}",
                    self.name,
                    self.log_end()
                )));
            }
            thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end (SIGTERM) and waits. None if it does not within `limit`; then it is killed.
    pub(super) fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        let asked = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        if asked.is_ok_and(|status| status.success()) {
            let deadline = Instant::now() + limit;
            while Instant::now() < deadline {
                if let Some(status) = self.ended() {
                    return Some(status);
                }
                thread::park_timeout(LOOK_EVERY);
            }
        }
        self.kill();
        None
    }

    fn kill(&mut self) {
        // Both fail only if the process has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn log_end(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let text = read(&self.output) + &read(&self.errors);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
