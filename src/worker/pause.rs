//! `CLIENT PAUSE`: the requests of all clients of this process wait, until a time or `CLIENT UNPAUSE`.
//!
//! ```text
//!  CLIENT PAUSE ──▶ one word: until when, writes or all ◀── read once for each turn of a task
//!                                                               │ the request must wait
//!  a worker's sweep ◀── woken at the end, or by UNPAUSE ◀── noted behind the lock: nobody sleeps through it
//!        └─▶ wakes its clients, which offer their requests again
//! ```
//!
//! Redis's rules: a second pause may make the first one longer and stricter, never shorter; a pause of all requests
//! holds `CLIENT UNPAUSE` back too. What was taken before the pause goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::engine::{Attention, Engine};
use super::scripts::Sha;
use super::session::{Pause, Taken, number};
use crate::command::{self, Class, Script, Spec, Transaction};
use crate::resp::{Args, Value};

/// Bits of the end, in milliseconds: more than four thousand years.
const END_BITS: u32 = 47;
const END_MAX: u64 = (1 << END_BITS) - 1;
const ALL: u64 = 1 << END_BITS;
const NUMBER_SHIFT: u32 = END_BITS + 1;

const STOPS: &str = "TRYAGAIN preshard: the proxy stops; it has not run";

/// The pause of a process.
#[derive(Debug, Default)]
pub struct ClientPause {
    /// 0: none. Else its end in milliseconds after the start of the process, whether all requests wait, and a number
    /// that the next one has not.
    word: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    number: u64,
    /// By worker.
    wakers: BTreeMap<usize, Waker>,
}

/// What a worker knows of the pause.
#[derive(Debug, Default)]
pub(super) struct PauseSeen {
    word: u64,
    /// Under which one its clients wait.
    noted: u64,
    some_wait: bool,
}

impl ClientPause {
    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn word(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// Pauses until `end_ms`, or makes the pause that there is longer and stricter.
    fn begin(&self, now_ms: u64, end_ms: u64, all: bool) {
        let mut sleepers = self.sleepers();
        let old = self.word();
        let (old_end, old_all) = if is_over(old, now_ms) {
            (0, 0)
        } else {
            (old & END_MAX, old & ALL)
        };
        sleepers.number = sleepers.number.wrapping_add(1);
        let end = end_ms.clamp(1, END_MAX).max(old_end);
        let all = if all { ALL } else { old_all };
        self.word
            .store((sleepers.number << NUMBER_SHIFT) | all | end, Relaxed);
    }

    /// Ends the pause, and wakes the workers that have somebody waiting.
    pub fn end(&self) {
        let mut sleepers = self.sleepers();
        self.word.store(0, Relaxed);
        std::mem::take(&mut sleepers.wakers)
            .into_values()
            .for_each(Waker::wake);
    }

    /// A pause is over: nobody needs to look at it again.
    fn forget(&self, word: u64) {
        let _ = self.word.compare_exchange(word, 0, Relaxed, Relaxed);
    }

    /// Has a worker woken when this pause is ended. `false` if it is not the one in force any more.
    fn note(&self, worker: usize, waker: Option<&Waker>, word: u64) -> bool {
        let mut sleepers = self.sleepers();
        if self.word() != word {
            return false;
        }
        if let Some(waker) = waker {
            sleepers.wakers.insert(worker, waker.clone());
        }
        true
    }
}

fn is_over(word: u64, now_ms: u64) -> bool {
    word & END_MAX <= now_ms
}

impl Engine {
    /// Looks whether clients are paused; `word` is what the process says.
    #[cold]
    pub(super) fn look_at_pause(&mut self, word: u64) {
        let mut word = word;
        if word != 0 && is_over(word, self.shared.now_ms()) {
            self.shared.pause.forget(word);
            word = 0;
        }
        self.pause.word = word;
        self.attention.unset(Attention::PAUSED);
        self.attention.unset(Attention::WRITES_PAUSED);
        if word & ALL != 0 {
            self.attention.set(Attention::PAUSED);
        } else if word != 0 {
            self.attention.set(Attention::WRITES_PAUSED);
        }
    }

    /// Whether this worker has to look at a pause, or at the end of one.
    #[inline]
    pub(super) fn pause_changed(&self, word: u64) -> bool {
        word | self.pause.word != 0
    }

    /// A request while clients are paused. `None`: it is not concerned.
    pub(super) fn while_paused(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Option<Taken> {
        loop {
            let waits = self.attention.has(Attention::PAUSED)
                || self.attention.has(Attention::WRITES_PAUSED) && self.may_write(index, spec, args);
            if !waits {
                return None;
            }
            if self.draining {
                self.answer_error(index, STOPS);
                return Some(Taken::Yes);
            }
            let word = self.pause.word;
            if self.pause.noted == word {
                break;
            }
            if self
                .shared
                .pause
                .note(self.worker, self.sweep_waker.as_ref(), word)
            {
                self.pause.noted = word;
            } else {
                self.look_at_pause(self.shared.pause.word());
            }
        }
        let client = &mut self.clients[index];
        if client.pause != Pause::Clients {
            client.pause = Pause::Clients;
            client.publish();
        }
        self.pause.some_wait = true;
        self.wake_sweep();
        Some(Taken::NotNow)
    }

    /// Whether a request may write, as far as can be told before it runs.
    pub(super) fn may_write(&self, index: usize, spec: &Spec, args: &Args<'_>) -> bool {
        match spec.class {
            Class::Transaction(Transaction::Exec) => {
                let queued = self.clients[index].transaction.as_ref();
                queued.is_some_and(|queued| queued.may_write())
            }
            Class::Script(Script::Eval) => command::may_write(spec, args.try_get(1)),
            Class::Script(Script::Evalsha) => {
                let sha = args.try_get(1).and_then(Sha::parse);
                let body = sha.and_then(|sha| self.shared.scripts.body(sha));
                command::may_write(spec, body.as_deref())
            }
            _ => command::may_write(spec, None),
        }
    }

    /// Wakes the clients whose pause has ended or changed. Called by the sweep.
    pub(super) fn wake_paused(&mut self) {
        if !self.pause.some_wait || self.pause.noted == self.pause.word {
            return;
        }
        self.pause.some_wait = false;
        for (_, client) in &self.clients {
            if client.pause == Pause::Clients {
                client.wake();
            }
        }
    }

    /// How long until a pause ends that some client of this worker waits for.
    pub(super) fn until_pause_ends(&self) -> Option<Duration> {
        self.pause.some_wait.then(|| {
            let end_ms = self.pause.word & END_MAX;
            Duration::from_millis(end_ms.saturating_sub(self.shared.now_ms()).max(1))
        })
    }

    /// `CLIENT PAUSE timeout [WRITE|ALL]`
    pub(super) fn client_pause(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let all = match args.try_get(3) {
            None => true,
            Some(mode) if mode.eq_ignore_ascii_case(b"all") => true,
            Some(mode) if mode.eq_ignore_ascii_case(b"write") => false,
            Some(_) => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".to_owned()),
        };
        let timeout = number(args.get(2)).ok_or("ERR timeout is not an integer or out of range")?;
        let timeout = u64::try_from(timeout).map_err(|_| "ERR timeout is negative")?;
        let now = self.shared.now_ms();
        let end = now.checked_add(timeout).filter(|&end| end <= END_MAX);
        let end = end.ok_or("ERR timeout is out of range")?;
        self.shared.pause.begin(now, end, all);
        // What this client has sent behind it must wait too.
        self.look_at_pause(self.shared.pause.word());
        let client = self.clients[index].info.id;
        let mode = if all { "all" } else { "write" };
        tracing::info!(
            event = "clients_paused",
            client_id = client,
            mode,
            milliseconds = timeout
        );
        Ok(Value::OK)
    }

    /// `CLIENT UNPAUSE`
    pub(super) fn client_unpause(&mut self, index: usize) -> Value {
        self.shared.pause.end();
        self.look_at_pause(self.shared.pause.word());
        let client = self.clients[index].info.id;
        tracing::info!(event = "clients_unpaused", client_id = client);
        Value::OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(pause: &ClientPause) -> (u64, bool) {
        (pause.word() & END_MAX, pause.word() & ALL != 0)
    }

    #[test]
    fn a_second_pause_is_never_shorter_nor_milder() {
        let pause = ClientPause::default();
        pause.begin(10, 500, false);
        assert_eq!(parts(&pause), (500, false));
        pause.begin(20, 100, true);
        assert_eq!(parts(&pause), (500, true));
        pause.begin(30, 900, false);
        assert_eq!(parts(&pause), (900, true));
        pause.begin(900, 950, false);
        assert_eq!(parts(&pause), (950, false), "the first one was over");
        pause.end();
        assert_eq!(pause.word(), 0);
    }

    #[test]
    fn nobody_sleeps_through_the_end_of_a_pause() {
        let pause = ClientPause::default();
        pause.begin(0, 500, true);
        let first = pause.word();
        assert!(pause.note(0, Some(Waker::noop()), first));
        pause.end();
        assert!(pause.sleepers().wakers.is_empty());
        assert!(
            !pause.note(0, Some(Waker::noop()), first),
            "ended before it was noted"
        );
        pause.begin(0, 500, true);
        assert_ne!(
            pause.word(),
            first,
            "the next pause of the same length is another one"
        );
        assert!(!pause.note(0, Some(Waker::noop()), first));
        pause.forget(first);
        assert_eq!(
            parts(&pause),
            (500, true),
            "only the one that is over is forgotten"
        );
    }

    #[test]
    fn wakers_are_bounded_by_the_workers() {
        let pause = ClientPause::default();
        for end in 1..50 {
            pause.begin(0, end, true);
            assert!(pause.note(3, Some(Waker::noop()), pause.word()));
        }
        assert_eq!(pause.sleepers().wakers.len(), 1);
    }
}
