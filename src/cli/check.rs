//! `preshard check`: every mistake of a config at once; with `--connect`, whether the nodes fit.

use clap::Args;
use tokio::runtime::Builder;

use super::{ConfigFile, load};
use crate::config::{Config, StorePlace};
use crate::control::{self, Preflight};
use crate::proxy::{open_store, store_connector};
use crate::store::FileStore;
use crate::topology::Topology;

/// Something outside the config is wrong.
const NOT_WELL: u8 = 1;
/// Stands for a cluster's name that only the first start makes up.
const NAMELESS: &str = "check";

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Also ask every node whether it fits
    #[arg(long)]
    connect: bool,
}

pub(super) fn check(check: &Check) -> u8 {
    let config = match load(&check.config.path) {
        Ok(config) => config,
        Err(status) => return status,
    };
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    println!("{}: no mistakes", check.config.path.display());
    if !check.connect {
        return 0;
    }
    match connect(&config) {
        Ok(found) => told(&found),
        Err(error) => {
            eprintln!("{error}");
            NOT_WELL
        }
    }
}

/// Asks the nodes of the stored topology, or of the one that a first start would make.
fn connect(config: &Config) -> Result<Preflight, String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let stored = match &config.topology.store {
        StorePlace::File(path) => FileStore::peek(path),
        StorePlace::Etcd { .. } => {
            runtime.block_on(async { open_store(config, store_connector(config))?.load().await })
        }
    };
    let stored = stored.map_err(|error| error.to_string())?;
    let seeding = stored.is_none();
    let topology = match stored {
        Some(topology) => topology,
        None => seed(config)?,
    };
    let origin = if seeding {
        "would be made at the first start"
    } else {
        "is stored"
    };
    println!(
        "topology: {} shards and {} pinned databases on {} nodes, epoch {}; it {origin}",
        topology.shards,
        topology.pinned,
        topology.node_count(),
        topology.epoch
    );
    let credentials = control::admin_credentials_of(config);
    let asked = control::check_nodes(&topology, &credentials, config.nodes.connect_timeout, seeding);
    Ok(runtime.block_on(Box::pin(asked)))
}

fn seed(config: &Config) -> Result<Topology, String> {
    let settings = &config.topology;
    let cluster = settings.cluster.clone().unwrap_or_else(|| NAMELESS.to_owned());
    Topology::seed(cluster, settings.shards, settings.pinned, settings.nodes.clone()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!(
            "the topology store is empty, and the config makes no topology: {}",
            lines.join("; ")
        )
    })
}

fn told(found: &Preflight) -> u8 {
    for (node, version) in &found.versions {
        println!("ok: node {node} fits (version {version})");
    }
    for warning in &found.warnings {
        println!("warning: {warning}");
    }
    for problem in &found.problems {
        println!("failed: {problem}");
    }
    if found.problems.is_empty() { 0 } else { NOT_WELL }
}
