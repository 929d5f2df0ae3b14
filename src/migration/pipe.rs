//! The one connection that writes to the target: requests go out within a window, replies come back and are judged.
//!
//! ```text
//!  Frames ─▶ Pipe::write ──(unanswered < window)──▶ target
//!               │ batch: its last request, the stream's offset behind it
//!               ▼
//!            Flight ◀── answers ── PipeReader ◀──── target        an offset counts as applied once everything up to it
//!                                                                 is answered, and nothing with an error
//! ```

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::CopyError;
use super::judge::Judge;
use super::link::cut;
use super::plan::Endpoint;
use super::probe::connect;
use super::state::{Shared, Writer};
use crate::control::client::{Socket, open};
use crate::rdb::Frames;
use crate::resp::write_request;

/// Written at a time; each has the deadline for itself.
const SLICE: usize = 64 * 1024;
/// A buffer that has grown beyond this for one large value is given up.
const BUFFER_MAX: usize = 4 * 1024 * 1024;

/// Where the stream is behind a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) received_ms: i64,
}

#[derive(Debug)]
struct Batch {
    /// Requests up to its end, since the beginning.
    requests: u64,
    bytes: usize,
    place: Option<Place>,
}

/// What was sent and is not answered.
#[derive(Debug, Default)]
struct Flight {
    batches: VecDeque<Batch>,
    answered: u64,
}

#[derive(Debug)]
struct Common {
    shared: Arc<Shared>,
    flight: Mutex<Flight>,
    /// Unanswered bytes.
    in_flight: watch::Sender<usize>,
}

/// The writing side.
pub(super) struct Pipe {
    socket: WriteHalf<Box<dyn Socket>>,
    common: Arc<Common>,
    in_flight: watch::Receiver<usize>,
    silence: Duration,
    /// When the rate lets more through.
    allowed: Instant,
}

/// The reading side.
pub(super) struct PipeReader {
    socket: ReadHalf<Box<dyn Socket>>,
    common: Arc<Common>,
    silence: Duration,
}

fn lost(error: impl ToString) -> CopyError {
    CopyError::Target(error.to_string())
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe")
            .field("common", &self.common)
            .finish_non_exhaustive()
    }
}

/// Connects to the target, and registers the connection as one that writes.
pub(super) async fn open_pipe(
    target: &Endpoint,
    run_id: &str,
    shared: &Arc<Shared>,
) -> Result<(Pipe, PipeReader), CopyError> {
    let silence = shared.limits.silence;
    let opened = timeout(silence, open(&target.address, target.credentials.tls.as_ref())).await;
    let mut socket = opened
        .map_err(|_| CopyError::TargetSilent(silence))?
        .map_err(lost)?;
    let mut hello = Vec::new();
    let mut lines = 1;
    if let Some(password) = &target.credentials.password {
        let password = password.reveal().as_bytes();
        match &target.credentials.username {
            Some(user) => write_request(&mut hello, &[&b"AUTH"[..], user.as_bytes(), password]),
            None => write_request(&mut hello, &[&b"AUTH"[..], password]),
        }
        lines += 1;
    }
    if let Some(signature) = &target.signature {
        write_request(
            &mut hello,
            &[&b"CLIENT"[..], b"SETNAME", signature.name.as_bytes()],
        );
        lines += 1;
    }
    write_request(&mut hello, &[&b"CLIENT"[..], b"ID"]);
    let answered = timeout(silence, greet(&mut socket, &hello, lines)).await;
    let id = answered.map_err(|_| CopyError::TargetSilent(silence))??;
    if target.signature.is_some() {
        // It has its name by now. Whoever has taken over since then is found here, or closes it.
        drop(connect(target, silence).await.map_err(CopyError::of_target)?);
    }
    shared.add_writer(Writer {
        run_id: run_id.to_owned(),
        id,
    });
    shared.in_flight.store(0, Ordering::SeqCst);
    let (reading, writing) = tokio::io::split(socket);
    let (sender, in_flight) = watch::channel(0);
    let common = Arc::new(Common {
        shared: Arc::clone(shared),
        flight: Mutex::default(),
        in_flight: sender,
    });
    let pipe = Pipe {
        socket: writing,
        common: Arc::clone(&common),
        in_flight,
        silence,
        allowed: Instant::now(),
    };
    let reader = PipeReader {
        socket: reading,
        common,
        silence,
    };
    Ok((pipe, reader))
}

/// Sends the login and reads so many lines: the last is the connection's number.
async fn greet(socket: &mut Box<dyn Socket>, hello: &[u8], lines: usize) -> Result<i64, CopyError> {
    socket.write_all(hello).await.map_err(lost)?;
    socket.flush().await.map_err(lost)?;
    let mut read = Vec::new();
    while memchr::memchr_iter(b'\n', &read).count() < lines {
        if socket.read_buf(&mut read).await.map_err(lost)? == 0 || read.len() > SLICE {
            return Err(lost("it closed the connection"));
        }
    }
    let text = String::from_utf8_lossy(&read);
    if let Some(refused) = text.lines().find_map(|line| line.strip_prefix('-')) {
        return Err(lost(format!("it answered: {}", cut(refused))));
    }
    let id = text.lines().last().and_then(|line| line.strip_prefix(':'));
    id.and_then(|id| id.parse().ok())
        .ok_or_else(|| lost("its answer is not what a Redis server answers"))
}

impl Common {
    /// Takes down what was answered.
    fn settle(&self, flight: &mut Flight) {
        let (mut place, mut bytes) = (None, 0);
        while let Some(batch) = flight.batches.front() {
            if batch.requests > flight.answered {
                break;
            }
            place = batch.place.or(place);
            bytes += batch.bytes;
            flight.batches.pop_front();
        }
        if bytes > 0 {
            self.in_flight.send_modify(|in_flight| *in_flight -= bytes);
            self.shared.in_flight.fetch_sub(bytes, Ordering::SeqCst);
        }
        let oldest = flight.batches.iter().find_map(|batch| batch.place);
        let since = oldest.map_or(0, |oldest| oldest.received_ms);
        self.shared.waiting_since_ms.store(since, Ordering::Relaxed);
        if let Some(place) = place {
            self.shared
                .note(|progress| progress.applied_offset = place.offset);
        }
    }

    fn flight(&self) -> std::sync::MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    /// Writes what there is once the window has room, and notes where the stream is behind it.
    pub(super) async fn write(&mut self, frames: &mut Frames, place: Option<Place>) -> Result<(), CopyError> {
        let bytes = frames.len();
        if bytes > 0 {
            let shared = &self.common.shared;
            let has_room = |in_flight: &usize| *in_flight < shared.window.load(Ordering::Relaxed).max(1);
            // Whoever reads the replies ends the attempt when none come.
            let _ = self.in_flight.wait_for(has_room).await;
        }
        {
            let mut flight = self.common.flight();
            flight.batches.push_back(Batch {
                requests: frames.requests(),
                bytes,
                place,
            });
            self.common.in_flight.send_modify(|in_flight| *in_flight += bytes);
            self.common.shared.in_flight.fetch_add(bytes, Ordering::SeqCst);
            // No reply may be due: there are no requests in it, or only a piece of one.
            self.common.settle(&mut flight);
        }
        for slice in frames.as_bytes().chunks(SLICE) {
            let writing = async {
                self.socket.write_all(slice).await?;
                self.socket.flush().await
            };
            timeout(self.silence, writing)
                .await
                .map_err(|_| CopyError::TargetSilent(self.silence))?
                .map_err(lost)?;
        }
        if bytes > BUFFER_MAX {
            drop(frames.take());
        } else {
            frames.clear();
        }
        Ok(())
    }

    /// As [`Pipe::write`], no faster than the rate.
    pub(super) async fn write_slowly(&mut self, frames: &mut Frames) -> Result<(), CopyError> {
        if let Some(rate) = self.common.shared.limits.rate_bytes_per_s {
            sleep_until(self.allowed).await;
            // Whoever could not write for a while does not catch up.
            let begin = self.allowed.max(Instant::now() - Duration::from_millis(50));
            self.allowed = begin + Duration::from_secs_f64(frames.len() as f64 / rate.max(1) as f64);
        }
        self.write(frames, None).await
    }

    /// Waits until everything is answered.
    pub(super) async fn answered(&mut self) {
        let _ = self.in_flight.wait_for(|in_flight| *in_flight == 0).await;
    }
}

impl PipeReader {
    /// Reads replies until the connection fails, the target is silent, or an error comes.
    pub(super) async fn read(mut self) -> CopyError {
        let (mut judge, mut read) = (Judge::default(), Vec::with_capacity(SLICE));
        // Since when it has been seen that something is unanswered.
        let mut waiting: Option<Instant> = None;
        loop {
            read.clear();
            match timeout(self.silence / 4, self.socket.read_buf(&mut read)).await {
                Err(_) if *self.common.in_flight.borrow() == 0 => waiting = None,
                Err(_) => {
                    let since = *waiting.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.silence {
                        return CopyError::TargetSilent(self.silence);
                    }
                }
                Ok(Ok(0)) => return lost("it closed the connection"),
                Ok(Err(error)) => return lost(error),
                Ok(Ok(_)) => {
                    waiting = None;
                    let Ok(replies) = judge.feed(&read) else {
                        return lost("its answer is not what a Redis server answers");
                    };
                    // What follows an error does not count: it was done to something else than the source has.
                    if let Some(error) = judge.error() {
                        return CopyError::TargetRefused(error.to_owned());
                    }
                    let mut flight = self.common.flight();
                    flight.answered += replies;
                    self.common.settle(&mut flight);
                }
            }
        }
    }
}
