//! Clients that leave while what they wait for is given up and not asked again, and those that stay.

use std::sync::atomic::AtomicBool;
use std::task::{Wake, Waker};

use super::*;
use crate::command::CommandId;
use crate::metrics::RequestClass;
use crate::worker::session::to_u32;
use crate::worker::testing::{Peer, connect};

/// A client whose wait was given up; its shard is held.
async fn recalled(engine: &mut Engine) -> Peer {
    let peer = connect(engine).await;
    let at = waits(engine, MOVED);
    let seq = engine.push_slot(peer.index, CommandId::NONE, 1, RequestClass::Blocking);
    let job = engine.dedicated.slot(at).unwrap().job.as_mut().unwrap();
    job.owner = Some((to_u32(peer.index), peer.generation, seq));
    engine.hold(MOVED, |why| why.moving = true);
    engine.dedicated_ended(at, RECALLED);
    assert_eq!(engine.dedicated.recalled.len(), 1);
    peer
}

#[test]
fn nothing_is_asked_again_for_who_has_left_meanwhile() {
    in_runtime(async {
        for released in [false, true] {
            let mut engine = engine(limits());
            let peer = recalled(&mut engine).await;
            engine.clients[peer.index].read_ended = true;
            if released {
                engine.release(MOVED, |why| why.moving = false);
            }
            engine.ask_recalled();
            assert!(engine.client_is_gone(peer.index, peer.generation));
            assert!(engine.dedicated.recalled.is_empty() && engine.dedicated.slots.is_empty());
        }
    });
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn who_waits_again_is_looked_at_again_so_that_its_leaving_is_seen() {
    in_runtime(async {
        let mut engine = engine(limits());
        let peer = recalled(&mut engine).await;
        engine.release(MOVED, |why| why.moving = false);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        engine.clients[peer.index].waker = Some(Waker::from(Arc::clone(&woken)));
        engine.ask_recalled();
        assert!(engine.clients[peer.index].waits_at.is_some());
        assert!(woken.0.load(Relaxed));
    });
}
