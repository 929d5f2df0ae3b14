//! The config of a running proxy: reloaded as a whole, or one value set, one change at a time.
//!
//! ```text
//!  SIGHUP, PRESHARD CONFIG RELOAD ─▶ read, checked as at the start ─▶ wrong: nothing changes, said why
//!  PRESHARD CONFIG SET ────────────▶ the same rules, in memory          │ right
//!                                                                       ▼
//!     Settings of all workers · users · certificates · log level · admin password ◀── taking (config/live.rs)
//!                                                                       └──▶ keys that wait for a restart
//! ```
//!
//! Everything is checked before anything is exchanged, and exchanging cannot fail. A worker takes the new settings
//! when it comes to the order in its mailbox; requests that are under way are not touched.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::settings::settings_of;
use crate::config::keys::Key;
use crate::config::{Config, ConfigErrors, LogLevel, Overrides};
use crate::metrics::Certificate;
use crate::tls::{Acceptor, Connector};
use crate::worker::Order;
use crate::worker::shared::Shared;
use crate::worker::users::Users;

/// What a worker gets to take new settings before the change is said to be done all the same.
const ADOPTION_TIME: Duration = Duration::from_secs(2);

/// Sets the log level of the process.
pub type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// What a change is made in.
#[derive(Default)]
pub struct Parts {
    /// The certificate of the listeners, if one of them speaks TLS.
    pub acceptor: Option<Acceptor>,
    /// The connections to the store, if they speak TLS.
    pub store: Option<Connector>,
    /// The mailboxes of all workers.
    pub workers: Vec<mpsc::Sender<Order>>,
    /// The log's level.
    pub set_level: Option<SetLevel>,
}

/// A key that waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The row of [`Config::settings`].
    pub key: &'static str,
    /// What the file says.
    pub file: String,
}

/// What came of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Rows of [`Config::settings`] that are in force with another value than before.
    pub applied: Vec<(&'static str, String)>,
    /// Keys whose value in the file waits for a restart.
    pub restart: Vec<Waiting>,
    /// What is allowed but risky.
    pub warnings: Vec<String>,
}

/// The config in force.
pub struct Live {
    shared: Arc<Shared>,
    parts: Parts,
    running: ArcSwap<Config>,
    waiting: ArcSwap<Vec<Waiting>>,
    /// What was set while running. Held for the length of a change.
    overrides: Mutex<Overrides>,
    /// The same, to be shown.
    set: ArcSwap<BTreeSet<&'static str>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    /// The config that the proxy was started with.
    #[must_use]
    pub fn new(config: Config, shared: Arc<Shared>, parts: Parts) -> Self {
        let live = Self {
            shared,
            parts,
            running: ArcSwap::from_pointee(config),
            waiting: ArcSwap::default(),
            overrides: Mutex::default(),
            set: ArcSwap::default(),
        };
        live.publish(&live.config());
        live.note_loaded();
        live
    }

    /// The config in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.running.load_full()
    }

    /// Keys whose value in the file waits for a restart, as the last reload has found.
    #[must_use]
    pub fn waiting(&self) -> Arc<Vec<Waiting>> {
        self.waiting.load_full()
    }

    /// Whether the value of a row was set while running and does not stand in the file.
    #[must_use]
    pub fn is_set(&self, row: &str) -> bool {
        self.set.load().contains(row)
    }

    /// Reads the file again and puts it in force. What was set while running is given up.
    ///
    /// # Errors
    /// What is wrong with it, in one line; then nothing has changed.
    pub async fn reload(&self, by: &str) -> Result<Change, String> {
        let mut overrides = self.overrides.lock().await;
        let file = self.config().file.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        let changed = match read {
            Ok(Ok(new)) => self.put_in_force(&new, true).await,
            Ok(Err(errors)) => Err(line_of(&errors)),
            Err(error) => Err(format!("the config could not be read: {error}")),
        };
        self.shared.metrics.facts().count_reload(changed.is_ok());
        match &changed {
            Ok(change) => {
                overrides.clear();
                self.set.store(Arc::default());
                let applied = names(change.applied.iter().map(|(key, _)| *key));
                let restart = names(change.restart.iter().map(|waiting| waiting.key));
                tracing::info!(event = "config_reloaded", by, applied, restart);
                for warning in &change.warnings {
                    tracing::warn!(event = "config_warning", "{warning}");
                }
            }
            Err(error) => {
                tracing::error!(event = "config_reload_failed", by, "nothing was changed: {error}");
            }
        }
        changed
    }

    /// Sets one value until the next reload or restart. The file stays as it is.
    ///
    /// # Errors
    /// The key or the value cannot be set, in one line; then nothing has changed.
    pub async fn set(&self, key: &'static Key, value: &str) -> Result<Change, String> {
        let mut overrides = self.overrides.lock().await;
        let mut wanted = overrides.clone();
        wanted.insert(key.path, value.to_owned());
        let (config, values) = (self.config(), wanted.clone());
        // The whole config is checked, and with it the files that it names.
        let checked = move || config.setting(&values, std::env::vars_os());
        let checked = tokio::task::spawn_blocking(checked).await;
        let new = checked.map_err(|error| format!("the value could not be checked: {error}"))?;
        let new = new.map_err(|errors| line_of(&errors))?;
        // What the file says of other keys is as it was.
        let change = self.put_in_force(&new, false).await?;
        *overrides = wanted;
        self.set
            .store(Arc::new(overrides.keys().map(|path| row_of(path)).collect()));
        tracing::info!(event = "config_set", key = key.path);
        Ok(change)
    }

    async fn put_in_force(&self, new: &Config, from_file: bool) -> Result<Change, String> {
        let running = self.config();
        let next = running.taking(new).map_err(|errors| line_of(&errors))?;
        let applied = running.differences(&next);
        let shown = next.settings();
        let mut change = Change {
            applied: shown
                .into_iter()
                .filter(|(row, _)| applied.contains(row))
                .collect(),
            ..Change::default()
        };
        if from_file {
            let waits = next.differences(new);
            let in_file = new.settings().into_iter();
            let waiting = in_file.filter(|(row, _)| waits.contains(row));
            change.restart = waiting.map(|(key, file)| Waiting { key, file }).collect();
            change.warnings.clone_from(&new.warnings);
            self.waiting.store(Arc::new(change.restart.clone()));
            self.note_loaded();
        }
        self.exchange(&next);
        self.publish(&next);
        let users = next.is_accessed_otherwise(&running).then(|| Users::of(&next));
        self.running.store(Arc::new(next));
        if let Some(users) = users {
            // After the config, where the admin port looks for its own password when the users have changed.
            self.shared.replace_users(users);
        }
        self.tell_workers().await;
        Ok(change)
    }

    fn exchange(&self, next: &Config) {
        self.shared.settings.store(Arc::new(settings_of(next)));
        if let (Some(acceptor), Some(side)) = (&self.parts.acceptor, &next.tls.side) {
            acceptor.exchange(side.clone());
        }
        if let (Some(connector), Some(side)) = (&self.parts.store, &next.topology.store_tls.side) {
            connector.exchange(side.clone());
        }
        if let Some(set_level) = &self.parts.set_level {
            set_level(next.log.level);
        }
    }

    fn publish(&self, config: &Config) {
        let facts = self.shared.metrics.facts();
        let waiting = self.waiting.load().len() as u64;
        facts.set_config(config.proxy.max_clients as u64, waiting);
        let nodes = config.nodes.tls.side.as_ref();
        let store = config.topology.store_tls.side.as_ref();
        for (which, ends_at) in [
            (
                Certificate::Listeners,
                config.tls.side.as_ref().map(|side| side.ends_at),
            ),
            (Certificate::Nodes, nodes.and_then(|side| side.ends_at)),
            (Certificate::Store, store.and_then(|side| side.ends_at)),
        ] {
            facts.set_certificate_end(which, ends_at);
        }
    }

    fn note_loaded(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.shared.metrics.facts().set_config_loaded(now.as_secs());
    }

    /// Has all workers take the settings, and waits until they have.
    async fn tell_workers(&self) {
        let (done, mut all_done) = mpsc::channel(1);
        let telling = async {
            for worker in &self.parts.workers {
                // A worker that is gone takes the process with it.
                let _ = worker.send(Order::Settings(done.clone())).await;
            }
            drop(done);
            // Ends when the last of them has dropped its sender.
            let _ = all_done.recv().await;
        };
        if timeout(ADOPTION_TIME, telling).await.is_err() {
            tracing::warn!(
                event = "config_adoption_slow",
                "a worker takes the new settings later"
            );
        }
    }
}

/// The row of [`Config::settings`] that a key is shown in.
fn row_of(path: &'static str) -> &'static str {
    match path {
        "proxy.password_sha256" => "proxy.password",
        "admin.password_sha256" => "admin.password",
        other => other,
    }
}

fn names<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    keys.collect::<Vec<_>>().join(" ")
}

/// All mistakes in one line, each with its place and what to do.
fn line_of(errors: &ConfigErrors) -> String {
    let mut line = String::new();
    for error in &errors.0 {
        if !line.is_empty() {
            line.push_str("; ");
        }
        // Writing to a string does not fail.
        let _ = write!(line, "{}: {}", error.place, error.what);
        if !error.hint.is_empty() {
            let _ = write!(line, " ({})", error.hint);
        }
    }
    line
}
