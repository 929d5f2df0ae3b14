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
    /// Up to this capacity the tail stays here when all is written, instead of going to the pool.
    kept: usize,
}

impl OutBuf {
    /// For the few sockets that are written to all the time: a buffer that keeps up to `kept` bytes of memory.
    pub(super) fn keeping(kept: usize) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len() - self.written
    }

    /// Bytes in the tail, and the number of chunks before it.
    pub(super) fn parts(&self) -> (usize, usize) {
        (self.tail.len() - self.written, self.chunks.len())
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
    pub(super) fn write_to(&mut self, stream: &mut Stream, spares: &mut Spares) -> io::Result<bool> {
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

    fn write_once(&self, stream: &mut Stream) -> io::Result<usize> {
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
        if self.tail.capacity() <= self.kept {
            self.tail.clear();
        } else {
            spares.give(std::mem::take(&mut self.tail));
        }
    }
}

#[cfg(test)]
impl OutBuf {
    /// All bytes that are not written, in order.
    pub(super) fn unwritten(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.chunks.iter().flatten().copied().collect();
        bytes.extend_from_slice(&self.tail[self.written..]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Small(usize),
        Large(usize),
        /// The socket takes this many of a thousand parts of what waits.
        Written(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (1_usize..3000).prop_map(Act::Small),
            1 => (LARGE_BYTES..LARGE_BYTES + 9).prop_map(Act::Large),
            4 => (1_usize..=1000).prop_map(Act::Written),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn bytes_leave_in_order_wherever_a_write_stops(acts in prop::collection::vec(act(), 1..100)) {
            let (mut out, mut spares) = (OutBuf::default(), Spares::default());
            let (mut expected, mut byte) = (VecDeque::new(), 0_u8);
            for act in acts {
                let mut bytes = |length: usize| {
                    byte = byte.wrapping_add(1);
                    vec![byte; length]
                };
                match act {
                    Act::Small(length) => {
                        let bytes = bytes(length);
                        out.push(&bytes, &mut spares);
                        expected.extend(bytes);
                    }
                    Act::Large(length) => {
                        let bytes = bytes(length);
                        out.push_large(Bytes::from(bytes.clone()));
                        expected.extend(bytes);
                    }
                    Act::Written(parts) => {
                        let count = out.len() * parts / 1000;
                        out.advance(count);
                        expected.drain(..count);
                        if out.is_empty() {
                            out.clear(&mut spares);
                        }
                    }
                }
                prop_assert_eq!((out.len(), out.is_empty()), (expected.len(), expected.is_empty()));
                prop_assert!(expected == out.unwritten(), "other bytes than were put in");
            }
        }
    }

    #[test]
    fn a_reader_that_never_catches_up_costs_what_it_has_not_read() {
        let (mut out, mut spares) = (OutBuf::default(), Spares::default());
        out.push(&[0; 1000], &mut spares);
        for _ in 0..10_000 {
            out.push(&[0; 1000], &mut spares);
            out.advance(1000);
        }
        assert_eq!(out.len(), 1000);
        assert!(out.tail.capacity() < 4 * LARGE_BYTES, "{}", out.tail.capacity());
    }

    #[test]
    fn spare_buffers_are_few_and_small() {
        let mut spares = Spares::default();
        spares.give(Vec::new());
        spares.give(Vec::with_capacity(SPARE_CAPACITY_MAX + 1));
        assert_eq!(spares.take().capacity(), 0);
        (0..2 * SPARE_COUNT_MAX).for_each(|_| spares.give(vec![1; 10]));
        assert_eq!(spares.0.len(), SPARE_COUNT_MAX);
        assert!(spares.take().is_empty());
    }
}
