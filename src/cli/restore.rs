//! `preshard restore`: a saved topology back into the store.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::runtime::Builder;

use super::{ConfigFile, load};
use crate::proxy;
use crate::topology::Topology;
use crate::topology::codec::DOCUMENT_BYTES_MAX;

/// Something outside the config is wrong.
const NOT_WELL: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    config: ConfigFile,
    /// Restore although shards live elsewhere than the store says, or nodes do not answer
    #[arg(long)]
    force: bool,
    /// A file with a saved PRESHARD TOPOLOGY DUMP
    document: PathBuf,
}

pub(super) fn restore(restore: &Restore) -> u8 {
    let config = match load(&restore.config.path) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let done = read(&restore.document).and_then(|saved| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let restored = Box::pin(proxy::restore(&config, &saved, restore.force));
        runtime.block_on(restored).map_err(|error| error.to_string())
    });
    match done {
        Ok((topology, place)) => {
            println!(
                "restored: cluster {} with {} shards and {} pinned databases on {} nodes is epoch {} in {place}",
                topology.cluster_id,
                topology.shards,
                topology.pinned,
                topology.node_count(),
                topology.epoch
            );
            0
        }
        Err(why) => {
            eprintln!("{why}");
            NOT_WELL
        }
    }
}

fn read(path: &Path) -> Result<Topology, String> {
    let told = |why: &dyn std::fmt::Display| format!("cannot use {}: {why}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| told(&error))?;
    let read = file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| told(&error))?;
    Topology::decode(&text).map_err(|error| told(&error))
}
