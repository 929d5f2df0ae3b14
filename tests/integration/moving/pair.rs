//! Two proxies on one store: the one that leads and drives moves, and another one.

use super::PATIENCE;
use crate::harness::{Client, Proxy, Setup, wait_for, wait_until};

pub(crate) struct Pair {
    pub(crate) proxies: [Proxy; 2],
    /// The one that led when both were there.
    pub(crate) leader: usize,
}

impl Pair {
    /// Both started, with a leader, and known to each other.
    pub(crate) fn start(setup: &Setup) -> Self {
        let launched = [setup.launch(), setup.launch()];
        let proxies = launched.map(|launch| setup.until_ready(launch));
        wait_until("they know each other", PATIENCE, || {
            proxies.iter().all(|proxy| proxy.metric("preshard_proxies") == 2)
        });
        let leader = wait_for("one of them leads", PATIENCE, || {
            proxies
                .iter()
                .position(|proxy| proxy.metric("preshard_leader") == 1)
        });
        Self { proxies, leader }
    }

    pub(crate) fn leading(&self) -> &Proxy {
        &self.proxies[self.leader]
    }

    pub(crate) fn other(&self) -> &Proxy {
        &self.proxies[1 - self.leader]
    }

    /// An operator at one of them.
    pub(crate) fn admin(&self, proxy: usize) -> Client {
        let mut admin = self.proxies[proxy].admin_client();
        admin.limit = PATIENCE;
        admin
    }

    /// An operator at the one that does not lead.
    pub(crate) fn admin_of_other(&self) -> Client {
        self.admin(1 - self.leader)
    }

    /// Until one counts the other as gone.
    pub(crate) fn until_alone(&self, proxy: usize) {
        wait_until("the other's lease has ended", PATIENCE, || {
            self.proxies[proxy].metric("preshard_proxies") == 1
        });
    }
}
