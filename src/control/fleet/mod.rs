//! This proxy among the others of its cluster: what it tells them, what it hears, who leads.
//!
//! ```text
//!             ┌─ follow    watch ─▶ Snapshot ─▶ a newer topology is adopted
//!             ├─ catch_up  a link found a node ahead of us ─▶ read now
//!  the store ─┼─ register  a lease of 5 s; the record is written again when this proxy serves another epoch
//!             ├─ lead      nobody leads ─▶ a lease of 3 s ─▶ campaign ─▶ signs of life, by our own clock
//!             ├─ marks     after a change: the nodes' marks are raised
//!             └─ change    read ─▶ the next topology ─▶ compare-and-set ─▶ adopt ─▶ wait for the others
//! ```
//!
//! Nobody needs any of this to serve: while the store is away, requests go on as before, changes are refused, and nobody leads.
//! When it is back, every task goes on by itself. That somebody leads is a matter of the clock, so it is asked each time
//! ([`Fleet::leads`]) and never remembered.

mod change;
mod follow;
mod lead;
mod marks;
mod register;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use change::{Changed, PATIENCE};

use crate::ids::Epoch;
use crate::metrics::FleetFigures;
use crate::store::{FleetStore, Lease, ProxyRecord, Snapshot, StoreError, Term};
use crate::topology::{SuccessionError, Topology};
use crate::worker::shared::Shared;

/// After a call without an answer.
const RETRY: Duration = Duration::from_millis(250);
/// A store that is silent for so long is worth a line.
const SILENCE_TOLD: Duration = Duration::from_secs(5);
/// What the store gets to hear of the end of a proxy.
const FAREWELL: Duration = Duration::from_secs(1);

/// This proxy among the others.
pub struct Fleet {
    shared: Arc<Shared>,
    store: Arc<dyn FleetStore>,
    admin_address: OnceLock<String>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// The epoch in force, for whoever waits for a new one.
    adopted: watch::Sender<Epoch>,
    /// When the topology in force was written.
    revision: AtomicI64,
    leading: Mutex<Option<Leading>>,
    registration: Mutex<Option<Lease>>,
    contact: Mutex<Contact>,
    /// One change at a time: those of one proxy need not race each other.
    changing: tokio::sync::Mutex<()>,
    /// The last epoch that was made here.
    made: AtomicU64,
    /// The last epoch that this process could not take over.
    refused: AtomicU64,
    errors: AtomicU64,
    changes: AtomicU64,
    resyncs: AtomicU64,
}

/// A time of leadership, as far as it is certain.
#[derive(Clone, Copy, Debug)]
struct Leading {
    term: Term,
    until: Instant,
}

/// Whether the store answers.
#[derive(Debug, Default)]
struct Contact {
    /// Since when it does not, and why.
    lost: Option<(Instant, String)>,
    told: bool,
}

/// What is known of the fleet.
#[derive(Clone, Debug)]
pub struct FleetView {
    /// This proxy.
    pub own: ProxyRecord,
    /// All that live, this one included, the oldest first.
    pub proxies: Vec<ProxyRecord>,
    /// Who leads, and since when; nobody if that is not certain here.
    pub leader: Option<(String, Term)>,
    /// How long the store has been silent, and why; none while it answers.
    pub lost: Option<(Duration, String)>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("place", &self.store.place())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Nothing is asked before [`Self::run`].
    #[must_use]
    pub fn new(shared: Arc<Shared>, store: Arc<dyn FleetStore>) -> Arc<Self> {
        let epoch = shared.topology.load().epoch;
        let fleet = Arc::new(Self {
            shared,
            store,
            admin_address: OnceLock::new(),
            snapshot: watch::Sender::default(),
            adopted: watch::Sender::new(epoch),
            revision: AtomicI64::new(0),
            leading: Mutex::default(),
            registration: Mutex::default(),
            contact: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
        });
        let seen = Arc::downgrade(&fleet);
        let facts = fleet.shared.metrics.facts();
        facts.set_fleet(move || seen.upgrade().map(|fleet| fleet.figures()).unwrap_or_default());
        fleet
    }

    /// The address of the admin listener, to be told to others. Only the first call counts.
    pub fn set_admin_address(&self, address: String) {
        drop(self.admin_address.set(address));
    }

    /// Runs all tasks for as long as it is polled. A proxy that is on its way out gives the lead away, and stays registered.
    pub async fn run(self: Arc<Self>, stopped: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::follow(Arc::clone(&self)));
        tasks.spawn(follow::catch_up(Arc::clone(&self)));
        tasks.spawn(register::stay_registered(Arc::clone(&self)));
        tasks.spawn(lead::stand(Arc::clone(&self), stopped));
        tasks.spawn(marks::keep_raised(Arc::clone(&self)));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(event = "fleet_task_panicked", %error);
            }
        }
    }

    /// Ready when the others can see this proxy, or after so long.
    pub async fn until_registered(&self, longest: Duration) {
        let mut news = self.snapshot.subscribe();
        let id = &self.shared.run_id;
        let seen = news.wait_for(|snapshot| snapshot.proxies.contains_key(id));
        // Whether it was in time or not, the proxy serves.
        drop(timeout(longest, seen).await);
    }

    /// Tells the store that this proxy is gone.
    pub async fn leave(&self) {
        let Some(lease) = lock(&self.registration).take() else {
            return;
        };
        // If it hears nothing, the lease ends by itself.
        drop(timeout(FAREWELL, self.store.revoke(lease)).await);
    }

    /// The term in which this proxy leads at this moment. It may be over as soon as this returns, so what must not be done twice
    /// is written with the term as its condition.
    #[must_use]
    pub fn leads(&self) -> Option<Term> {
        let leading = (*lock(&self.leading))?;
        (Instant::now() < leading.until).then_some(leading.term)
    }

    /// What is known at this moment.
    #[must_use]
    pub fn view(&self) -> FleetView {
        let snapshot = self.snapshot.borrow().clone();
        let own = self.own_record();
        let mut proxies: Vec<ProxyRecord> = snapshot.proxies.values().cloned().collect();
        proxies.retain(|proxy| proxy.id != own.id);
        proxies.push(own.clone());
        proxies.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        let other = snapshot.leader.as_ref().filter(|leader| leader.id != own.id);
        let other = other.map(|leader| (leader.id.clone(), leader.term));
        let lost = lock(&self.contact)
            .lost
            .as_ref()
            .map(|(since, why)| (since.elapsed(), why.clone()));
        let leader = match self.leads() {
            Some(term) => Some((own.id.clone(), term)),
            None => other.filter(|_| lost.is_none()),
        };
        FleetView {
            own,
            proxies,
            leader,
            lost,
        }
    }

    /// All that proxies tell each other, as it is known here, and when that changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// What the store has, to be read and written beside the topology.
    #[must_use]
    pub fn store(&self) -> &dyn FleetStore {
        self.store.as_ref()
    }

    fn own_record(&self) -> ProxyRecord {
        ProxyRecord {
            id: self.shared.run_id.clone(),
            address: self.shared.data_address(),
            admin: self.admin_address.get().cloned().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.shared.epoch_served().0,
            clients: self.shared.metrics.totals().client_connections,
            started: self.shared.started_unix,
        }
    }

    fn figures(&self) -> FleetFigures {
        let view = self.view();
        FleetFigures {
            epoch_served: view.own.epoch(),
            leads: self.leads().is_some(),
            term: view.leader.map_or(0, |(_, Term(term))| term.unsigned_abs()),
            proxies: view.proxies.len() as u64,
            store_up: view.lost.is_none(),
            store_errors: self.errors.load(Relaxed),
            changes: self.changes.load(Relaxed),
            resyncs: self.resyncs.load(Relaxed),
        }
    }

    /// Puts a topology in force if it is newer. A lower epoch never is.
    fn adopt(&self, topology: &Topology) {
        let served = self.shared.topology.load().epoch;
        if topology.epoch <= served {
            return;
        }
        match self.shared.adopt(topology.clone()) {
            Ok(()) => {
                tracing::info!(
                    event = "topology_adopted",
                    epoch = topology.epoch.0,
                    before = served.0
                );
                self.adopted.send_replace(topology.epoch);
            }
            // Another task was faster.
            Err(SuccessionError::NotNewer { .. }) => {}
            Err(error) => {
                // It stays in the store, and is told once.
                if self.refused.swap(topology.epoch.0, Relaxed) != topology.epoch.0 {
                    tracing::error!(event = "topology_refused", epoch = topology.epoch.0, %error, "served is what was served");
                }
            }
        }
    }

    /// A call had no answer.
    fn note_error(&self, error: &StoreError) {
        self.errors.fetch_add(1, Relaxed);
        tracing::debug!(event = "store_error", %error);
    }

    /// The watch has no news because the store does not answer.
    fn note_silence(&self, error: &StoreError) {
        self.note_error(error);
        let mut contact = lock(&self.contact);
        let since = contact
            .lost
            .as_ref()
            .map_or_else(Instant::now, |(since, _)| *since);
        contact.lost = Some((since, error.to_string()));
        if !contact.told && since.elapsed() >= SILENCE_TOLD {
            contact.told = true;
            tracing::warn!(
                event = "store_unreachable",
                %error,
                "clients are served as before; the topology cannot be changed meanwhile"
            );
        }
    }

    fn note_answer(&self) {
        let before = std::mem::take(&mut *lock(&self.contact));
        if let Some((since, _)) = before.lost.filter(|_| before.told) {
            tracing::info!(
                event = "store_reachable",
                silent = ?since.elapsed()
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
