//! Bytes on their way to a socket: small ones are copied together, large ones are kept as they are.
//!
//! ```text
//!  chunks (large, refcounted) ──▶ tail (small bytes, copied together)
//!  written first                  written last; most of the time the only part
//! ```
//!
//! An empty buffer owns no memory: its tail comes from the worker's pool of spare buffers and goes back to it when
//! all is written, so that thousands of idle connections cost nothing here.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use super::stream::Stream;

/// From this size on bytes are kept as a chunk of their own instead of being copied into the tail.
pub(super) const LARGE_BYTES: usize = 32 * 1024;

/// Buffers larger than this are freed after use instead of being kept for the next user.
const SPARE_CAPACITY_MAX: usize = 64 * 1024;
const SPARE_COUNT_MAX: usize = 256;
const SLICES_MAX: usize = 32;

/// Empty buffers with memory, most recently used last (and so warm in the cache).
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Vec<u8>>);

impl Spares {
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let useful = buffer.capacity() > 0 && buffer.capacity() <= SPARE_CAPACITY_MAX;
        if useful && self.0.len() < SPARE_COUNT_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// Bytes to be written, in order.
#[derive(Debug, Default)]
pub(super) struct OutBuf {
    chunks: VecDeque<Bytes>,
    chunk_bytes: usize,
    tail: Vec<u8>,
    /// Bytes of the tail that are written already (0 while chunks stand before it).
    written: usize,
}

impl OutBuf {
    pub(super) fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunk_bytes == 0 && self.tail.len() == self.written
    }

    /// The tail to append small bytes to.
    #[inline]
    pub(super) fn tail(&mut self, spares: &mut Spares) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = spares.take();
        }
        &mut self.tail
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.tail(spares).extend_from_slice(bytes);
    }

    /// Appends large bytes without copying them.
    pub(super) fn push_large(&mut self, bytes: Bytes) {
        if self.tail.len() > self.written {
            let mut small = Bytes::from(std::mem::take(&mut self.tail));
            small.advance(self.written);
            self.chunk_bytes += small.len();
            self.chunks.push_back(small);
        } else {
            self.tail.clear();
        }
        self.written = 0;
        self.chunk_bytes += bytes.len();
        self.chunks.push_back(bytes);
    }

    /// Writes what the socket takes. `Ok(true)` when all is written, `Ok(false)` when the socket is full.
    pub(super) fn write_to(&mut self, stream: &Stream, spares: &mut Spares) -> io::Result<bool> {
        while !self.is_empty() {
            match self.write_once(stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.clear(spares);
        Ok(true)
    }

    fn write_once(&self, stream: &Stream) -> io::Result<usize> {
        let tail = &self.tail[self.written..];
        if self.chunks.is_empty() {
            return stream.try_write(tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for chunk in self
            .chunks
            .iter()
            .map(|chunk| &chunk[..])
            .chain(std::iter::once(tail))
        {
            if count < SLICES_MAX {
                slices[count] = IoSlice::new(chunk);
                count += 1;
            }
        }
        stream.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let step = count.min(chunk.len());
            chunk.advance(step);
            self.chunk_bytes -= step;
            count -= step;
            if !chunk.is_empty() {
                return;
            }
            self.chunks.pop_front();
        }
        self.written += count;
        // A reader that never quite catches up would have all it ever read kept here.
        if self.written >= LARGE_BYTES && self.written > self.tail.len() / 2 {
            self.tail.drain(..self.written);
            self.written = 0;
        }
    }

    /// Forgets all bytes and gives the memory back.
    pub(super) fn clear(&mut self, spares: &mut Spares) {
        self.chunks = VecDeque::new();
        self.chunk_bytes = 0;
        self.written = 0;
        spares.give(std::mem::take(&mut self.tail));
    }
}
