//! `PRESHARD …` that came to the data port: workers hand it over, with the rights of who asks.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::AdminContext;
use super::listener::report;
use crate::resp::{Args, RequestLimits, RequestScanner, Scan, Value};
use crate::worker::shared::AdminRequest;

/// Requests that are answered at the same time; others wait in their queue.
const AT_ONCE: usize = 16;

/// Answers what workers hand over, as long as there are workers.
///
/// # Cancel safety
/// Dropping the future ends what is being answered; who has asked is told so.
pub async fn answer_workers(mut requests: mpsc::Receiver<AdminRequest>, context: Arc<AdminContext>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if running.len() < AT_ONCE => match request {
                Some(request) => drop(running.spawn(answer_one(request, Arc::clone(&context)))),
                None => return,
            },
            Some(ended) = running.join_next() => report(ended),
        }
    }
}

async fn answer_one(request: AdminRequest, context: Arc<AdminContext>) {
    let AdminRequest { frame, rights, reply } = request;
    let mut ranges = Vec::new();
    // The worker has scanned it under limits of its own.
    let scan = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
    let answer = match scan {
        Scan::Frame { .. } => context.answer_for(rights, &Args::new(&frame, &ranges)).await,
        Scan::Incomplete { .. } | Scan::Inline { .. } | Scan::Empty { .. } | Scan::Fail(_) => {
            Value::error("ERR this request cannot be read a second time")
        }
    };
    // Who has asked may have left.
    let _ = reply.send(answer);
}
