//! A TCP shim that stops the world at one message: it passes bytes on, until a request holds the marker it was armed with.
//!
//! ```text
//!   flusher ──requests──▶ shim ──▶ proxy, Postgres        Before: the request waits in the shim
//!   flusher ◀──replies─── shim ◀── proxy, Postgres        After: it passes, and no reply does any more
//! ```
//!
//! So a process can be killed or stopped at an exact point, without a hook in it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::harness::{PATIENCE, wait_until};

/// Which message of an exchange does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The request.
    Before,
    /// Its reply.
    After,
}

/// The shim; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    armed: Option<(Vec<u8>, Hold)>,
    /// The point that it was last armed with has been reached.
    reached: bool,
    /// Counts up with each release: who waits for a greater one waits no more.
    released: u32,
    open: Vec<(TcpStream, TcpStream)>,
    done: bool,
}

// === impl Shim ===

impl Shim {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                armed: None,
                reached: false,
                released: 0,
                open: Vec::new(),
                done: false,
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.state.lock().unwrap().done {
                    return;
                }
                if let Ok(server) = TcpStream::connect(target) {
                    accepting.connect(client, server);
                }
            }
        });
        Self { address, shared }
    }

    /// The next request that holds `marker` is stopped.
    pub(crate) fn arm(&self, marker: &str, hold: Hold) {
        let mut state = self.shared.state.lock().unwrap();
        state.armed = Some((marker.as_bytes().to_vec(), hold));
        state.reached = false;
    }

    /// Waits until the point has been reached, and everything before it has arrived.
    pub(crate) fn await_strike(&self) {
        wait_until("the flusher reaches the point", PATIENCE, || {
            self.shared.state.lock().unwrap().reached
        });
    }

    /// What was held passes on.
    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().released += 1;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections; what was held is lost.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.state.lock().unwrap();
        for (client, server) in state.open.drain(..) {
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        }
        state.released += 1;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().done = true;
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

// === impl Shared ===

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        // Whether replies of this connection are held, and since which release.
        let held = Arc::new(Mutex::new(None));
        let (requests, replies) = (Arc::clone(self), Arc::clone(self));
        let (from, to, mark) = (clone(&client), clone(&server), Arc::clone(&held));
        std::thread::spawn(move || requests.pump_requests(&from, &to, &mark));
        let (from, to) = (clone(&server), clone(&client));
        std::thread::spawn(move || replies.pump_replies(&from, &to, &held));
        self.state.lock().unwrap().open.push((client, server));
    }

    fn pump_requests(&self, mut client: &TcpStream, mut server: &TcpStream, held: &Mutex<Option<u32>>) {
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = client.read(&mut chunk) {
            let mut state = self.state.lock().unwrap();
            let strikes =
                |(marker, _): &(Vec<u8>, Hold)| memchr::memmem::find(&chunk[..count], marker).is_some();
            let release = state.released;
            match state.armed.take_if(|armed| strikes(armed)) {
                Some((_, Hold::Before)) => {
                    state.reached = true;
                    let waiting = self.changed.wait_while(state, |state| state.released == release);
                    state = waiting.unwrap();
                }
                Some((_, Hold::After)) => *held.lock().unwrap() = Some(release),
                None => {}
            }
            drop(state);
            if server.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        part(client, server);
    }

    fn pump_replies(&self, mut server: &TcpStream, mut client: &TcpStream, held: &Mutex<Option<u32>>) {
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = server.read(&mut chunk) {
            let since = held.lock().unwrap().take();
            if let Some(release) = since {
                let mut state = self.state.lock().unwrap();
                state.reached = true;
                drop(
                    self.changed
                        .wait_while(state, |state| state.released == release)
                        .unwrap(),
                );
            }
            if client.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        part(client, server);
    }
}

fn part(client: &TcpStream, server: &TcpStream) {
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}
