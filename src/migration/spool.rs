//! The stream that waits: a bounded part in memory, the rest in files without a name, bounded too.
//!
//! ```text
//!  push ─▶ tail ──256 KiB──▶ files ──256 KiB──▶ ram ─▶ pop        while anything waits outside of memory
//!  push ──────────────────────────────────────▶ ram ─▶ pop        otherwise
//! ```
//!
//! A file is unlinked as soon as it is open: nothing stays behind, whatever happens to this process.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::task::spawn_blocking;

use super::error::CopyError;
use super::plan::CopyLimits;

/// Bytes of the stream that came together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// When, in milliseconds since 1970 by this machine's clock.
    pub(super) received_ms: i64,
    pub(super) bytes: Vec<u8>,
}

/// First in, first out.
#[derive(Debug)]
pub(super) struct Spool {
    inner: Mutex<Inner>,
    arrived: Notify,
    limits: CopyLimits,
}

#[derive(Debug, Default)]
struct Inner {
    ram: VecDeque<Chunk>,
    ram_bytes: usize,
    files: VecDeque<Segment>,
    /// Bytes in files that were not read back.
    file_bytes: u64,
    tail: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    read: u64,
    written: u64,
}

/// What a chunk costs beside its bytes.
const OVERHEAD: usize = 64;
/// Chunks of the same moment are put together up to this size.
const CHUNK_MAX: usize = 64 * 1024;
/// Read and written at a time.
const BLOCK: usize = 256 * 1024;
/// A file is given up when it was read; so it must not be too large.
const SEGMENT: u64 = 64 * 1024 * 1024;
/// Length and moment.
const HEAD: usize = 12;

impl Spool {
    pub(super) fn new(limits: CopyLimits) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Notify::new(),
            limits,
        }
    }

    /// Takes what has come.
    pub(super) async fn push(&self, received_ms: i64, bytes: &[u8]) -> Result<(), CopyError> {
        let mut inner = self.inner.lock().await;
        if inner.is_in_memory() && inner.ram_bytes + bytes.len() + OVERHEAD <= self.limits.spool_memory {
            inner.keep(received_ms, bytes);
        } else {
            inner.encode(received_ms, bytes);
            if inner.tail.len() >= BLOCK {
                inner.spill(&self.limits).await?;
            }
        }
        drop(inner);
        self.arrived.notify_one();
        Ok(())
    }

    /// The oldest, if anything waits. For one reader.
    pub(super) async fn pop(&self) -> Result<Option<Chunk>, CopyError> {
        let mut inner = self.inner.lock().await;
        if inner.ram.is_empty() {
            inner.refill().await?;
        }
        let chunk = inner.ram.pop_front();
        if let Some(chunk) = &chunk {
            inner.ram_bytes -= chunk.bytes.len() + OVERHEAD;
        }
        Ok(chunk)
    }

    /// Waits until something has come since the last time.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Inner {
    fn is_in_memory(&self) -> bool {
        self.files.is_empty() && self.tail.is_empty()
    }

    fn keep(&mut self, received_ms: i64, bytes: &[u8]) {
        match self.ram.back_mut() {
            Some(last) if last.received_ms == received_ms && last.bytes.len() + bytes.len() <= CHUNK_MAX => {
                last.bytes.extend_from_slice(bytes);
                self.ram_bytes += bytes.len();
            }
            _ => {
                self.ram_bytes += bytes.len() + OVERHEAD;
                self.ram.push_back(Chunk {
                    received_ms,
                    bytes: bytes.to_vec(),
                });
            }
        }
    }

    fn encode(&mut self, received_ms: i64, bytes: &[u8]) {
        for part in bytes.chunks(CHUNK_MAX) {
            // A part has at most 64 KiB.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.tail.extend_from_slice(&length.to_le_bytes());
            self.tail.extend_from_slice(&received_ms.to_le_bytes());
            self.tail.extend_from_slice(part);
        }
    }

    /// Writes the tail to the newest file.
    async fn spill(&mut self, limits: &CopyLimits) -> Result<(), CopyError> {
        let block = std::mem::take(&mut self.tail);
        let length = block.len() as u64;
        if self.file_bytes + length > limits.spool_max {
            return Err(CopyError::SpoolFull(limits.spool_max));
        }
        if self.files.back().is_none_or(|last| last.written >= SEGMENT) {
            let folder = limits.spool_dir.clone();
            let file = blocking(move || nameless(&folder)).await?;
            self.files.push_back(Segment {
                file: Arc::new(file),
                read: 0,
                written: 0,
            });
        }
        if let Some(last) = self.files.back_mut() {
            let (file, at) = (Arc::clone(&last.file), last.written);
            blocking(move || file.write_all_at(&block, at)).await?;
            last.written += length;
            self.file_bytes += length;
        }
        Ok(())
    }

    /// Brings the oldest of what is not in memory there.
    async fn refill(&mut self) -> Result<(), CopyError> {
        let Some(first) = self.files.front_mut() else {
            let tail = std::mem::take(&mut self.tail);
            self.decode(&tail);
            return Ok(());
        };
        let (file, at) = (Arc::clone(&first.file), first.read);
        let wanted = usize::try_from(first.written - at)
            .unwrap_or(usize::MAX)
            .min(BLOCK);
        let block = blocking(move || {
            let mut block = vec![0; wanted];
            file.read_exact_at(&mut block, at).map(|()| block)
        })
        .await?;
        let used = self.decode(&block) as u64;
        self.file_bytes -= used;
        if let Some(first) = self.files.front_mut() {
            first.read += used;
            if first.read == first.written {
                self.files.pop_front();
            }
        }
        Ok(())
    }

    /// Takes whole chunks, and says how many bytes they were.
    fn decode(&mut self, block: &[u8]) -> usize {
        let mut used = 0;
        while let Some((head, rest)) = block[used..].split_first_chunk::<HEAD>() {
            let [a, b, c, d, moment @ ..] = *head;
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let Some(bytes) = rest.get(..length) else { break };
            self.ram_bytes += length + OVERHEAD;
            self.ram.push_back(Chunk {
                received_ms: i64::from_le_bytes(moment),
                bytes: bytes.to_vec(),
            });
            used += HEAD + length;
        }
        used
    }
}

/// A file for this process alone, that has a name for a moment only.
fn nameless(folder: &Path) -> io::Result<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("preshard-copy-{}-{number}.spool", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CopyError> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(CopyError::Spool(error.to_string())),
        Err(error) => Err(CopyError::Spool(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(memory: usize, max: u64) -> Spool {
        Spool::new(CopyLimits {
            spool_memory: memory,
            spool_max: max,
            ..CopyLimits::default()
        })
    }

    /// Pushes and pops by chance; what comes out is what went in, and memory is bounded.
    #[tokio::test]
    async fn what_comes_out_is_what_went_in() {
        let mut random = fastrand::Rng::with_seed(7);
        for memory in [0, 10_000, 1 << 20, usize::MAX] {
            let spool = spool(memory, 1 << 30);
            let (mut pushed, mut popped) = (Vec::new(), Vec::new());
            for round in 0..3_000 {
                // Now the writer is faster, now the reader.
                let pushes = if round / 500 % 2 == 0 { 3 } else { 1 };
                for _ in 0..random.u32(0..=pushes) {
                    let bytes: Vec<u8> = (0..random.usize(1..4_000)).map(|_| random.u8(..)).collect();
                    spool.push(round / 7, &bytes).await.unwrap();
                    pushed.extend_from_slice(&bytes);
                }
                for _ in 0..random.u32(0..=4 - pushes) {
                    if let Some(chunk) = spool.pop().await.unwrap() {
                        popped.extend_from_slice(&chunk.bytes);
                    }
                }
                let held = spool.inner.lock().await.ram_bytes;
                assert!(
                    held <= memory.saturating_add(BLOCK + BLOCK),
                    "{held} bytes of {memory}"
                );
            }
            while let Some(chunk) = spool.pop().await.unwrap() {
                popped.extend_from_slice(&chunk.bytes);
            }
            assert!(pushed == popped, "with {memory} bytes of memory");
            let inner = spool.inner.lock().await;
            assert_eq!((inner.ram_bytes, inner.file_bytes), (0, 0));
            assert!(inner.is_in_memory());
        }
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let spool = spool(1_000, 1_000_000);
        let error = loop {
            if let Err(error) = spool.push(0, &[7; 10_000]).await {
                break error;
            }
        };
        assert_eq!(error, CopyError::SpoolFull(1_000_000));
        let mut left = 0;
        while let Some(chunk) = spool.pop().await.unwrap() {
            left += chunk.bytes.len();
        }
        assert!(left <= 1_001_000);
    }

    #[tokio::test]
    async fn moments_stay_with_their_bytes() {
        let spool = spool(100, 1 << 20);
        for moment in 1..=3 {
            spool
                .push(moment, &[u8::try_from(moment).unwrap(); 100_000])
                .await
                .unwrap();
        }
        let mut seen = 0;
        while let Some(chunk) = spool.pop().await.unwrap() {
            assert!(
                chunk
                    .bytes
                    .iter()
                    .all(|byte| i64::from(*byte) == chunk.received_ms)
            );
            seen += chunk.bytes.len();
        }
        assert_eq!(seen, 300_000);
    }
}
