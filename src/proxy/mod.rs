//! The composition root: the only file that knows all rooms.
//!
//! ```text
//!  Config ─▶ store ─▶ topology ─▶ preflight of the nodes ─▶ Shared
//!                                                            │
//!   main thread: control runtime                             ├─▶ worker 0 ◀─┐
//!     acceptors (one a listener) ── least-loaded worker ─────┼─▶ worker 1 ◀─┴─ accepted sockets
//!     probe · fleet · admin · HTTP · signals                 └─▶ …
//! ```
//!
//! The way out (SIGTERM, SIGINT): readyz says 503, nothing is accepted any more, workers serve what they have read
//! and let their clients go, and what is left after `drain_timeout` is cut. SIGHUP reads the config again.

mod accept;
mod listeners;
mod restore;
mod startup;

pub use accept::Listener;
pub use restore::restore;
pub use startup::{open_store, store_connector};

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, AdminContext, Plans, Rates};
use crate::config::Config;
use crate::control::{self, Fleet, Live, Parts, SetLevel};
use crate::http::Readiness;
use crate::migration::Mover;
use crate::tls::{Acceptor, Secure};
use crate::worker::shared::{ADMIN_REQUESTS_MAX, Shared};
use crate::worker::{self, Order, Worker};
use listeners::Listeners;

/// Control work is rare: listeners, probes, scrapes.
const CONTROL_THREADS: usize = 2;

/// What the leader gets to make its users on the nodes before the first client.
const PROVISION_MAX: Duration = Duration::from_secs(5);
/// What is written to disks when the proxy ends gets so long.
const LAST_WRITES_MAX: Duration = Duration::from_secs(2);
/// A store that is silent just now does not keep the proxy from serving for longer than this.
const REGISTRATION_MAX: Duration = Duration::from_secs(1);

/// Why the proxy does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store, the nodes or both say that serving would be wrong.
    #[error("{0}")]
    Refused(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// The process cannot have what it needs of the system.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl ServeError {
    /// What the process exits with.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Listen { .. } | Self::System(_) => 3,
        }
    }
}

/// The log, as far as the proxy has to do with it.
pub struct Logs {
    /// Tells how many lines were lost.
    pub dropped_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Sets the level.
    pub set_level: SetLevel,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}

/// Serves until a signal ends it. `announce` gets one line for each listener, then `ready`.
///
/// # Errors
/// Nothing was served: the nodes, the store or an address forbid it.
pub fn serve(config: Config, logs: Logs, announce: impl FnMut(&str) + Send) -> Result<(), ServeError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let served = runtime.block_on(Box::pin(run(config, logs, announce)));
    // A disk that stands still does not keep the process: what it is at is whole or not there.
    runtime.shutdown_timeout(LAST_WRITES_MAX);
    served
}

async fn run(config: Config, logs: Logs, mut announce: impl FnMut(&str) + Send) -> Result<(), ServeError> {
    let store_tls = store_connector(&config);
    let (admin_requests, from_workers) = mpsc::channel(ADMIN_REQUESTS_MAX);
    let (shared, fleet) = startup::prepare(&config, store_tls.as_ref(), admin_requests).await?;
    // Before anything is announced: who was told that it serves may end it, and gets a drain.
    let mut signals = Signals::new()?;
    shared.metrics.facts().set_log_lines_dropped(logs.dropped_lines);
    count_user_clients(&shared);
    let workers = start_workers(&config, &shared)?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();

    let readiness = readiness(&shared);
    tasks.spawn(control::probe_nodes(Arc::clone(&shared)));
    tasks.spawn(control::prepare_nodes(Arc::clone(&shared)));
    let acceptor = config.tls.side.clone().map(Acceptor::new);
    let parts = Parts {
        acceptor: acceptor.clone(),
        store: store_tls,
        workers: workers.iter().map(|worker| worker.orders.clone()).collect(),
        set_level: Some(logs.set_level),
    };
    let live = Arc::new(Live::new(config.clone(), Arc::clone(&shared), parts));
    tasks.spawn(Signals::hang_ups(Arc::clone(&live))?);
    let secure = acceptor.map(|acceptor| Secure::new(acceptor, Arc::clone(&shared.metrics)));
    let rates = Arc::new(Rates::default());
    tasks.spawn(admin::sample_rates(Arc::clone(&rates), Arc::clone(&shared)));
    let context = Arc::new(AdminContext {
        shared: Arc::clone(&shared),
        live: Arc::clone(&live),
        rates,
        plans: Plans::default(),
        fleet: Arc::clone(&fleet),
        mover: Mover::new(Arc::clone(&shared), Arc::clone(&fleet)),
    });
    tasks.spawn(Arc::clone(&context.mover).run());
    tasks.spawn(admin::answer_workers(from_workers, Arc::clone(&context)));
    let mut listeners = Listeners {
        config: &config,
        shared: &shared,
        secure,
        stopped: stopped.clone(),
        tasks: &mut tasks,
        announce: &mut announce,
    };
    listeners.data(&workers)?;
    listeners.admin(&context).await?;
    listeners.http(&readiness).await?;
    tasks.spawn(Arc::clone(&fleet).run(stopped));
    until_expected(&shared, &fleet, &mut tasks).await;
    readiness.started();
    announce("ready");
    tracing::info!(
        event = "ready",
        epoch = shared.topology.load().epoch.0,
        workers = workers.len()
    );

    signals.next().await;
    tracing::info!(event = "draining");
    readiness.drain();
    shared.draining.store(true, Relaxed);
    let _ = stop.send(true);
    drain(workers, live.config().proxy.drain_timeout, &mut signals).await;
    tasks.shutdown().await;
    fleet.leave().await;
    tracing::info!(event = "stopped");
    Ok(())
}

/// The other proxies should see this one, and the first requests should find the users for them. Neither is waited for in vain:
/// a store that is silent, and nodes that are away, get theirs later.
async fn until_expected(shared: &Arc<Shared>, fleet: &Arc<Fleet>, tasks: &mut JoinSet<()>) {
    let (looked, mut first_look) = watch::channel(false);
    tasks.spawn(control::provision_nodes(
        Arc::clone(shared),
        Arc::clone(fleet),
        looked,
    ));
    fleet.until_registered(REGISTRATION_MAX).await;
    drop(timeout(PROVISION_MAX, first_look.wait_for(|looked| *looked)).await);
}

/// The metrics cannot know users; they ask for them with each scrape.
fn count_user_clients(shared: &Arc<Shared>) {
    // Weak: the metrics are a part of what they ask.
    let shared_again = Arc::downgrade(shared);
    shared.metrics.facts().set_user_clients(move || {
        let users = shared_again.upgrade().map(|shared| shared.users.load_full());
        let counts = users.iter().flat_map(|users| users.list());
        counts
            .map(|user| (user.name.to_string(), user.clients()))
            .collect()
    });
}

/// Ready while some node answered its last probe. Before the first probe the preflight's word counts.
fn readiness(shared: &Arc<Shared>) -> Readiness {
    let shared = Arc::clone(shared);
    Readiness::new(move || {
        let view = shared.nodes.load();
        view.nodes.is_empty() || view.nodes.iter().any(|node| node.up)
    })
}

fn start_workers(config: &Config, shared: &Arc<Shared>) -> Result<Vec<Worker>, ServeError> {
    let count = control::worker_count(config);
    (0..count)
        .map(|number| worker::start(number, Arc::clone(shared)).map_err(ServeError::System))
        .collect()
}

/// The signals that end the proxy. While it starts they end it at once, as they end any program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Reloads the config whenever SIGHUP asks for it.
    fn hang_ups(live: Arc<Live>) -> io::Result<impl Future<Output = ()> + use<>> {
        let mut hang_up = signal(SignalKind::hangup())?;
        Ok(async move {
            while hang_up.recv().await.is_some() {
                // What is wrong has been logged.
                let _ = live.reload("SIGHUP").await;
            }
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Lets the workers end by themselves for as long as they may; a second signal ends the wait.
async fn drain(workers: Vec<Worker>, longest: Duration, signals: &mut Signals) {
    for worker in &workers {
        // A full mailbox has connections in it; the worker sees the flag when it comes to them.
        let _ = worker.orders.try_send(Order::Drain);
    }
    let ended = async {
        for worker in workers {
            let joined = tokio::task::spawn_blocking(move || worker.thread.join());
            let _ = joined.await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(longest) => {
            tracing::warn!(event = "drain_timeout", "clients were left when drain_timeout was over; they are cut");
            // Threads of workers that are still at it end with the process.
            std::process::exit(0);
        }
        () = signals.next() => std::process::exit(0),
    }
}
