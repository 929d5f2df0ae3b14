//! Ports for servers whose port is chosen before they start, of which no two are the same, whichever process of the test run
//! asks: a node that was killed comes back to a port that nobody took meanwhile, and whoever answers there is that node.
//!
//! A process takes whole blocks of ports, each by a locked file; the lock ends with the process. They lie below the range that
//! outgoing connections use.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::sys;

const PORTS: Range<u16> = 10_000..32_000;
const BLOCK: u16 = 50;
const BLOCKS: u16 = (PORTS.end - PORTS.start) / BLOCK;

/// What this process has taken, and what of it is left.
struct Taken {
    left: Range<u16>,
    locks: Vec<File>,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken {
    left: 0..0,
    locks: Vec::new(),
});

/// A port that no server listens on, and that is given to nobody else while this process lives.
pub(crate) fn free_port() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // What is not ours to give may sit in a block too.
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        if let Some(port) = taken.left.find(free) {
            return port;
        }
        let (block, lock) = next_block();
        taken.left = block;
        taken.locks.push(lock);
    }
}

/// The first block from a place drawn at random that no other process holds.
fn next_block() -> (Range<u16>, File) {
    let folder = folder();
    let first = fastrand::u16(..BLOCKS);
    for number in (0..BLOCKS).map(|step| (first + step) % BLOCKS) {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .append(true)
            .open(folder.join(number.to_string()));
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        // Held by this process too counts as held: a lock belongs to the opened file.
        if file.try_lock().is_ok() {
            let start = PORTS.start + number * BLOCK;
            return (start..start + BLOCK, file);
        }
    }
    panic!(
        "no free block of ports: {} files in {} are locked",
        BLOCKS,
        folder.display()
    );
}

/// One for each user, who may not write to another's.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("preshard-ports-{}", sys::user()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
