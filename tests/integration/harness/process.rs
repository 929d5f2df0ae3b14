//! Temporary folders, and waiting for a condition with a deadline.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::sys;

/// How long a condition is waited for that becomes true in a moment: for a machine that is busy with other things. Whoever shows how
/// long something takes measures it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Some etcds and databases need as much at the same time.
const MEMORY_MIN: u64 = 4 << 30;

/// A temporary folder, gone when dropped (kept when the test failed, so that logs can be read).
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base().join(format!("preshard-{what}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Where temporary folders are: in memory if there is much of it, so that no test waits for a disk that others keep busy.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        if sys::free_bytes(&memory) >= MEMORY_MIN {
            memory
        } else {
            std::env::temp_dir()
        }
    })
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Waits until `condition` gives a value; panics with `what` after `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// Tells whoever looks at it to stop, also when the test fails on its way.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many bytes wait to be read at a listener's connections.
pub(crate) fn bytes_waiting_at(socket: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", socket.port());
    let rows = table.lines().skip(1).map(|line| line.split_whitespace());
    let rows = rows.map(Iterator::collect::<Vec<_>>);
    let queues = rows.filter(|fields| fields[1].ends_with(&port)).map(|fields| {
        let (_, waiting) = fields[4].split_once(':').unwrap();
        u64::from_str_radix(waiting, 16).unwrap()
    });
    queues.sum()
}
