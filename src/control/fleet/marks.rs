//! The nodes' marks follow the topology: raised after a change, by whoever made it and by whoever leads.
//!
//! Nothing waits for it. A node that is away gets its mark later; until then its old one is as good.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use super::Fleet;
use crate::control::raise_marks;

/// Between two attempts at the nodes that are not done.
const PACE: Duration = Duration::from_secs(1);

pub(super) async fn keep_raised(fleet: Arc<Fleet>) {
    let mut adopted = fleet.adopted.subscribe();
    // Those of the epoch of the start were raised then.
    let mut raised = *adopted.borrow_and_update();
    loop {
        let topology = fleet.shared.topology.load_full();
        let is_mine = fleet.made.load(Relaxed) == topology.epoch.0 || fleet.leads().is_some();
        if topology.epoch > raised && is_mine {
            let (credentials, deadline) = fleet.shared.admin_login();
            if raise_marks(&topology, &credentials, deadline).await {
                raised = topology.epoch;
            }
        }
        // Who leads may change without an epoch.
        drop(timeout(PACE, adopted.changed()).await);
    }
}
