//! The stream as it comes: into the spool, at once, whatever the target does meanwhile.
//!
//! ```text
//!  source ─stream─▶ receive ─▶ Spool                    every second: REPLCONF ACK 0
//!                     │ connection lost: PSYNC with the offset that was received, and on without a gap
//! ```
//!
//! The source is told 0 and never how far we are: it would count us as a replica that has the data (`WAIT`). The first
//! acknowledgement must be repeated, since one that comes while the source still waits for its child is ignored.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::error::CopyError;
use super::link::{Link, Psync};
use super::plan::{Endpoint, Offset};
use super::spool::Spool;
use super::state::{Shared, now_ms};

/// Between two acknowledgements.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// Read at a time.
const READ: usize = 64 * 1024;
/// How often a lost connection is made anew before the copy begins again.
const REATTACH_MAX: u32 = 4;

/// Receives for as long as it can.
pub(super) async fn receive(
    mut link: Link,
    source: Endpoint,
    from: Offset,
    shared: Arc<Shared>,
    spool: Arc<Spool>,
) -> CopyError {
    let mut at = from;
    loop {
        let lost = match follow(&mut link, &mut at.offset, &shared, &spool).await {
            lost @ (CopyError::Source(_) | CopyError::SourceSilent(_)) => lost,
            other => return other,
        };
        match reattach(&source, &at, &shared).await {
            Ok(again) => link = again,
            // The first reason is the one that says what has happened.
            Err(CopyError::Source(_) | CopyError::SourceSilent(_)) => return lost,
            Err(error) => return error,
        }
    }
}

async fn follow(link: &mut Link, at: &mut u64, shared: &Shared, spool: &Spool) -> CopyError {
    let mut read = std::mem::take(&mut link.buf);
    read.reserve(READ);
    let mut ticks = interval(ACK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        if !read.is_empty() {
            last = Instant::now();
            if let Err(error) = spool.push(now_ms(), &read).await {
                return error;
            }
            *at += read.len() as u64;
            shared.note(|progress| progress.stream_offset = *at);
            read.clear();
        }
        let silence = shared.limits.silence;
        tokio::select! {
            count = link.socket.read_buf(&mut read) => match count {
                Ok(0) => return CopyError::Source("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return CopyError::Source(error.to_string()),
            },
            _ = ticks.tick() => {
                if let Err(error) = link.say(&[b"REPLCONF", b"ACK", b"0"]).await {
                    return error;
                }
                // Others hear of writes that do not come here.
                if last.elapsed() >= silence && shared.progress().source_offset > *at {
                    return CopyError::SourceSilent(silence);
                }
            }
        }
    }
}

/// Another connection that goes on where the last one ended.
async fn reattach(source: &Endpoint, at: &Offset, shared: &Shared) -> Result<Link, CopyError> {
    let mut pause = Duration::from_millis(50);
    let mut tried = 0;
    loop {
        tried += 1;
        let attached = attach_at(source, at, shared.limits.silence).await;
        match attached {
            Err(CopyError::Source(_)) if tried < REATTACH_MAX => sleep(pause).await,
            other => return other,
        }
        pause *= 4;
    }
}

/// A link on which the stream follows from an offset.
pub(super) async fn attach_at(source: &Endpoint, at: &Offset, silence: Duration) -> Result<Link, CopyError> {
    let mut link = Link::open(source, silence).await?;
    match link.psync(Some(at)).await? {
        Psync::Continue => Ok(link),
        // The link is dropped, and the source need not go on.
        Psync::Full(_) => Err(CopyError::SourceChanged("it cannot go on where the stream ended")),
    }
}
