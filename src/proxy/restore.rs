//! A saved topology back into the store, where no proxy starts because the store is lost, old or damaged.
//!
//! ```text
//!  the store: readable? then its cluster, and its placements unless forced
//!  the nodes: their marks say whose they are, and how high the epoch must be
//!      ─▶ stored with an epoch above all of them ─▶ start the proxies
//! ```
//!
//! A file store is locked meanwhile, so no proxy serves it. Proxies that serve from etcd take the topology over by themselves.

use super::{ServeError, open_store, store_connector};
use crate::config::Config;
use crate::control;
use crate::ids::Epoch;
use crate::store::StoreError;
use crate::topology::{CodecError, Topology};

/// Stores a saved topology with a new epoch. `force`: although shards live elsewhere in it than in the one that is stored, or nodes
/// give no answer. Returns what is stored then, and where.
///
/// # Errors
/// It would be wrong, or cannot be done; nothing was changed, unless the words say otherwise.
pub async fn restore(
    config: &Config,
    saved: &Topology,
    force: bool,
) -> Result<(Topology, String), ServeError> {
    let refuse = |error: StoreError| ServeError::Refused(error.to_string());
    let mut store = open_store(config, store_connector(config)).map_err(refuse)?;
    let stored = match store.load().await {
        Ok(stored) => stored,
        Err(error) if is_damage(&error) => None,
        Err(error) => return Err(refuse(error)),
    };
    if let Some(stored) = &stored {
        let elsewhere = saved.tell_placed_elsewhere(stored).filter(|_| !force);
        let elsewhere = elsewhere.map(|why| format!("{why}. If the keys are where it says, use --force"));
        if let Some(why) = saved.tell_other_cluster(stored).or(elsewhere) {
            return Err(ServeError::Refused(why));
        }
    }
    let credentials = control::admin_credentials_of(config);
    let asked = control::highest_epoch(saved, &credentials, config.nodes.connect_timeout, force);
    let on_nodes = Box::pin(asked).await.map_err(ServeError::Refused)?;
    let saved = match &stored {
        Some(stored) => saved.clone().with_logins_of(stored),
        // Those who do not fit any more are made anew by whoever leads.
        None => saved.clone(),
    };
    let stored = stored.map_or(Epoch(0), |stored| stored.epoch);
    let highest = on_nodes.max(stored).max(saved.epoch);
    let next = highest.0.checked_add(1).map(Epoch);
    let next = Topology {
        epoch: next.ok_or_else(|| ServeError::Refused("there is no epoch after this one".to_owned()))?,
        ..saved
    };
    store.restore(&next).await.map_err(refuse)?;
    Ok((next, store.place()))
}

/// Whether what is stored can be given up. What a newer version wrote is whole.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Unreadable { error, .. } | StoreError::Document { error, .. } => {
            !matches!(**error, CodecError::Newer { .. })
        }
        StoreError::Vanished { .. } => true,
        StoreError::Locked { .. }
        | StoreError::Io { .. }
        | StoreError::Stale { .. }
        | StoreError::OtherCluster { .. }
        | StoreError::Unreachable { .. }
        | StoreError::Stalled { .. }
        | StoreError::Refused { .. }
        | StoreError::Changed { .. }
        | StoreError::Deposed { .. }
        | StoreError::LeaseEnded { .. }
        | StoreError::Limit(_)
        | StoreError::Invalid(_)
        | StoreError::Unconfirmed { .. } => false,
    }
}
