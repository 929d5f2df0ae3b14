//! How much of a value is held at once, and how large the requests are that it becomes.

/// Limits of reading a snapshot. What is buffered of it stays below `small_bytes` and what was pushed last, except for a
/// stream (`stream_bytes`), a module's value (`module_bytes`) and a single name (`name_bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A value of more bytes is written in pieces instead of one payload.
    pub small_bytes: u64,
    /// A collection of more elements is written in pieces.
    pub small_elements: u64,
    /// A stream is passed on whole up to this size, because nothing else brings all of it over.
    pub stream_bytes: u64,
    /// A module's value has no other form than its payload; above this the copy ends.
    pub module_bytes: u64,
    /// Longest key, field of a hash, member of a sorted set, name of a group, library of functions.
    pub name_bytes: u64,
    /// Bytes of one piece of a string.
    pub piece_bytes: u64,
    /// Bytes of elements in one request. A longer element has a request of its own.
    pub chunk_bytes: u64,
    /// Elements in one request.
    pub chunk_elements: usize,
    /// Pending entries of one consumer group.
    pub pending_max: u64,
    /// Reading pauses when so many bytes wait to be written.
    pub frames_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            small_bytes: 1024 * 1024,
            small_elements: 512,
            stream_bytes: 8 * 1024 * 1024,
            module_bytes: 64 * 1024 * 1024,
            name_bytes: 64 * 1024 * 1024,
            piece_bytes: 1024 * 1024,
            chunk_bytes: 64 * 1024,
            chunk_elements: 512,
            pending_max: 2_000_000,
            frames_bytes: 256 * 1024,
        }
    }
}
