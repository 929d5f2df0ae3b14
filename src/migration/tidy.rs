//! What a move leaves behind, said on both nodes: whose copy the source's is, and no user of the move on it.
//!
//! Whoever finds that a move has been made does it, so a leader that died behind the commit, or a source that was away just
//! then, changes nothing.

use std::time::Duration;

use tokio::time::sleep;

use super::cutover::Failure;
use super::drive::Driven;
use crate::command::UNIT_PREFIX;
use crate::control::fence::words;

/// How often nodes are asked, if they are away just then.
const TIDY_MAX: usize = 20;
const TIDY_PACE: Duration = Duration::from_millis(500);

impl Driven<'_> {
    /// Says on both nodes whose copy is whose, and deletes the users that the move had on the source. No request depends on it, but
    /// a source without the note would not be taken as a target again.
    pub(super) async fn tidy(&self) {
        for _ in 0..TIDY_MAX {
            match self.try_tidy().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::info!(event = "move_not_tidied", task = self.id, %error);
                }
            }
            if self.fleet.leads() != Some(self.term) {
                return;
            }
            sleep(TIDY_PACE).await;
        }
    }

    async fn try_tidy(&self) -> Result<(), Failure> {
        let mut target = self.client(&self.target).await?;
        self.act(&mut target, &[self.copies("HDEL", None)]).await?;
        let mut source = self.client(&self.source).await?;
        let prefix = format!("{UNIT_PREFIX}{}-", self.id);
        let mut left = vec![self.copies("HSET", Some(&self.id))];
        let users = self.own_users_on(&mut source).await?;
        let own = users.iter().filter(|name| name.starts_with(&prefix));
        left.extend(own.map(|name| words(["ACL", "DELUSER", name])));
        self.act(&mut source, &left).await?;
        Ok(())
    }
}
