//! A TCP relay between proxies and a node whose links can be cut, hang, be slow or give one byte at a time, all of them or those of
//! one kind.
//!
//! ```text
//!   proxies, the leader ──▶ link ──▶ node       what a link is for shows in its first requests: PSYNC, AUTH ps-a-…
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How the links are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Clear,
    /// Closed, and every new one too.
    Cut,
    /// Nothing comes through and nothing is closed; what was sent is lost, so the link is closed when it clears up.
    Hang,
    /// Each piece waits so long.
    Slow(Duration),
    /// One byte at a time.
    Dribble,
}

/// Which of the links suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    All,
    /// Those whose first requests hold these bytes.
    With(&'static str),
}

/// The relay; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: SocketAddr,
    weather: Mutex<(Weather, Option<Whose>)>,
    done: AtomicBool,
}

/// One connection: what it said first.
#[derive(Debug, Default)]
struct Said(Mutex<Vec<u8>>);

const FIRST: usize = 4096;
const LOOK: Duration = Duration::from_millis(5);
/// A read that has brought nothing by its time; or was paused, with its container.
const NOTHING_YET: [ErrorKind; 3] = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];

impl Link {
    pub(crate) fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            node,
            weather: Mutex::new((Weather::Clear, None)),
            done: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if accepting.done.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(node) = TcpStream::connect(accepting.node) {
                    accepting.connect(&proxy, &node);
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set(&self, weather: Weather, whose: Whose) {
        *self.shared.weather.lock().unwrap() = (weather, Some(whose));
    }

    pub(crate) fn clear(&self) {
        *self.shared.weather.lock().unwrap() = (Weather::Clear, None);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, proxy: &TcpStream, node: &TcpStream) {
        for stream in [proxy, node] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(LOOK)).unwrap();
        }
        let said = Arc::new(Said::default());
        for (from, to, requests) in [(proxy, node, true), (node, proxy, false)] {
            let (shared, said) = (Arc::clone(self), Arc::clone(&said));
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || {
                shared.pump(&from, &to, &said, requests);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    }

    fn weather(&self, said: &Said) -> Weather {
        let (weather, whose) = *self.weather.lock().unwrap();
        let suffers = match whose {
            None => false,
            Some(Whose::All) => true,
            Some(Whose::With(mark)) => {
                memchr::memmem::find(&said.0.lock().unwrap(), mark.as_bytes()).is_some()
            }
        };
        if suffers { weather } else { Weather::Clear }
    }

    /// Passes bytes on until one side ends, or the weather ends it.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, said: &Said, requests: bool) {
        let (mut chunk, mut lost) = ([0; 65536], false);
        while !self.done.load(Ordering::Relaxed) {
            let count = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if NOTHING_YET.contains(&error.kind()) => 0,
                Err(_) => return,
            };
            if requests {
                let mut said = said.0.lock().unwrap();
                let room = FIRST.saturating_sub(said.len()).min(count);
                said.extend_from_slice(&chunk[..room]);
            }
            let sent = match self.weather(said) {
                Weather::Cut => return,
                Weather::Clear if lost => return,
                Weather::Hang => {
                    lost |= count > 0;
                    continue;
                }
                Weather::Clear => to.write_all(&chunk[..count]),
                Weather::Slow(time) => {
                    let until = Instant::now() + time;
                    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|_| count > 0)
                    {
                        std::thread::park_timeout(left);
                    }
                    to.write_all(&chunk[..count])
                }
                Weather::Dribble => chunk[..count].iter().try_for_each(|byte| to.write_all(&[*byte])),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
