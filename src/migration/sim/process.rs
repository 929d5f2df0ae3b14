//! A proxy: the control side as it is, and a model of its worker.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::proxy::Worker;
use super::world::{World, lock};
use crate::config::Secret;
use crate::control::{Fleet, prepare_nodes, provision_nodes};
use crate::migration::Mover;
use crate::topology::Topology;
use crate::worker::shared::{NodeCredentials, Settings, Shared};
use crate::worker::testing;

/// The secret of the cluster.
pub(super) fn secret() -> Secret {
    Secret::new("secret".to_owned())
}

fn shared_of(world: &World, who: usize, run: usize) -> Arc<Shared> {
    let admin = NodeCredentials {
        username: Some(format!("admin-{who}")),
        password: Some(secret()),
        tls: None,
    };
    let topology = Topology::clone(&world.store.topology());
    let shared = testing::shared(topology, testing::limits(), admin, &format!("p{who}-r{run}"));
    drop(shared.node_secret.set(secret()));
    let mut settings = Settings::clone(&shared.settings.load());
    settings.migration.retention = world.retention;
    settings.migration.cooperative = world.nodes.iter().any(|node| node.is_open());
    shared.settings.store(Arc::new(settings));
    Arc::new(shared)
}

/// A proxy that runs until it is dropped.
pub(super) struct Process {
    pub(super) mover: Arc<Mover>,
    pub(super) fleet: Arc<Fleet>,
    worker: Arc<Worker>,
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl Process {
    pub(super) fn start(world: &Arc<World>, who: usize, run: usize) -> Self {
        let shared = shared_of(world, who, run);
        let store = Arc::new(super::store::Reach::new(world, who));
        let fleet = Fleet::new(Arc::clone(&shared), store);
        let mover = Mover::new(Arc::clone(&shared), Arc::clone(&fleet));
        let worker = Worker::new(world, who, &shared);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&fleet).run(stopped));
        tasks.spawn(Arc::clone(&mover).run());
        tasks.spawn(prepare_nodes(Arc::clone(&shared)));
        tasks.spawn(provision_nodes(
            shared,
            Arc::clone(&fleet),
            watch::Sender::new(false),
        ));
        tasks.spawn(Arc::clone(&worker).follow());
        lock(&world.workers)[who] = Some(Arc::clone(&worker));
        Self {
            mover,
            fleet,
            worker,
            tasks,
            _stop: stop,
        }
    }

    /// It is gone, with its connections.
    pub(super) async fn kill(mut self, world: &World) {
        lock(&world.workers)[self.worker.who] = None;
        self.tasks.shutdown().await;
        self.worker.kill().await;
    }
}
