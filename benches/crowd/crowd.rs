//! The crowd: clients that wait, clients that listen, and the publisher. It lives on a thread of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::process::pause;
use crate::rig::Rig;
use crate::{CROWD, Phase, Result};

/// Each message has 64 bytes, and with its frame so many.
const PAYLOAD: usize = 64;
/// Publishes that are under way at once at full speed.
const DEPTH: usize = 8;

/// A crowd that is there; gone when dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    port: u16,
    heard: Arc<AtomicU64>,
    leave: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// A publisher that works.
#[derive(Debug)]
pub(crate) struct Publisher(JoinHandle<Result<u64>>);

fn message_bytes() -> usize {
    format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${PAYLOAD}\r\n\r\n").len() + PAYLOAD
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Crowd {
    /// Connects all of them, and waits until all subscriptions are confirmed.
    pub(crate) fn gather(rig: &Rig) -> Result<Self> {
        let (heard, port) = (Arc::new(AtomicU64::new(0)), rig.port);
        let (leave, left) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let counter = Arc::clone(&heard);
        let thread = std::thread::spawn(move || -> Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut waiting = Vec::new();
                let mut listening = JoinSet::new();
                for number in 0..CROWD {
                    let mut stream = connect(port).await?;
                    let key = format!("waiting:{number}");
                    let request = format!("*3\r\n$5\r\nBLPOP\r\n${}\r\n{key}\r\n$1\r\n0\r\n", key.len());
                    stream.write_all(request.as_bytes()).await?;
                    waiting.push(stream);
                    let mut stream = connect(port).await?;
                    stream
                        .write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n")
                        .await?;
                    let mut confirmed = vec![0; b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n".len()];
                    stream.read_exact(&mut confirmed).await?;
                    listening.spawn(listen(stream, Arc::clone(&counter)));
                }
                let _ = ready.send(());
                let _ = left.await;
                Ok(())
            })
        });
        let crowd = Self {
            port,
            heard,
            leave: Some(leave),
            thread: Some(thread),
        };
        is_ready.recv().map_err(|_| "the crowd could not connect")?;
        Ok(crowd)
    }

    /// Messages that were received, by all.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed) / message_bytes() as u64
    }

    pub(crate) fn await_heard(&self, count: u64) -> Result<()> {
        let start = Instant::now();
        while self.heard() < count {
            if start.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} of {count} messages came", self.heard()).into());
            }
            pause();
        }
        Ok(())
    }

    /// Publishes for `length` as the phase says.
    pub(crate) fn publish(&self, phase: Phase, length: Duration) -> Result<Publisher> {
        let port = self.port;
        Ok(Publisher(std::thread::Builder::new().spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let stream = connect(port).await?;
                match phase {
                    Phase::Alone | Phase::Standing => Ok(0),
                    Phase::Rate(rate) => publish(stream, 1, Duration::from_secs(1) / rate, length).await,
                    Phase::FullSpeed => publish(stream, DEPTH, Duration::ZERO, length).await,
                }
            })
        })?))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("the crowd: {error}");
        }
    }
}

impl Publisher {
    /// Waits for its end: the number of messages.
    pub(crate) fn end(self) -> Result<u64> {
        self.0.join().map_err(|_| "the publisher panicked")?
    }
}

async fn listen(mut stream: TcpStream, heard: Arc<AtomicU64>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        heard.fetch_add(count as u64, Relaxed);
    }
}

/// Publishes `depth` messages at a time, one such batch each `pace`.
async fn publish(mut stream: TcpStream, depth: usize, pace: Duration, length: Duration) -> Result<u64> {
    let one = format!(
        "*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n${PAYLOAD}\r\n{}\r\n",
        "x".repeat(PAYLOAD)
    );
    let (batch, wanted) = (one.repeat(depth), format!(":{CROWD}\r\n").repeat(depth));
    let (start, mut published) = (tokio::time::Instant::now(), 0);
    let mut reply = vec![0; wanted.len()];
    while start.elapsed() < length {
        stream.write_all(batch.as_bytes()).await?;
        stream.read_exact(&mut reply).await?;
        if reply != wanted.as_bytes() {
            return Err(format!("PUBLISH answered {:?}", String::from_utf8_lossy(&reply)).into());
        }
        published += depth;
        let due = start + pace * u32::try_from(published / depth)?;
        if due > tokio::time::Instant::now() {
            tokio::time::sleep_until(due).await;
        }
    }
    Ok(published as u64)
}
