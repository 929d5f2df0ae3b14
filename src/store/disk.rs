//! A file store that several tasks ask: one thing after the other, where waiting for a disk holds up nobody.
//!
//! ```text
//!  ask ─▶ queue, in the order asked ─▶ a thread for what blocks ─▶ the disk ─▶ the answer
//!   └──── after ANSWER_MAX: no answer. What has begun goes on and keeps its turn; what has not is left out
//! ```
//!
//! A saturated or broken disk keeps an `fsync` for many seconds. The control runtime has two threads, so it would take the admin
//! port, leases and probes with it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::{FileStore, StoreError};

/// How long a disk may take, for what was asked before as well, until it counts as one that gives no answer.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// So much may wait for a disk. Beyond it there is no answer either.
pub(super) const QUEUE_MAX: usize = 1024;

/// Something to be done to the file, and then to be told.
type Job = Box<dyn FnOnce(&mut FileStore) -> Reply + Send>;
type Reply = Box<dyn FnOnce() + Send>;

/// The file, and what is to be done to it.
#[derive(Debug)]
pub(super) struct Disk(Arc<Inner>);

struct Inner {
    /// For whoever is at work.
    file: Mutex<FileStore>,
    queue: Mutex<Queue>,
    /// Since when the disk is at one thing, if it is.
    busy: watch::Sender<Option<Instant>>,
    place: String,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// A thread takes one after the other, until there are none.
    is_served: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Disk {
    pub(super) fn new(file: FileStore, place: String) -> Self {
        Self(Arc::new(Inner {
            file: Mutex::new(file),
            queue: Mutex::default(),
            busy: watch::Sender::new(None),
            place,
        }))
    }

    /// Has something done to the file, behind all that was asked before.
    ///
    /// # Errors
    /// Its own, and [`StoreError::Stalled`]: whether it is done is known when the disk answers.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut FileStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answered) = oneshot::channel();
        let is_taken = self.0.push(Box::new(move |file| {
            // Nobody waits for it any more, so it need not be done.
            if sender.is_closed() {
                return Box::new(|| {});
            }
            let done = work(file);
            // Who has left meanwhile finds it in what is stored.
            Box::new(move || drop(sender.send(done)))
        }));
        if !is_taken {
            return Err(self.0.stalled());
        }
        match timeout(ANSWER_MAX, answered).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(self.0.stalled()),
        }
    }

    /// Waits until all that was asked before has ended.
    ///
    /// # Errors
    /// [`StoreError::Stalled`].
    pub(super) async fn settled(&self) -> Result<(), StoreError> {
        if !self.0.queue().is_served {
            return Ok(());
        }
        self.ask(|_| Ok(())).await
    }

    /// Sees when it stands still.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            busy: self.0.busy.subscribe(),
            place: self.0.place.clone(),
        }
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, job: Job) -> bool {
        let mut queue = self.queue();
        if queue.jobs.len() >= QUEUE_MAX {
            return false;
        }
        queue.jobs.push_back(job);
        if !std::mem::replace(&mut queue.is_served, true) {
            let inner = Arc::clone(self);
            // Whoever waits hears of its end.
            drop(spawn_blocking(move || inner.serve()));
        }
        true
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        let next = queue.jobs.pop_front();
        queue.is_served = next.is_some();
        next
    }

    /// Does all that waits. The last one is told when the file has been let go: whoever hears of it may end the store, and open
    /// it anew.
    fn serve(self: Arc<Self>) {
        let (mut next, mut told) = (self.next(), None::<Reply>);
        while let Some(job) = next {
            if let Some(tell) = told.take() {
                tell();
            }
            self.busy.send_replace(Some(Instant::now()));
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            // Of a panic nobody is told, which is no answer; the others have their turns.
            told = catch_unwind(AssertUnwindSafe(|| job(&mut file))).ok();
            drop(file);
            self.busy.send_replace(None);
            next = self.next();
        }
        drop(self);
        if let Some(tell) = told {
            tell();
        }
    }

    fn stalled(&self) -> StoreError {
        stalled(&self.place)
    }
}

fn stalled(place: &str) -> StoreError {
    StoreError::Stalled {
        place: place.to_owned(),
        waited: ANSWER_MAX,
    }
}

/// Whether a disk answers.
#[derive(Debug)]
pub(super) struct Pulse {
    busy: watch::Receiver<Option<Instant>>,
    place: String,
}

impl Pulse {
    /// Waits until the disk has been at one thing for longer than it may; as long as it is, this ends at once.
    pub(super) async fn stalled(&mut self) -> StoreError {
        loop {
            let since = *self.busy.borrow_and_update();
            let late = async {
                match since {
                    Some(since) => sleep_until(since + ANSWER_MAX).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = late => return stalled(&self.place),
                changed = self.busy.changed() => if changed.is_err() {
                    // The store is gone, and its disk with it.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}
