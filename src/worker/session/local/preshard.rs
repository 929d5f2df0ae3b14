//! `PRESHARD …` on the data port: handed to the control side, which answers on the admin port too; the worker goes on.
//!
//! ```text
//!  request ─▶ right? ─▶ a bounded queue ─▶ control runtime (admin::answer_workers)
//!  reply queue, in its turn ◀── a task of the worker ◀── one reply ─┘
//! ```

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::command::{CommandId, Spec};
use crate::metrics::{Limit, Refused, RequestClass};
use crate::resp::{self, Args};
use crate::worker::engine::Engine;
use crate::worker::session::client::Via;
use crate::worker::session::input::Taken;
use crate::worker::shared::AdminRequest;

/// Bytes of one request, as on the admin port.
const BYTES_MAX: usize = 1024 * 1024;
/// How long the answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

const NO_RIGHT: &str = "NOPERM PRESHARD needs the right monitor or admin here; the admin listener ([admin] listen) answers it too";
const BUSY: &str = "TRYAGAIN preshard: too many PRESHARD requests are under way; it has not run";
const TOO_LATE: &[u8] = b"-UNCERTAIN preshard: no answer within 60s; it may still run\r\n";

impl Engine {
    pub(super) fn preshard(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>) -> Taken {
        let rights = self.clients[index].user.rules.rights();
        if !rights.may_administer() {
            self.metrics.refused[Refused::Right].inc();
            self.answer_error(index, NO_RIGHT);
            return Taken::Yes;
        }
        if args.frame().len() > BYTES_MAX {
            self.answer_error(index, "ERR a PRESHARD request may have 1 MiB");
            return Taken::Yes;
        }
        // One at a time, and what comes behind it sees it done.
        if !self.goes_by(index, Via::Dedicated) {
            return self.wait_for_answers(index);
        }
        let Some(engine) = self.dedicated.engine() else {
            self.answer_error(index, "TRYAGAIN preshard: the proxy stops; it has not run");
            return Taken::Yes;
        };
        let (reply, answered) = oneshot::channel();
        let request = AdminRequest {
            frame: args.frame().to_vec(),
            rights,
            reply,
        };
        match self.shared.admin_requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.metrics.limits[Limit::AdminRequests].inc();
                self.answer_error(index, BUSY);
                return Taken::Yes;
            }
        }
        self.count_request(index, spec);
        let (generation, protocol) = (self.clients[index].generation, self.clients[index].protocol);
        let seq = self.push_slot(index, CommandId::NONE, 0, RequestClass::Admin);
        tokio::task::spawn_local(async move {
            let mut reply = Vec::new();
            match timeout(ANSWER_MAX, answered).await {
                Ok(Ok(value)) => value.encode(protocol, &mut reply),
                Ok(Err(_)) => {
                    reply = resp::error_line("UNCERTAIN preshard: the proxy stops; it may have run")
                }
                Err(_) => reply.extend_from_slice(TOO_LATE),
            }
            let mut engine = engine.borrow_mut();
            engine.begin_turn();
            engine.complete(index, generation, seq, &reply, false);
            if !engine.client_is_gone(index, generation) {
                engine.clients[index].wake();
            }
            engine.end_turn();
        });
        Taken::Yes
    }
}
